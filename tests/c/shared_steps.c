/* Steps on several threads of the library, between which the program uses the buffers,
 * as in training: for ThreadSanitizer. With RACE defined, another thread of the program
 * writes the gradients at the same time, which is to be found. */
#include "check.h"

#include <pthread.h>

enum { ROWS = 300, COLUMNS = 1000, STEPS = 20 };

static float params[2][ROWS][COLUMNS], grads[2][ROWS][COLUMNS];

static void *write_grads(void *argument) {
    for (int i = 0; i < 100 * ROWS; i++)
        grads[0][i % ROWS][i / ROWS] = 1;
    return argument;
}

int main(void) {
    pthread_t other;
    sonew_tensor tensors[2];
    OK(sonew_tensors_init(tensors, 2, sizeof *tensors));
    for (int t = 0; t < 2; t++) {
        tensors[t].name = t == 0 ? "a" : "b";
        tensors[t].ndim = 2;
        tensors[t].dims[0] = ROWS;
        tensors[t].dims[1] = COLUMNS;
        tensors[t].chains = t == 0 ? SONEW_CONTIGUOUS : SONEW_STRIDED;
    }
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.threads = 3;
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, 2, &optimizer));
    void *to[] = {params[0], params[1]};
    const void *from[] = {grads[0], grads[1]};
#ifdef RACE
    CHECK(pthread_create(&other, NULL, write_grads, NULL) == 0);
#endif
    for (int step = 0; step < STEPS; step++) {
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < COLUMNS; j++)
                    grads[t][i][j] = params[t][i][j] - (float)((i + j * j + step) % 7);
        OK(sonew_step(optimizer, NULL, to, from, 2));
    }
#ifndef RACE
    CHECK(pthread_create(&other, NULL, write_grads, NULL) == 0);
#endif
    CHECK(pthread_join(other, NULL) == 0);
    OK(sonew_free(optimizer));
    puts("steps on three threads");
    return 0;
}
