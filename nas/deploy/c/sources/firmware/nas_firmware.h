/* What counts (count.c), what is counted (generated), and the board that it runs on (mps2.c, or one of your own). */
#ifndef NAS_FIRMWARE_H
#define NAS_FIRMWARE_H

#include <stdint.h>

/* Generated: the functions that are counted, each of no arguments; and a number that tells this firmware from others. */
typedef void (*nas_case)(void);
extern const nas_case nas_cases[];
extern const uint32_t nas_case_count, nas_identity;
void nas_before(uint32_t index); /* called before each case, not counted: what it computes on */

/* Generated: the network that images go through; 0 for none. It writes nas_output_bytes to nas_output. */
extern void (*const nas_run)(const int8_t *image);
extern const uint32_t nas_image_bytes, nas_output_bytes;
extern int8_t nas_output[];

/* The board. Your own one: a folder with a C file that has these five, a linker script, and what starts main(). */
void nas_board_start(void);         /* clocks and the serial port */
uint32_t nas_board_hz(void);        /* of the core */
void nas_board_put(char c);         /* wait until the serial port takes it */
const uint32_t *nas_board_images(void); /* how many there are, then their bytes; 0 for none */
void nas_board_done(void);          /* all is printed; if it returns, everything is printed again */

void SysTick_Handler(void); /* belongs into the vector table */
int main(void);

#endif
