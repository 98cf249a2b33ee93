/* Two threads lend the same parameters to two optimizers, which no program may do: for
 * ThreadSanitizer, which must find it if the library is instrumented. */
#include "check.h"

#include <pthread.h>

enum { LENGTH = 1000, STEPS = 200 };

static float params[LENGTH], grads[LENGTH];

static void *train(void *name) {
    sonew_tensor tensor;
    OK(sonew_tensors_init(&tensor, 1, sizeof tensor));
    tensor.name = name;
    tensor.ndim = 1;
    tensor.dims[0] = LENGTH;
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.threads = 1;
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, &tensor, 1, &optimizer));
    for (int step = 0; step < STEPS; step++)
        OK(sonew_step(optimizer, NULL, PARAM(params), GRAD(grads), 1));
    OK(sonew_free(optimizer));
    return NULL;
}

int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < LENGTH; i++)
        grads[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, train, i ? "b" : "a") == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    puts("lent twice");
    return 0;
}
