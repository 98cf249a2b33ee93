/* Refusals of the stateless step. */
#include "refusals.h"

/* A test that takes a step after one argument has been made invalid. */
#define WITH(name, spoil)                                                      \
    static sonew_status name(void) {                                           \
        sonew_step_options step = good_step();                                 \
        sonew_buffers buffers[COUNT];                                          \
        good_buffers(buffers);                                                 \
        void *planes[] = {planes_a[0], planes_a[1], planes_a[2]};              \
        buffers[0].planes = planes;                                            \
        size_t count = COUNT;                                                  \
        uint64_t number = 4;                                                   \
        spoil;                                                                 \
        return sonew_plan_step(plan, &step, number, buffers, count);           \
    }

static double scalars[SONEW_SCALARS];
static const double nan_value = (double)(1e300 * 1e300) * 0.0;

WITH(number_zero, number = 0)
WITH(step_options_bad, step.lr = -1)
WITH(too_few, count = 1)
WITH(buffers_null, return sonew_plan_step(plan, &step, number, NULL, count))
WITH(not_filled_in, memset(buffers, 0, sizeof buffers))
WITH(sizes_differ, buffers[1].struct_size += 8)
WITH(length_wrong, buffers[1].len = LENGTH_B + 1)
WITH(length_zero, buffers[0].len = 0)
WITH(no_target, buffers[0].params = NULL)
WITH(two_targets, buffers[0].direction = planes_b)
WITH(planes_missing, buffers[1].plane_count = 2)
WITH(planes_null, buffers[0].planes = NULL)
WITH(plane_null, planes[2] = NULL)
WITH(plane_askew, planes[1] = (char *)planes_a[1] + 1)
WITH(params_askew, buffers[1].params = (char *)b + 1)
WITH(grad_askew, buffers[1].grad = (char *)grad_b + 1)
WITH(plane_at_the_end_of_memory, planes[0] = (void *)(UINTPTR_MAX - 3))
WITH(planes_equal, planes[1] = planes_a[0])
WITH(plane_is_gradient, planes[2] = grad_a)
WITH(plane_is_other_param, planes[0] = b; buffers[0].len = LENGTH_A)
WITH(direction_is_gradient, buffers[0].params = NULL; buffers[0].direction = grad_a)
WITH(lr_scale_negative, buffers[0].lr_scale = -1)
WITH(lr_scale_nan, buffers[1].lr_scale = nan_value)
WITH(weight_decay_negative, buffers[1].weight_decay = -0.5)
WITH(scalars_null, buffers[0].scalars = NULL)
WITH(largest_negative, double wrong[SONEW_SCALARS] = {0}; wrong[3] = -1; buffers[1].scalars = wrong)
WITH(scalars_askew, buffers[0].scalars = (double *)(void *)((char *)scalars + 4))
WITH(scalars_are_a_plane, buffers[1].scalars = (double *)(void *)planes_a[1])
WITH(scalars_are_equal, buffers[0].scalars = buffers[1].scalars = scalars)
WITH(norm_ratio_negative, double wrong[SONEW_SCALARS] = {-1}; buffers[1].scalars = wrong)
WITH(bias_correction_is_2, double wrong[SONEW_SCALARS] = {0}; wrong[1] = 2; buffers[0].scalars = wrong)

/* The check finds a NaN in the second tensor before the first is written. */
static sonew_status gradient_nan(void) {
    sonew_buffers buffers[COUNT];
    good_buffers(buffers);
    float before = grad_b[2];
    grad_b[2] = (float)nan_value;
    sonew_status status = sonew_plan_step(plan, NULL, 4, buffers, COUNT);
    grad_b[2] = before;
    return status;
}

static sonew_status planes_of_none(void) {
    sonew_planes planes;
    planes.count = 77;
    sonew_status status = sonew_plan_planes(plan, 2, &planes, sizeof planes);
    CHECK(planes.count == 77);
    return status;
}
static sonew_status planes_to_null(void) {
    return sonew_plan_planes(plan, 1, NULL, sizeof(sonew_planes));
}
static sonew_status planes_too_small(void) {
    sonew_planes planes;
    return sonew_plan_planes(plan, 1, &planes, 8);
}

static sonew_status no_tensors(void) {
    return sonew_plan_create(NULL, NULL, 0, &plan);
}

static sonew_status size_is_2_59(void) {
    sonew_tensor tensor = {.struct_size = sizeof(sonew_tensor), .name = "a", .ndim = 1, .dims = {(size_t)1 << 59}};
    return sonew_plan_create(NULL, &tensor, 1, &plan);
}

const refusal plan_refusals[] = {
    REFUSAL(number_zero, SONEW_OUT_OF_RANGE, "the step number is 0"),
    REFUSAL(step_options_bad, SONEW_OUT_OF_RANGE, "step.lr is -1"),
    REFUSAL(too_few, SONEW_TENSOR_COUNT, "buffers has 1 tensors, expected 2"),
    REFUSAL(buffers_null, SONEW_NULL_POINTER, "buffers is null"),
    REFUSAL(not_filled_in, SONEW_STRUCT_SIZE, "call sonew_buffers_init() first"),
    REFUSAL(sizes_differ, SONEW_STRUCT_SIZE, "buffers[1].struct_size is 96"),
    REFUSAL(length_wrong, SONEW_WRONG_LENGTH,
            "tensor \"b\": buffers[1] has 4 elements, expected 3"),
    REFUSAL(length_zero, SONEW_WRONG_LENGTH, "tensor \"a\": buffers[0] has 0 elements"),
    REFUSAL(no_target, SONEW_NULL_POINTER,
            "buffers[0].params, the parameter of tensor \"a\", and buffers[0].direction are "
            "both null"),
    REFUSAL(two_targets, SONEW_AMBIGUOUS_TARGET, "tensor \"a\": params and direction"),
    REFUSAL(planes_missing, SONEW_PLANE_COUNT,
            "tensor \"b\": 2 state planes were passed, expected 3"),
    REFUSAL(planes_null, SONEW_NULL_POINTER,
            "buffers[0].planes, the state of tensor \"a\", is null"),
    REFUSAL(plane_null, SONEW_NULL_POINTER,
            "buffers[0].planes[2], band.1 of tensor \"a\", is null"),
    REFUSAL(plane_askew, SONEW_MISALIGNED, "tensor \"a\": diagonal at 0x"),
    REFUSAL(params_askew, SONEW_MISALIGNED, "tensor \"b\": the parameter at 0x"),
    REFUSAL(grad_askew, SONEW_MISALIGNED, "tensor \"b\": the gradient at 0x"),
    REFUSAL(plane_at_the_end_of_memory, SONEW_SIZE_OVERFLOW,
            "tensor \"a\": momentum, 24 bytes at 0xfffffffffffffffc, extends past the end of the "
            "address space"),
    REFUSAL(planes_equal, SONEW_OVERLAP, "diagonal of tensor \"a\""),
    REFUSAL(plane_is_gradient, SONEW_OVERLAP, "the gradient of tensor \"a\""),
    REFUSAL(plane_is_other_param, SONEW_OVERLAP, "the parameter of tensor \"b\""),
    REFUSAL(direction_is_gradient, SONEW_OVERLAP, "the direction of tensor \"a\""),
    REFUSAL(lr_scale_negative, SONEW_OUT_OF_RANGE, "lr_scale of tensor \"a\" is -1"),
    REFUSAL(lr_scale_nan, SONEW_OUT_OF_RANGE, "lr_scale of tensor \"b\" is NaN"),
    REFUSAL(weight_decay_negative, SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is -0.5"),
    REFUSAL(scalars_null, SONEW_NULL_POINTER,
            "buffers[0].scalars, the scalars of tensor \"a\", is null"),
    REFUSAL(scalars_askew, SONEW_MISALIGNED, "tensor \"a\": the scalars at 0x"),
    REFUSAL(scalars_are_a_plane, SONEW_OVERLAP, "the scalars of tensor \"b\""),
    REFUSAL(scalars_are_equal, SONEW_OVERLAP, "the scalars of tensor \"b\""),
    REFUSAL(norm_ratio_negative, SONEW_OUT_OF_RANGE, "norm_ratio of tensor \"b\" is -1"),
    REFUSAL(bias_correction_is_2, SONEW_OUT_OF_RANGE,
            "bias_corrections of tensor \"a\" is 2, must be in [0, 1]"),
    REFUSAL(largest_negative, SONEW_OUT_OF_RANGE, "largest of tensor \"b\" is -1"),
    REFUSAL(gradient_nan, SONEW_NON_FINITE_GRADIENT, "tensor \"b\""),
    REFUSAL(planes_of_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
    REFUSAL(planes_to_null, SONEW_NULL_POINTER, "planes is null"),
    REFUSAL(planes_too_small, SONEW_STRUCT_SIZE, "the size of planes is 8, expected 32"),
    REFUSAL(no_tensors, SONEW_NO_TENSORS, "the list of tensors is empty"),
    REFUSAL(size_is_2_59, SONEW_OUT_OF_MEMORY, "out of memory"),
    {0},
};
