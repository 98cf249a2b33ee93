/* Refusals of calls with very long names and paths: the message keeps the beginning
 * and the end of the name, and says what is wrong. */
#include "refusals.h"

enum { LONG = 10000 };

/* "first<many x>last"; each number is another name. */
static const char *long_name(int number) {
    static char names[2][LONG + 32];
    char *name = names[number];
    memset(name, 0, sizeof names[number]);
    strcpy(name, number ? "second" : "first");
    memset(name + strlen(name), 'x', LONG);
    strcat(name, number ? "end" : "last");
    return name;
}

#define A "\"firstxxx"
#define B "\"secondxxx"
#define A_ENDS "xxxlast\""
#define B_ENDS "xxxend\""

/* Creates an optimizer of tensors with long names, after one was made invalid. */
#define WITH(test, spoil)                                                      \
    static sonew_status test(void) {                                           \
        sonew_options options = good_options();                                \
        sonew_tensor tensors[COUNT];                                           \
        good_tensors(tensors);                                                 \
        tensors[0].name = long_name(0);                                        \
        tensors[1].name = long_name(1);                                        \
        sonew_optimizer *out = NULL;                                           \
        spoil;                                                                 \
        sonew_status status = sonew_create(&options, tensors, COUNT, &out);    \
        CHECK(out == NULL);                                                    \
        return status;                                                         \
    }

static const char *with_newlines(void) {
    char *name = (char *)(uintptr_t)long_name(1);
    for (size_t i = 10; i < LONG; i += 2)
        name[i] = '\n';
    return name;
}

WITH(long_twice, tensors[1].name = tensors[0].name)
WITH(long_newlines, tensors[1].name = with_newlines())
WITH(long_dimensions, tensors[0].ndim = 9)
WITH(long_overflow, tensors[0].dims[0] = SIZE_MAX)
WITH(long_f16_state, tensors[1].state_dtype = SONEW_F16)
WITH(long_master, tensors[1].dtype = SONEW_F64; tensors[1].master = 1)
WITH(long_memory, tensors[1].dims[0] = (size_t)1 << 50)

/* An optimizer and a plan whose tensors have long names. */
static sonew_optimizer *create(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    tensors[0].name = long_name(0);
    tensors[1].name = long_name(1);
    sonew_optimizer *made = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &made));
    return made;
}

/* A call with such an optimizer. */
#define ON(test, call)                                                         \
    static sonew_status test(void) {                                           \
        sonew_optimizer *with = create();                                      \
        void *params[] = {a, b};                                              \
        const void *grads[] = {grad_a, grad_b};                               \
        (void)params, (void)grads;                                             \
        sonew_status status = call;                                            \
        OK(sonew_free(with));                                                  \
        return status;                                                         \
    }

ON(long_null, (params[1] = NULL, sonew_step(with, NULL, params, grads, COUNT)))
ON(long_askew, (params[0] = (char *)a + 1,
                sonew_step(with, NULL, params, grads, COUNT)))
ON(long_overlap, (params[0] = a + 1, params[1] = a + 4,
                  sonew_step(with, NULL, params, grads, COUNT)))
ON(long_at_the_end_of_memory, (params[0] = (void *)(UINTPTR_MAX - 7),
                               sonew_step(with, NULL, params, grads, COUNT)))
ON(long_lr_scale, set_lr_scale(with, 0, -1))
ON(long_no_plane, sonew_plane_view(with, 1, 3, &(sonew_view){0}, sizeof(sonew_view)))
ON(long_path, sonew_load(with, long_name(0), NULL, NULL, 0))
ON(long_not_in_file, sonew_load(with, in_folder("good.safetensors"), NULL, NULL, 0))

static sonew_status long_rename(void) {
    const char *renames[] = {long_name(0), long_name(1)};
    sonew_load_options with;
    OK(sonew_load_options_init(&with, sizeof with));
    with.renames = renames;
    with.rename_count = 1;
    return sonew_load(optimizer, in_folder("good.safetensors"), &with, NULL, 0);
}

const refusal name_refusals[] = {
    REFUSAL(long_twice, SONEW_DUPLICATE_NAME, "two tensors are named " A),
    REFUSAL(long_newlines, SONEW_TENSOR_NAME,
            B_ENDS ": a name needs at least one character and no control characters"),
    REFUSAL(long_dimensions, SONEW_TOO_MANY_DIMENSIONS, A_ENDS " has 9 dimensions, at most 8"),
    REFUSAL(long_overflow, SONEW_SIZE_OVERFLOW, A_ENDS ": the size of [18446744073709551615, 3]"),
    REFUSAL(long_f16_state, SONEW_STATE_DTYPE, B_ENDS ": the state cannot be F16"),
    REFUSAL(long_master, SONEW_MASTER_DTYPE, B_ENDS ": master weights are F32"),
    REFUSAL(long_memory, SONEW_OUT_OF_MEMORY, B_ENDS " needs 4503599627370496 bytes"),
    REFUSAL(long_null, SONEW_NULL_POINTER, B_ENDS ", is null"),
    REFUSAL(long_askew, SONEW_MISALIGNED, A_ENDS ": the parameter at 0x"),
    REFUSAL(long_overlap, SONEW_OVERLAP, A_ENDS " overlaps the parameter of tensor " B),
    REFUSAL(long_at_the_end_of_memory, SONEW_SIZE_OVERFLOW,
            A_ENDS ": the parameter, 24 bytes at 0xfffffffffffffff8, extends past"),
    REFUSAL(long_lr_scale, SONEW_OUT_OF_RANGE, A_ENDS " is -1, must be"),
    REFUSAL(long_no_plane, SONEW_UNKNOWN_PLANE, B_ENDS " has no state plane 3, it has 3"),
    REFUSAL(long_path, SONEW_IO, A_ENDS ": "),
    REFUSAL(long_not_in_file, SONEW_TENSOR_MISSING,
            A_ENDS " is in the optimizer but not in the file"),
    REFUSAL(long_rename, SONEW_RENAME, B_ENDS ": the file has no such tensor"),
    {0},
};
