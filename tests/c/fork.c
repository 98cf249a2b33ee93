/* A live file, and a running save, belong to one process and not to its forked
 * children. argv[1] is a folder to write to. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 1, LENGTH = 50000 };

static float w[LENGTH], grad[LENGTH];
static void *params[] = {w};
static const void *grads[] = {grad};
static char live[4096], saved[4096];

static sonew_optimizer *create(void) {
    sonew_tensor tensors[] = {{.struct_size = sizeof(sonew_tensor), .name = "w", .ndim = 1, .dims = {LENGTH}, .master = 1}};
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &optimizer));
    return optimizer;
}

static sonew_status load(sonew_optimizer *optimizer, const char *path, int32_t mode) {
    sonew_load_options options;
    OK(sonew_load_options_init(&options, sizeof options));
    options.mode = mode;
    return sonew_load(optimizer, path, &options, params, COUNT);
}

static void as_child(sonew_optimizer *optimizer, sonew_saving *saving) {
    CHECK(sonew_step(optimizer, NULL, params, grads, COUNT) == SONEW_FORKED);
    CHECK(strstr(sonew_last_error(), "belongs to the process"));
    CHECK(sonew_sync(optimizer) == SONEW_FORKED);
    CHECK(sonew_save(optimizer, saved, params, COUNT) == SONEW_FORKED);
    CHECK(sonew_save(optimizer, live, NULL, 0) == SONEW_FORKED);
    CHECK(sonew_make_live(optimizer, saved) == SONEW_FORKED);
    CHECK(set_lr_scale(optimizer, 0, 2) == SONEW_FORKED);
    CHECK(sonew_reset_master(optimizer) == SONEW_FORKED);
    sonew_saving *another = NULL;
    CHECK(sonew_save_begin(optimizer, saved, params, COUNT, &another) == SONEW_FORKED);
    CHECK(another == NULL);
    CHECK(sonew_save_finish(saving) == SONEW_FORKED);
    sonew_optimizer *second = create();
    CHECK(load(second, live, SONEW_MAP_SHARED) == SONEW_FILE_LOCKED);
    OK(sonew_free(second));
    /* The child may read information, and free the optimizer. */
    sonew_view view;
    OK(sonew_plane_view(optimizer, 0, 0, &view, sizeof view));
    uint64_t steps = 0;
    steps = info_of(optimizer).step_count;
    CHECK(steps == 2);
    OK(sonew_free(optimizer));
}

static size_t read_live(char *bytes, size_t room) {
    FILE *file = fopen(live, "rb");
    CHECK(file);
    size_t size = fread(bytes, 1, room, file);
    CHECK(size > 0 && feof(file));
    CHECK(fclose(file) == 0);
    return size;
}

/* While the parent is within a step, what the child is refused changes no byte of the file:
 * otherwise the copy that is being written would be taken for a whole one after a crash. */
static void within_a_step(sonew_optimizer *optimizer) {
    enum { ROOM = 1 << 22 };
    static char before[ROOM], after[ROOM];
    int begun[2];
    CHECK(pipe(begun) == 0);
    pid_t early = fork();
    CHECK(early >= 0);
    if (early == 0) {
        char byte;
        CHECK(read(begun[0], &byte, 1) == 1);
        CHECK(sonew_step(optimizer, NULL, params, grads, COUNT) == SONEW_FORKED);
        OK(sonew_free(optimizer));
        _exit(0);
    }
    sonew_stages *stages = NULL;
    OK(sonew_stages_begin(optimizer, NULL, params, grads, COUNT, &stages));
    size_t size = read_live(before, ROOM);
    CHECK(write(begun[1], "", 1) == 1);
    int status = -1;
    CHECK(waitpid(early, &status, 0) == early && status == 0);
    CHECK(read_live(after, ROOM) == size && memcmp(before, after, size) == 0);

    pid_t late = fork();
    CHECK(late >= 0);
    double numbers[2];
    int32_t stage = -1;
    if (late == 0) {
        CHECK(sonew_stages_next(stages, numbers, COUNT, &stage) == SONEW_FORKED);
        CHECK(sonew_stages_abort(stages) == SONEW_FORKED);
        OK(sonew_free(optimizer));
        _exit(0);
    }
    CHECK(waitpid(late, &status, 0) == late && status == 0);
    CHECK(read_live(after, ROOM) == size && memcmp(before, after, size) == 0);
    while (stage != SONEW_DONE)
        OK(sonew_stages_next(stages, numbers, COUNT, &stage));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    snprintf(live, sizeof live, "%s/live", argv[1]);
    snprintf(saved, sizeof saved, "%s/saved", argv[1]);
    for (int i = 0; i < LENGTH; i++)
        grad[i] = 0.001f * (float)(i % 1000 - 500);
    sonew_optimizer *optimizer = create();
    OK(sonew_make_live(optimizer, live));
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, saved, params, COUNT, &saving));

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        as_child(optimizer, saving);
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);

    /* The parent still has its state and its lock. */
    OK(sonew_save_finish(saving));
    OK(sonew_verify(saved));
    sonew_optimizer *second = create();
    CHECK(load(second, live, SONEW_MAP_SHARED) == SONEW_FILE_LOCKED);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    within_a_step(optimizer);
    float after[LENGTH];
    memcpy(after, w, sizeof w);
    OK(sonew_free(optimizer));
    OK(sonew_verify(live));
    OK(load(second, live, SONEW_MAP_SHARED));
    CHECK(memcmp(after, w, sizeof w) == 0);
    OK(sonew_free(second));
    printf("the parent's own\n");
    return 0;
}
