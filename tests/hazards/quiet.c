/* Signal handlers, signal masks, locale, environment, open files and the
 * working folder are as they were, nothing is printed, and the host's handlers
 * run on no thread of the library. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

extern char **environ;

enum { HIGHEST = 64 };

static atomic_int handled_by;

static void handler(int signal) {
    (void)signal;
    handled_by = (int)gettid();
}

struct host {
    void (*handlers[HIGHEST + 1])(int);
    int flags[HIGHEST + 1];
    char blocked[HIGHEST + 1], blocked_in_handlers[HIGHEST + 1][HIGHEST + 1];
    stack_t stack;
    char locale[512], folder[4096], variables[1 << 16];
    mode_t mask_of_files;
    int files, timers;
};

static void look(struct host *host) {
    memset(host, 0, sizeof *host);
    sigset_t mask;
    CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &mask));
    for (int i = 1; i <= HIGHEST; i++) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        if (!sigaction(i, NULL, &action)) {
            host->handlers[i] = action.sa_handler;
            host->flags[i] = action.sa_flags;
            for (int j = 1; j <= HIGHEST; j++)
                host->blocked_in_handlers[i][j] = (char)sigismember(&action.sa_mask, j);
        }
        host->blocked[i] = (char)sigismember(&mask, i);
    }
    CHECK(!sigaltstack(NULL, &host->stack));
    CHECK(snprintf(host->locale, sizeof host->locale, "%s %s", setlocale(LC_ALL, NULL),
                   localeconv()->decimal_point) > 0);
    CHECK(getcwd(host->folder, sizeof host->folder) != NULL);
    size_t end = 0;
    for (char **variable = environ; *variable; variable++) {
        size_t length = strlen(*variable) + 1;
        if (end + length <= sizeof host->variables)
            memcpy(host->variables + end, *variable, length);
        end += length;
    }
    umask(host->mask_of_files = umask(0));
    for (int i = 0; i < 256; i++)
        host->files += fcntl(i, F_GETFD) >= 0;
    host->timers = (int)alarm(0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    char path[4096], printed[4096];
    snprintf(path, sizeof path, "%s/quiet.safetensors", argv[1]);
    snprintf(printed, sizeof printed, "%s/printed", argv[1]);
    CHECK(setlocale(LC_ALL, "C.UTF-8") || setlocale(LC_ALL, "C"));
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    CHECK(!sigaction(SIGUSR1, &action, NULL));
    CHECK(!sigaction(SIGINT, &action, NULL));
    int output = dup(1), file = open(printed, O_CREAT | O_RDWR | O_TRUNC, 0600);
    CHECK(output >= 0 && file >= 0);
    CHECK(dup2(file, 1) == 1);
    int errors = dup(2);
    CHECK(dup2(file, 2) == 2);

    static struct host before, after;
    look(&before);
    struct model m = model(4);
    for (int i = 0; i < 5; i++)
        OK(take_step(&m, i));
    OK(sonew_save(m.optimizer, path, PARAM(m.param), 1));
    OK(sonew_load(m.optimizer, path, NULL, PARAM(m.param), 1));
    const void *grads[] = {NULL};
    CHECK(sonew_step(m.optimizer, NULL, PARAM(m.param), grads, 7) == SONEW_TENSOR_COUNT);
    CHECK(sonew_load(m.optimizer, printed, NULL, NULL, 0) == SONEW_NOT_A_CHECKPOINT);
    gradient(m.grad, 0);
    m.grad[5] = 1.0f / 0.0f;
    grads[0] = m.grad;
    CHECK(sonew_step(m.optimizer, NULL, PARAM(m.param), grads, 1) == SONEW_NON_FINITE_GRADIENT);

    /* While this thread blocks it, a signal to the process waits: no thread of
     * the library takes it. */
    CHECK(tasks() == 4);
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGINT);
    CHECK(!pthread_sigmask(SIG_BLOCK, &both, NULL));
    CHECK(!kill(getpid(), SIGUSR1) && !kill(getpid(), SIGINT));
    OK(take_step(&m, 6));
    usleep(20000);
    CHECK(handled_by == 0);
    CHECK(!pthread_sigmask(SIG_UNBLOCK, &both, NULL));
    CHECK(handled_by == getpid());

    end(&m);
    look(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    fflush(NULL);
    struct stat size;
    CHECK(!fstat(file, &size) && size.st_size == 0);
    dup2(output, 1);
    dup2(errors, 2);
    puts("as it was");
    return 0;
}
