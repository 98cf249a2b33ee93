/* Makes every allocation of a call fail in turn, of any size, alone and with all that
 * follow, each time in a child, and looks at what becomes of the call: it succeeds, or
 * its status says that there is no memory. All of the first are tried, and from then on
 * ever fewer. argv[1] is a folder to write to. */
#define _GNU_SOURCE
#include "failing.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "../c/check.h"

/* The names of many are more than 32 KiB. */
enum { FEW = 3, MANY = 250, LEN = 40 };

static size_t count;
static char saved[4096], damaged[4096], live[4096];
static float memory[2 * MANY * LEN];
static void *params[MANY];
static const void *grads[MANY];
static char names[MANY][256];
static sonew_tensor tensors[MANY];
static sonew_options options;
static sonew_optimizer *optimizer;
static sonew_plan *plan;
static int only_one;

static sonew_status load_as(int32_t mode, const char *path) {
    sonew_load_options how;
    OK(sonew_load_options_init(&how, sizeof how));
    how.mode = mode;
    return sonew_load(optimizer, path, &how, NULL, 0);
}

static sonew_status create(void) { return sonew_create(&options, tensors, count, &optimizer); }
static sonew_status make_plan(void) { return sonew_plan_create(&options, tensors, count, &plan); }
static sonew_status step(void) {
    return sonew_step(optimizer, NULL, params, grads, count);
}
static sonew_status save(void) { return sonew_save(optimizer, saved, params, count); }
static sonew_status save_behind(void) {
    sonew_saving *saving = NULL;
    sonew_status status = sonew_save_begin(optimizer, saved, NULL, 0, &saving);
    return status == SONEW_OK ? sonew_save_finish(saving) : status;
}
static sonew_status load(void) { return load_as(SONEW_READ, saved); }
static sonew_status map(void) { return load_as(SONEW_MAP_PRIVATE, saved); }
static sonew_status share(void) { return load_as(SONEW_MAP_SHARED, live); }
/* The status of a damaged file, unless memory is lacking before that is seen. */
static sonew_status load_damaged(void) {
    sonew_status status = sonew_load(optimizer, damaged, NULL, NULL, 0);
    return status == SONEW_CHECKSUM ? SONEW_OK : status;
}
static sonew_status verify(void) { return sonew_verify(saved); }
static sonew_status make_live(void) { return sonew_make_live(optimizer, live); }
static sonew_status synced(void) { return sonew_sync(optimizer); }
static sonew_status scale(void) { return set_lr_scale(optimizer, 0, 2); }
static sonew_status look(void) {
    sonew_view view;
    return sonew_plane_view(optimizer, 0, 0, &view, sizeof view);
}
static sonew_status share_and_step(void) {
    sonew_status status = share();
    return status == SONEW_OK ? step() : status;
}
/* Longer than what the first reserve serves. */
static char text[100000];
static unsigned char *checkpoint;
static size_t size;
static sonew_status set_text(void) { return sonew_set_text(optimizer, "text", text); }
static sonew_status remove_text(void) { return sonew_set_text(optimizer, "text", NULL); }
static sonew_status get_text(void) {
    const char *told;
    return sonew_get_text(optimizer, "text", &told);
}
static sonew_status open_file(void) {
    sonew_file *file = NULL;
    sonew_status status = sonew_file_open(saved, &file);
    return status == SONEW_OK ? sonew_file_free(file) : status;
}
static sonew_status to_memory(void) {
    return sonew_save_to_memory(optimizer, params, count, checkpoint, size, &size);
}
static sonew_status from_memory(void) {
    sonew_load_options how;
    OK(sonew_load_options_init(&how, sizeof how));
    how.data = checkpoint;
    how.size = size;
    return sonew_load(optimizer, NULL, &how, NULL, 0);
}
static sonew_status copy(void) {
    sonew_optimizer *other = NULL;
    sonew_status status = sonew_clone(optimizer, &other);
    return status == SONEW_OK ? sonew_free(other) : status;
}
static sonew_status reset(void) { return sonew_reset(optimizer); }
static sonew_status flat(void) {
    void *list[MANY];
    return sonew_flat_pointers(optimizer, memory, NULL, count * LEN, NULL, list, NULL);
}
static sonew_status free_it(void) { return sonew_free(optimizer); }
static sonew_status make_pool(void) {
    size_t processors[] = {0};
    sonew_pool *pool = NULL;
    sonew_status status = sonew_pool_create(2, processors, only_one ? 1 : 0, &pool);
    return status == SONEW_OK ? sonew_pool_free(pool) : status;
}
static sonew_status free_plan(void) { return sonew_plan_free(plan); }

/* A copy of the saved file with a wrong byte in the last plane before the last
 * parameter. */
static void damage(void) {
    FILE *from = fopen(saved, "rb"), *to = fopen(damaged, "wb");
    CHECK(from && to);
    for (int byte; (byte = fgetc(from)) != EOF;)
        fputc(byte, to);
    long array = (LEN * (long)sizeof(float) + 63) / 64 * 64;
    CHECK(fseek(to, -2 * array, SEEK_END) == 0);
    fputc(0x55, to);
    CHECK(fclose(from) == 0 && fclose(to) == 0);
}

/* What became of a call, as the exit status of its child. */
enum { SUCCEEDED, A_STATUS, WRONG, NOTHING_FAILED };

static sonew_status (*before)(void);

static void in_child(sonew_status (*call)(void), long after, int all_after) {
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
    alarm(60);
    if (before)
        OK(before());
    fail(1, after, all_after);
    sonew_status status = call();
    long refused = refused_ones;
    succeed();
    int lacking = status == SONEW_OUT_OF_MEMORY || status == SONEW_IO || status == SONEW_THREADS;
    if (refused > 0 && status != SONEW_OK && !lacking) {
        printf("    %s: %s\n", sonew_status_name(status), sonew_last_error());
        fflush(stdout);
    }
    _exit(refused == 0          ? NOTHING_FAILED
          : status == SONEW_OK  ? SUCCEEDED
          : lacking             ? A_STATUS
                                : WRONG);
}

static long calls, faults;

/* What the C library and Rust ask for while a thread starts, and end the process if they
 * do not get it: five pieces. The thread and the one that has started it ask at the same
 * time, in an order that differs from call to call, so that one may be met twice. */
enum { OF_A_THREAD = 5 + 1 };

static void each_starting(int threads, const char *what, sonew_status (*call)(void)) {
    long tried = 0, ended = 0, wrong = 0, refused = 0;
    for (int all_after = 0; all_after < 2; all_after++)
        for (long after = 0;;
             after += 1 + after / (count == MANY ? 8 : all_after ? 32 : 256)) {
            fflush(stdout);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0)
                in_child(call, after, all_after);
            int status = 0;
            CHECK(waitpid(child, &status, 0) == child);
            if (WIFEXITED(status) && WEXITSTATUS(status) == NOTHING_FAILED)
                break;
            tried++;
            ended += WIFSIGNALED(status);
            wrong += WIFEXITED(status) && WEXITSTATUS(status) == WRONG;
            refused += WIFEXITED(status) && WEXITSTATUS(status) == A_STATUS;
        }
    printf("%s, %zu tensors: of %ld failures %ld refuse the call, %ld end the process, "
           "%ld give another status\n",
           what, count, tried, refused, ended, wrong);
    long allowed = 2 * threads * OF_A_THREAD;
    calls += tried;
    faults += wrong + (ended > allowed ? ended : 0);
}

static void each(const char *what, sonew_status (*call)(void)) { each_starting(0, what, call); }

static void all_calls(void) {
    each("sonew_create", create);
    OK(create());
    each("sonew_plan_create", make_plan);
    OK(make_plan());
    each("the first sonew_step", step);
    OK(step());
    each("sonew_step", step);
    each("sonew_plane_view", look);
    each("sonew_set_settings", scale);
    each("sonew_save", save);
    OK(save());
    damage();
    each_starting(1, "sonew_save_begin and _finish", save_behind);
    each("sonew_load", load);
    each("sonew_load, mapped", map);
    each("sonew_load of a damaged file", load_damaged);
    each("sonew_verify", verify);
    memset(text, 'x', sizeof text - 1);
    each("sonew_set_text", set_text);
    OK(set_text());
    each("sonew_get_text", get_text);
    each("sonew_save with a text", save);
    OK(save());
    each("sonew_load with a text", load);
    each("sonew_file_open with a text", open_file);
    OK(sonew_save_to_memory(optimizer, params, count, NULL, 0, &size));
    checkpoint = (unsigned char *)malloc(size);
    CHECK(checkpoint != NULL);
    each("sonew_save_to_memory", to_memory);
    OK(to_memory());
    each("sonew_load from memory", from_memory);
    free(checkpoint);
    each("sonew_clone", copy);
    each("sonew_reset", reset);
    each("sonew_flat_pointers", flat);
    OK(remove_text());
    each("sonew_free", free_it);
    each("sonew_plan_free", free_plan);
    each("sonew_make_live", make_live);
    OK(make_live());
    OK(free_it());
    OK(create());
    each("sonew_load of a live file", share);
    /* A child must open the file itself. */
    before = share;
    each("the first sonew_step of a live file", step);
    before = share_and_step;
    each("sonew_step of a live file", step);
    each("sonew_sync", synced);
    each("sonew_set_settings of a live file", scale);
    each("sonew_free of a live file", free_it);
    before = NULL;
    OK(free_it());
    OK(free_plan());
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    unsetenv("RUST_BACKTRACE"); /* Each end of a process would be slow. */
    snprintf(saved, sizeof saved, "%s/saved.safetensors", argv[1]);
    snprintf(damaged, sizeof damaged, "%s/damaged.safetensors", argv[1]);
    snprintf(live, sizeof live, "%s/live.safetensors", argv[1]);
    OK(sonew_options_init(&options, sizeof options));
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i],
                 "a name that is rather long, so that there need not be so many tensors/"
                 "the next part of it, which is long, too/with a \" to escape/%d", i);
        tensors[i] = (sonew_tensor){.struct_size = sizeof(sonew_tensor), .name = names[i], .ndim = 1, .dims = {LEN}};
        params[i] = memory + 2 * i * LEN;
        float *grad = memory + (2 * i + 1) * LEN;
        grad[0] = 1;
        grads[i] = grad;
    }
    options.threads = 1;
    count = FEW;
    all_calls();
    count = MANY;
    all_calls();
    each("sonew_pool_create", make_pool);
    only_one = 1;
    each_starting(1, "sonew_pool_create on a processor", make_pool);
    options.threads = 3;
    OK(create());
    each_starting(2, "the first sonew_step on 3 threads", step);
    each_starting(2, "sonew_load on 3 threads", load);
    OK(step());
    each("sonew_step on 3 threads", step);
    printf("%ld failures, %ld faults\n", calls, faults);
    return 0;
}
