/* A child that is forked after its parent has stepped on several threads can take
 * steps, and so can the parent, even if another thread was inside a call at the
 * moment of the fork. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

enum { BEFORE = 3, AFTER = 3, FORKS = 40, OTHERS = 3 };

static const char *folder;

/* Waits for a child. One that hangs is ended by its own alarm. */
static void succeeded(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!WIFSIGNALED(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pid_t fork_child(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        alarm(60);
    return child;
}

/* Parent, child and the child's child all continue to the same numbers. */
static void after_steps(void) {
    float *numbers = expected(BEFORE + AFTER);
    struct model m = model(4);
    for (int i = 0; i < BEFORE; i++)
        OK(take_step(&m, i));
    CHECK(tasks() == 4);
    pid_t child = fork_child();
    pid_t grandchild = -1;
    if (child == 0) {
        CHECK(left(1));
        OK(take_step(&m, BEFORE));
        CHECK(tasks() == 4);
        grandchild = fork_child();
    }
    for (int i = child == 0 ? BEFORE + 1 : BEFORE; i < BEFORE + AFTER; i++)
        OK(take_step(&m, i));
    CHECK(tasks() == 4);
    CHECK(same(m.param, numbers));
    end(&m);
    CHECK(left(1));
    free(numbers);
    if (grandchild == 0)
        exit(0);
    if (child == 0) {
        succeeded(grandchild);
        exit(0);
    }
    succeeded(child);
}

/* A child that only frees what it inherited, or leaves it. */
static void child_without_steps(void) {
    struct model m = model(4);
    OK(take_step(&m, 0));
    for (int i = 0; i < 2; i++) {
        pid_t child = fork_child();
        if (child == 0) {
            if (i == 0)
                end(&m);
            exit(0);
        }
        succeeded(child);
    }
    OK(take_step(&m, 1));
    end(&m);
}

static atomic_int stop;
static _Atomic(sonew_optimizer *) busy[OTHERS];

/* Steps, creates and frees, over and over. */
static void *work(void *argument) {
    int self = (int)(size_t)argument;
    while (!stop) {
        struct model m = model(2);
        busy[self] = m.optimizer;
        for (int i = 0; i < 5; i++)
            OK(take_step(&m, i));
        char path[4096];
        snprintf(path, sizeof path, "%s/other-%d.safetensors", folder, self);
        OK(sonew_save(m.optimizer, path, PARAM(m.param), 1));
        end(&m);
    }
    return NULL;
}

static void inside_calls(void) {
    float *numbers = expected(4);
    pthread_t threads[OTHERS];
    for (size_t i = 0; i < OTHERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, work, (void *)i));
    struct model mine = model(4);
    OK(take_step(&mine, 0));
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork_child();
        if (child == 0) {
            for (int step = 1; step < 4; step++)
                OK(take_step(&mine, step));
            CHECK(same(mine.param, numbers));
            char path[4096];
            snprintf(path, sizeof path, "%s/child.safetensors", folder);
            OK(sonew_save(mine.optimizer, path, PARAM(mine.param), 1));
            OK(sonew_load(mine.optimizer, path, NULL, PARAM(mine.param), 1));
            struct model fresh = model(2);
            OK(take_step(&fresh, 0));
            end(&fresh);
            /* In the child, handles of the other threads are idle, in use for
             * ever, or freed: each call returns at once. */
            for (int other = 0; other < OTHERS; other++) {
                sonew_status status = sonew_free(busy[other]);
                CHECK(status == SONEW_OK || status == SONEW_BUSY || status == SONEW_BAD_HANDLE);
            }
            end(&mine);
            _exit(0);
        }
        succeeded(child);
    }
    stop = 1;
    for (int i = 0; i < OTHERS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    end(&mine);
    free(numbers);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    after_steps();
    child_without_steps();
    inside_calls();
    puts("children step");
    return 0;
}
