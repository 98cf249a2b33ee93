/* Two threads use one optimizer: each call is either done or refused as busy, and
 * the counts are right. */
#include <pthread.h>

#include "check.h"

enum { LENGTH = 100000, CALLS = 300 };

static sonew_optimizer *shared;

struct worker {
    pthread_t thread;
    unsigned done, busy;
};

static void *step_shared(void *argument) {
    struct worker *worker = argument;
    float *param = calloc(LENGTH, sizeof *param);
    float *grad = calloc(LENGTH, sizeof *grad);
    CHECK(param && grad);
    for (int i = 0; i < LENGTH; i++)
        grad[i] = (float)(i % 3) - 1;
    const void *grads[] = {grad};
    while (worker->done < CALLS) {
        sonew_status status = sonew_step(shared, NULL, PARAM(param), grads, 1);
        if (status == SONEW_OK) {
            worker->done++;
            continue;
        }
        CHECK(status == SONEW_BUSY);
        CHECK(strstr(sonew_last_error(), "optimizer is in use by another thread"));
        worker->busy++;
    }
    free(param);
    free(grad);
    return NULL;
}

int main(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.threads = 1;
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 1, .dims = {LENGTH}};
    OK(sonew_create(&options, &tensor, 1, &shared));
    struct worker workers[2] = {0};
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&workers[i].thread, NULL, step_shared, &workers[i]));
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_join(workers[i].thread, NULL));
    uint64_t count = 0;
    count = info_of(shared).step_count;
    CHECK(count == workers[0].done + workers[1].done);
    CHECK(workers[0].busy + workers[1].busy > 0);
    OK(sonew_free(shared));
    puts("counts add up");
    return 0;
}
