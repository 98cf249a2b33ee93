/* What the hazard tests share: a model that is worth several threads. */
#ifndef GUEST_H
#define GUEST_H

#include <dirent.h>
#include <unistd.h>

#include "../c/check.h"

/* A thread is woken for 32768 parameters: enough for four. */
enum { ROWS = 400, COLS = 500, LENGTH = ROWS * COLS };

struct model {
    sonew_optimizer *optimizer;
    float *param, *grad;
};

static inline struct model model(int threads) {
    struct model m = {NULL, malloc(LENGTH * sizeof(float)), malloc(LENGTH * sizeof(float))};
    CHECK(m.param && m.grad);
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.threads = threads;
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {ROWS, COLS}};
    OK(sonew_create(&options, &tensor, 1, &m.optimizer));
    for (int i = 0; i < LENGTH; i++)
        m.param[i] = (float)(i % 17) / 8 - 1;
    return m;
}

/* A gradient that changes with every step, and has zeros and subnormals. */
static inline void gradient(float *grad, int step) {
    unsigned random = (unsigned)step * 2654435761u + 1;
    for (int i = 0; i < LENGTH; i++) {
        random = random * 1664525u + 1013904223u;
        grad[i] = (float)(int)(random >> 8) / (1 << 24) - 0.5f;
        if (i % 97 == 0)
            grad[i] = 0;
        if (i % 89 == 0)
            grad[i] = 1e-40f;
    }
}

static inline sonew_status take_step(struct model *m, int step) {
    gradient(m->grad, step);
    const void *grads[] = {m->grad};
    return sonew_step(m->optimizer, NULL, PARAM(m->param), grads, 1);
}

static inline void end(struct model *m) {
    OK(sonew_free(m->optimizer));
    free(m->param);
    free(m->grad);
}

/* The parameters after so many steps on one thread: what every other way to
 * the same place is compared with. */
static inline float *expected(int steps) {
    struct model m = model(1);
    for (int i = 0; i < steps; i++)
        OK(take_step(&m, i));
    OK(sonew_free(m.optimizer));
    free(m.grad);
    return m.param;
}

static inline int same(const float *a, const float *b) {
    return memcmp(a, b, LENGTH * sizeof *a) == 0;
}

/* Threads of this process. */
static inline int tasks(void) {
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder != NULL);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* Whether so many threads are left. One that has been joined may still be
 * listed for a moment. */
static inline int left(int count) {
    for (int i = 0; i < 10000 && tasks() > count; i++)
        usleep(1000);
    return tasks() == count;
}

#endif
