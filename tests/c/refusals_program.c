/* Refusals of what programs around the library need: one buffer, texts, memory, options by
 * group, copies. */
#include "refusals.h"

static void *params[] = {a, b};

/* One buffer. */
static float flat[LENGTH_A + LENGTH_B], flat_grad[LENGTH_A + LENGTH_B];
static void *list[COUNT];
static const void *grad_list[COUNT];

static sonew_status flat_of(size_t length, const size_t *offsets) {
    list[0] = list[1] = &flat[3];
    grad_list[0] = grad_list[1] = &flat[4];
    sonew_status status =
        sonew_flat_pointers(optimizer, flat, flat_grad, length, offsets, list, grad_list);
    CHECK(list[0] == &flat[3] && list[1] == &flat[3]);
    CHECK(grad_list[0] == &flat[4] && grad_list[1] == &flat[4]);
    return status;
}

static sonew_status flat_short(void) { return flat_of(LENGTH_A + LENGTH_B - 1, NULL); }
static sonew_status flat_long(void) { return flat_of(LENGTH_A + LENGTH_B + 1, NULL); }
static sonew_status flat_absurd(void) { return flat_of(SIZE_MAX, NULL); }
static sonew_status flat_past(void) {
    const size_t offsets[] = {4, 0};
    return flat_of(LENGTH_A + LENGTH_B, offsets);
}
static sonew_status flat_overflow(void) {
    const size_t offsets[] = {SIZE_MAX - 1, 0};
    return flat_of(LENGTH_A + LENGTH_B, offsets);
}
static sonew_status flat_last_address(void) {
    const size_t offsets[] = {0, LENGTH_A};
    return flat_of(SIZE_MAX / 4, offsets);
}
static sonew_status flat_null(void) {
    return sonew_flat_pointers(optimizer, NULL, flat_grad, 9, NULL, list, grad_list);
}
static sonew_status flat_list_null(void) {
    return sonew_flat_pointers(optimizer, flat, flat_grad, 9, NULL, NULL, grad_list);
}
static sonew_status flat_grads_null(void) {
    return sonew_flat_pointers(optimizer, flat, NULL, 9, NULL, list, grad_list);
}
static sonew_status flat_grad_list_null(void) {
    return sonew_flat_pointers(optimizer, flat, flat_grad, 9, NULL, list, NULL);
}
static sonew_status flat_types(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    tensors[1].dtype = SONEW_F64;
    sonew_optimizer *other = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &other));
    sonew_status status =
        sonew_flat_pointers(other, flat, NULL, LENGTH_A + LENGTH_B, NULL, list, NULL);
    OK(sonew_free(other));
    return status;
}
/* The step finds that they overlap. */
static sonew_status flat_overlapping(void) {
    const size_t offsets[] = {0, LENGTH_A - 1};
    OK(sonew_flat_pointers(optimizer, flat, flat_grad, 9, offsets, list, grad_list));
    return sonew_step(optimizer, NULL, list, grad_list, COUNT);
}

/* Texts. */
static sonew_status key_empty(void) { return sonew_set_text(optimizer, "", "x"); }
static sonew_status key_line(void) { return sonew_set_text(optimizer, "a\nb", "x"); }
static sonew_status key_null(void) { return sonew_set_text(optimizer, NULL, "x"); }
static sonew_status key_latin1(void) { return sonew_set_text(optimizer, "\xe4", "x"); }
static sonew_status text_latin1(void) { return sonew_set_text(optimizer, "x", "\xe4"); }
static sonew_status get_key_null(void) {
    const char *text;
    return sonew_get_text(optimizer, NULL, &text);
}
static sonew_status get_null(void) { return sonew_get_text(optimizer, "x", NULL); }
static sonew_status file_text_null(void) {
    sonew_file *file = NULL;
    OK(sonew_file_open(in_folder("good.safetensors"), &file));
    sonew_status status = sonew_file_text(file, "x", NULL);
    OK(sonew_file_free(file));
    return status;
}
static sonew_status too_many_texts(void) {
    sonew_optimizer *other = NULL;
    OK(sonew_clone(optimizer, &other));
    char key[16];
    sonew_status status = SONEW_OK;
    for (int i = 0; i <= 1000; i++) {
        CHECK(status == SONEW_OK);
        snprintf(key, sizeof key, "%d", i);
        status = sonew_set_text(other, key, "x");
    }
    OK(sonew_free(other));
    return status;
}
static sonew_status live_text(void) {
    sonew_optimizer *other = NULL;
    OK(sonew_clone(optimizer, &other));
    OK(sonew_make_live(other, in_folder("texts.live")));
    sonew_status status = sonew_set_text(other, "epoch", "x");
    const char *text = "x";
    OK(sonew_get_text(other, "epoch", &text));
    CHECK(text == NULL);
    OK(sonew_free(other));
    return status;
}
static sonew_status live_with_text(void) {
    sonew_optimizer *other = NULL;
    OK(sonew_clone(optimizer, &other));
    OK(sonew_set_text(other, "epoch", "x"));
    sonew_status status = sonew_make_live(other, in_folder("texts.live"));
    OK(sonew_free(other));
    return status;
}

/* Memory. */
static unsigned char bytes[1 << 16];
static size_t size;

static sonew_status load_bytes(const char *path, const void *data, size_t length, int32_t mode) {
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.data = data;
    load.size = length;
    load.mode = mode;
    return sonew_load(optimizer, path, &load, params, COUNT);
}
static sonew_status load_short(void) {
    OK(sonew_save_to_memory(optimizer, params, COUNT, bytes, sizeof bytes, &size));
    return load_bytes(NULL, bytes, size - 1, SONEW_READ);
}
static sonew_status load_damaged(void) {
    OK(sonew_save_to_memory(optimizer, params, COUNT, bytes, sizeof bytes, &size));
    bytes[size - 60] ^= 1;
    return load_bytes(NULL, bytes, size, SONEW_READ);
}
static sonew_status load_nothing(void) { return load_bytes(NULL, bytes, 0, SONEW_READ); }
static sonew_status load_null_bytes(void) { return load_bytes(NULL, NULL, 8, SONEW_READ); }
static sonew_status load_both(void) {
    return load_bytes(in_folder("good.safetensors"), bytes, 8, SONEW_READ);
}
static sonew_status load_mapped(void) { return load_bytes(NULL, bytes, 8, SONEW_MAP_PRIVATE); }
static sonew_status save_small(void) {
    OK(sonew_save_to_memory(optimizer, NULL, 0, NULL, 0, &size));
    memset(bytes, 9, sizeof bytes);
    size_t told = 5;
    sonew_status status = sonew_save_to_memory(optimizer, NULL, 0, bytes, size - 1, &told);
    CHECK(told == 5 && bytes[0] == 9 && bytes[size - 2] == 9);
    return status;
}
static sonew_status save_data_null(void) {
    return sonew_save_to_memory(optimizer, NULL, 0, NULL, 100000, &size);
}
static sonew_status save_size_null(void) {
    return sonew_save_to_memory(optimizer, NULL, 0, bytes, sizeof bytes, NULL);
}
static sonew_status save_over_params(void) {
    return sonew_save_to_memory(optimizer, params, COUNT, a, 100000, &size);
}
static sonew_status save_over_size(void) {
    return sonew_save_to_memory(optimizer, params, COUNT, bytes, sizeof bytes, (size_t *)bytes);
}
static sonew_status save_size_over_state(void) {
    sonew_view view;
    OK(sonew_plane_view(optimizer, 1, 0, &view, sizeof view));
    return sonew_save_to_memory(optimizer, params, COUNT, bytes, sizeof bytes, (size_t *)view.data);
}
static sonew_status save_over_state(void) {
    sonew_view view;
    OK(sonew_plane_view(optimizer, 1, 0, &view, sizeof view));
    return sonew_save_to_memory(optimizer, NULL, 0, (void *)view.data, 1, &size);
}

/* Overrides. */
static sonew_status override_unknown(void) {
    const char *names[] = {"beta1", "lr"};
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.overrides = names;
    load.override_count = 2;
    return sonew_load(optimizer, in_folder("good.safetensors"), &load, params, COUNT);
}
static sonew_status overrides_null(void) {
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.override_count = 2;
    return sonew_load(optimizer, in_folder("good.safetensors"), &load, params, COUNT);
}
static sonew_status override_shared(void) {
    const char *names[] = {"beta1"};
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.overrides = names;
    load.override_count = 1;
    load.mode = SONEW_MAP_SHARED;
    return sonew_load(optimizer, in_folder("good.safetensors"), &load, params, COUNT);
}

/* Groups. */
static sonew_status create_group(const sonew_options *group) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    tensors[1].options = group;
    sonew_optimizer *other = NULL;
    sonew_status status = sonew_create(NULL, tensors, COUNT, &other);
    CHECK(other == NULL);
    return status;
}
static sonew_status group_graft(void) {
    sonew_options group = good_options();
    group.graft = SONEW_GRAFT_SGD;
    return create_group(&group);
}
static sonew_status group_beta2(void) {
    sonew_options group = good_options();
    group.beta2 = 1;
    return create_group(&group);
}
static sonew_status group_band(void) {
    sonew_options group = good_options();
    group.band = -1;
    return create_group(&group);
}
static sonew_status group_size(void) {
    sonew_options group = good_options();
    group.struct_size = 1;
    return create_group(&group);
}

/* Copies, and beginning anew. */
static sonew_status clone_null(void) { return sonew_clone(NULL, &optimizer); }
static sonew_status clone_out_null(void) { return sonew_clone(optimizer, NULL); }
static sonew_status reset_null(void) { return sonew_reset(NULL); }
static sonew_status get_options_null(void) { return sonew_get_options(optimizer, NULL, 8); }
static sonew_status get_options_size(void) {
    sonew_options options;
    return sonew_get_options(optimizer, &options, 8);
}

const refusal program_refusals[] = {
    REFUSAL(flat_short, SONEW_WRONG_LENGTH,
            "one buffer of all tensors has 8 elements, they have 9 together"),
    REFUSAL(flat_long, SONEW_WRONG_LENGTH, "has 10 elements"),
    REFUSAL(flat_absurd, SONEW_WRONG_LENGTH, "they have 9 together"),
    REFUSAL(flat_past, SONEW_OUT_OF_RANGE,
            "tensor \"a\": 6 elements from offset 4 on reach past the end of a buffer of 9"),
    REFUSAL(flat_overflow, SONEW_OUT_OF_RANGE, "tensor \"a\": 6 elements from offset 1844"),
    REFUSAL(flat_last_address, SONEW_SIZE_OVERFLOW, "past the end of the address space"),
    REFUSAL(flat_null, SONEW_NULL_POINTER, "flat_params is null"),
    REFUSAL(flat_list_null, SONEW_NULL_POINTER, "params is null"),
    REFUSAL(flat_grads_null, SONEW_NULL_POINTER, "flat_grads is null"),
    REFUSAL(flat_grad_list_null, SONEW_NULL_POINTER, "grads is null"),
    REFUSAL(flat_types, SONEW_DTYPE_DIFFERS,
            "the parameter of tensor \"a\" has type F32, that of tensor \"b\" has F64"),
    REFUSAL(flat_overlapping, SONEW_OVERLAP, "the parameter of tensor \"a\" overlaps"),
    REFUSAL(key_empty, SONEW_TEXT, "a text has the key \"\""),
    REFUSAL(key_line, SONEW_TEXT, "a text has the key \"a\\nb\""),
    REFUSAL(key_null, SONEW_NULL_POINTER, "key is null"),
    REFUSAL(key_latin1, SONEW_INVALID_STRING, "key is not valid UTF-8"),
    REFUSAL(text_latin1, SONEW_INVALID_STRING, "text is not valid UTF-8"),
    REFUSAL(get_key_null, SONEW_NULL_POINTER, "key is null"),
    REFUSAL(get_null, SONEW_NULL_POINTER, "text is null"),
    REFUSAL(file_text_null, SONEW_NULL_POINTER, "text is null"),
    REFUSAL(too_many_texts, SONEW_TEXT, "1001 texts are more than a file can have: 1000"),
    REFUSAL(live_text, SONEW_LIVE_TEXT, "the text \"epoch\" cannot be in a live file"),
    REFUSAL(live_with_text, SONEW_LIVE_TEXT, "the text \"epoch\" cannot be in a live file"),
    REFUSAL(load_short, SONEW_FILE_LENGTH, "\"memory\" has "),
    REFUSAL(load_damaged, SONEW_CHECKSUM, "\"memory\" is damaged"),
    REFUSAL(load_nothing, SONEW_NOT_A_CHECKPOINT, "\"memory\" is not a sonew checkpoint"),
    REFUSAL(load_null_bytes, SONEW_NULL_POINTER, "options.data is null"),
    REFUSAL(load_both, SONEW_MEMORY, "path and options.data are both given"),
    REFUSAL(load_mapped, SONEW_MEMORY, "a checkpoint in memory cannot be mapped"),
    REFUSAL(save_small, SONEW_WRONG_LENGTH, "bytes, there is room for "),
    REFUSAL(save_data_null, SONEW_NULL_POINTER, "data is null"),
    REFUSAL(save_size_null, SONEW_NULL_POINTER, "size is null"),
    REFUSAL(save_over_params, SONEW_OVERLAP, "data overlaps the parameter of tensor \"a\""),
    REFUSAL(save_over_state, SONEW_OVERLAP, "data overlaps momentum of tensor \"b\""),
    REFUSAL(save_over_size, SONEW_OVERLAP, "data overlaps size"),
    REFUSAL(save_size_over_state, SONEW_OVERLAP, "size overlaps momentum of tensor \"b\""),
    REFUSAL(override_unknown, SONEW_UNKNOWN_NAME, "no option to override named \"lr\""),
    REFUSAL(overrides_null, SONEW_NULL_POINTER, "options.overrides is null"),
    REFUSAL(override_shared, SONEW_SHARED_OPTION, "overrides cannot be combined"),
    REFUSAL(group_graft, SONEW_TENSOR_OPTION,
            "tensor \"b\": its own options differ from the optimizer's in graft"),
    REFUSAL(group_beta2, SONEW_OUT_OF_RANGE, "options.beta2 of tensor \"b\" is 1"),
    REFUSAL(group_band, SONEW_OUT_OF_RANGE, "tensors[1].options.band is -1"),
    REFUSAL(group_size, SONEW_STRUCT_SIZE, "tensors[1].options.struct_size is 1"),
    REFUSAL(clone_null, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(clone_out_null, SONEW_NULL_POINTER, "copy is null"),
    REFUSAL(reset_null, SONEW_NULL_POINTER, "optimizer is null"),
    REFUSAL(get_options_null, SONEW_NULL_POINTER, "options is null"),
    REFUSAL(get_options_size, SONEW_STRUCT_SIZE, "the size of options is 8"),
    {0},
};
