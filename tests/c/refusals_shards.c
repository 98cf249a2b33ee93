/* Refusals of shards, and of the files of several optimizers. */
#include "refusals.h"

/* An optimizer like that of the world, but with the rows of "a" from first to before
 * end. */
static sonew_optimizer *of_rows(size_t first, size_t end) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    tensors[0].dims[0] = end - first;
    tensors[0].first_row = first;
    tensors[0].whole_rows = 2;
    sonew_optimizer *other = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &other));
    return other;
}

/* Saves these rows after steps with such gradients. */
static void save_rows(const char *name, size_t first, size_t end, int steps, float grad) {
    sonew_optimizer *other = of_rows(first, end);
    float of_a[LENGTH_A] = {0}, of_b[LENGTH_B] = {0}, grads_a[LENGTH_A];
    void *params[] = {of_a, of_b};
    const void *grads[] = {grads_a, grad_b};
    for (int i = 0; i < LENGTH_A; i++)
        grads_a[i] = grad;
    for (int i = 0; i < steps; i++)
        OK(sonew_step(other, NULL, params, grads, COUNT));
    OK(sonew_save(other, in_folder(name), params, COUNT));
    OK(sonew_free(other));
}

/* Loads rows-0 and a list of further files into an optimizer. */
static sonew_status load_into(sonew_optimizer *into, const char *const *paths, size_t count,
                              int32_t mode) {
    sonew_load_options with;
    OK(sonew_load_options_init(&with, sizeof with));
    with.paths = paths;
    with.path_count = count;
    with.mode = mode;
    char path[4096];
    snprintf(path, sizeof path, "%s/rows-0", folder);
    return sonew_load(into, path, &with, NULL, 0);
}

/* Loads rows-0, which has the first row, and another file, into that of the world. */
static sonew_status load_with(const char *name) {
    save_rows("rows-0", 0, 1, 3, 1);
    const char *paths[] = {in_folder(name)};
    return load_into(optimizer, paths, 1, SONEW_READ);
}

static sonew_status rows_missing(void) {
    save_rows("rows-1", 0, 1, 3, 1);
    return load_with("rows-1");
}
static sonew_status steps_differ(void) {
    save_rows("rows-1", 1, 2, 4, 1);
    return load_with("rows-1");
}
static sonew_status rows_differ(void) {
    save_rows("rows-1", 0, 2, 3, 0.5f);
    return load_with("rows-1");
}
static sonew_status files_differ(void) {
    save_rows("rows-1", 1, 2, 3, 1);
    sonew_optimizer *other = NULL;
    OK(sonew_open(in_folder("rows-1"), SONEW_READ, &other));
    OK(set_lr_scale(other, 0, 0.5));
    OK(sonew_save(other, in_folder("rows-1"), NULL, 0));
    OK(sonew_free(other));
    return load_with("rows-1");
}
static sonew_status no_such_file(void) { return load_with("rows-none"); }
static sonew_status no_checkpoint(void) {
    FILE *file = fopen(in_folder("rows-text"), "wb");
    CHECK(file != NULL && fputs("no checkpoint", file) >= 0);
    fclose(file);
    return load_with("rows-text");
}

/* With a list of files that is not one. */
static sonew_status load_list(const char *const *paths, size_t count, int32_t mode) {
    save_rows("rows-0", 0, 1, 3, 1);
    return load_into(optimizer, paths, count, mode);
}
static sonew_status path_null(void) {
    const char *paths[] = {"rows-0", NULL};
    return load_list(paths, 2, SONEW_READ);
}
static sonew_status paths_null(void) { return load_list(NULL, 1, SONEW_READ); }
static sonew_status paths_without_end(void) {
    const char *paths[] = {"rows-0"};
    return load_list(paths, SIZE_MAX / 64, SONEW_READ);
}
static sonew_status paths_mapped(void) {
    const char *paths[] = {in_folder("rows-0")};
    return load_list(paths, 1, SONEW_MAP_PRIVATE);
}
static sonew_status rows_mapped(void) { return load_list(NULL, 0, SONEW_MAP_PRIVATE); }

/* A live file of the second row in the list: that of the optimizer, or of another one. */
static sonew_status live_in_list(int own) {
    save_rows("rows-0", 0, 1, 0, 1);
    sonew_optimizer *live = of_rows(1, 2), *other = of_rows(1, 2);
    OK(sonew_make_live(live, in_folder("rows-live")));
    const char *paths[] = {in_folder("rows-live")};
    sonew_status status = load_into(own ? live : other, paths, 1, SONEW_READ);
    OK(sonew_sync(live)); /* is still what it was */
    OK(sonew_free(live));
    OK(sonew_free(other));
    return status;
}
static sonew_status own_live_file(void) { return live_in_list(1); }
static sonew_status live_file_in_use(void) { return live_in_list(0); }

/* Creates an optimizer or a plan with rows of "a", which must fail. */
static sonew_status create_rows(size_t first, size_t whole, size_t ndim, int planned) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    tensors[0].first_row = first;
    tensors[0].whole_rows = whole;
    tensors[0].ndim = ndim;
    if (ndim == 0)
        memset(tensors[0].dims, 0, sizeof tensors[0].dims);
    sonew_optimizer *out = NULL;
    sonew_plan *out_plan = NULL;
    sonew_status status = planned ? sonew_plan_create(NULL, tensors, COUNT, &out_plan)
                                  : sonew_create(NULL, tensors, COUNT, &out);
    CHECK(out == NULL && out_plan == NULL);
    return status;
}
static sonew_status first_row_alone(void) { return create_rows(1, 0, 2, 0); }
static sonew_status rows_beyond(void) { return create_rows(4, 5, 2, 0); }
static sonew_status rows_beyond_of_plan(void) { return create_rows(4, 5, 2, 1); }
static sonew_status rows_overflow(void) { return create_rows(SIZE_MAX, SIZE_MAX, 2, 0); }
static sonew_status whole_overflows(void) { return create_rows(0, SIZE_MAX / 4, 2, 0); }
static sonew_status scalar_shard(void) { return create_rows(0, 1, 0, 0); }

const refusal shard_refusals[] = {
    REFUSAL(rows_missing, SONEW_ROWS_MISSING, "tensor \"a\": rows [1, 2) are in none of the files"),
    REFUSAL(steps_differ, SONEW_STEPS_DIFFER, "rows-0\" is of step 3, "),
    REFUSAL(rows_differ, SONEW_ROWS_DIFFER,
            "tensor \"a\": row 0 of momentum is not the same in "),
    REFUSAL(files_differ, SONEW_FILES_DIFFER, "lr_scale of tensor \"a\" is 1"),
    REFUSAL(no_such_file, SONEW_IO, "rows-none\": "),
    REFUSAL(no_checkpoint, SONEW_NOT_A_CHECKPOINT, "rows-text\" is not a sonew checkpoint"),
    REFUSAL(path_null, SONEW_NULL_POINTER, "options.paths[1] is null"),
    REFUSAL(paths_null, SONEW_NULL_POINTER, "options.paths is null"),
    REFUSAL(paths_without_end, SONEW_OUT_OF_MEMORY, "out of memory: the list of paths needs"),
    REFUSAL(paths_mapped, SONEW_MAPPED_ROWS,
            "paths cannot be combined with a mapping, which is of one file"),
    REFUSAL(rows_mapped, SONEW_MAPPED_ROWS,
            "tensor \"a\": a file that is mapped must have the rows of the optimizer; these are "
            "[0, 1) in the file, [0, 2) in the optimizer"),
    REFUSAL(own_live_file, SONEW_FILE_LOCKED,
            "rows-live\" is the live file that holds this optimizer's state"),
    REFUSAL(live_file_in_use, SONEW_FILE_LOCKED, "rows-live\" is in use by another optimizer"),
    REFUSAL(first_row_alone, SONEW_OUT_OF_RANGE,
            "tensors[0].first_row is 1, must be 0 where whole_rows is 0"),
    REFUSAL(rows_beyond, SONEW_SHARD,
            "tensor \"a\": 2 rows from row 4 on are not within the 5 rows of the whole tensor"),
    REFUSAL(rows_beyond_of_plan, SONEW_SHARD, "tensor \"a\": 2 rows from row 4 on"),
    REFUSAL(rows_overflow, SONEW_SHARD, "tensor \"a\": 2 rows from row "),
    REFUSAL(whole_overflows, SONEW_SIZE_OVERFLOW, "tensor \"a\": the size of "),
    REFUSAL(scalar_shard, SONEW_SHARD, "tensor \"a\" has no dimensions, and can be no shard"),
    {0},
};
