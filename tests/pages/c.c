/* Each function has the lines of a block of the documents, NAME.inc, in the place that a program
 * has for them. */
#include <sonew.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { if (!(condition)) { fprintf(stderr, "%d: %s\n", __LINE__, #condition); exit(1); } } while (0)

static sonew_optimizer *three_tensors(void) {
    static sonew_tensor tensors[3];
    sonew_optimizer *optimizer = NULL;
    sonew_tensors_init(tensors, 3, sizeof *tensors);
    for (int i = 0; i < 3; i++) {
        tensors[i].name = &"a\0b\0c"[2 * i];
        tensors[i].ndim = 1;
        tensors[i].dims[0] = 4;
    }
    CHECK(sonew_create(NULL, tensors, 3, &optimizer) == SONEW_OK);
    return optimizer;
}

static int readme(void) {
    enum { STEPS = 20 };
    #include "readme.inc"
    return 0;
}

static float weight[1000 * 784], bias[1000], weight_grad[1000 * 784], bias_grad[1000];
static void compute_gradients(float *w, float *b, float *w_grad, float *b_grad) {
    for (int i = 0; i < 1000; i++) {
        w_grad[784 * i] = w[784 * i] - 1;
        b_grad[i] = b[i] - 1;
    }
}

static void first(void) {
    #include "first.inc"
    CHECK(weight[784] > 0.01f && bias[9] > 0.01f);
}

static void flat(void) {
    static sonew_tensor tensors[16];
    static float params_memory[16 * 4], grads_memory[16 * 4];
    static char names[16][8];
    size_t num_parameters = 16 * 4;
    sonew_optimizer *optimizer = NULL;
    sonew_step_options step;
    const char *path = "flat.safetensors";
    sonew_step_options_init(&step, sizeof step);
    sonew_tensors_init(tensors, 16, sizeof *tensors);
    for (int i = 0; i < 16; i++) {
        snprintf(names[i], 8, "%d", i);
        tensors[i].name = names[i];
        tensors[i].ndim = 1;
        tensors[i].dims[0] = 4;
    }
    for (int i = 0; i < 16 * 4; i++) grads_memory[i] = 1;
    CHECK(sonew_create(NULL, tensors, 16, &optimizer) == SONEW_OK);
    #include "flat.inc"
    CHECK(params_memory[63] < 0);
    sonew_free(optimizer);
}

static void settings(void) {
    sonew_optimizer *optimizer = three_tensors();
    sonew_settings after;
    #include "settings.inc"
    CHECK(sonew_get_settings(optimizer, 1, &after, sizeof after) == SONEW_OK);
    CHECK(after.lr_scale == 0.1);
    sonew_free(optimizer);
}

static int file(void) {
    float a[4], b[4], c[4];
    void *params[] = {a, b, c};
    size_t count = 3;
    sonew_optimizer *optimizer = three_tensors();
    for (int i = 0; i < 4; i++) a[i] = b[i] = c[i] = 5;
    CHECK(sonew_save(optimizer, "step-1000.safetensors", params, 3) == SONEW_OK);
    sonew_free(optimizer);
    memset(c, 0, sizeof c);
    {
        #include "file.inc"
        free(tensors);
    }
    CHECK(c[3] == 5);
    sonew_free(optimizer);
    return 0;
}

/* One machine, which has everything that there is to reduce. */
enum { COUNT = 3, MPI_IN_PLACE, MPI_DOUBLE, MPI_FLOAT, MPI_STATUS_IGNORE, MPI_MAX, MPI_SUM, MPI_COMM_WORLD };
static int reduced = 0;
static void MPI_Allreduce(int in, double *x, size_t length, int type, int op, int world) {
    CHECK(in == MPI_IN_PLACE && type == MPI_DOUBLE && world == MPI_COMM_WORLD);
    CHECK((op == MPI_MAX || op == MPI_SUM) && length > 0 && x[0] >= 0);
    reduced++;
}

static void stages(void) {
    const int is_whole[COUNT] = {1, 1, 1}, rank = 0;
    float a[4] = {0}, b[4] = {0}, c[4] = {0}, g[4] = {1, 2, 3, 4};
    void *params[] = {a, b, c};
    const void *grads[] = {g, g, g};
    sonew_optimizer *optimizer = three_tensors();
    sonew_step_options step;
    sonew_status status;
    sonew_step_options_init(&step, sizeof step);
    #include "stages.inc"
    CHECK(status == SONEW_OK && reduced > 0 && c[3] < 0);
    sonew_free(optimizer);
}

static void by_blocks(void) {
    const int op = MPI_SUM;
    float a[4] = {0}, b[4] = {0}, c[4] = {0}, g[4] = {1, 2, 3, 4};
    void *params[] = {a, b, c};
    const void *grads[] = {g, g, g};
    double numbers[2 * COUNT], own[2 * COUNT], of_blocks[64];
    int32_t stage;
    sonew_stages *stages = NULL;
    sonew_optimizer *optimizer = three_tensors();
    sonew_step_options step;
    sonew_step_options_init(&step, sizeof step);
    CHECK(sonew_stages_begin(optimizer, &step, params, grads, COUNT, &stages) == SONEW_OK);
    CHECK(sonew_stages_next(stages, numbers, COUNT, &stage) == SONEW_OK && stage != SONEW_DONE);
    memcpy(own, numbers, sizeof own);
    {
        #include "blocks.inc"
    }
    CHECK(memcmp(own, numbers, sizeof own) == 0);
    sonew_stages_abort(stages);
    sonew_free(optimizer);
}

typedef size_t MPI_Request;
static void MPI_Iallreduce(int in, float *x, size_t length, int type, int op, int world,
                           MPI_Request *request) {
    CHECK(in == MPI_IN_PLACE && type == MPI_FLOAT && op == MPI_SUM && world == MPI_COMM_WORLD);
    CHECK(length == 2 * 4 && x[0] > 0);
    *request = length;
}
static void MPI_Wait(MPI_Request *request, int status) {
    CHECK(*request > 0 && status == MPI_STATUS_IGNORE);
}

/* Of the tensors only the first has pooled correlations: a shard of 3 chains of 4. */
static void partial_sums(void) {
    float a[12] = {0}, b[4] = {0}, c[4] = {0}, g[12] = {1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8};
    float sums[8];
    void *params[] = {a, b, c};
    const void *grads[] = {g, g, g};
    sonew_tensor tensors[COUNT];
    sonew_options options;
    sonew_optimizer *optimizer = NULL;
    MPI_Request request = 0;
    sonew_options_init(&options, sizeof options);
    options.pooling = SONEW_POOLING_BAND;
    sonew_tensors_init(tensors, COUNT, sizeof *tensors);
    for (int i = 0; i < COUNT; i++) {
        tensors[i].name = &"a\0b\0c"[2 * i];
        tensors[i].ndim = 1;
        tensors[i].dims[0] = 4;
        tensors[i].update = SONEW_UPDATE_ADAM;
    }
    tensors[0].ndim = 2;
    tensors[0].dims[0] = 3;
    tensors[0].dims[1] = 4;
    tensors[0].chains = SONEW_CONTIGUOUS_LINES;
    tensors[0].update = SONEW_UPDATE_SONEW;
    tensors[0].whole_rows = 5;
    CHECK(sonew_create(&options, tensors, COUNT, &optimizer) == SONEW_OK);
    CHECK(sonew_step(optimizer, NULL, params, grads, COUNT) == SONEW_OK);
    CHECK(sonew_step(optimizer, NULL, params, grads, COUNT) == SONEW_PARTIAL_SUMS);
    {
        #include "sums.inc"
    }
    CHECK(sonew_step(optimizer, NULL, params, grads, COUNT) == SONEW_OK);
    sonew_free(optimizer);
}

static void stack(void) {
    enum { layers = 2, out = 3, in = 4 };
    const char *names[] = {"blocks.0.qkv", "blocks.1.qkv"};
    float qkv[layers * out * in], qkv_grad[layers * out * in];
    void *params[layers];
    const void *grads[layers];
    sonew_tensor tensors[layers];
    sonew_optimizer *optimizer = NULL;
    sonew_step_options step;
    sonew_step_options_init(&step, sizeof step);
    sonew_tensors_init(tensors, layers, sizeof *tensors);
    for (int i = 0; i < layers * out * in; i++) qkv[i] = 0, qkv_grad[i] = 1;
    #include "stack.inc"
    CHECK(sonew_create(NULL, tensors, layers, &optimizer) == SONEW_OK);
    CHECK(sonew_step(optimizer, &step, params, grads, layers) == SONEW_OK);
    CHECK(qkv[23] < 0);
    sonew_free(optimizer);
}

static char names_of[64][16];
static void describe(sonew_tensor *tensor, int i, int l) {
    char *name = names_of[8 * l + i % 8 + (i / 8) * 32];
    snprintf(name, 16, "%d.%d", i, l);
    tensor->name = name;
    tensor->ndim = 1;
    tensor->dims[0] = 2;
}

static void allocation(void) {
    const int is_stack[16] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, layers = 2;
    static float params_memory[64], grads_memory[64];
    const size_t num_parameters = 2 * (4 + 12 * 2);
    size_t count = 0;
    void *params[64];
    const void *grads[64];
    sonew_tensor tensors[64];
    sonew_optimizer *optimizer = NULL;
    sonew_options options;
    sonew_options_init(&options, sizeof options);
    sonew_tensors_init(tensors, 64, sizeof *tensors);
    #include "allocation.inc"
    CHECK(count == 28 && params[27] == params_memory + 54 && grads[1] == grads_memory + 2);
    sonew_free(optimizer);
}

int main(void) {
    CHECK(readme() == 0);
    first();
    flat();
    settings();
    CHECK(file() == 0);
    stages();
    by_blocks();
    partial_sums();
    stack();
    allocation();
    puts("every block of C has run");
    return 0;
}
