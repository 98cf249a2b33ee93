/* Runs the tables of refusals. argv[1] is a folder to write to. */
#include "refusals.h"

sonew_optimizer *optimizer;
sonew_plan *plan;
float a[LENGTH_A + 1], b[LENGTH_B], grad_a[LENGTH_A + 1], grad_b[LENGTH_B];
float planes_a[PLANES][LENGTH_A], planes_b[PLANES][LENGTH_B];
const char *folder;

static void *pointers_a[] = {planes_a[0], planes_a[1], planes_a[2]};
static void *pointers_b[] = {planes_b[0], planes_b[1], planes_b[2]};

sonew_options good_options(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    return options;
}

sonew_step_options good_step(void) {
    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    return step;
}

void good_tensors(sonew_tensor tensors[COUNT]) {
    const sonew_tensor good[] = {
        {.struct_size = sizeof(sonew_tensor), .name = "a", .ndim = 2, .dims = {2, 3}},
        {.struct_size = sizeof(sonew_tensor), .name = "b", .ndim = 1, .dims = {LENGTH_B}},
    };
    memcpy(tensors, good, sizeof good);
}

void good_buffers(sonew_buffers buffers[COUNT]) {
    static double scalars[COUNT][SONEW_SCALARS];
    for (int i = 0; i < COUNT; i++) {
        OK(sonew_buffers_init(&buffers[i], 1, sizeof buffers[i]));
        buffers[i].params = i ? b : a;
        buffers[i].grad = i ? grad_b : grad_a;
        buffers[i].scalars = scalars[i];
        buffers[i].planes = i ? pointers_b : pointers_a;
        buffers[i].plane_count = PLANES;
        buffers[i].len = i ? LENGTH_B : LENGTH_A;
    }
}

const char *in_folder(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Everything that a refused call must not change. */
typedef struct world {
    float a[LENGTH_A + 1], b[LENGTH_B], grad_a[LENGTH_A + 1], grad_b[LENGTH_B];
    float planes_a[PLANES][LENGTH_A], planes_b[PLANES][LENGTH_B];
    float state_a[PLANES][LENGTH_A], state_b[PLANES][LENGTH_B];
    sonew_settings settings[COUNT];
    uint64_t step_count;
    unsigned char file[4096];
} world;

static world look(void) {
    world now;
    memset(&now, 0, sizeof now);
    memcpy(now.a, a, sizeof a);
    memcpy(now.b, b, sizeof b);
    memcpy(now.grad_a, grad_a, sizeof grad_a);
    memcpy(now.grad_b, grad_b, sizeof grad_b);
    memcpy(now.planes_a, planes_a, sizeof planes_a);
    memcpy(now.planes_b, planes_b, sizeof planes_b);
    for (size_t tensor = 0; tensor < COUNT; tensor++) {
        for (size_t plane = 0; plane < PLANES; plane++) {
            sonew_view view;
            OK(sonew_plane_view(optimizer, tensor, plane, &view, sizeof view));
            memcpy(tensor ? now.state_b[plane] : now.state_a[plane], view.data,
                   view.len * sizeof(float));
        }
        now.settings[tensor] = settings_of(optimizer, tensor);
    }
    now.step_count = info_of(optimizer).step_count;
    FILE *file = fopen(in_folder("good.safetensors"), "rb");
    CHECK(file != NULL);
    CHECK(fread(now.file, 1, sizeof now.file, file) > 0);
    fclose(file);
    return now;
}

static void take_steps(void) {
    void *params[] = {a, b};
    const void *grads[] = {grad_a, grad_b};
    sonew_buffers buffers[COUNT];
    good_buffers(buffers);
    for (uint64_t number = 1; number <= 3; number++) {
        OK(sonew_step(optimizer, NULL, params, grads, COUNT));
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
    }
}

static void build(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    OK(sonew_create(NULL, tensors, COUNT, &optimizer));
    OK(sonew_plan_create(NULL, tensors, COUNT, &plan));
    for (int i = 0; i < LENGTH_A; i++) {
        a[i] = 1 + 0.25f * (float)i;
        grad_a[i] = 0.5f - 0.125f * (float)i;
    }
    for (int i = 0; i < LENGTH_B; i++) {
        b[i] = -1;
        grad_b[i] = 0.5f + (float)i;
    }
    take_steps();
    void *params[] = {a, b};
    OK(sonew_save(optimizer, in_folder("good.safetensors"), params, COUNT));
}

static int run(const refusal *refusals) {
    int count = 0;
    for (const refusal *r = refusals; r->call; r++, count++) {
        world before = look();
        sonew_status status = r->call();
        const char *message = sonew_last_error();
        if (status != r->expected || !strstr(message, r->message)) {
            fprintf(stderr, "%s: got %s: %s\n  expected %s: %s\n", r->name,
                    sonew_status_name(status), message,
                    sonew_status_name(r->expected), r->message);
            exit(1);
        }
        world after = look();
        if (memcmp(&before, &after, sizeof before) != 0) {
            fprintf(stderr, "%s changed something\n", r->name);
            exit(1);
        }
    }
    return count;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    build();
    int count = run(create_refusals) + run(step_refusals) + run(plan_refusals) +
                run(file_refusals) + run(name_refusals) + run(other_refusals) + run(typed_refusals) +
                run(live_refusals) + run(shard_refusals) + run(program_refusals);
    take_steps(); /* everything still works */
    OK(sonew_free(optimizer));
    OK(sonew_plan_free(plan));
    printf("%d calls refused\n", count);
    return 0;
}
