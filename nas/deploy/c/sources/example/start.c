/* Vector table and start of the example on a board; standard input and output go through the debugger (semihosting). */
#include <stdint.h>

extern uint32_t data_load[], data_start[], data_end[], __stack[];
void _start(void); /* newlib's: it clears variables and calls main */
void reset(void);

void reset(void)
{
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end;) {
        *to++ = *from++;
    }
    _start();
    for (;;) {
    }
}

static void fault(void)
{
    for (;;) {
    }
}

typedef struct {
    uint32_t *stack;
    void (*entries[15])(void);
} vectors_t;

extern const vectors_t vectors;
__attribute__((section(".vectors"), used)) const vectors_t vectors = {
    __stack,
    {reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, 0, 0, fault, fault},
};
