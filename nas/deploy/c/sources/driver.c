/* Inputs from standard input, one after another; outputs to standard output. */
#include <stdio.h>

#include "model.h"

int main(void)
{
    static int8_t in[MODEL_INPUT_BYTES], out[MODEL_OUTPUT_BYTES];
    while (fread(in, sizeof in, 1, stdin) == 1) {
        model_invoke(in, out);
        if (fwrite(out, sizeof out, 1, stdout) != 1) {
            return 1;
        }
    }
    return 0;
}
