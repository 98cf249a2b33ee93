/* A thread that is cancelled in a call completes it: every call, with the request
 * pending since before it began. And what is left of a call that a signal handler
 * leaves by longjmp(). argv[1] is a folder to write to. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "guest.h"

static char saved[4096], live[4096];
static struct model m;
static sonew_saving *saving;

static sonew_status load_as(int32_t mode, const char *path) {
    sonew_load_options options;
    OK(sonew_load_options_init(&options, sizeof options));
    options.mode = mode;
    return sonew_load(m.optimizer, path, &options, NULL, 0);
}

static sonew_status step(void) { return take_step(&m, 1); }
static sonew_status save(void) { return sonew_save(m.optimizer, saved, PARAM(m.param), 1); }
static sonew_status begin(void) { return sonew_save_begin(m.optimizer, saved, NULL, 0, &saving); }
static sonew_status finish(void) { return sonew_save_finish(saving); }
static sonew_status verify(void) { return sonew_verify(saved); }
static sonew_status load(void) { return load_as(SONEW_READ, saved); }
static sonew_status map(void) { return load_as(SONEW_MAP_PRIVATE, saved); }
static sonew_status make_live(void) { return sonew_make_live(m.optimizer, live); }
static sonew_status write_sync(void) { return sonew_sync(m.optimizer); }
static sonew_status scale(void) { return set_lr_scale(m.optimizer, 0, 2); }
static sonew_status share(void) { return load_as(SONEW_MAP_SHARED, live); }
static sonew_status free_it(void) { return sonew_free(m.optimizer); }
static sonew_status create(void) {
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 2, .dims = {ROWS, COLS}};
    return sonew_create(NULL, &tensor, 1, &m.optimizer);
}

static int completed;

static void *cancelled(void *argument) {
    sonew_status (*call)(void) = *(sonew_status (**)(void))argument;
    CHECK(!pthread_cancel(pthread_self()));
    OK(call());
    completed++;
    pthread_testcancel();
    CHECK(!"it was not cancelled");
    return NULL;
}

static void cancellations(void) {
    sonew_status (*calls[])(void) = {step, save,      begin, finish, verify, load, step,
                                     map,  make_live, write_sync, step, write_sync,   scale, save,
                                     free_it, create, share, step,   free_it};
    int count = (int)(sizeof calls / sizeof *calls);
    m = model(2);
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        void *ended = NULL;
        CHECK(!pthread_create(&thread, NULL, cancelled, &calls[i]));
        CHECK(!pthread_join(thread, &ended));
        CHECK(ended == PTHREAD_CANCELED && completed == i + 1);
    }
    /* A thread that must not be cancelled still is not, after a call. */
    int before;
    CHECK(!pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before));
    OK(create());
    OK(free_it());
    CHECK(!pthread_setcancelstate(before, &before) && before == PTHREAD_CANCEL_DISABLE);
    free(m.param);
    free(m.grad);
}

static sigjmp_buf out;

static void leave(int number) {
    (void)number;
    siglongjmp(out, 1);
}

/* The gradient cannot be read: the signal comes in the middle of the step. */
static void left_by_longjmp(void) {
    m = model(1);
    float *unreadable = mmap(NULL, LENGTH * sizeof(float), PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(unreadable != MAP_FAILED);
    const void *grads[] = {unreadable};
    struct sigaction action = {.sa_handler = leave}, before;
    CHECK(!sigaction(SIGSEGV, &action, &before));
    if (!sigsetjmp(out, 1)) {
        sonew_step(m.optimizer, NULL, PARAM(m.param), grads, 1);
        CHECK(!"the gradient was read");
    }
    CHECK(!sigaction(SIGSEGV, &before, NULL));
    sonew_settings now;
    for (int i = 0; i < 2; i++) {
        CHECK(sonew_get_settings(m.optimizer, 0, &now, sizeof now) == SONEW_BUSY);
        CHECK(info_of(m.optimizer).step_count == 0);
        CHECK(take_step(&m, 1) == SONEW_BUSY && sonew_free(m.optimizer) == SONEW_BUSY);
    }
    /* Others are not touched. */
    struct model other = model(1);
    OK(take_step(&other, 1));
    end(&other);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    snprintf(saved, sizeof saved, "%s/saved.safetensors", argv[1]);
    snprintf(live, sizeof live, "%s/live.safetensors", argv[1]);
    cancellations();
    left_by_longjmp();
    puts("calls are completed");
    return 0;
}
