/* Refusals of sonew_step(). */
#include "refusals.h"

/* A test that takes a step after one argument has been made invalid. */
#define WITH(name, spoil)                                                      \
    static sonew_status name(void) {                                           \
        sonew_step_options step = good_step();                                 \
        void *params[] = {a, b};                                              \
        const void *grads[] = {grad_a, grad_b};                               \
        size_t count = COUNT;                                                  \
        spoil;                                                                 \
        return sonew_step(optimizer, &step, params, grads, count);             \
    }

static const double nan_value = (double)(1e300 * 1e300) * 0.0;
#define INFINITE (1e300 * 1e300)

/* A pointer between two floats. */
static void *askew(float *buffer) { return (char *)buffer + 2; }

/* A state plane of the optimizer. */
static float *state(size_t tensor, size_t plane) {
    sonew_view view;
    OK(sonew_plane_view(optimizer, tensor, plane, &view, sizeof view));
    float *data;
    memcpy(&data, &view.data, sizeof data); /* casts const away */
    return data;
}

/* A gradient with one value changed, put back after the step. */
static sonew_status step_with(float value) {
    void *params[] = {a, b};
    const void *grads[] = {grad_a, grad_b};
    float before = grad_b[1];
    grad_b[1] = value;
    sonew_status status = sonew_step(optimizer, NULL, params, grads, COUNT);
    grad_b[1] = before;
    return status;
}

static sonew_status gradient_nan(void) { return step_with((float)nan_value); }
static sonew_status gradient_infinite(void) { return step_with((float)INFINITE); }
static sonew_status gradient_square_overflows(void) { return step_with(1e20f); }

WITH(lr_negative, step.lr = -0.1)
WITH(lr_nan, step.lr = nan_value)
WITH(lr_infinite, step.lr = INFINITE)
WITH(grad_scale_zero, step.grad_scale = 0)
WITH(grad_scale_negative, step.grad_scale = -1)
WITH(grad_scale_nan, step.grad_scale = nan_value)
WITH(weight_negative, step.statistics_weight = -1)
WITH(weight_nan, step.statistics_weight = nan_value)
WITH(weight_with_average, step.statistics_weight = 2)
WITH(clip_norm_negative, step.clip_norm = -1)
WITH(clip_norm_nan, step.clip_norm = nan_value)
WITH(clip_norm_infinite, step.clip_norm = INFINITE)
WITH(clip_norm_too_small, step.clip_norm = 1e-50)
WITH(beta1_is_1, step.beta1 = 1)
WITH(beta2_negative, step.beta2 = -0.5)
WITH(beta2_nan, step.beta2 = nan_value)
WITH(non_finite_unknown, step.non_finite = 9)
WITH(step_reserved, step.reserved[0] = -5)
WITH(step_not_filled_in, memset(&step, 0, sizeof step))
WITH(params_null, return sonew_step(optimizer, &step, NULL, grads, count))
WITH(grads_null, return sonew_step(optimizer, &step, params, NULL, count))
WITH(one_param_null, params[1] = NULL)
WITH(too_few, count = 1)
WITH(too_many, count = 3)
WITH(none, count = 0)
WITH(endless, count = SIZE_MAX)
WITH(param_askew, params[0] = askew(a))
WITH(grad_askew, grads[0] = askew(grad_a))
WITH(param_is_its_gradient, grads[0] = a)
WITH(param_is_other_gradient, grads[1] = a)
WITH(param_meets_gradient, grads[1] = a + LENGTH_A - 1)
WITH(params_equal, params[1] = a)
WITH(params_meet, params[1] = a + LENGTH_A - 1)
WITH(param_without_gradient, params[1] = a; grads[1] = NULL)
WITH(param_is_state, params[1] = state(1, 1))
WITH(grad_is_state, grads[1] = state(0, 0))
WITH(param_at_the_end_of_memory, params[0] = (float *)(UINTPTR_MAX - 7))

static sonew_status optimizer_null(void) {
    return sonew_step(NULL, NULL, NULL, NULL, 0);
}

const refusal step_refusals[] = {
    REFUSAL(gradient_nan, SONEW_NON_FINITE_GRADIENT, "tensor \"b\": the gradient is not finite"),
    REFUSAL(gradient_infinite, SONEW_NON_FINITE_GRADIENT, "tensor \"b\""),
    REFUSAL(gradient_square_overflows, SONEW_NON_FINITE_GRADIENT, "its square overflows"),
    REFUSAL(lr_negative, SONEW_OUT_OF_RANGE, "step.lr is -0.1, must be finite"),
    REFUSAL(lr_nan, SONEW_OUT_OF_RANGE, "step.lr is NaN"),
    REFUSAL(lr_infinite, SONEW_OUT_OF_RANGE, "step.lr is inf"),
    REFUSAL(grad_scale_zero, SONEW_OUT_OF_RANGE, "step.grad_scale is 0"),
    REFUSAL(grad_scale_negative, SONEW_OUT_OF_RANGE, "step.grad_scale is -1"),
    REFUSAL(grad_scale_nan, SONEW_OUT_OF_RANGE, "step.grad_scale is NaN"),
    REFUSAL(weight_negative, SONEW_OUT_OF_RANGE, "step.statistics_weight is -1"),
    REFUSAL(weight_nan, SONEW_OUT_OF_RANGE, "step.statistics_weight is NaN"),
    REFUSAL(weight_with_average, SONEW_OUT_OF_RANGE,
            "step.statistics_weight is 2, must be 1 with moving-average"),
    REFUSAL(clip_norm_negative, SONEW_OUT_OF_RANGE,
            "step.clip_norm is -1, must be finite and positive, or 0 for no clipping"),
    REFUSAL(clip_norm_nan, SONEW_OUT_OF_RANGE, "step.clip_norm is NaN"),
    REFUSAL(clip_norm_infinite, SONEW_OUT_OF_RANGE, "step.clip_norm is inf"),
    REFUSAL(beta1_is_1, SONEW_OUT_OF_RANGE, "step.beta1 is 1, must be in [0, 1), or -1 for that of the options"),
    REFUSAL(beta2_negative, SONEW_OUT_OF_RANGE, "step.beta2 is -0.5, must be in [0, 1), or -1"),
    REFUSAL(beta2_nan, SONEW_OUT_OF_RANGE, "step.beta2 is NaN"),
    REFUSAL(clip_norm_too_small, SONEW_OUT_OF_RANGE,
            "step.clip_norm is 1e-50, must be within the range of float32"),
    REFUSAL(non_finite_unknown, SONEW_UNKNOWN_VALUE, "step.non_finite is 9"),
    REFUSAL(step_reserved, SONEW_UNKNOWN_VALUE, "step.reserved[0] is -5, must be 0"),
    REFUSAL(step_not_filled_in, SONEW_STRUCT_SIZE, "call sonew_step_options_init() first"),
    REFUSAL(params_null, SONEW_NULL_POINTER, "params is null"),
    REFUSAL(grads_null, SONEW_NULL_POINTER, "grads is null"),
    REFUSAL(one_param_null, SONEW_NULL_POINTER,
            "params[1], the parameter of tensor \"b\", is null"),
    REFUSAL(too_few, SONEW_TENSOR_COUNT, "params has 1 tensors, expected 2"),
    REFUSAL(too_many, SONEW_TENSOR_COUNT, "params has 3 tensors"),
    REFUSAL(none, SONEW_TENSOR_COUNT, "params has 0 tensors"),
    REFUSAL(endless, SONEW_TENSOR_COUNT, "params has 18446744073709551615 tensors"),
    REFUSAL(param_askew, SONEW_MISALIGNED, "tensor \"a\": the parameter at 0x"),
    REFUSAL(grad_askew, SONEW_MISALIGNED, "is not aligned to 4 bytes"),
    REFUSAL(param_is_its_gradient, SONEW_OVERLAP, "of tensor \"a\" overlaps the"),
    REFUSAL(param_is_other_gradient, SONEW_OVERLAP, "the gradient of tensor \"b\""),
    REFUSAL(param_meets_gradient, SONEW_OVERLAP,
            "the parameter of tensor \"a\" overlaps the gradient of tensor \"b\""),
    REFUSAL(params_equal, SONEW_OVERLAP, "the parameter of tensor \"b\""),
    REFUSAL(params_meet, SONEW_OVERLAP,
            "the parameter of tensor \"a\" overlaps the parameter of tensor \"b\""),
    REFUSAL(param_without_gradient, SONEW_OVERLAP, "overlaps"),
    REFUSAL(param_is_state, SONEW_OVERLAP, "diagonal of tensor \"b\""),
    REFUSAL(grad_is_state, SONEW_OVERLAP, "momentum of tensor \"a\""),
    REFUSAL(param_at_the_end_of_memory, SONEW_SIZE_OVERFLOW,
            "tensor \"a\": the parameter, 24 bytes at 0xfffffffffffffff8, extends past the end "
            "of the address space"),
    REFUSAL(optimizer_null, SONEW_NULL_POINTER, "optimizer is null"),
    {0},
};
