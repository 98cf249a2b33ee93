/* If an allocation whose size depends on the caller or a file fails, the call
 * returns a status and changes nothing; a step allocates nothing that grows with
 * the model.
 * argv[1] is a folder to write to. */
#define _GNU_SOURCE
#include "failing.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "../c/check.h"

/* In a model with many tensors or long names, the memory for each tensor is less
 * than this. */
enum { LARGE = 64 << 10 };

struct model {
    size_t count, len;
    sonew_options options;
    sonew_tensor *tensors;
    sonew_optimizer *optimizer;
    sonew_plan *plan;
    float *memory;
    void **params, **grads;
};

static char path[4096], other[4096];

static struct model describe(size_t count, size_t len, size_t name) {
    struct model m = {.count = count, .len = len};
    OK(sonew_options_init(&m.options, sizeof m.options));
    m.options.threads = 2;
    m.tensors = calloc(count, sizeof *m.tensors);
    m.params = calloc(count, sizeof *m.params);
    m.grads = calloc(count, sizeof *m.grads);
    m.memory = calloc(2 * count * len, sizeof *m.memory);
    CHECK(m.tensors && m.params && m.grads && m.memory);
    for (size_t i = 0; i < count; i++) {
        char *text = malloc(name + 32);
        CHECK(text != NULL);
        memset(text, 'x', name);
        snprintf(text + name, 32, "%zu\"", i); /* JSON escapes it */
        m.tensors[i] = (sonew_tensor){.struct_size = sizeof(sonew_tensor), .name = text, .ndim = 1, .dims = {len}};
        m.params[i] = m.memory + 2 * i * len;
        m.grads[i] = m.memory + (2 * i + 1) * len;
        for (size_t j = 0; j < len; j++)
            ((float *)m.grads[i])[j] = (float)(j % 7) - 3;
    }
    return m;
}

static void forget(struct model *m) {
    for (size_t i = 0; i < m->count; i++)
        free((char *)m->tensors[i].name);
    free(m->tensors);
    free(m->params);
    free(m->grads);
    free(m->memory);
}

static sonew_status create(struct model *m) {
    return sonew_create(&m->options, m->tensors, m->count, &m->optimizer);
}

static sonew_status create_plan(struct model *m) {
    return sonew_plan_create(&m->options, m->tensors, m->count, &m->plan);
}

static sonew_status step(struct model *m) {
    return sonew_step(m->optimizer, NULL, m->params, (const void *const *)m->grads, m->count);
}

static sonew_status save(struct model *m) {
    return sonew_save(m->optimizer, path, m->params, m->count);
}

static sonew_status save_in_background(struct model *m) {
    sonew_saving *saving = NULL;
    sonew_status status = sonew_save_begin(m->optimizer, other, m->params, m->count, &saving);
    if (status == SONEW_OK)
        return sonew_save_finish(saving);
    CHECK(saving == NULL);
    return status;
}

static sonew_status load(struct model *m) {
    return sonew_load(m->optimizer, path, NULL, m->params, m->count);
}

static sonew_status load_as(struct model *m, int mode, const char *file) {
    sonew_load_options options;
    OK(sonew_load_options_init(&options, sizeof options));
    options.mode = mode;
    return sonew_load(m->optimizer, file, &options, NULL, 0);
}

static sonew_status map(struct model *m) { return load_as(m, SONEW_MAP_PRIVATE, path); }
static sonew_status make_live(struct model *m) { return sonew_make_live(m->optimizer, other); }
static sonew_status open_live(struct model *m) { return load_as(m, SONEW_MAP_SHARED, other); }
static sonew_status verify(struct model *m) {
    (void)m;
    return sonew_verify(path);
}

/* An optimizer made of the file alone, and what is in it. */
static sonew_status open_file(struct model *m) {
    (void)m;
    sonew_optimizer *opened = NULL;
    sonew_status status = sonew_open(path, SONEW_READ, &opened);
    CHECK((status == SONEW_OK) == (opened != NULL));
    OK(sonew_free(opened));
    return status;
}

static sonew_status open_mapped(struct model *m) {
    (void)m;
    sonew_optimizer *opened = NULL;
    sonew_status status = sonew_open(path, SONEW_MAP_PRIVATE, &opened);
    CHECK((status == SONEW_OK) == (opened != NULL));
    OK(sonew_free(opened));
    return status;
}

static sonew_status read_file(struct model *m) {
    sonew_file *file = NULL;
    float *read = m->memory + 2 * (m->count - 1) * m->len;
    sonew_status status = sonew_file_open(path, &file);
    CHECK((status == SONEW_OK) == (file != NULL));
    if (status == SONEW_OK)
        status = sonew_file_read(file, m->count - 1, "parameter", read);
    OK(sonew_file_free(file));
    return status;
}

/* The state becomes bfloat16. */
static sonew_status load_converted(struct model *m) {
    sonew_load_options options;
    OK(sonew_load_options_init(&options, sizeof options));
    options.convert_state = 1;
    return sonew_load(m->optimizer, path, &options, NULL, 0);
}

/* Whether the optimizer has been created; then its step count. */
static int is_there(const sonew_optimizer *optimizer, uint64_t *steps) {
    sonew_optimizer_info info;
    if (sonew_info(optimizer, &info, sizeof info) != SONEW_OK)
        return 0;
    *steps = info.step_count;
    return 1;
}

/* Makes each large allocation of a call fail in turn, alone and together with all
 * later ones. A refused call must have changed nothing: the step count and the
 * parameters are compared, and the same call must then succeed. Returns the number
 * of large allocations. */
static int only_first;

static long each(const char *what, struct model *m, sonew_status (*call)(struct model *)) {
    long failed = 0;
    size_t size = 2 * m->count * m->len * sizeof(float);
    float *before = malloc(size);
    CHECK(before != NULL);
    memcpy(before, m->memory, size);
    uint64_t steps = 0, now = 0;
    int there = is_there(m->optimizer, &steps);
    for (int all_after = only_first; all_after < 2; all_after++)
        for (long i = 0;; i++) {
            fail(LARGE, i, all_after);
            sonew_status status = call(m);
            long refused = refused_ones;
            succeed();
            if (refused == 0) {
                OK(status);
                break;
            }
            if (status == SONEW_OK) { /* It did without. */
                memcpy(before, m->memory, size);
                there = is_there(m->optimizer, &steps);
                continue;
            }
            /* A file that cannot be mapped is told as the system tells it. */
            const char *why = sonew_last_error();
            if (!(status == SONEW_OUT_OF_MEMORY && strstr(why, "out of memory: ")) &&
                !(status == SONEW_IO && strstr(why, "Cannot allocate memory"))) {
                fprintf(stderr, "%s, allocation %ld: %s: %s\n", what, i,
                        sonew_status_name(status), why);
                exit(1);
            }
            failed++;
            CHECK(memcmp(before, m->memory, size) == 0);
            if (only_first) {
                OK(call(m));
                break;
            }
            if (there) {
                now = info_of(m->optimizer).step_count;
                CHECK(now == steps);
            }
        }
    free(before);
    return failed;
}

static void all_calls(size_t count, size_t len, size_t name) {
    struct model m = describe(count, len, name);
    long creating = each("create", &m, create);
    OK(sonew_free(m.optimizer));
    OK(create(&m));
    CHECK(creating > 0);
    CHECK(each("plan", &m, create_plan) > 0);
    OK(sonew_plan_free(m.plan));
    OK(step(&m));
    /* A step that succeeds changes things: it is the last one of its test. */
    each("step", &m, step);
    each("save", &m, save);
    each("save_begin", &m, save_in_background);
    each("verify", &m, verify);
    CHECK(each("load", &m, load) > 0);
    each("map", &m, map);
    CHECK(each("open", &m, open_file) > 0);
    each("open_mapped", &m, open_mapped);
    CHECK(each("read_file", &m, read_file) > 0);
    OK(sonew_free(m.optimizer));
    for (size_t i = 0; i < count; i++)
        m.tensors[i].state_dtype = SONEW_BF16;
    OK(create(&m));
    OK(load_converted(&m)); /* from now on the step count is the file's */
    CHECK(each("load_converted", &m, load_converted) > 0);
    OK(sonew_free(m.optimizer));
    for (size_t i = 0; i < count; i++)
        m.tensors[i].state_dtype = SONEW_DTYPE_DEFAULT;
    OK(create(&m));
    each("make_live", &m, make_live);
    OK(sonew_free(m.optimizer));
    OK(create(&m));
    /* A live file is locked once it is open, even by the same process. */
    int first = only_first;
    only_first = 1;
    each("open_live", &m, open_live);
    only_first = first;
    OK(sonew_free(m.optimizer));
    forget(&m);
}

/* The largest number of bytes that any step after the first one allocates. */
static long taken_by_step(size_t tensors, size_t len) {
    struct model m = describe(tensors, len, 4);
    OK(create(&m));
    OK(step(&m));
    long taken = 0;
    for (int i = 0; i < 40; i++) {
        fail(LARGE, 1000, 0);
        OK(step(&m));
        succeed();
        CHECK(larges == 0);
        taken = bytes > taken ? bytes : taken;
    }
    OK(sonew_free(m.optimizer));
    forget(&m);
    return taken;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    snprintf(path, sizeof path, "%s/saved.safetensors", argv[1]);
    snprintf(other, sizeof other, "%s/live.safetensors", argv[1]);
    all_calls(2, 300000, 4);
    /* Of many tensors every list is large, and JSON of the file: no large
     * allocation at all is granted. */
    only_first = 1;
    all_calls(3000, 5, 20);
    all_calls(40, 5, 5000);
    long small = taken_by_step(3, 100000);
    long big = taken_by_step(3, 3000000), many = taken_by_step(3000, 1000);
    /* The pool's own queue takes a block now and then. */
    if (big > small + 64 || many > small + 64 || small > 16 << 10) {
        fprintf(stderr, "a step takes %ld bytes, of larger tensors %ld, of more %ld\n", small,
                big, many);
        return 1;
    }
    puts("failures are answers");
    return 0;
}
