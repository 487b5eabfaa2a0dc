/* What is in a picture: ./classify < picture, one byte per pixel and channel, row by row, channels together. */
#include <stdio.h>

#include "model.h"

int main(void)
{
    int8_t *in = model_input();
    for (int i = 0; i < MODEL_INPUT_BYTES; i++) {
        int byte = getchar();
        if (byte == EOF) {
            fprintf(stderr, "a picture has %d bytes, got %d\n", MODEL_INPUT_BYTES, i);
            return 1;
        }
#ifdef MODEL_PIXELS
        in[i] = model_pixels[i % MODEL_INPUT_CHANNELS][byte];
#else
        in[i] = (int8_t)(byte < 128 ? byte : byte - 256);
#endif
    }
    model_run();
    const int8_t *out = model_output();
    int best = 0;
    for (int i = 1; i < MODEL_OUTPUT_BYTES; i++) {
        best = out[i] > out[best] ? i : best;
    }
#ifdef MODEL_CLASSES
    printf("%d %s\n", best, model_classes[best]);
#else
    printf("%d\n", best);
#endif
    return 0;
}
