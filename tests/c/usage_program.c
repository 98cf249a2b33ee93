/* What programs around the library need: one buffer for all tensors, texts, checkpoints in
 * memory, options by group, copies, and beginning anew. */
#include "usage.h"

enum { ALL = WEIGHT + BIAS };
static float flat[ALL], flat_grad[ALL];

/* Gradients and parameters as in the lists, in one buffer each. */
static void fill_flat(void) {
    fill_all();
    memcpy(flat, weight, sizeof weight);
    memcpy(flat + WEIGHT, bias, sizeof bias);
    memcpy(flat_grad, weight_grad, sizeof weight_grad);
    memcpy(flat_grad + WEIGHT, bias_grad, sizeof bias_grad);
}

static void one_buffer(void) {
    fill_flat();
    sonew_optimizer *one = create(1), *many = create(1);
    void *list[COUNT];
    const void *grad_list[COUNT];
    OK(sonew_flat_pointers(one, flat, flat_grad, ALL, NULL, list, grad_list));
    CHECK(list[0] == flat && list[1] == flat + WEIGHT && grad_list[1] == flat_grad + WEIGHT);
    OK(sonew_step(one, NULL, list, grad_list, COUNT));
    OK(sonew_step(many, NULL, params, grads, COUNT));
    CHECK(memcmp(flat, weight, sizeof weight) == 0);
    CHECK(memcmp(flat + WEIGHT, bias, sizeof bias) == 0);
    /* Parameters alone, the bias first. */
    size_t offsets[COUNT] = {BIAS, 0};
    OK(sonew_flat_pointers(one, flat, NULL, ALL, offsets, list, NULL));
    CHECK(list[0] == flat + BIAS && list[1] == flat);
    OK(sonew_free(one));
    OK(sonew_free(many));
}

static const char *text_of(const sonew_optimizer *optimizer, const char *key) {
    const char *text = "not told";
    OK(sonew_get_text(optimizer, key, &text));
    return text;
}

static void texts(const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/texts.safetensors", folder);
    sonew_optimizer *optimizer = create(1), *other = create(1);
    CHECK(text_of(optimizer, "epoch") == NULL);
    OK(sonew_set_text(optimizer, "epoch", "3"));
    OK(sonew_set_text(optimizer, "rng", "1 2 3"));
    CHECK(strcmp(text_of(optimizer, "epoch"), "3") == 0);
    OK(sonew_set_text(optimizer, "epoch", "4"));
    CHECK(strcmp(text_of(optimizer, "epoch"), "4") == 0);
    OK(sonew_set_text(optimizer, "none", NULL));
    OK(sonew_save(optimizer, path, NULL, 0));

    sonew_file *file = NULL;
    sonew_contents contents;
    const char *text = NULL;
    OK(sonew_file_open(path, &file));
    OK(sonew_file_info(file, &contents, sizeof contents));
    CHECK(contents.text_count == 2);
    CHECK(strcmp(contents.text_keys[0], "epoch") == 0);
    CHECK(strcmp(contents.text_keys[1], "rng") == 0);
    OK(sonew_file_text(file, "rng", &text));
    CHECK(strcmp(text, "1 2 3") == 0);
    OK(sonew_file_text(file, "none", &text));
    CHECK(text == NULL);
    OK(sonew_file_free(file));

    OK(sonew_load(other, path, NULL, NULL, 0));
    CHECK(strcmp(text_of(other, "epoch"), "4") == 0);
    OK(sonew_free(optimizer));
    OK(sonew_free(other));
}

static void memory(void) {
    fill_all();
    sonew_optimizer *optimizer = create(1), *other = create(1);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    size_t size = 0, written = 0;
    OK(sonew_save_to_memory(optimizer, params, COUNT, NULL, 0, &size));
    unsigned char *data = (unsigned char *)malloc(size);
    CHECK(data != NULL);
    OK(sonew_save_to_memory(optimizer, params, COUNT, data, size, &written));
    CHECK(written == size);
    float saved[WEIGHT];
    memcpy(saved, weight, sizeof weight);
    memset(weight, 0, sizeof weight);
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    load.data = data;
    load.size = size;
    OK(sonew_load(other, NULL, &load, params, COUNT));
    free(data);
    CHECK(memcmp(saved, weight, sizeof weight) == 0);
    CHECK(step_count(other) == 1);
    OK(sonew_free(optimizer));
    OK(sonew_free(other));
}

/* A tensor with options of its own; its optimizer is told, copied, and loaded by one with
 * another beta. */
static void groups(const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/groups.safetensors", folder);
    fill_all();
    sonew_options options = with_band(1), group = options, told;
    group.band = 2;
    group.beta2 = 0.5;
    group.weight_decay = 0.1;
    sonew_tensor tensors[COUNT], tensor;
    describe(tensors);
    tensors[0].options = &group;
    sonew_optimizer *optimizer = NULL, *other = NULL;
    OK(sonew_create(&options, tensors, COUNT, &optimizer));
    OK(sonew_get_options(optimizer, &told, sizeof told));
    CHECK(told.band == 1 && told.beta2 == options.beta2 && told.pool == NULL);
    OK(sonew_get_tensor(optimizer, 0, &tensor, sizeof tensor));
    CHECK(tensor.options->band == 2 && tensor.options->beta2 == 0.5);
    CHECK(settings_of(optimizer, 0).weight_decay == 0.1);
    CHECK(settings_of(optimizer, 1).weight_decay == options.weight_decay);
    OK(sonew_get_tensor(optimizer, 1, &tensor, sizeof tensor));
    CHECK(tensor.options == NULL);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    OK(sonew_save(optimizer, path, NULL, 0));

    sonew_file *file = NULL;
    OK(sonew_file_open(path, &file));
    OK(sonew_file_tensor(file, 0, &tensor, sizeof tensor));
    CHECK(tensor.options->band == 2);
    OK(sonew_file_free(file));

    /* Given as floats, they are the same. */
    sonew_load_options load;
    OK(sonew_load_options_init(&load, sizeof load));
    const char *overrides[] = {"beta2", "weight_decay"};
    options.beta1 = 0.9f;
    group.beta1 = 0.9f;
    group.beta2 = 0.6;
    group.weight_decay = 0.2;
    OK(sonew_create(&options, tensors, COUNT, &other));
    CHECK(sonew_load(other, path, &load, NULL, 0) == SONEW_TENSOR_DIFFERS);
    load.overrides = overrides;
    load.override_count = 2;
    OK(sonew_load(other, path, &load, NULL, 0));
    CHECK(settings_of(other, 0).weight_decay == 0.2);
    OK(sonew_free(other));

    /* A copy. */
    OK(sonew_clone(optimizer, &other));
    float before[WEIGHT], after[WEIGHT];
    memcpy(before, weight, sizeof weight);
    OK(sonew_step(optimizer, NULL, params, grads, COUNT));
    memcpy(after, weight, sizeof weight);
    memcpy(weight, before, sizeof weight);
    OK(sonew_step(other, NULL, params, grads, COUNT));
    CHECK(memcmp(weight, after, sizeof weight) == 0);
    OK(sonew_free(other));
    OK(sonew_reset(optimizer));
    CHECK(step_count(optimizer) == 0 && count_of(optimizer, 0) == 0);
    OK(sonew_free(optimizer));
}

void program(const char *folder) {
    one_buffer();
    texts(folder);
    memory();
    groups(folder);
}
