/* Refusals of everything else: handles, settings, views. */
#include "refusals.h"

static sonew_optimizer *freed(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    sonew_optimizer *other = NULL;
    OK(sonew_create(NULL, tensors, COUNT, &other));
    OK(sonew_free(other));
    return other;
}

static sonew_status freed_twice(void) { return sonew_free(freed()); }

static sonew_status used_after_free(void) {
    float *params[] = {a, b};
    const float *grads[] = {grad_a, grad_b};
    return sonew_step(freed(), NULL, params, grads, COUNT);
}

/* The memory of a freed optimizer, and its slot, are reused; its handle is not. */
static sonew_status used_after_another_was_created(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    sonew_optimizer *old = freed(), *others[600];
    for (int i = 0; i < 600; i++) {
        OK(sonew_create(NULL, tensors, COUNT, &others[i]));
        CHECK(others[i] != old);
    }
    sonew_optimizer_info info;
    sonew_status status = sonew_info(old, &info, sizeof info);
    for (int i = 0; i < 600; i++)
        OK(sonew_free(others[i]));
    return status;
}

static sonew_status never_created(void) {
    size_t count = 5;
    sonew_status status =
        sonew_plane_count((const sonew_optimizer *)(const void *)a, 0, &count);
    CHECK(count == 5);
    return status;
}

static sonew_status plan_as_optimizer(void) {
    return sonew_free((sonew_optimizer *)(void *)plan);
}

static sonew_status plan_freed_twice(void) {
    sonew_tensor tensors[COUNT];
    good_tensors(tensors);
    sonew_plan *other = NULL;
    OK(sonew_plan_create(NULL, tensors, COUNT, &other));
    OK(sonew_plan_free(other));
    return sonew_plan_free(other);
}

static const double nan_value = (double)(1e300 * 1e300) * 0.0;

static sonew_status lr_scale_negative(void) {
    return sonew_set_lr_scale(optimizer, 0, -1);
}
static sonew_status lr_scale_nan(void) {
    return sonew_set_lr_scale(optimizer, 0, nan_value);
}
static sonew_status lr_scale_of_none(void) {
    return sonew_set_lr_scale(optimizer, 2, 1);
}
static sonew_status step_count_of_none(void) {
    uint64_t count = 77;
    sonew_status status = sonew_tensor_step_count(optimizer, 2, &count);
    CHECK(count == 77);
    return status;
}
static sonew_status step_count_null(void) {
    return sonew_tensor_step_count(optimizer, 0, NULL);
}
static sonew_status step_count_for_none(void) {
    return sonew_set_tensor_step_count(optimizer, 2, 1);
}
static sonew_status scalars_of_none(void) {
    double scalars[SONEW_SCALARS] = {7};
    sonew_status status = sonew_tensor_scalars(optimizer, 2, scalars);
    CHECK(scalars[0] == 7);
    return status;
}
static sonew_status scalars_null(void) {
    return sonew_tensor_scalars(optimizer, 0, NULL);
}
static sonew_status scalars_for_none(void) {
    const double scalars[SONEW_SCALARS] = {0};
    return sonew_set_tensor_scalars(optimizer, 2, scalars);
}
static sonew_status scalars_set_to_null(void) {
    return sonew_set_tensor_scalars(optimizer, 0, NULL);
}
static sonew_status scalars_negative(void) {
    const double scalars[SONEW_SCALARS] = {-1};
    return sonew_set_tensor_scalars(optimizer, 1, scalars);
}
static sonew_status weight_decay_negative(void) {
    return sonew_set_weight_decay(optimizer, 1, -1e-3);
}
static sonew_status weight_decay_nan(void) {
    return sonew_set_weight_decay(optimizer, 1, nan_value);
}
static sonew_status weight_decay_of_none(void) {
    double decay = 3;
    sonew_status status = sonew_weight_decay(optimizer, SIZE_MAX, &decay);
    CHECK(decay == 3);
    return status;
}
static sonew_status info_null(void) {
    return sonew_info(optimizer, NULL, sizeof(sonew_optimizer_info));
}
static sonew_status info_too_small(void) {
    sonew_optimizer_info info;
    return sonew_info(optimizer, &info, 8);
}
static sonew_status planes_of_none(void) {
    size_t count = 5;
    return sonew_plane_count(optimizer, 2, &count);
}
static sonew_status name_unknown(void) {
    size_t tensor = 5;
    sonew_status status = sonew_find_tensor(optimizer, "c", &tensor);
    CHECK(tensor == 5);
    return status;
}
static sonew_status name_null(void) {
    size_t tensor = 5;
    return sonew_find_tensor(optimizer, NULL, &tensor);
}
static sonew_status name_not_utf8(void) {
    size_t tensor = 5;
    return sonew_find_tensor(optimizer, "\xc0", &tensor);
}
static sonew_status plane_name_unknown(void) {
    size_t plane = 5;
    sonew_status status = sonew_find_plane(optimizer, 1, "rms", &plane);
    CHECK(plane == 5);
    return status;
}

static sonew_status view_plane(size_t plane, size_t size) {
    sonew_view view, untouched;
    memset(&view, 7, sizeof view);
    memset(&untouched, 7, sizeof untouched);
    sonew_status status = sonew_plane_view(optimizer, 0, plane, &view, size);
    CHECK(memcmp(&view, &untouched, sizeof view) == 0);
    return status;
}
static sonew_status view_of_none(void) { return view_plane(3, sizeof(sonew_view)); }
static sonew_status view_too_small(void) { return view_plane(0, 16); }
static sonew_status view_null(void) {
    return sonew_plane_view(optimizer, 0, 0, NULL, sizeof(sonew_view));
}

/* All planes of a and b, which may be changed by the case. */
static sonew_status set_state(size_t place, const void *plane, size_t count) {
    const void *planes[2 * PLANES];
    for (size_t p = 0; p < PLANES; p++) {
        planes[p] = planes_a[p];
        planes[PLANES + p] = planes_b[p];
    }
    planes[place] = plane;
    return sonew_set_state(optimizer, 99, planes, count);
}
static sonew_status state_too_short(void) { return set_state(0, planes_a[0], 5); }
static sonew_status state_too_long(void) { return set_state(0, planes_a[0], 7); }
static sonew_status state_plane_null(void) { return set_state(4, NULL, 6); }
static sonew_status state_misaligned(void) {
    return set_state(1, (const char *)planes_a[1] + 1, 6);
}
static sonew_status state_is_its_own(void) {
    sonew_view view;
    OK(sonew_plane_view(optimizer, 0, 1, &view, sizeof view));
    return set_state(1, view.data, 6);
}
static sonew_status state_null(void) { return sonew_set_state(optimizer, 1, NULL, 6); }

static sonew_status layout_of(const char *structure, const char *field) {
    size_t offset = 5, size = 5;
    sonew_status status = sonew_struct_field(structure, field, &offset, &size);
    CHECK(offset == 5 && size == 5);
    return status;
}
static sonew_status layout_of_none(void) { return layout_of("sonew_tensors", NULL); }
static sonew_status layout_of_no_field(void) { return layout_of("sonew_tensor", "len"); }
static sonew_status layout_of_null(void) { return layout_of(NULL, "name"); }
static sonew_status layout_not_utf8(void) { return layout_of("sonew_tensor", "\xc0"); }
static sonew_status layout_to_null(void) {
    size_t offset = 5;
    sonew_status status = sonew_struct_field("sonew_view", NULL, &offset, NULL);
    CHECK(offset == 5);
    return status;
}

#define BAD_HANDLE "not a live handle: it was freed, never created, or is of another kind"

const refusal other_refusals[] = {
    REFUSAL(freed_twice, SONEW_BAD_HANDLE, "optimizer is " BAD_HANDLE),
    REFUSAL(used_after_free, SONEW_BAD_HANDLE, BAD_HANDLE),
    REFUSAL(used_after_another_was_created, SONEW_BAD_HANDLE, BAD_HANDLE),
    REFUSAL(never_created, SONEW_BAD_HANDLE, BAD_HANDLE),
    REFUSAL(plan_as_optimizer, SONEW_BAD_HANDLE, BAD_HANDLE),
    REFUSAL(plan_freed_twice, SONEW_BAD_HANDLE, "plan is " BAD_HANDLE),
    REFUSAL(lr_scale_negative, SONEW_OUT_OF_RANGE, "lr_scale of tensor \"a\" is -1"),
    REFUSAL(lr_scale_nan, SONEW_OUT_OF_RANGE, "lr_scale of tensor \"a\" is NaN"),
    REFUSAL(lr_scale_of_none, SONEW_UNKNOWN_TENSOR,
            "there is no tensor 2, the number of tensors is 2"),
    REFUSAL(step_count_of_none, SONEW_UNKNOWN_TENSOR,
            "there is no tensor 2, the number of tensors is 2"),
    REFUSAL(step_count_null, SONEW_NULL_POINTER, "count is null"),
    REFUSAL(step_count_for_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
    REFUSAL(scalars_of_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
    REFUSAL(scalars_null, SONEW_NULL_POINTER, "scalars is null"),
    REFUSAL(scalars_for_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
    REFUSAL(scalars_set_to_null, SONEW_NULL_POINTER, "scalars is null"),
    REFUSAL(scalars_negative, SONEW_OUT_OF_RANGE,
            "norm_ratio of tensor \"b\" is -1, must be"),
    REFUSAL(weight_decay_negative, SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is -0.001"),
    REFUSAL(weight_decay_nan, SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is NaN"),
    REFUSAL(weight_decay_of_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 1844"),
    REFUSAL(info_null, SONEW_NULL_POINTER, "info is null"),
    REFUSAL(info_too_small, SONEW_STRUCT_SIZE, "the size of info is 8, expected 56"),
    REFUSAL(planes_of_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
    REFUSAL(name_unknown, SONEW_UNKNOWN_NAME, "the optimizer has no tensor named \"c\""),
    REFUSAL(name_null, SONEW_NULL_POINTER, "name is null"),
    REFUSAL(name_not_utf8, SONEW_INVALID_STRING, "name is not valid UTF-8"),
    REFUSAL(plane_name_unknown, SONEW_UNKNOWN_NAME,
            "tensor \"b\" has no state plane named \"rms\""),
    REFUSAL(view_of_none, SONEW_UNKNOWN_PLANE, "tensor \"a\" has no state plane 3, it has 3"),
    REFUSAL(view_too_small, SONEW_STRUCT_SIZE, "the size of view is 16, expected 120"),
    REFUSAL(layout_of_none, SONEW_UNKNOWN_NAME,
            "the library has no struct named \"sonew_tensors\""),
    REFUSAL(layout_of_no_field, SONEW_UNKNOWN_NAME,
            "sonew_tensor has no field named \"len\""),
    REFUSAL(layout_of_null, SONEW_NULL_POINTER, "structure is null"),
    REFUSAL(layout_not_utf8, SONEW_INVALID_STRING, "field is not valid UTF-8"),
    REFUSAL(layout_to_null, SONEW_NULL_POINTER, "size is null"),
    REFUSAL(view_null, SONEW_NULL_POINTER, "view is null"),
    REFUSAL(state_too_short, SONEW_PLANE_COUNT,
            "tensor \"b\": 2 state planes were passed, expected 3"),
    REFUSAL(state_too_long, SONEW_PLANE_COUNT,
            "tensor \"b\": 4 state planes were passed, expected 3"),
    REFUSAL(state_plane_null, SONEW_NULL_POINTER,
            "planes[4], diagonal of tensor \"b\", is null"),
    REFUSAL(state_misaligned, SONEW_MISALIGNED, "tensor \"a\": diagonal at 0x"),
    REFUSAL(state_is_its_own, SONEW_OVERLAP, "diagonal of tensor \"a\""),
    REFUSAL(state_null, SONEW_NULL_POINTER, "planes is null"),
    {0},
};
