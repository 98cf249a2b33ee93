/* Makes every allocation of a call fail in turn, of any size, each time in a child,
 * and counts what becomes of the call. Allocations that grow with what the caller
 * passes are a status (allocations.c and many.c); the smallest ones of calls that
 * create, save and load still end the process, and this program says how many. A
 * step never does, whatever fails. argv[1] is a folder to write to. */
#define _GNU_SOURCE
#include "failing.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "../c/check.h"

enum { COUNT = 3, LEN = 40 };

static char saved[4096], live[4096];
static float memory[2 * COUNT * LEN], *params[COUNT], *grads[COUNT];
static sonew_tensor tensors[COUNT];
static sonew_options options;
static sonew_optimizer *optimizer;
static sonew_plan *plan;

static sonew_status load_as(int32_t mode, const char *path) {
    sonew_load_options how;
    OK(sonew_load_options_init(&how, sizeof how));
    how.mode = mode;
    return sonew_load(optimizer, path, &how, NULL, 0);
}

static sonew_status create(void) { return sonew_create(&options, tensors, COUNT, &optimizer); }
static sonew_status make_plan(void) { return sonew_plan_create(&options, tensors, COUNT, &plan); }
static sonew_status step(void) {
    return sonew_step(optimizer, NULL, params, (const float *const *)grads, COUNT);
}
static sonew_status save(void) { return sonew_save(optimizer, saved, params, COUNT); }
static sonew_status save_behind(void) {
    sonew_saving *saving = NULL;
    sonew_status status = sonew_save_begin(optimizer, saved, NULL, 0, &saving);
    return status == SONEW_OK ? sonew_save_finish(saving) : status;
}
static sonew_status load(void) { return load_as(SONEW_READ, saved); }
static sonew_status map(void) { return load_as(SONEW_MAP_PRIVATE, saved); }
static sonew_status share(void) { return load_as(SONEW_MAP_SHARED, live); }
static sonew_status verify(void) { return sonew_verify(saved); }
static sonew_status make_live(void) { return sonew_make_live(optimizer, live); }
static sonew_status synced(void) { return sonew_sync(optimizer); }
static sonew_status scale(void) { return sonew_set_lr_scale(optimizer, 0, 2); }
static sonew_status look(void) {
    sonew_view view;
    return sonew_plane_view(optimizer, 0, 0, &view, sizeof view);
}
static sonew_status free_it(void) { return sonew_free(optimizer); }
static sonew_status free_plan(void) { return sonew_plan_free(plan); }

/* What became of a call, as the exit status of its child. */
enum { SUCCEEDED, A_STATUS, WRONG, NOTHING_FAILED };

static void in_child(sonew_status (*call)(void), long after) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
    alarm(60);
    fail(1, after, 0);
    sonew_status status = call();
    long refused = refused_ones;
    succeed();
    int lacking = status == SONEW_OUT_OF_MEMORY || status == SONEW_IO || status == SONEW_THREADS;
    _exit(refused == 0          ? NOTHING_FAILED
          : status == SONEW_OK  ? SUCCEEDED
          : lacking             ? A_STATUS
                                : WRONG);
}

/* Returns how many allocations end the process. */
static long each(const char *what, sonew_status (*call)(void)) {
    long all = 0, ended = 0, wrong = 0;
    for (;; all++) {
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            in_child(call, all);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == NOTHING_FAILED)
            break;
        ended += WIFSIGNALED(status);
        wrong += WIFEXITED(status) && WEXITSTATUS(status) == WRONG;
    }
    printf("%s: of %ld allocations %ld end the process, %ld give another status\n", what, all,
           ended, wrong);
    return ended + wrong;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    unsetenv("RUST_BACKTRACE"); /* Each end of a process would be slow. */
    snprintf(saved, sizeof saved, "%s/saved.safetensors", argv[1]);
    snprintf(live, sizeof live, "%s/live.safetensors", argv[1]);
    OK(sonew_options_init(&options, sizeof options));
    options.threads = 1;
    static const char *const names[COUNT] = {"a", "b", "c"};
    for (int i = 0; i < COUNT; i++) {
        tensors[i] = (sonew_tensor){.name = names[i], .ndim = 1, .dims = {LEN}};
        params[i] = memory + 2 * i * LEN;
        grads[i] = params[i] + LEN;
        grads[i][0] = 1;
    }
    each("sonew_create", create);
    OK(create());
    each("sonew_plan_create", make_plan);
    OK(make_plan());
    CHECK(each("the first sonew_step", step) == 0);
    OK(step());
    CHECK(each("sonew_step", step) == 0);
    CHECK(each("sonew_plane_view", look) == 0);
    each("sonew_set_lr_scale", scale);
    each("sonew_save", save);
    OK(save());
    each("sonew_save_begin and _finish", save_behind);
    each("sonew_load", load);
    each("sonew_load, mapped", map);
    each("sonew_verify", verify);
    CHECK(each("sonew_free", free_it) == 0);
    CHECK(each("sonew_plan_free", free_plan) == 0);
    each("sonew_make_live", make_live);
    OK(make_live());
    each("sonew_step of a live file", step);
    OK(step());
    each("sonew_sync", synced);
    each("sonew_set_lr_scale of a live file", scale);
    each("sonew_free of a live file", free_it);
    OK(free_it());
    OK(create());
    each("sonew_load of a live file", share);
    OK(free_it());
    OK(free_plan());
    puts("steps go on");
    return 0;
}
