/* Optimizers have as many threads as they ask for; 1 means that none is created. This
 * program's pthread_create counts every thread of the process. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

#include "guest.h"

static atomic_int created;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*start)(void *), void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    created++;
    return real(thread, attributes, start, argument);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096];
    snprintf(path, sizeof path, "%s/threads.safetensors", argv[1]);
    for (int threads = 1; threads <= 4; threads++) {
        created = 0;
        struct model m = model(threads);
        CHECK(created == 0 && left(1));
        size_t number = 0;
        number = info_of(m.optimizer).threads;
        CHECK(number == (size_t)threads);
        for (int i = 0; i < 10; i++) {
            OK(take_step(&m, i));
            CHECK(created == threads - 1 && tasks() == threads);
        }
        OK(sonew_save(m.optimizer, path, PARAM(m.param), 1));
        OK(sonew_load(m.optimizer, path, NULL, PARAM(m.param), 1));
        OK(take_step(&m, 10));
        CHECK(created == threads - 1 && tasks() == threads);
        end(&m);
        CHECK(left(1));
    }
    /* Optimizers that ask for different numbers have their own. */
    struct model a = model(2), b = model(3);
    OK(take_step(&a, 0));
    OK(take_step(&b, 0));
    CHECK(tasks() == 4);
    end(&a);
    CHECK(left(3));
    end(&b);
    CHECK(left(1));
    puts("threads counted");
    return 0;
}
