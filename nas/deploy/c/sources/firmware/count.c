/* Counts what functions cost with SysTick, which every Cortex-M has, and prints one line each. Lines are words in hexadecimal:
 *
 *     nas 1 <identity> <hz> <cases> <images>
 *     case <index> <ticks> <wraps>       ticks of the core's clock; the first, index ffffffff, is a function that does nothing
 *     image <index> <ticks> <wraps> <output bytes>
 *     end
 */
#include "nas_firmware.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define ICSR (*(volatile uint32_t *)0xE000ED04u)
#define PENDSTSET (1u << 26)
#define LARGEST 0xFFFFFFu /* SysTick has 24 bits and counts down */

volatile uint32_t nas_wraps;

/* Always five instructions: the host takes them off again. */
__attribute__((naked)) void SysTick_Handler(void) {
  __asm volatile(
      ".syntax unified\n"
      "ldr r0, =nas_wraps\n"
      "ldr r1, [r0]\n"
      "adds r1, #1\n"
      "str r1, [r0]\n"
      "bx lr\n"
      ".ltorg\n");
}

typedef struct {
  uint64_t ticks;
  uint32_t wraps;
} nas_time;

static nas_case counted;
static const int8_t *image;

__attribute__((noinline)) static nas_time now(void) {
  nas_time time;
  __asm volatile("cpsid i" ::: "memory");
  uint32_t left = SYST_CVR;
  time.wraps = nas_wraps;
  if (ICSR & PENDSTSET) { /* it wrapped after the last instruction that could be interrupted */
    left = SYST_CVR;
    time.wraps++;
  }
  __asm volatile("cpsie i" ::: "memory");
  time.ticks = ((uint64_t)time.wraps << 24) + ((0u - left) & LARGEST); /* it wraps when it becomes 0 */
  return time;
}

/* Not inlined, so that every function is called from the same instructions. */
__attribute__((noinline)) static nas_time spent(void) {
  const nas_time begin = now();
  counted();
  nas_time end = now();
  end.ticks -= begin.ticks;
  end.wraps -= begin.wraps;
  return end;
}

static void nothing(void) {}

static void through(void) { nas_run(image); }

static void put_text(const char *text) {
  while (*text != 0) {
    nas_board_put(*text++);
  }
}

static void put_digits(uint32_t value, int digits) {
  while (digits-- > 0) {
    nas_board_put("0123456789abcdef"[(value >> (4 * digits)) & 15u]);
  }
}

static void put_word(uint32_t value) {
  nas_board_put(' ');
  put_digits(value, 8);
}

static void put_time(nas_time time) {
  nas_board_put(' ');
  put_digits((uint32_t)(time.ticks >> 32), 8);
  put_digits((uint32_t)time.ticks, 8);
  put_word(time.wraps);
}

static void put_case(uint32_t index, nas_case function) {
  counted = function;
  put_text("case");
  put_word(index);
  put_time(spent());
  nas_board_put('\n');
}

static void put_image(uint32_t index, const int8_t *bytes) {
  image = bytes;
  counted = through;
  put_text("image");
  put_word(index);
  put_time(spent());
  nas_board_put(' ');
  for (uint32_t i = 0; i < nas_output_bytes; i++) {
    put_digits((uint8_t)nas_output[i], 2);
  }
  nas_board_put('\n');
}

int main(void) {
  nas_board_start();
  SYST_RVR = LARGEST;
  SYST_CVR = 0;
  SYST_CSR = 7; /* on, with interrupt, by the core's clock */
  for (;;) {
    const uint32_t *images = nas_run ? nas_board_images() : 0;
    const uint32_t count = images ? images[0] : 0;
    put_text("\nnas 1");
    put_word(nas_identity);
    put_word(nas_board_hz());
    put_word(nas_case_count);
    put_word(count);
    nas_board_put('\n');
    put_case(0xFFFFFFFFu, nothing);
    for (uint32_t i = 0; i < nas_case_count; i++) {
      nas_before(i);
      put_case(i, nas_cases[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
      put_image(i, (const int8_t *)(images + 1) + i * nas_image_bytes);
    }
    put_text("end\n");
    nas_board_done();
  }
}
