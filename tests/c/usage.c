/* Every function of the library as it is meant to be used. Compiled as C99 and
 * as C++11. argv[1] is a folder to write to. */
#include "check.h"

#include <sonew_xla.h>
#include <stddef.h>

#define COUNT 2
#define WEIGHT 12
#define BIAS 3

static float weight[WEIGHT], bias[BIAS];
static float weight_grad[WEIGHT], bias_grad[BIAS];
static void *params[COUNT] = {weight, bias};
static const void *grads[COUNT] = {weight_grad, bias_grad};

static void fill(float *values, size_t count, float start) {
    for (size_t i = 0; i < count; i++)
        values[i] = start + 0.125f * (float)((i * 7) % 5);
}

static void fill_all(void) {
    fill(weight, WEIGHT, 1.0f);
    fill(bias, BIAS, -1.0f);
    fill(weight_grad, WEIGHT, -0.2f);
    fill(bias_grad, BIAS, 0.1f);
}

static void describe(sonew_tensor tensors[COUNT]) {
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    tensors[0].name = "fc1.weight";
    tensors[0].ndim = 2;
    tensors[0].dims[0] = 3;
    tensors[0].dims[1] = 4;
    tensors[0].chains = SONEW_COLUMN_MAJOR;
    tensors[1].name = "fc1.bias";
    tensors[1].ndim = 1;
    tensors[1].dims[0] = BIAS;
    tensors[1].update = SONEW_UPDATE_ADAM;
}

static sonew_options with_band(int32_t band) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.band = band;
    options.graft = SONEW_GRAFT_NORMALIZED_RMSPROP;
    options.weight_decay = 0.01;
    options.threads = 2;
    return options;
}

static sonew_optimizer *create(int32_t band) {
    sonew_options options = with_band(band);
    sonew_tensor tensors[COUNT];
    describe(tensors);
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    return optimizer;
}

static void defaults(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    CHECK(options.struct_size == sizeof options);
    CHECK(options.band == 1 && options.threads == 0);
    CHECK(options.beta1 == 0.9 && options.beta2 == 0.99);
    CHECK(options.eps == 1e-6 && options.gamma == 0.01);
    CHECK(options.graft_eps == 1e-8 && options.weight_decay == 0);
    CHECK(options.statistics == SONEW_MOVING_AVERAGE);
    CHECK(options.damping == SONEW_ABSOLUTE);
    CHECK(options.graft == SONEW_GRAFT_ADAM);
    CHECK(options.bias_correction == 1 && options.graft_bias_correction == 1);
    CHECK(options.rounding == SONEW_NEAREST && options.seed == 0);
    CHECK(options.instruction_set == SONEW_ISA_AUTO);
    CHECK(options.lagged_norms == 0 && options.nesterov == 0);
    CHECK(options.pool == NULL);

    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    CHECK(step.lr == 0.001 && step.grad_scale == 1);
    CHECK(step.statistics_weight == 1 && step.non_finite == SONEW_SKIP);
    CHECK(step.clip_norm == 0 && step.beta1 == -1 && step.beta2 == -1);

    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    CHECK(load.renames == NULL && load.rename_count == 0);
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
        CHECK(tensors[i].ndim == 0 && tensors[i].chains == SONEW_ROW_MAJOR);
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
    STRUCT(sonew_tensor);
    FIELD(sonew_tensor, name);
    FIELD(sonew_tensor, dims);
    FIELD(sonew_tensor, reserved);
    STRUCT(sonew_step_options);
    FIELD(sonew_step_options, struct_size);
    FIELD(sonew_step_options, clip_norm);
    FIELD(sonew_step_options, reserved);
    STRUCT(sonew_load_options);
    FIELD(sonew_load_options, struct_size);
    FIELD(sonew_load_options, rename_count);
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

static uint64_t step_count(const sonew_optimizer *optimizer) {
    return info_of(optimizer).step_count;
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

/* Continuing from a file gives the same bits as continuing. */
static void files(sonew_optimizer *optimizer, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/usage.safetensors", folder);
    OK(sonew_save(optimizer, path, params, COUNT));
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    float expected[WEIGHT];
    memcpy(expected, weight, sizeof weight);

    memset(weight, 0, sizeof weight);
    memset(bias, 0, sizeof bias);
    sonew_optimizer *other = create(2);
    OK(sonew_load(other, path, NULL, params, COUNT));
    CHECK(step_count(other) + 1 == step_count(optimizer));
    OK(sonew_step(other, NULL, params, grads, COUNT));
    CHECK(memcmp(expected, weight, sizeof weight) == 0);
    OK(sonew_free(other));

    /* State alone, into a smaller band, under other names. */
    OK(sonew_save(optimizer, path, NULL, 0));
    sonew_tensor tensors[COUNT];
    describe(tensors);
    tensors[0].name = "renamed";
    sonew_options options = with_band(1);
    OK(sonew_create(&options, tensors, 1, &other));
    const char *renames[] = {"fc1.weight", "renamed"};
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.renames = renames;
    load.rename_count = 1;
    load.override_options = 1;
    load.common_tensors_only = 1;
    OK(sonew_load(other, path, &load, NULL, 0));
    CHECK(step_count(other) == step_count(optimizer));
    OK(sonew_free(other));
}

/* Whether a tensor of an optimizer or a file is fc1.weight or fc1.bias. */
static void is_tensor(const sonew_tensor *tensor, size_t index) {
    sonew_tensor expected[COUNT];
    describe(expected);
    CHECK(tensor->struct_size == sizeof *tensor);
    CHECK(strcmp(tensor->name, expected[index].name) == 0);
    CHECK(tensor->ndim == expected[index].ndim);
    CHECK(memcmp(tensor->dims, expected[index].dims, sizeof tensor->dims) == 0);
    CHECK(tensor->chains == expected[index].chains);
    CHECK(tensor->update == expected[index].update);
    CHECK(tensor->dtype == SONEW_F32 && tensor->grad_dtype == SONEW_F32);
    CHECK(tensor->state_dtype == SONEW_F32 && tensor->master == 0);
}

/* A file is read without an optimizer, and an optimizer is made of it: at once, and of
 * its parts with state in another type. */
static void contents_of_files(const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/contents.safetensors", folder);
    sonew_optimizer *optimizer = create(2), *opened = NULL, *made = NULL;
    fill_all();
    OK(set_lr_scale(optimizer, 0, 0.5));
    const void *some[COUNT] = {weight_grad, NULL};
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_step(optimizer, NULL, params, some, COUNT));
    OK(sonew_save(optimizer, path, params, COUNT));

    sonew_file *file = NULL;
    sonew_contents contents;
    sonew_options options, original = with_band(2);
    OK(sonew_file_open(path, &file));
    OK(sonew_file_info(file, &contents, sizeof contents));
    CHECK(contents.step_count == 2 && contents.tensor_count == COUNT && contents.format == 4);
    CHECK(contents.parameters == 1 && contents.live == 0 && contents.unsynced == 0);
    FILE *bytes = fopen(path, "rb");
    CHECK(bytes != NULL && fseek(bytes, 0, SEEK_END) == 0);
    CHECK(contents.file_bytes == (uint64_t)ftell(bytes));
    fclose(bytes);
    OK(sonew_file_options(file, &options, sizeof options));
    CHECK(options.threads == 0);
    options.threads = original.threads; /* which are in no file */
    CHECK(memcmp(&options, &original, sizeof options) == 0);

    sonew_tensor tensors[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        sonew_settings settings;
        sonew_planes arrays;
        OK(sonew_file_tensor(file, i, &tensors[i], sizeof tensors[i]));
        is_tensor(&tensors[i], i);
        tensors[i].state_dtype = SONEW_BF16;
        OK(sonew_file_settings(file, i, &settings, sizeof settings));
        CHECK(settings.lr_scale == (i == 0 ? 0.5 : 1) && settings.weight_decay == 0.01);
        CHECK(settings.step_count == 2 - i && settings.scalars[0] == 0);
        OK(sonew_file_arrays(file, i, &arrays, sizeof arrays));
        CHECK(arrays.count == (i == 0 ? 6 : 3) && arrays.dtypes[0] == SONEW_F32);
        CHECK(strcmp(arrays.names[0], "momentum") == 0);
        CHECK(strcmp(arrays.names[arrays.count - 1], "parameter") == 0);
    }
    float read[WEIGHT], other_bias[BIAS];
    OK(sonew_file_read(file, 0, "parameter", read));
    CHECK(memcmp(read, weight, sizeof weight) == 0);
    OK(sonew_create(&options, tensors, COUNT, &made));
    OK(sonew_file_free(file));
    OK(sonew_file_free(NULL));

    OK(sonew_open(path, SONEW_READ, &opened));
    for (size_t i = 0; i < COUNT; i++) {
        sonew_tensor tensor;
        OK(sonew_get_tensor(opened, i, &tensor, sizeof tensor));
        is_tensor(&tensor, i);
        CHECK(settings_of(opened, i).step_count == 2 - i);
        CHECK(settings_of(opened, i).lr_scale == (i == 0 ? 0.5 : 1));
    }
    memcpy(other_bias, bias, sizeof bias);
    void *others[COUNT] = {read, other_bias};
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_step(opened, NULL, others, grads, COUNT));
    CHECK(memcmp(read, weight, sizeof weight) == 0);
    CHECK(memcmp(other_bias, bias, sizeof bias) == 0);
    OK(sonew_free(opened));

    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    CHECK(sonew_load(made, path, &load, NULL, 0) == SONEW_DTYPE_DIFFERS);
    load.convert_state = 1;
    OK(sonew_load(made, path, &load, others, COUNT));
    CHECK(step_count(made) == 2);
    OK(sonew_step(made, NULL, others, grads, COUNT));
    OK(sonew_free(made));
    OK(sonew_free(optimizer));
}

/* Live files, and saves in the background. */
static void live_files(const char *folder) {
    char path[4096], beside[4096];
    snprintf(path, sizeof path, "%s/live.safetensors", folder);
    snprintf(beside, sizeof beside, "%s/beside.safetensors", folder);
    fill_all();
    sonew_optimizer *optimizer = create(1);
    OK(sonew_make_live(optimizer, path));
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_sync(optimizer));

    void *saved[COUNT] = {weight, bias};
    sonew_saving *saving = NULL;
    OK(sonew_save_begin(optimizer, beside, saved, COUNT, &saving));
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_save_finish(saving));
    OK(sonew_save_finish(NULL));
    OK(sonew_verify(beside));
    float expected[WEIGHT];
    memcpy(expected, weight, sizeof weight);
    OK(sonew_free(optimizer));
    OK(sonew_verify(path));

    /* The live file is one step ahead of what was saved. */
    optimizer = create(1);
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.mode = SONEW_MAP_SHARED;
    OK(sonew_load(optimizer, path, &load, NULL, 0));
    CHECK(step_count(optimizer) == 2);
    load.mode = SONEW_MAP_PRIVATE;
    OK(sonew_load(optimizer, beside, &load, params, COUNT));
    CHECK(step_count(optimizer) == 1);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    CHECK(memcmp(expected, weight, sizeof weight) == 0);
    /* Onto the file that is mapped. */
    OK(sonew_save(optimizer, beside, params, COUNT));
    OK(sonew_free(optimizer));
}

/* Tensors of other types: their state, and files of them. */
static void typed(const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/typed.safetensors", folder);
    sonew_tensor tensors[COUNT];
    describe(tensors);
    tensors[0].dtype = SONEW_BF16;
    tensors[0].master = 1;
    tensors[1].dtype = SONEW_F64;
    tensors[1].grad_dtype = SONEW_F16;
    sonew_options options = with_band(0);
    options.rounding = SONEW_STOCHASTIC;
    options.seed = 5;
    options.instruction_set = SONEW_ISA_PORTABLE;
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    CHECK(strcmp(info_of(optimizer).instruction_set, "portable") == 0);
    /* Four planes of floats with the master weights, and two of doubles. */
    CHECK(info_of(optimizer).state_bytes == 4 * WEIGHT * sizeof(float) + 2 * BIAS * sizeof(double));
    sonew_view view;
    OK(sonew_plane_view(optimizer, 0, 3, &view, sizeof view));
    CHECK(strcmp(view.plane, "master") == 0 && view.dtype == SONEW_F32);
    OK(sonew_plane_view(optimizer, 1, 1, &view, sizeof view));
    CHECK(view.dtype == SONEW_F64);

    uint16_t saved_weight[WEIGHT], weight_bits[WEIGHT];
    double saved_bias[BIAS], bias_numbers[BIAS];
    for (int i = 0; i < WEIGHT; i++)
        saved_weight[i] = (uint16_t)(0x3f80 + i);
    for (int i = 0; i < BIAS; i++)
        saved_bias[i] = 1.0 / (3 + i);
    void *saved[COUNT] = {saved_weight, saved_bias};
    void *loaded[COUNT] = {weight_bits, bias_numbers};
    OK(sonew_save(optimizer, path, saved, COUNT));
    OK(sonew_load(optimizer, path, NULL, loaded, COUNT));
    CHECK(memcmp(saved_weight, weight_bits, sizeof weight_bits) == 0);
    CHECK(memcmp(saved_bias, bias_numbers, sizeof bias_numbers) == 0);
    OK(sonew_reset_master(optimizer));
    OK(sonew_free(optimizer));
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

/* A plan over buffers of the caller does what the optimizer does, and as
 * direction writes what the optimizer subtracts. */
static void stateless(void) {
    sonew_tensor tensors[COUNT];
    describe(tensors);
    sonew_options options = with_band(2);
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, tensors, COUNT, &plan));
    sonew_planes planes = planes_of(plan, 0);
    CHECK(planes.count == 5 && strcmp(planes.names[4], "rms") == 0);
    CHECK(planes.dtypes[4] == SONEW_F32);
    CHECK(planes_of(plan, 1).count == 2);

    static float of_weight[5][WEIGHT], of_bias[2][BIAS], direction[BIAS];
    void *weight_planes[] = {of_weight[0], of_weight[1], of_weight[2],
                             of_weight[3], of_weight[4]};
    void *bias_planes[] = {of_bias[0], of_bias[1]};
    float mine[WEIGHT], before[BIAS];
    fill_all();
    memcpy(mine, weight, sizeof weight);
    memcpy(before, bias, sizeof bias);
    sonew_buffers buffers[COUNT];
    OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
    buffers[0].params = mine;
    buffers[0].grad = weight_grad;
    buffers[0].planes = weight_planes;
    buffers[0].plane_count = 5;
    buffers[0].len = WEIGHT;
    buffers[0].weight_decay = options.weight_decay;
    buffers[1].direction = direction;
    buffers[1].grad = bias_grad;
    buffers[1].planes = bias_planes;
    buffers[1].plane_count = 2;
    buffers[1].len = BIAS;

    sonew_optimizer *optimizer = create(2);
    sonew_settings settings = settings_of(optimizer, 1);
    settings.weight_decay = 0;
    OK(sonew_set_settings(optimizer, 1, &settings));
    for (uint64_t number = 1; number <= 5; number++) {
        memcpy(before, bias, sizeof bias);
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
        OK(sonew_step(optimizer, NULL, params, grads, COUNT));
        CHECK(memcmp(mine, weight, sizeof weight) == 0);
        for (int i = 0; i < BIAS; i++) {
            float moved = before[i] - bias[i];
            float difference = moved - 0.001f * direction[i];
            CHECK(difference < 1e-6f && difference > -1e-6f && moved != 0);
        }
    }
    OK(sonew_free(optimizer));
    OK(sonew_plan_free(plan));
}

static uint64_t count_of(sonew_optimizer *optimizer, size_t tensor) {
    uint64_t count = settings_of(optimizer, tensor).step_count;
    sonew_view view;
    OK(sonew_plane_view(optimizer, tensor, 1, &view, sizeof view));
    CHECK(view.step_count == count);
    return count;
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

/* A tensor that has had no gradient for long begins as in a fresh optimizer: in an
 * optimizer, in steps of its own, and in a plan, whose entry without gradient needs
 * nothing else. */
static void step_counts(void) {
    enum { STEPS = 1000 };
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.graft = SONEW_GRAFT_NONE;
    options.band = 0;
    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    for (int i = 0; i < COUNT; i++) {
        tensors[i].name = i ? "b" : "a";
        tensors[i].ndim = 1;
        tensors[i].dims[0] = BIAS;
    }
    float a[BIAS] = {0}, b[BIAS] = {0}, fresh[BIAS] = {0};
    void *both[COUNT] = {a, b}, *other[COUNT] = {a, fresh};
    const void *first[COUNT] = {bias_grad, NULL}, *second[COUNT] = {NULL, bias_grad};
    const void *all[COUNT] = {bias_grad, bias_grad};
    fill_all();

    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    OK(sonew_step(optimizer, NULL, other, second, COUNT));
    OK(sonew_free(optimizer));
    CHECK(fresh[0] != 0);

    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    for (int i = 0; i < STEPS; i++)
        OK(sonew_step(optimizer, NULL, both, first, COUNT));
    CHECK(count_of(optimizer, 0) == STEPS && count_of(optimizer, 1) == 0);
    OK(sonew_step(optimizer, NULL, both, all, COUNT));
    CHECK(step_count(optimizer) == STEPS + 1);
    CHECK(count_of(optimizer, 0) == STEPS + 1 && count_of(optimizer, 1) == 1);
    CHECK(memcmp(b, fresh, sizeof b) == 0);
    sonew_settings settings = settings_of(optimizer, 1);
    settings.step_count = 5;
    OK(sonew_set_settings(optimizer, 1, &settings));
    CHECK(count_of(optimizer, 0) == STEPS + 1 && count_of(optimizer, 1) == 5);
    OK(sonew_free(optimizer));

    sonew_plan *plan = NULL;
    OK(sonew_plan_create(&options, tensors, COUNT, &plan));
    static float planes[COUNT][2][BIAS];
    void *of_a[] = {planes[0][0], planes[0][1]}, *of_b[] = {planes[1][0], planes[1][1]};
    sonew_buffers buffers[COUNT];
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    for (uint64_t number = 1; number <= STEPS + 1; number++) {
        OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
        for (int i = 0; i < COUNT; i++) {
            if (i == 1 && number <= STEPS)
                continue;
            buffers[i].params = both[i];
            buffers[i].grad = bias_grad;
            buffers[i].planes = i ? of_b : of_a;
            buffers[i].plane_count = 2;
            buffers[i].len = BIAS;
            buffers[i].step_number = i ? 1 : 0;
        }
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
    }
    CHECK(memcmp(b, fresh, sizeof b) == 0);
    OK(sonew_plan_free(plan));
}

/* A tensor without elements needs no buffers, and changes nothing for the others. */
static void empty(const char *folder) {
    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    for (int i = 0; i < COUNT; i++) {
        tensors[i].name = i ? "some" : "none";
        tensors[i].ndim = 2;
        tensors[i].dims[0] = i ? BIAS : 0;
        tensors[i].dims[1] = 1;
    }
    float both[BIAS] = {0}, alone[BIAS] = {0}, planes[3][BIAS] = {{0}}, of_plan[BIAS] = {0};
    void *const params_of[] = {NULL, both}, *const params_alone[] = {alone};
    const void *const grads_of[] = {NULL, bias_grad};
    fill_all();
    sonew_optimizer *optimizer = NULL, *other = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &optimizer));
    OK(sonew_create(NULL, tensors + 1, 1, &other));
    sonew_plan *plan = NULL;
    OK(sonew_plan_create(NULL, tensors, COUNT, &plan));
    sonew_buffers buffers[COUNT];
    void *of_tensor[] = {planes[0], planes[1], planes[2]};
    OK(sonew_buffers_init(buffers, COUNT, sizeof *buffers));
    buffers[1].plane_count = 3;
    buffers[1].planes = of_tensor;
    buffers[1].params = of_plan;
    buffers[1].grad = bias_grad;
    buffers[1].len = BIAS;
    for (uint64_t number = 1; number <= 3; number++) {
        OK(sonew_step(optimizer, NULL, params_of, grads_of, COUNT));
        OK(sonew_step(other, NULL, params_alone, grads_of + 1, 1));
        OK(sonew_plan_step(plan, NULL, number, buffers, COUNT));
    }
    CHECK(memcmp(both, alone, sizeof both) == 0 && memcmp(both, of_plan, sizeof both) == 0);
    CHECK(count_of(optimizer, 0) == 0 && count_of(optimizer, 1) == 3);
    char path[4096];
    snprintf(path, sizeof path, "%s/empty", folder);
    OK(sonew_save(optimizer, path, NULL, 0));
    OK(sonew_load(optimizer, path, NULL, NULL, 0));
    OK(sonew_plan_free(plan));
    OK(sonew_free(other));
    OK(sonew_free(optimizer));
}

/* A plan whose caller keeps the scalars does what an optimizer does, also in stages. */
static void scalars(void) {
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.lagged_norms = options.nesterov = 1;
    sonew_tensor tensor;
    OK(sonew_tensors_init(&tensor, 1, sizeof tensor));
    tensor.name = "a";
    tensor.ndim = 1;
    tensor.dims[0] = BIAS;
    float own[BIAS] = {0}, of_plan[BIAS] = {0}, planes[3][BIAS] = {{0}};
    void *const params_of[] = {own};
    const void *const grads_of[] = {bias_grad};
    void *of_tensor[] = {planes[0], planes[1], planes[2]};
    double kept[SONEW_SCALARS] = {0};
    sonew_optimizer *optimizer = NULL;
    sonew_plan *plan = NULL;
    fill_all();
    OK(sonew_create(&options, &tensor, 1, &optimizer));
    OK(sonew_plan_create(&options, &tensor, 1, &plan));
    sonew_buffers buffers;
    OK(sonew_buffers_init(&buffers, 1, sizeof buffers));
    buffers.params = of_plan;
    buffers.grad = bias_grad;
    buffers.planes = of_tensor;
    buffers.plane_count = 3;
    buffers.len = BIAS;
    buffers.scalars = kept;
    sonew_step_options step;
    OK(sonew_step_options_init(&step, sizeof step));
    for (uint64_t number = 1; number <= 4; number++) {
        step.beta2 = number == 3 ? 0.5 : -1;
        OK(sonew_step(optimizer, &step, params_of, grads_of, 1));
        if (number % 2 == 0) {
            double numbers[2];
            int32_t stage = -1;
            sonew_stages *stages = NULL;
            OK(sonew_plan_stages_begin(plan, &step, number, &buffers, 1, &stages));
            while (stage != SONEW_DONE)
                OK(sonew_stages_next(stages, numbers, 1, &stage));
        } else {
            OK(sonew_plan_step(plan, &step, number, &buffers, 1));
        }
        CHECK(memcmp(own, of_plan, sizeof own) == 0);
        CHECK(kept[0] > 0 && (number < 3) == (kept[1] == 0 && kept[2] == 0));
    }
    double expected = 1 - 0.99 * 0.99 * 0.5 * 0.99;
    CHECK(kept[2] > expected - 1e-15 && kept[2] < expected + 1e-15);
    OK(sonew_plan_free(plan));
    OK(sonew_free(optimizer));
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
