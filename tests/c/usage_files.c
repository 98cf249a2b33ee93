/* Files: saved, loaded, opened, mapped, live, and of several processes. */
#include "usage.h"

/* Continuing from a file gives the same bits as continuing. */
void files(sonew_optimizer *optimizer, const char *folder) {
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
void contents_of_files(const char *folder) {
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
void live_files(const char *folder) {
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
void typed(const char *folder) {
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

enum { ROWS = 4, COLUMNS = 3 };

/* The rows of a matrix from first to before end, and a vector that everybody has whole. */
static sonew_optimizer *of_rows(size_t first, size_t end) {
    sonew_tensor tensors[COUNT];
    OK(sonew_tensors_init(tensors, COUNT, sizeof *tensors));
    tensors[0].name = "w";
    tensors[0].ndim = 2;
    tensors[0].dims[0] = end - first;
    tensors[0].dims[1] = COLUMNS;
    tensors[0].first_row = first;
    tensors[0].whole_rows = ROWS;
    tensors[0].chains = SONEW_CONTIGUOUS_LINES;
    tensors[1].name = "b";
    tensors[1].ndim = 1;
    tensors[1].dims[0] = BIAS;
#ifndef __cplusplus /* which has these initializers since C++20 */
    const sonew_tensor same = {.struct_size = sizeof same, .name = tensors[0].name, .ndim = 2,
                               .dims = {end - first, COLUMNS}, .first_row = first,
                               .whole_rows = ROWS, .chains = SONEW_CONTIGUOUS_LINES};
    CHECK(memcmp(&same, &tensors[0], sizeof same) == 0);
#endif
    sonew_options options;
    OK(sonew_options_init(&options, sizeof options));
    options.graft = SONEW_GRAFT_NONE; /* whose norm would be that of the whole matrix */
    sonew_optimizer *optimizer = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    return optimizer;
}

static void step_rows(sonew_optimizer *optimizer, void *const of_rows[COUNT], size_t first) {
    const void *own_grads[COUNT] = {weight_grad + first * COLUMNS, bias_grad};
    OK(sonew_step(optimizer, NULL, of_rows, own_grads, COUNT));
}

/* Which rows a tensor is. */
static void has_rows(const sonew_tensor *tensor, size_t rows, size_t first, size_t whole) {
    CHECK(tensor->dims[0] == rows && tensor->first_row == first);
    CHECK(tensor->whole_rows == whole);
}

/* Two processes save their rows, with files that say which. What others load from the two
 * files goes on as in a process that has had all rows. */
void shards(const char *folder) {
    const size_t cuts[] = {0, 1, ROWS};
    char path[2][4096];
    float whole[WEIGHT], whole_bias[BIAS], loaded[WEIGHT], loaded_bias[BIAS];
    void *whole_params[COUNT] = {whole, whole_bias}, *loaded_params[COUNT] = {loaded, loaded_bias};
    fill_all();
    memcpy(whole, weight, sizeof whole);
    memcpy(whole_bias, bias, sizeof whole_bias);
    sonew_optimizer *one = of_rows(0, ROWS), *other = NULL;
    for (int step = 0; step < 2; step++)
        step_rows(one, whole_params, 0);
    for (int i = 0; i < 2; i++) {
        fill_all();
        void *own_params[COUNT] = {weight + cuts[i] * COLUMNS, bias};
        sonew_optimizer *process = of_rows(cuts[i], cuts[i + 1]);
        for (int step = 0; step < 2; step++)
            step_rows(process, own_params, cuts[i]);
        snprintf(path[i], sizeof path[i], "%s/shard-%d.safetensors", folder, i);
        OK(sonew_save(process, path[i], own_params, COUNT));
        OK(sonew_free(process));
    }

    sonew_file *file = NULL;
    sonew_tensor tensor;
    OK(sonew_file_open(path[1], &file));
    OK(sonew_file_tensor(file, 0, &tensor, sizeof tensor));
    has_rows(&tensor, 3, 1, ROWS);
    OK(sonew_file_tensor(file, 1, &tensor, sizeof tensor));
    has_rows(&tensor, BIAS, 0, 0);
    OK(sonew_file_free(file));
    OK(sonew_open(path[1], SONEW_MAP_PRIVATE, &other));
    OK(sonew_get_tensor(other, 0, &tensor, sizeof tensor));
    has_rows(&tensor, 3, 1, ROWS);
    OK(sonew_free(other));

    /* All rows, and all but the last. */
    const char *further[] = {path[0]};
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.paths = further;
    load.path_count = 1;
    float whole_before[WEIGHT];
    memcpy(whole_before, whole, sizeof whole);
    step_rows(one, whole_params, 0);
    for (size_t rows = ROWS; rows >= 3; rows--) {
        other = of_rows(0, rows);
        OK(sonew_load(other, path[1], &load, loaded_params, COUNT));
        CHECK(step_count(other) == 2);
        OK(sonew_get_tensor(other, 0, &tensor, sizeof tensor));
        has_rows(&tensor, rows, 0, ROWS);
        CHECK(memcmp(loaded, whole_before, rows * COLUMNS * sizeof(float)) == 0);
        step_rows(other, loaded_params, 0);
        CHECK(memcmp(loaded, whole, rows * COLUMNS * sizeof(float)) == 0);
        CHECK(memcmp(loaded_bias, whole_bias, sizeof whole_bias) == 0);
        OK(sonew_free(other));
    }
    OK(sonew_free(one));
}
