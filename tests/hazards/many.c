/* With hundreds of tensors, allocating any list of them may fail. Each call is made
 * with its n-th allocation failing, for every n: in a step, allocations of any
 * size; in creation, those as large as a list of all tensors (memory for the parts
 * of one tensor, such as its name, is checked in one allocation before, as are
 * lists of files, which allocations.c tests). argv[1] is a folder to write to. */
#define _GNU_SOURCE
#include "failing.h"

#include <fcntl.h>

#include "../c/check.h"

enum { COUNT = 400, LEN = 5, PLANES = 4, ANY = 1, LIST = COUNT * sizeof(int) };

static char names[COUNT][16], live[4096];
static sonew_tensor tensors[COUNT];
static sonew_options options;
static uint16_t memory[COUNT][2][LEN], planes[COUNT][PLANES][2 * LEN];
static void *params[COUNT], *pointers[COUNT][PLANES];
static const void *grads[COUNT];
static sonew_buffers buffers[COUNT];
static double numbers[2 * COUNT];
static sonew_optimizer *optimizer;
static sonew_plan *plan;
static sonew_stages *stages, *plan_stages;

/* Half of the tensors are 16 bits, rounded stochastically, with master weights. */
static void describe(void) {
    OK(sonew_options_init(&options, sizeof options));
    options.threads = 1;
    options.rounding = SONEW_STOCHASTIC;
    options.damping = SONEW_RELATIVE;
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "tensor %zu", i);
        tensors[i] = (sonew_tensor){.struct_size = sizeof(sonew_tensor), .name = names[i], .ndim = 1, .dims = {LEN}};
        tensors[i].dtype = tensors[i].state_dtype = SONEW_BF16;
        tensors[i].master = i % 2;
        params[i] = memory[i][0];
        grads[i] = memory[i][1];
        for (size_t k = 0; k < LEN; k++)
            memory[i][1][k] = (uint16_t)(0x3f80 + (7 * k + i) % 64); /* from 1 */
        OK(sonew_buffers_init(&buffers[i], 1, sizeof buffers[i]));
        for (size_t p = 0; p < PLANES; p++)
            pointers[i][p] = planes[i][p];
        buffers[i].params = params[i];
        buffers[i].grad = grads[i];
        buffers[i].planes = pointers[i];
        buffers[i].plane_count = 3 + i % 2;
        buffers[i].len = LEN;
    }
}

/* Everything that a refused call must not change. */
struct world {
    uint16_t memory[COUNT][2][LEN], planes[COUNT][PLANES][2 * LEN], state[COUNT][PLANES][2 * LEN];
    uint64_t steps;
};

static void look(struct world *now) {
    memset(now, 0, sizeof *now);
    memcpy(now->memory, memory, sizeof memory);
    memcpy(now->planes, planes, sizeof planes);
    sonew_optimizer_info info;
    if (sonew_info(optimizer, &info, sizeof info) != SONEW_OK)
        return;
    now->steps = info.step_count;
    for (size_t i = 0; i < COUNT; i++)
        for (size_t p = 0; p < buffers[i].plane_count; p++) {
            sonew_view view;
            OK(sonew_plane_view(optimizer, i, p, &view, sizeof view));
            memcpy(now->state[i][p], view.data, LEN * (p == 3 ? 4 : 2));
        }
}

/* Makes a call with its first, second, ... allocation from a size on failing,
 * until it needs no more. How many failed; undo() follows a call that did. */
static long each(const char *what, size_t size, sonew_status (*call)(void), void (*undo)(void)) {
    static struct world before, after;
    for (long i = 0;; i++) {
        look(&before);
        fail(size, i, 0);
        sonew_status status = call();
        long refused = refused_ones;
        succeed();
        if (refused == 0) {
            if (status != SONEW_OK)
                fprintf(stderr, "%s\n", what);
            OK(status);
            if (undo)
                undo();
            return i;
        }
        if (status == SONEW_OK) { /* It did without. */
            if (undo)
                undo();
            continue;
        }
        const char *why = sonew_last_error();
        if (!(status == SONEW_OUT_OF_MEMORY && strstr(why, "out of memory: ")) &&
            !(status == SONEW_IO && strstr(why, "Cannot allocate memory"))) {
            fprintf(stderr, "%s, allocation %ld: %s: %s\n", what, i, sonew_status_name(status), why);
            exit(1);
        }
        look(&after);
        if (memcmp(&before, &after, sizeof before) != 0) {
            fprintf(stderr, "%s, allocation %ld changed something\n", what, i);
            exit(1);
        }
    }
}

static sonew_status create(void) { return sonew_create(&options, tensors, COUNT, &optimizer); }
static void destroy(void) { OK(sonew_free(optimizer)); }
static sonew_status create_plan(void) { return sonew_plan_create(&options, tensors, COUNT, &plan); }
static void destroy_plan(void) { OK(sonew_plan_free(plan)); }
static sonew_status step(void) { return sonew_step(optimizer, NULL, params, grads, COUNT); }
static sonew_status plan_step(void) { return sonew_plan_step(plan, NULL, 1, buffers, COUNT); }
static sonew_status begin(void) {
    return sonew_stages_begin(optimizer, NULL, params, grads, COUNT, &stages);
}
static sonew_status plan_begin(void) {
    return sonew_plan_stages_begin(plan, NULL, 2, buffers, COUNT, &plan_stages);
}
static void abort_stages(void) { OK(sonew_stages_abort(stages)); }
static void abort_plan_stages(void) { OK(sonew_stages_abort(plan_stages)); }
static int32_t stage;
static sonew_status next(void) { return sonew_stages_next(stages, numbers, COUNT, &stage); }
static sonew_status plan_next(void) {
    return sonew_stages_next(plan_stages, numbers, COUNT, &stage);
}
int main(int argc, char **argv) {
    CHECK(argc == 2);
    snprintf(live, sizeof live, "%s/live.safetensors", argv[1]);
    describe();
    OK(create());
    destroy(); /* what is made once has been made */
    CHECK(each("create", LIST, create, destroy) > 5);
    CHECK(each("plan_create", LIST, create_plan, destroy_plan) > 5);
    OK(create());
    OK(create_plan());
    CHECK(each("step", ANY, step, NULL) > 2);
    CHECK(each("plan_step", ANY, plan_step, NULL) > 2);
    /* The allocations of a step's lists are kept for the next step. */
    CHECK(each("step", ANY, step, NULL) == 0);
    CHECK(each("plan_step", ANY, plan_step, NULL) == 0);
    destroy();
    destroy_plan();
    OK(create());
    OK(create_plan());
    CHECK(each("stages_begin", ANY, begin, abort_stages) > 2);
    CHECK(each("plan_stages_begin", ANY, plan_begin, abort_plan_stages) > 2);
    OK(begin());
    OK(plan_begin());
    for (int i = 0; i < 4; i++) {
        CHECK((each("stages_next", ANY, next, NULL) > 0) == (i == 0));
        CHECK((each("plan_stages_next", ANY, plan_next, NULL) > 0) == (i == 0));
    }
    CHECK(stage == SONEW_DONE);
    OK(sonew_make_live(optimizer, live));
    CHECK(each("live step", ANY, step, NULL) == 0);
    destroy();
    destroy_plan();
    puts("every list may fail");
    return 0;
}
