/* Optimizers and plans share threads: by their number, or a pool of the program's own.
 * This program's pthread_create counts every thread of the process, and refuses those
 * that are one too many. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "guest.h"

enum { MANY = 300, STEPS = 4, HOSTS = 4 };

static atomic_int created;
static int allowed = 1000000;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*start)(void *), void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (created >= allowed)
        return EAGAIN;
    created++;
    return real(thread, attributes, start, argument);
}

static sonew_pool *pool(int threads) {
    sonew_pool *pool = NULL;
    OK(sonew_pool_create(threads, NULL, 0, &pool));
    return pool;
}

static struct model model_in(const sonew_pool *pool) {
    struct model m = model(1);
    OK(sonew_free(m.optimizer));
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.pool = pool;
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {ROWS, COLS}};
    OK(sonew_create(&options, &tensor, 1, &m.optimizer));
    return m;
}

static size_t threads_of(const sonew_optimizer *optimizer) {
    return info_of(optimizer).threads;
}

static float *numbers;

/* All steps, with the bits that one thread gives. */
static void all_steps(struct model *m) {
    for (int i = 0; i < STEPS; i++)
        OK(take_step(m, i));
    CHECK(same(m->param, numbers));
}

static void many_by_default(void) {
    static sonew_optimizer *optimizers[MANY];
    created = 0;
    struct model m = model(3), first = model(3);
    for (int i = 0; i < MANY; i++) {
        struct model next = model(3);
        optimizers[i] = next.optimizer;
        free(next.param);
        free(next.grad);
    }
    CHECK(created == 0);
    all_steps(&first);
    gradient(m.grad, 0);
    const void *grads[] = {m.grad};
    for (int i = 0; i < MANY; i++)
        OK(sonew_step(optimizers[i], NULL, PARAM(m.param), grads, 1));
    CHECK(created == 2 && tasks() == 3);
    /* Freed in an order of their own; the last one that has used them ends them. */
    end(&first);
    for (int i = 0; i < MANY; i++)
        OK(sonew_free(optimizers[i * 7 % MANY]));
    CHECK(left(1));
    end(&m);
}

/* Threads without work sleep, so that others have the processors. (Where these are busy with
 * something else, less is seen, and nothing that is wrong.) */
static void sleep_when_idle(void) {
    struct model m = model(3);
    all_steps(&m);
    CHECK(tasks() == 3);
    const struct timespec pause = {.tv_nsec = 300000000};
    const clock_t before = clock();
    CHECK(nanosleep(&pause, NULL) == 0);
    CHECK(clock() - before < CLOCKS_PER_SEC / 10);
    end(&m);
}

/* A pool is freed before those that use it, and a plan uses it, too. */
static void freed_first(void) {
    sonew_pool *own = pool(4);
    created = 0;
    struct model a = model_in(own), b = model_in(own), other = model(4);
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.pool = own;
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {ROWS, COLS}};
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, &tensor, 1, &plan));
    OK(sonew_pool_free(own));
    CHECK(sonew_pool_free(own) == SONEW_BAD_HANDLE);
    all_steps(&a);
    all_steps(&b);
    CHECK(created == 3 && tasks() == 4);
    all_steps(&other);
    CHECK(created == 6 && tasks() == 7);
    end(&a);
    end(&other);
    CHECK(left(4));
    struct model m = model(1);
    float *planes[3];
    for (int p = 0; p < 3; p++)
        CHECK((planes[p] = calloc(LENGTH, sizeof(float))) != NULL);
    sonew_buffers buffers;
    OK(sonew_buffers_init(&buffers, 1, sizeof buffers));
    buffers.params = m.param;
    buffers.grad = m.grad;
    buffers.planes = (void *const *)planes;
    buffers.plane_count = 3;
    buffers.len = LENGTH;
    double scalars[SONEW_SCALARS] = {0};
    buffers.scalars = scalars;
    for (int i = 0; i < STEPS; i++) {
        gradient(m.grad, i);
        OK(sonew_plan_step(plan, NULL, (uint64_t)i + 1, &buffers, 1));
    }
    CHECK(same(m.param, numbers));
    CHECK(created == 6 && tasks() == 4);
    end(&b);
    CHECK(left(4));
    OK(sonew_plan_free(plan));
    CHECK(left(1));
    for (int p = 0; p < 3; p++)
        free(planes[p]);
    end(&m);
}

/* However few threads the system gives, a step goes on with them. */
static void refused(void) {
    for (int given = 0; given < 4; given++) {
        sonew_pool *own = pool(4);
        created = 0;
        allowed = given;
        struct model m = model_in(own), n = model_in(own), same_number = model(4);
        CHECK(threads_of(m.optimizer) == 4 && threads_of(n.optimizer) == 4);
        all_steps(&m);
        all_steps(&n);
        CHECK(created == given && tasks() == given + 1);
        CHECK(threads_of(m.optimizer) == (size_t)given + 1);
        CHECK(threads_of(n.optimizer) == (size_t)given + 1);
        CHECK(threads_of(same_number.optimizer) == 4);
        end(&m);
        end(&n);
        CHECK(left(1));
        /* Who comes later tries again. */
        allowed = 1000000;
        struct model later = model_in(own);
        CHECK(threads_of(later.optimizer) == 4);
        all_steps(&later);
        CHECK(threads_of(later.optimizer) == 4);
        end(&later);
        end(&same_number);
        OK(sonew_pool_free(own));
        CHECK(left(1));
    }
}

static sonew_pool *shared;

/* Creates, steps and frees, over and over, with the pool of all. */
static void *host(void *unused) {
    for (int i = 0; i < 3; i++) {
        struct model m = model_in(shared);
        all_steps(&m);
        CHECK(threads_of(m.optimizer) == 3);
        end(&m);
    }
    return unused;
}

static void at_once(void) {
    shared = pool(3);
    pthread_t threads[HOSTS];
    for (int i = 0; i < HOSTS; i++)
        CHECK(!pthread_create(&threads[i], NULL, host, NULL));
    /* A child that is forked meanwhile can use the pool, with threads of its own. */
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            struct model m = model_in(shared), n = model_in(shared);
            all_steps(&m);
            all_steps(&n);
            CHECK(tasks() == 3 && threads_of(m.optimizer) == 3);
            end(&m);
            end(&n);
            CHECK(left(1));
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    for (int i = 0; i < HOSTS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(left(1));
    OK(sonew_pool_free(shared));
}

/* A child of a parent whose optimizers share threads: they share the child's own. */
static void forked(void) {
    sonew_pool *own = pool(3);
    struct model of_pool[2] = {model_in(own), model_in(own)}, by_number[2] = {model(4), model(4)};
    for (int i = 0; i < 2; i++) {
        OK(take_step(&of_pool[i], 0));
        OK(take_step(&by_number[i], 0));
    }
    CHECK(tasks() == 6);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        CHECK(left(1));
    }
    for (int step = 1; step < STEPS; step++)
        for (int i = 0; i < 2; i++) {
            OK(take_step(&of_pool[i], step));
            OK(take_step(&by_number[i], step));
        }
    struct model later = model(4);
    all_steps(&later);
    CHECK(tasks() == 6);
    end(&later);
    OK(sonew_pool_free(own));
    for (int i = 0; i < 2; i++) {
        CHECK(same(of_pool[i].param, numbers) && same(by_number[i].param, numbers));
        end(&of_pool[i]);
        end(&by_number[i]);
    }
    CHECK(left(1));
    if (child == 0)
        _exit(0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The threads of the pool run on the processor that it names; this one where it did. */
static void on_a_processor(void) {
    cpu_set_t mine, theirs;
    CHECK(!sched_getaffinity(0, sizeof mine, &mine));
    size_t last = CPU_SETSIZE;
    while (!CPU_ISSET(--last, &mine)) {
    }
    sonew_pool *own = NULL;
    created = 0;
    OK(sonew_pool_create(3, &last, 1, &own));
    CHECK(left(1));
    struct model m = model_in(own);
    all_steps(&m);
    CHECK(tasks() == 3);
    DIR *folder = opendir("/proc/self/task");
    CHECK(folder != NULL);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        pid_t id = (pid_t)atoi(entry->d_name);
        if (id == 0)
            continue;
        CHECK(!sched_getaffinity(id, sizeof theirs, &theirs));
        CHECK(id == getpid() ? CPU_EQUAL(&theirs, &mine)
                             : CPU_COUNT(&theirs) == 1 && CPU_ISSET(last, &theirs));
    }
    closedir(folder);
    end(&m);
    /* It is tried with a thread. */
    sonew_pool *none = NULL;
    created = allowed = 0;
    CHECK(sonew_pool_create(3, &last, 1, &none) == SONEW_THREADS && none == NULL);
    allowed = 1000000;
    OK(sonew_pool_free(own));
}

int main(void) {
    numbers = expected(STEPS);
    many_by_default();
    sleep_when_idle();
    freed_first();
    refused();
    at_once();
    forked();
    on_a_processor();
    free(numbers);
    puts("threads are shared");
    return 0;
}
