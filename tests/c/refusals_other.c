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
    void *params[] = {a, b};
    const void *grads[] = {grad_a, grad_b};
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
    sonew_tensor tensor;
    tensor.ndim = 5;
    sonew_status status = sonew_get_tensor((const sonew_optimizer *)(const void *)a, 0, &tensor,
                                           sizeof tensor);
    CHECK(tensor.ndim == 5);
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

/* Sets the settings of a tensor, after one was changed. */
#define SET(name, tensor, change)                                              \
    static sonew_status name(void) {                                           \
        sonew_settings settings = settings_of(optimizer, 0);                   \
        change;                                                                \
        return sonew_set_settings(optimizer, tensor, &settings);               \
    }

SET(lr_scale_negative, 0, settings.lr_scale = -1)
SET(lr_scale_nan, 0, settings.lr_scale = nan_value)
SET(weight_decay_negative, 1, settings.weight_decay = -1e-3)
SET(weight_decay_nan, 1, settings.weight_decay = nan_value)
SET(norm_ratio_negative, 1, settings.scalars[0] = -1)
SET(bias_correction_is_2, 0, settings.scalars[2] = 2)
SET(settings_for_none, 2, settings.lr_scale = 2)
SET(settings_not_filled_in, 0, settings.struct_size = 0)

static sonew_status settings_set_to_null(void) {
    return sonew_set_settings(optimizer, 0, NULL);
}
static sonew_status settings_of_none(void) {
    sonew_settings settings;
    settings.lr_scale = 3;
    sonew_status status = sonew_get_settings(optimizer, SIZE_MAX, &settings, sizeof settings);
    CHECK(settings.lr_scale == 3);
    return status;
}
static sonew_status settings_null(void) {
    return sonew_get_settings(optimizer, 0, NULL, sizeof(sonew_settings));
}
static sonew_status settings_too_small(void) {
    sonew_settings settings;
    return sonew_get_settings(optimizer, 0, &settings, 16);
}
static sonew_status info_null(void) {
    return sonew_info(optimizer, NULL, sizeof(sonew_optimizer_info));
}
static sonew_status info_too_small(void) {
    sonew_optimizer_info info;
    return sonew_info(optimizer, &info, 8);
}
static sonew_status view_of_no_tensor(void) {
    sonew_view view;
    return sonew_plane_view(optimizer, 2, 0, &view, sizeof view);
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
    REFUSAL(norm_ratio_negative, SONEW_OUT_OF_RANGE, "norm_ratio of tensor \"b\" is -1, must be"),
    REFUSAL(bias_correction_is_2, SONEW_OUT_OF_RANGE,
            "bias_corrections of tensor \"a\" is 2, must be"),
    REFUSAL(settings_for_none, SONEW_UNKNOWN_TENSOR,
            "there is no tensor 2, the number of tensors is 2"),
    REFUSAL(settings_not_filled_in, SONEW_STRUCT_SIZE, "call sonew_get_settings() first"),
    REFUSAL(settings_set_to_null, SONEW_NULL_POINTER, "settings is null"),
    REFUSAL(settings_of_none, SONEW_UNKNOWN_TENSOR, "there is no tensor 1844"),
    REFUSAL(settings_null, SONEW_NULL_POINTER, "settings is null"),
    REFUSAL(settings_too_small, SONEW_STRUCT_SIZE, "the size of settings is 16, expected 64"),
    REFUSAL(weight_decay_negative, SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is -0.001"),
    REFUSAL(weight_decay_nan, SONEW_OUT_OF_RANGE, "weight_decay of tensor \"b\" is NaN"),
    REFUSAL(info_null, SONEW_NULL_POINTER, "info is null"),
    REFUSAL(info_too_small, SONEW_STRUCT_SIZE, "the size of info is 8, expected 64"),
    REFUSAL(view_of_no_tensor, SONEW_UNKNOWN_TENSOR, "there is no tensor 2"),
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
