/* Refusals of sonew_save(), sonew_load(), sonew_open(), and of files without an optimizer. */
#include "refusals.h"

static void *params[] = {a, b};

static sonew_status load(const char *name) {
    return sonew_load(optimizer, in_folder(name), NULL, params, COUNT);
}

/* Writes the first `length` bytes of the good file, with the byte at `flipped`
 * changed (if there is one), and loads the result. */
static sonew_status load_changed(size_t length, size_t flipped) {
    static unsigned char bytes[1 << 16];
    FILE *file = fopen(in_folder("good.safetensors"), "rb");
    CHECK(file != NULL);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    CHECK(size > 1000 && size < sizeof bytes);
    size_t at = flipped < size ? flipped : size - 1 - (SIZE_MAX - flipped);
    bytes[at] ^= flipped ? 1 : 0;
    file = fopen(in_folder("bad.safetensors"), "wb");
    CHECK(file != NULL);
    size_t written = length < size ? length : size - (SIZE_MAX - length);
    CHECK(fwrite(bytes, 1, written, file) == written);
    fclose(file);
    return load("bad.safetensors");
}

static sonew_status no_file(void) { return load("none.safetensors"); }
static sonew_status empty_file(void) { return load_changed(0, 0); }
static sonew_status truncated_header(void) { return load_changed(500, 0); }
static sonew_status truncated_data(void) { return load_changed(SIZE_MAX - 4, 0); }
/* The last 52 bytes of the file fill a line up; a parameter is before them. */
static sonew_status damaged_data(void) { return load_changed(SIZE_MAX, SIZE_MAX - 60); }
static sonew_status damaged_header(void) { return load_changed(SIZE_MAX, 100); }

static sonew_status no_checkpoint(void) {
    FILE *file = fopen(in_folder("text"), "wb");
    CHECK(file != NULL);
    for (int i = 0; i < 100; i++)
        fputs("this is a text, and no safetensors file\n", file);
    fclose(file);
    return load("text");
}

/* Another optimizer loads the good file, and is freed. */
static sonew_status load_into(const sonew_options *options,
                              const sonew_tensor *tensors, size_t count,
                              const sonew_load_options *with) {
    sonew_optimizer *other = NULL;
    OK(sonew_create(options, tensors, count, &other));
    sonew_status status =
        sonew_load(other, in_folder("good.safetensors"), with, NULL, 0);
    uint64_t steps = 9;
    steps = info_of(other).step_count;
    CHECK(steps == 0);
    OK(sonew_free(other));
    return status;
}

/* A test that loads into an optimizer that differs in one way. */
#define INTO(name, ...)                                                        \
    static sonew_status name(void) {                                           \
        sonew_options options = good_options();                                \
        sonew_tensor tensors[COUNT + 1];                                       \
        good_tensors(tensors);                                                 \
        tensors[COUNT] = tensors[0];                                           \
        size_t count = COUNT;                                                  \
        sonew_load_options with;                                               \
        OK(sonew_load_options_init(&with, sizeof with));                       \
        __VA_ARGS__;                                                           \
        return load_into(&options, tensors, count, &with);                     \
    }

INTO(other_band, options.band = 4)
INTO(other_beta1, options.beta1 = 0.5)
INTO(other_rounding, options.rounding = !options.rounding)
INTO(other_seed, options.seed = UINT64_MAX)
INTO(other_names, tensors[1].name = "c")
INTO(fewer_tensors, count = 1)
INTO(more_tensors, tensors[2].name = "c"; count = 3)
INTO(other_dimensions, tensors[0].dims[0] = 3; tensors[0].dims[1] = 2)
INTO(other_chains, tensors[0].chains = SONEW_CONTIGUOUS_LINES)
INTO(other_update, tensors[1].update = SONEW_UPDATE_ADAM)
INTO(wider_band, options.band = 4; with.override_options = 1)
INTO(nothing_common, tensors[0].name = "c"; count = 1; with.common_tensors_only = 1)
INTO(override_2, with.override_options = 2)
INTO(common_minus_1, with.common_tensors_only = -1)
INTO(load_not_filled_in, memset(&with, 0, sizeof with))
INTO(renames_null, with.rename_count = 1)
INTO(rename_to_null, const char *renames[] = {"a", NULL}; with.renames = renames;
     with.rename_count = 1)
INTO(rename_unknown, const char *renames[] = {"x", "a"}; with.renames = renames;
     with.rename_count = 1)

static sonew_status params_not_saved(void) {
    OK(sonew_save(optimizer, in_folder("state.safetensors"), NULL, 0));
    return load("state.safetensors");
}

static sonew_status load_path_null(void) {
    return sonew_load(optimizer, NULL, NULL, params, COUNT);
}

static sonew_status load_params_null(void) {
    return sonew_load(optimizer, in_folder("good.safetensors"), NULL, NULL, COUNT);
}

static sonew_status load_too_few(void) {
    return sonew_load(optimizer, in_folder("good.safetensors"), NULL, params, 1);
}

static sonew_status load_overlapping(void) {
    void *same[] = {a, a + 1};
    return sonew_load(optimizer, in_folder("good.safetensors"), NULL, same, COUNT);
}

static sonew_status load_into_state(void) {
    sonew_view view;
    OK(sonew_plane_view(optimizer, 1, 0, &view, sizeof view));
    void *wrong[] = {a, NULL};
    memcpy(&wrong[1], &view.data, sizeof view.data);
    return sonew_load(optimizer, in_folder("good.safetensors"), NULL, wrong, COUNT);
}

static sonew_status save_path_null(void) {
    return sonew_save(optimizer, NULL, params, COUNT);
}

static sonew_status save_nowhere(void) {
    return sonew_save(optimizer, in_folder("none/file"), params, COUNT);
}

static sonew_status save_one_null(void) {
    void *wrong[] = {a, NULL};
    return sonew_save(optimizer, in_folder("good.safetensors"), wrong, COUNT);
}

static sonew_status save_askew(void) {
    void *wrong[] = {a, (float *)(void *)((char *)b + 2)};
    return sonew_save(optimizer, in_folder("good.safetensors"), wrong, COUNT);
}

static sonew_status save_too_many(void) {
    return sonew_save(optimizer, in_folder("good.safetensors"), params, 3);
}

INTO(other_state, tensors[1].state_dtype = SONEW_BF16)
INTO(convert_2, with.convert_state = 2)
INTO(convert_shared, with.convert_state = 1; with.mode = SONEW_MAP_SHARED)

/* What a refused call would have written stays as it is. */
static sonew_status open_as(const char *path, int32_t mode) {
    sonew_optimizer *opened = NULL;
    sonew_status status = sonew_open(path, mode, &opened);
    CHECK(opened == NULL);
    return status;
}

static sonew_status open_path_null(void) { return open_as(NULL, SONEW_READ); }
static sonew_status open_nothing(void) { return open_as(in_folder("none"), SONEW_READ); }
static sonew_status open_mode_3(void) { return open_as(in_folder("good.safetensors"), 3); }
static sonew_status open_not_live(void) {
    return open_as(in_folder("good.safetensors"), SONEW_MAP_SHARED);
}
static sonew_status open_text(void) {
    (void)no_checkpoint();
    return open_as(in_folder("text"), SONEW_MAP_PRIVATE);
}
static sonew_status open_out_null(void) {
    return sonew_open(in_folder("good.safetensors"), SONEW_READ, NULL);
}

static sonew_file *file;

/* A test of an open file. */
#define OF_FILE(name, call)                                                    \
    static sonew_status name(void) {                                           \
        sonew_contents contents;                                               \
        sonew_options options;                                                 \
        sonew_tensor tensor;                                                   \
        sonew_settings settings;                                               \
        sonew_planes arrays;                                                   \
        float data[LENGTH_A + 1] = {7, 7};                                     \
        memset(&contents, 7, sizeof contents);                                 \
        memset(&options, 7, sizeof options);                                   \
        memset(&tensor, 7, sizeof tensor);                                     \
        memset(&settings, 7, sizeof settings);                                 \
        arrays.count = 7;                                                      \
        OK(sonew_file_open(in_folder("good.safetensors"), &file));             \
        sonew_status status = call;                                            \
        CHECK(contents.format == 0x07070707 && options.band == 0x07070707);    \
        CHECK(tensor.reserved[1] == 0x07070707 && arrays.count == 7);          \
        CHECK(settings.step_count == 0x0707070707070707 && data[0] == 7);      \
        OK(sonew_file_free(file));                                             \
        return status;                                                         \
    }

OF_FILE(info_null, sonew_file_info(file, NULL, sizeof contents))
OF_FILE(info_size, sonew_file_info(file, &contents, 8))
OF_FILE(options_null, sonew_file_options(file, NULL, sizeof options))
OF_FILE(options_size, sonew_file_options(file, &options, sizeof options - 4))
OF_FILE(tensor_null, sonew_file_tensor(file, 0, NULL, sizeof tensor))
OF_FILE(tensor_size, sonew_file_tensor(file, 0, &tensor, 0))
OF_FILE(tensor_2, sonew_file_tensor(file, 2, &tensor, sizeof tensor))
OF_FILE(file_settings_null, sonew_file_settings(file, 0, NULL, sizeof settings))
OF_FILE(file_settings_size, sonew_file_settings(file, 0, &settings, 0))
OF_FILE(file_settings_2, sonew_file_settings(file, 2, &settings, sizeof settings))
OF_FILE(arrays_null, sonew_file_arrays(file, 0, NULL, sizeof arrays))
OF_FILE(arrays_size, sonew_file_arrays(file, 0, &arrays, 0))
OF_FILE(arrays_2, sonew_file_arrays(file, 2, &arrays, sizeof arrays))
OF_FILE(read_null, sonew_file_read(file, 0, "momentum", NULL))
OF_FILE(read_name_null, sonew_file_read(file, 0, NULL, data))
OF_FILE(read_tensor_2, sonew_file_read(file, 2, "momentum", data))
OF_FILE(read_unknown, sonew_file_read(file, 1, "band.2", data))
OF_FILE(read_askew, sonew_file_read(file, 0, "momentum", (char *)data + 2))
OF_FILE(file_as_optimizer, sonew_sync((sonew_optimizer *)(void *)file))

static sonew_status read_damaged(void) {
    float data[LENGTH_B] = {7};
    (void)load_changed(SIZE_MAX, SIZE_MAX - 60);
    OK(sonew_file_open(in_folder("bad.safetensors"), &file));
    sonew_status status = sonew_file_read(file, 1, "parameter", data);
    CHECK(data[0] == 7);
    OK(sonew_file_free(file));
    return status;
}

static sonew_status file_open_as(const char *path) {
    file = NULL;
    sonew_status status = sonew_file_open(path, &file);
    CHECK(file == NULL);
    return status;
}

static sonew_status file_path_null(void) { return file_open_as(NULL); }
static sonew_status file_none(void) { return file_open_as(in_folder("none")); }
static sonew_status file_text(void) { return file_open_as(in_folder("text")); }
static sonew_status file_out_null(void) {
    return sonew_file_open(in_folder("good.safetensors"), NULL);
}
static sonew_status file_is_null(void) {
    sonew_contents contents;
    return sonew_file_info(NULL, &contents, sizeof contents);
}
static sonew_status file_freed_twice(void) {
    OK(sonew_file_open(in_folder("good.safetensors"), &file));
    OK(sonew_file_free(file));
    return sonew_file_free(file);
}

static sonew_status own_tensor_null(void) {
    return sonew_get_tensor(optimizer, 0, NULL, sizeof(sonew_tensor));
}
static sonew_status own_tensor_2(void) {
    sonew_tensor tensor;
    return sonew_get_tensor(optimizer, 2, &tensor, sizeof tensor);
}
static sonew_status own_tensor_size(void) {
    sonew_tensor tensor;
    return sonew_get_tensor(optimizer, 0, &tensor, sizeof tensor - 1);
}

const refusal file_refusals[] = {
    REFUSAL(other_state, SONEW_DTYPE_DIFFERS,
            "tensor \"b\": momentum has type F32 in the file, BF16 in the optimizer"),
    REFUSAL(convert_2, SONEW_UNKNOWN_VALUE, "options.convert_state is 2, must be 0 or 1"),
    REFUSAL(convert_shared, SONEW_SHARED_OPTION, "convert_state"),
    REFUSAL(open_path_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(open_nothing, SONEW_IO, "none\": "),
    REFUSAL(open_mode_3, SONEW_UNKNOWN_VALUE, "mode is 3, must be 0, 1 or 2"),
    REFUSAL(open_not_live, SONEW_NOT_A_LIVE_FILE, "good.safetensors"),
    REFUSAL(open_text, SONEW_NOT_A_CHECKPOINT, "is not a sonew checkpoint"),
    REFUSAL(open_out_null, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(info_null, SONEW_NULL_POINTER, "contents is null"),
    REFUSAL(info_size, SONEW_STRUCT_SIZE, "the size of contents is 8"),
    REFUSAL(options_null, SONEW_NULL_POINTER, "options is null"),
    REFUSAL(options_size, SONEW_STRUCT_SIZE, "the size of options is"),
    REFUSAL(tensor_null, SONEW_NULL_POINTER, "tensor is null"),
    REFUSAL(tensor_size, SONEW_STRUCT_SIZE, "the size of tensor is 0"),
    REFUSAL(tensor_2, SONEW_UNKNOWN_TENSOR, "2"),
    REFUSAL(file_settings_null, SONEW_NULL_POINTER, "settings is null"),
    REFUSAL(file_settings_size, SONEW_STRUCT_SIZE, "the size of settings is 0"),
    REFUSAL(file_settings_2, SONEW_UNKNOWN_TENSOR, "2"),
    REFUSAL(arrays_null, SONEW_NULL_POINTER, "arrays is null"),
    REFUSAL(arrays_size, SONEW_STRUCT_SIZE, "the size of arrays is 0"),
    REFUSAL(arrays_2, SONEW_UNKNOWN_TENSOR, "2"),
    REFUSAL(read_null, SONEW_NULL_POINTER, "data, momentum of tensor \"a\", is null"),
    REFUSAL(read_name_null, SONEW_NULL_POINTER, "array is null"),
    REFUSAL(read_tensor_2, SONEW_UNKNOWN_TENSOR, "2"),
    REFUSAL(read_unknown, SONEW_PLANE_MISSING, "tensor \"b\": the file has no band.2"),
    REFUSAL(read_askew, SONEW_MISALIGNED, "tensor \"a\": momentum at 0x"),
    REFUSAL(file_as_optimizer, SONEW_BAD_HANDLE, "optimizer"),
    REFUSAL(read_damaged, SONEW_CHECKSUM, "the checksum of \"b/parameter\""),
    REFUSAL(file_path_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(file_none, SONEW_IO, "none\": "),
    REFUSAL(file_text, SONEW_NOT_A_CHECKPOINT, "is not a sonew checkpoint"),
    REFUSAL(file_out_null, SONEW_NULL_POINTER, "file is null"),
    REFUSAL(file_is_null, SONEW_NULL_POINTER, "file is null"),
    REFUSAL(file_freed_twice, SONEW_BAD_HANDLE, "file"),
    REFUSAL(own_tensor_null, SONEW_NULL_POINTER, "tensor is null"),
    REFUSAL(own_tensor_2, SONEW_UNKNOWN_TENSOR, "2"),
    REFUSAL(own_tensor_size, SONEW_STRUCT_SIZE, "the size of tensor is"),
    REFUSAL(no_file, SONEW_IO, "none.safetensors\": "),
    REFUSAL(no_checkpoint, SONEW_NOT_A_CHECKPOINT, "is not a sonew checkpoint"),
    REFUSAL(empty_file, SONEW_NOT_A_CHECKPOINT, "it has only 0 bytes"),
    REFUSAL(truncated_header, SONEW_FILE_LENGTH, "has 500 bytes, its header asks for"),
    REFUSAL(truncated_data, SONEW_FILE_LENGTH, "its header asks for"),
    REFUSAL(damaged_header, SONEW_CHECKSUM, "the checksum of the header"),
    REFUSAL(damaged_data, SONEW_CHECKSUM, "the checksum of \"b/parameter\""),
    REFUSAL(other_band, SONEW_OPTION_DIFFERS,
            "option band is 1 in the file, 4 in the optimizer"),
    REFUSAL(other_beta1, SONEW_OPTION_DIFFERS, "option beta1 is 0.9 in the file"),
    REFUSAL(other_rounding, SONEW_OPTION_DIFFERS, "option rounding is "),
    REFUSAL(other_seed, SONEW_OPTION_DIFFERS,
            "option seed is 0 in the file, 18446744073709551615 in the optimizer"),
    REFUSAL(other_names, SONEW_TENSOR_MISSING,
            "tensor \"c\" is in the optimizer but not in the file"),
    REFUSAL(fewer_tensors, SONEW_TENSOR_MISSING,
            "tensor \"b\" is in the file but not in the optimizer"),
    REFUSAL(more_tensors, SONEW_TENSOR_MISSING, "tensor \"c\""),
    REFUSAL(other_dimensions, SONEW_TENSOR_DIFFERS,
            "tensor \"a\": dims is [2, 3] in the file, [3, 2] in the optimizer"),
    REFUSAL(other_chains, SONEW_TENSOR_DIFFERS, "tensor \"a\": chains"),
    REFUSAL(other_update, SONEW_TENSOR_DIFFERS, "tensor \"b\": update"),
    REFUSAL(wider_band, SONEW_PLANE_MISSING, "tensor \"a\": the file has no band.2"),
    REFUSAL(nothing_common, SONEW_TENSOR_MISSING, "tensor \"c\""),
    REFUSAL(override_2, SONEW_UNKNOWN_VALUE, "options.override_options is 2, must be 0 or 1"),
    REFUSAL(common_minus_1, SONEW_UNKNOWN_VALUE, "options.common_tensors_only is -1"),
    REFUSAL(load_not_filled_in, SONEW_STRUCT_SIZE, "call sonew_load_options_init() first"),
    REFUSAL(renames_null, SONEW_NULL_POINTER, "options.renames is null"),
    REFUSAL(rename_to_null, SONEW_NULL_POINTER, "options.renames[1] is null"),
    REFUSAL(rename_unknown, SONEW_RENAME, "cannot rename \"x\" to \"a\""),
    REFUSAL(params_not_saved, SONEW_PLANE_MISSING, "tensor \"a\": the file has no parameter"),
    REFUSAL(load_path_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(load_params_null, SONEW_NULL_POINTER, "params is null"),
    REFUSAL(load_too_few, SONEW_TENSOR_COUNT, "params has 1 tensors"),
    REFUSAL(load_overlapping, SONEW_OVERLAP, "the parameter of tensor \"a\" overlaps"),
    REFUSAL(load_into_state, SONEW_OVERLAP, "momentum of tensor \"b\""),
    REFUSAL(save_path_null, SONEW_NULL_POINTER, "path is null"),
    REFUSAL(save_nowhere, SONEW_IO, "none/file"),
    REFUSAL(save_one_null, SONEW_NULL_POINTER, "params[1], the parameter of tensor \"b\","),
    REFUSAL(save_askew, SONEW_MISALIGNED, "tensor \"b\": the parameter at 0x"),
    REFUSAL(save_too_many, SONEW_TENSOR_COUNT, "params has 3 tensors"),
    {0},
};
