/* Every function of the library as it is meant to be used. Compiled as C99 and
 * as C++11. argv[1] is a folder to write to. Here are the basics; files and plans are in
 * the files beside this one. */
#include "usage.h"

#include <sonew_xla.h>
#include <stddef.h>

float weight[WEIGHT], bias[BIAS], weight_grad[WEIGHT], bias_grad[BIAS];
void *params[COUNT] = {weight, bias};
const void *grads[COUNT] = {weight_grad, bias_grad};

static void fill(float *values, size_t count, float start) {
    for (size_t i = 0; i < count; i++)
        values[i] = start + 0.125f * (float)((i * 7) % 5);
}

void fill_all(void) {
    fill(weight, WEIGHT, 1.0f);
    fill(bias, BIAS, -1.0f);
    fill(weight_grad, WEIGHT, -0.2f);
    fill(bias_grad, BIAS, 0.1f);
}

void describe(sonew_tensor tensors[COUNT]) {
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    tensors[0].name = "fc1.weight";
    tensors[0].ndim = 2;
    tensors[0].dims[0] = 3;
    tensors[0].dims[1] = 4;
    tensors[0].chains = SONEW_STRIDED;
    tensors[1].name = "fc1.bias";
    tensors[1].ndim = 1;
    tensors[1].dims[0] = BIAS;
    tensors[1].update = SONEW_UPDATE_ADAM;
}

sonew_options with_band(int32_t band) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.band = band;
    options.graft = SONEW_GRAFT_NORMALIZED_RMSPROP;
    options.weight_decay = 0.01;
    options.threads = 2;
    return options;
}

sonew_optimizer *create(int32_t band) {
    sonew_options options = with_band(band);
    sonew_tensor tensors[COUNT];
    describe(tensors);
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    return optimizer;
}

uint64_t step_count(const sonew_optimizer *optimizer) {
    return info_of(optimizer).step_count;
}

uint64_t count_of(sonew_optimizer *optimizer, size_t tensor) {
    uint64_t count = settings_of(optimizer, tensor).step_count;
    sonew_view view;
    OK(sonew_plane_view(optimizer, tensor, 1, &view, sizeof view));
    CHECK(view.step_count == count);
    return count;
}

static void defaults(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    CHECK(options.struct_size == sizeof options);
    CHECK(options.band == 1 && options.threads == 0);
    CHECK(options.beta1 == 0.9 && options.beta2 == 0.99);
    CHECK(options.eps == 1e-3 && options.gamma == 0.01);
    CHECK(options.graft_eps == 0 && options.weight_decay == 0);
    CHECK(options.statistics == SONEW_MOVING_AVERAGE);
    CHECK(options.damping == SONEW_RELATIVE_LAGGED);
    CHECK(options.graft == SONEW_GRAFT_ADAM);
    CHECK(options.bias_correction == 1 && options.graft_bias_correction == 1);
    CHECK(options.rounding == SONEW_NEAREST && options.seed == 0);
    CHECK(options.instruction_set == SONEW_ISA_AUTO);
    CHECK(options.lagged_norms == -1 && options.nesterov == 0);
    CHECK(options.pool == NULL);

    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    CHECK(step.lr == 0.001 && step.grad_scale == 1);
    CHECK(step.statistics_weight == 1 && step.non_finite == SONEW_SKIP);
    CHECK(step.clip_norm == 0 && step.beta1 == -1 && step.beta2 == -1);

    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    CHECK(load.renames == NULL && load.rename_count == 0);
    CHECK(load.paths == NULL && load.path_count == 0);
    CHECK(load.override_options == 0 && load.common_tensors_only == 0);
    CHECK(load.mode == SONEW_READ && load.older_copy == 0 && load.convert_state == 0);

    sonew_buffers buffers;
    OK(sonew_buffers_init(&buffers, 1, sizeof buffers));
    CHECK(buffers.params == NULL && buffers.direction == NULL);
    CHECK(buffers.lr_scale == 1 && buffers.weight_decay == 0);
    CHECK(buffers.step_number == 0 && buffers.scalars == NULL);

    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    for (int i = 0; i < COUNT; i++) {
        CHECK(tensors[i].struct_size == sizeof *tensors && tensors[i].name == NULL);
        CHECK(tensors[i].ndim == 0 && tensors[i].chains == SONEW_CONTIGUOUS);
        CHECK(tensors[i].first_row == 0 && tensors[i].whole_rows == 0);
        CHECK(tensors[i].dtype == SONEW_DTYPE_DEFAULT && tensors[i].master == 0);
    }
}

static void versions(void) {
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", SONEW_VERSION_MAJOR,
             SONEW_VERSION_MINOR, SONEW_VERSION_PATCH);
    CHECK(strcmp(sonew_version(), text) == 0);
    CHECK(strcmp(sonew_status_name(SONEW_OK), "SONEW_OK") == 0);
    CHECK(strcmp(sonew_status_name(12345), "unknown status") == 0);
    CHECK(strcmp(sonew_status_name(-1), "unknown status") == 0);
}

static void field(const char *structure, const char *name, size_t expected_offset,
                  size_t expected_size) {
    size_t offset = 1234, size = 1234;
    OK(sonew_struct_field(structure, name, &offset, &size));
    CHECK(offset == expected_offset && size == expected_size);
}

#define STRUCT(type) field(#type, NULL, 0, sizeof(type))
#define FIELD(type, name) field(#type, #name, offsetof(type, name), sizeof(((type *)0)->name))

/* The first, a middle and the last field of every struct, as this compiler
 * lays them out. */
static void layouts(void) {
    STRUCT(sonew_options);
    FIELD(sonew_options, struct_size);
    FIELD(sonew_options, seed);
    FIELD(sonew_options, pool);
    FIELD(sonew_options, reserved);
    STRUCT(sonew_tensor);
    FIELD(sonew_tensor, name);
    FIELD(sonew_tensor, dims);
    FIELD(sonew_tensor, first_row);
    FIELD(sonew_tensor, whole_rows);
    FIELD(sonew_tensor, chains);
    FIELD(sonew_tensor, reserved);
    STRUCT(sonew_step_options);
    FIELD(sonew_step_options, struct_size);
    FIELD(sonew_step_options, clip_norm);
    FIELD(sonew_step_options, reserved);
    STRUCT(sonew_load_options);
    FIELD(sonew_load_options, struct_size);
    FIELD(sonew_load_options, rename_count);
    FIELD(sonew_load_options, paths);
    FIELD(sonew_load_options, path_count);
    FIELD(sonew_load_options, mode);
    FIELD(sonew_load_options, older_copy);
    FIELD(sonew_load_options, convert_state);
    STRUCT(sonew_contents);
    FIELD(sonew_contents, step_count);
    FIELD(sonew_contents, format);
    FIELD(sonew_contents, unsynced);
    STRUCT(sonew_settings);
    FIELD(sonew_settings, struct_size);
    FIELD(sonew_settings, step_count);
    FIELD(sonew_settings, scalars);
    STRUCT(sonew_planes);
    FIELD(sonew_planes, names);
    FIELD(sonew_planes, count);
    STRUCT(sonew_optimizer_info);
    FIELD(sonew_optimizer_info, gradient_norm);
    FIELD(sonew_optimizer_info, instruction_set);
    STRUCT(sonew_view);
    FIELD(sonew_view, data);
    FIELD(sonew_view, ndim);
    FIELD(sonew_view, plane_count);
    FIELD(sonew_view, step_count);
    STRUCT(sonew_buffers);
    FIELD(sonew_buffers, struct_size);
    FIELD(sonew_buffers, planes);
    FIELD(sonew_buffers, weight_decay);
    FIELD(sonew_buffers, step_number);
    FIELD(sonew_buffers, scalars);
}

static void information(sonew_optimizer *optimizer) {
    sonew_optimizer_info info = info_of(optimizer);
    CHECK(info.tensor_count == COUNT && info.step_count == 0 && info.threads == 2);
    /* Planes: momentum, diagonal, band.1, band.2, rms and two for the bias. */
    CHECK(info.state_bytes == (5 * WEIGHT + 2 * BIAS) * sizeof(float));
    CHECK(info.memory_bytes >= info.state_bytes);
    const char *name = info.instruction_set;
    CHECK(strcmp(name, "avx512") == 0 || strcmp(name, "avx2") == 0 ||
          strcmp(name, "neon") == 0 || strcmp(name, "portable") == 0);
    CHECK(info.gradient_norm != info.gradient_norm); /* no step yet */
}

static void settings(sonew_optimizer *optimizer) {
    sonew_settings first = settings_of(optimizer, 0), second = settings_of(optimizer, 1);
    CHECK(first.lr_scale == 1 && first.weight_decay == 0.01 && first.step_count == 0);
    second.weight_decay = 0.5;
    second.lr_scale = 0.25;
    OK(sonew_set_settings(optimizer, 1, &second));
    sonew_settings now = settings_of(optimizer, 1);
    CHECK(memcmp(&now, &second, sizeof now) == 0);
    now = settings_of(optimizer, 0);
    CHECK(memcmp(&now, &first, sizeof now) == 0);
}

static void views(const sonew_optimizer *optimizer) {
    const char *names[] = {"momentum", "diagonal", "band.1", "band.2", "rms"};
    for (size_t plane = 0; plane < 5; plane++) {
        sonew_view view;
        OK(sonew_plane_view(optimizer, 0, plane, &view, sizeof view));
        CHECK(view.plane_count == 5);
        CHECK(strcmp(view.tensor, "fc1.weight") == 0);
        CHECK(strcmp(view.plane, names[plane]) == 0);
        CHECK(view.dtype == SONEW_F32 && view.len == WEIGHT);
        CHECK(view.ndim == 2 && view.dims[0] == 3 && view.dims[1] == 4);
        CHECK(view.dims[2] == 0 && view.step_count == 1);
    }
    /* After one step, momentum is (1 - beta1) g. */
    sonew_view momentum;
    OK(sonew_plane_view(optimizer, 0, 0, &momentum, sizeof momentum));
    for (size_t i = 0; i < WEIGHT; i++) {
        float expected = 0.1f * weight_grad[i];
        float difference = ((const float *)momentum.data)[i] - expected;
        CHECK(difference < 1e-7f && difference > -1e-7f);
    }
    OK(sonew_plane_view(optimizer, 1, 1, &momentum, sizeof momentum));
    CHECK(momentum.plane_count == 2 && strcmp(momentum.plane, "diagonal") == 0);
}

/* A state that was copied to the program's arrays and back gives the same bits. */
static void set_state(sonew_optimizer *from) {
    enum { PLANES = 7 };
    const size_t tensor[PLANES] = {0, 0, 0, 0, 0, 1, 1};
    const size_t plane[PLANES] = {0, 1, 2, 3, 4, 0, 1};
    float arrays[PLANES][WEIGHT];
    const void *planes[PLANES];
    sonew_view view;
    for (size_t i = 0; i < PLANES; i++) {
        OK(sonew_plane_view(from, tensor[i], plane[i], &view, sizeof view));
        memcpy(arrays[i], view.data, view.len * sizeof(float));
        planes[i] = arrays[i];
    }
    uint64_t steps = step_count(from);
    sonew_optimizer *optimizer = create(2);
    OK(sonew_set_state(optimizer, steps, planes, PLANES));
    CHECK(step_count(optimizer) == steps && steps > 0);
    for (size_t i = 0; i < PLANES; i++) {
        OK(sonew_plane_view(optimizer, tensor[i], plane[i], &view, sizeof view));
        CHECK(memcmp(view.data, arrays[i], view.len * sizeof(float)) == 0);
    }
    OK(sonew_free(optimizer));
    sonew_xla_release();
}

/* A tensor without gradient stays as it is. */
static void left_out(sonew_optimizer *optimizer) {
    const void *some[COUNT] = {NULL, bias_grad};
    float before[WEIGHT];
    memcpy(before, weight, sizeof weight);
    float first = bias[0];
    OK(sonew_step(optimizer, NULL, params, some, COUNT));
    CHECK(memcmp(before, weight, sizeof weight) == 0);
    CHECK(bias[0] != first);
}

/* Master weights of floats are the parameters, until these are changed. */
static void master_of_floats(void) {
    fill_all();
    sonew_tensor tensors[COUNT];
    describe(tensors);
    tensors[0].master = 1;
    sonew_options options = with_band(2);
    sonew_optimizer *optimizer = create(2), *other = NULL;
    OK(sonew_create(&options, tensors, COUNT, &other));
    float my_weight[WEIGHT], my_bias[BIAS];
    memcpy(my_weight, weight, sizeof weight);
    memcpy(my_bias, bias, sizeof bias);
    void *own_params[COUNT] = {my_weight, my_bias};
    const void *own_grads[COUNT] = {weight_grad, bias_grad};
    for (int i = 0; i < 3; i++) {
        OK(sonew_step(optimizer, NULL, params, grads, COUNT));
        OK(sonew_step(other, NULL, own_params, own_grads, COUNT));
        CHECK(memcmp(my_weight, weight, sizeof weight) == 0);
        CHECK(memcmp(my_bias, bias, sizeof bias) == 0);
        my_weight[1] = 100; /* only a copy of the master weight */
    }
    my_weight[0] = 100;
    OK(sonew_reset_master(other));
    OK(sonew_step(other, NULL, own_params, own_grads, COUNT));
    CHECK(my_weight[0] > 90);
    OK(sonew_free(optimizer));
    OK(sonew_free(other));
}

/* State that a program kept in arrays of its own goes on as in the optimizer that it came
 * from, if its scalars come with it. */
static void tensor_scalars(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.lagged_norms = 1;
    sonew_tensor tensor;
    OK(sonew_tensors_init(&tensor, 1, sizeof tensor));
    tensor.name = "b";
    tensor.ndim = 1;
    tensor.dims[0] = BIAS;
    fill_all();
    float here[BIAS] = {0}, there[BIAS], without[BIAS];
    const void *gradient[] = {bias_grad};
    void *params[3][1] = {{here}, {there}, {without}};
    sonew_optimizer *from = NULL, *to = NULL;
    OK(sonew_create(&options, &tensor, 1, &from));
    OK(sonew_create(&options, &tensor, 1, &to));
    OK(sonew_step(from, NULL, params[0], gradient, 1));
    bias_grad[1] *= -2;
    memcpy(there, here, sizeof here);
    memcpy(without, here, sizeof here);
    sonew_settings settings = settings_of(from, 0);
    const double *scalars = settings.scalars;
    CHECK(scalars[0] > 0 && scalars[1] == 0 && scalars[2] == 0);
    static float copies[3][BIAS];
    const void *planes[3];
    for (size_t i = 0; i < 3; i++) {
        sonew_view view;
        OK(sonew_plane_view(from, 0, i, &view, sizeof view));
        planes[i] = memcpy(copies[i], view.data, sizeof copies[i]);
    }
    OK(sonew_set_state(to, 1, planes, 3));
    OK(sonew_step(to, NULL, params[2], gradient, 1));
    OK(sonew_set_state(to, 1, planes, 3));
    OK(sonew_set_settings(to, 0, &settings));
    OK(sonew_step(to, NULL, params[1], gradient, 1));
    OK(sonew_step(from, NULL, params[0], gradient, 1));
    CHECK(memcmp(here, there, sizeof here) == 0);
    CHECK(memcmp(here, without, sizeof here) != 0);
    OK(sonew_free(from));
    OK(sonew_free(to));
}

/* Two optimizers with one pool, which is freed before them. */
static void pools(void) {
    sonew_pool *pool = NULL;
    OK(sonew_pool_create(3, NULL, 0, &pool));
    sonew_options options = with_band(1);
    options.threads = 0;
    options.pool = pool;
    sonew_tensor tensors[COUNT];
    describe(tensors);
    sonew_optimizer *optimizers[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        OK(sonew_create(&options, tensors, COUNT, &optimizers[i]));
    OK(sonew_pool_free(pool));
    OK(sonew_pool_free(NULL));
    CHECK(sonew_pool_free(pool) == SONEW_BAD_HANDLE);
    fill_all();
    for (int i = 0; i < 2; i++) {
        CHECK(info_of(optimizers[i]).threads == 3);
        OK(sonew_step(optimizers[i], NULL, params, grads, COUNT));
        OK(sonew_free(optimizers[i]));
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(strcmp(sonew_last_error(), "") == 0);
    versions();
    layouts();
    defaults();
    fill_all();
    sonew_optimizer *optimizer = create(2);
    information(optimizer);
    settings(optimizer);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    CHECK(step_count(optimizer) == 1);
    views(optimizer);
    left_out(optimizer);
    set_state(optimizer);
    files(optimizer, argv[1]);
    OK(sonew_free(optimizer));
    OK(sonew_free(NULL));
    OK(sonew_plan_free(NULL));
    typed(argv[1]);
    contents_of_files(argv[1]);
    live_files(argv[1]);
    shards(argv[1]);
    program(argv[1]);
    master_of_floats();
    stateless();
    step_counts();
    tensor_scalars();
    scalars();
    empty(argv[1]);
    pools();
    puts("all used");
    return 0;
}
