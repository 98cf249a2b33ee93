/* Refusals of tensors that are not float, and of buffers for them. */
#include "refusals.h"

static double wide[LENGTH_A + 1], wide_b[LENGTH_B];
static uint16_t narrow[LENGTH_A + 1];

/* A test in an optimizer of its own: the first tensor has these types, the
 * second is float. It must not touch the buffers. */
#define WITH(name, types, ...)                                                 \
    static sonew_status name(void) {                                           \
        sonew_tensor tensors[COUNT];                                           \
        good_tensors(tensors);                                                 \
        types(&tensors[0]);                                                    \
        sonew_optimizer *other = NULL;                                         \
        OK(sonew_create(NULL, tensors, COUNT, &other));                        \
        void *params[] = {narrow, b};                                          \
        const void *grads[] = {grad_a, grad_b};                                \
        (void)params, (void)grads;                                             \
        sonew_status status;                                                   \
        __VA_ARGS__;                                                           \
        for (int i = 0; i < LENGTH_A; i++)                                     \
            CHECK(wide[i] == 0 && narrow[i] == 0);                             \
        uint64_t steps = 9;                                                    \
        steps = info_of(other).step_count;                                   \
        CHECK(steps == 0);                                                     \
        OK(sonew_free(other));                                                 \
        return status;                                                         \
    }

static void bf16(sonew_tensor *tensor) {
    tensor->dtype = SONEW_BF16;
    tensor->grad_dtype = SONEW_F32;
}
static void f64(sonew_tensor *tensor) { tensor->dtype = SONEW_F64; }
static void state_bf16(sonew_tensor *tensor) { tensor->state_dtype = SONEW_BF16; }
static void master(sonew_tensor *tensor) { tensor->master = 1; }

#define STEP sonew_step(other, NULL, params, grads, COUNT)
#define GOOD in_folder("good.safetensors")

WITH(load_of_other_params, bf16,
     status = sonew_load(other, GOOD, NULL, params, COUNT))
WITH(load_of_other_state, state_bf16, status = sonew_load(other, GOOD, NULL, NULL, 0))
WITH(load_of_f64_state, f64, status = sonew_load(other, GOOD, NULL, NULL, 0))
WITH(load_without_master, master, status = sonew_load(other, GOOD, NULL, NULL, 0))
WITH(save_null, bf16, params[1] = NULL;
     status = sonew_save(other, GOOD, params, COUNT))
WITH(load_too_few_of_bf16, bf16, status = sonew_load(other, GOOD, NULL, params, 1))
WITH(bf16_askew, bf16, params[0] = (char *)narrow + 1; status = STEP)
WITH(f64_askew, f64, params[0] = (char *)wide + 4; status = STEP)
WITH(f64_gradient_askew, f64, params[0] = wide; grads[0] = (char *)wide_b + 4;
     status = STEP)
WITH(bf16_meets_gradient, bf16, params[1] = a; grads[0] = a + LENGTH_B - 1;
     status = STEP)
/* Eight bytes each: floats so far apart would not overlap. */
WITH(f64_meets_parameter, f64, params[0] = wide; params[1] = wide + LENGTH_A - 1;
     grads[0] = NULL; status = STEP)
WITH(gradient_is_master, master, params[0] = a; sonew_view view;
     OK(sonew_plane_view(other, 0, PLANES, &view, sizeof view));
     CHECK(strcmp(view.plane, "master") == 0); grads[1] = view.data; status = STEP)

static sonew_status reset_of_null(void) { return sonew_reset_master(NULL); }

const refusal typed_refusals[] = {
    REFUSAL(load_of_other_params, SONEW_DTYPE_DIFFERS,
            "tensor \"a\": parameter has type F32 in the file, BF16 in the optimizer"),
    REFUSAL(load_of_other_state, SONEW_DTYPE_DIFFERS,
            "tensor \"a\": momentum has type F32 in the file, BF16 in the optimizer"),
    REFUSAL(load_of_f64_state, SONEW_DTYPE_DIFFERS, "F64 in the optimizer"),
    REFUSAL(load_without_master, SONEW_TENSOR_DIFFERS,
            "tensor \"a\": master is false in the file, true in the optimizer"),
    REFUSAL(save_null, SONEW_NULL_POINTER, "params[1], the parameter of tensor \"b\","),
    REFUSAL(load_too_few_of_bf16, SONEW_TENSOR_COUNT, "params has 1 tensors"),
    REFUSAL(bf16_askew, SONEW_MISALIGNED, "is not aligned to 2 bytes"),
    REFUSAL(f64_askew, SONEW_MISALIGNED, "is not aligned to 8 bytes"),
    REFUSAL(f64_gradient_askew, SONEW_MISALIGNED, "the gradient at 0x"),
    REFUSAL(bf16_meets_gradient, SONEW_OVERLAP,
            "the parameter of tensor \"b\" overlaps the gradient of tensor \"a\""),
    REFUSAL(f64_meets_parameter, SONEW_OVERLAP,
            "the parameter of tensor \"a\" overlaps the parameter of tensor \"b\""),
    REFUSAL(gradient_is_master, SONEW_OVERLAP, "master of tensor \"a\""),
    REFUSAL(reset_of_null, SONEW_NULL_POINTER, "optimizer is null"),
    {0},
};
