/* Arm's MPS2 boards as QEMU has them: vector table, start, serial port, and an end. NAS_UART, NAS_IMAGES, NAS_HZ: the machine's. */
#include "nas_firmware.h"

#define UART_DATA (*(volatile uint32_t *)(NAS_UART + 0x0u))
#define UART_STATE (*(volatile uint32_t *)(NAS_UART + 0x4u))
#define UART_CTRL (*(volatile uint32_t *)(NAS_UART + 0x8u))
#define UART_BAUDDIV (*(volatile uint32_t *)(NAS_UART + 0x10u))

extern uint32_t nas_stack_top[], nas_data_start[], nas_data_end[], nas_data_load[], nas_bss_start[], nas_bss_end[];

/* Semihosting: the emulator ends with status 0, or 1. */
static void leave(uint32_t reason) {
  register uint32_t r0 __asm("r0") = 0x18;
  register uint32_t r1 __asm("r1") = reason;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void say(const char *text) {
  while (*text != 0) {
    nas_board_put(*text++);
  }
}

static void fault(void) {
  say("\nfault\n");
  leave(0x20023); /* a run-time error */
  for (;;) {
  }
}

static void reset(void) {
  uint32_t *from = nas_data_load;
  for (uint32_t *to = nas_data_start; to < nas_data_end;) {
    *to++ = *from++;
  }
  for (uint32_t *to = nas_bss_start; to < nas_bss_end;) {
    *to++ = 0;
  }
  (void)main();
}

typedef void (*entry)(void);

typedef struct {
  uint32_t *stack;
  entry entries[15];
} vector_table;

extern const vector_table nas_vectors;
__attribute__((section(".vectors"))) const vector_table nas_vectors = {
    nas_stack_top,
    {reset, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, SysTick_Handler},
};

void nas_board_start(void) {
  UART_BAUDDIV = 16;
  UART_CTRL = 1; /* transmit */
}

uint32_t nas_board_hz(void) { return NAS_HZ; }

void nas_board_put(char c) {
  while (UART_STATE & 1u) {
  }
  UART_DATA = (uint32_t)c;
}

const uint32_t *nas_board_images(void) { return (const uint32_t *)NAS_IMAGES; }

void nas_board_done(void) { leave(0x20026); }
