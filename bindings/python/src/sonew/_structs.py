"""The structs, numbers and functions of include/sonew.h, as ctypes has them: the one place in
which Python knows them."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int32, c_size_t, c_uint64, c_void_p

MAX_DIMS = 8
# SONEW_SCALARS
SCALARS = 4

STATISTICS = {"moving_average": 0, "weighted_sum": 1}
DAMPINGS = {"absolute": 0, "relative": 1, "relative_lagged": 2}
GRAFTS = {"none": 0, "sgd": 1, "momentum": 2, "adam": 3, "normalized_rmsprop": 4}
POOLINGS = {"none": 0, "band": 1, "rank": 2, "all": 3}
ROUNDINGS = {"nearest": 0, "stochastic": 1}
NON_FINITE = {"skip": 0, "unchecked": 1}
CHAINS = {"contiguous": 0, "strided": 1, "contiguous_lines": 2, "strided_lines": 3}
UPDATES = {"sonew": 0, "adam": 1}
DTYPES = {"default": 0, "float32": 1, "float64": 2, "bfloat16": 3, "float16": 4}
ISAS = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3, "neon": 4}
MODES = {"read": 0, "map_private": 1, "map_shared": 2}

# The options whose values have names.
OPTION_NAMES = {
    "statistics": STATISTICS,
    "damping": DAMPINGS,
    "graft": GRAFTS,
    "pooling": POOLINGS,
    "rounding": ROUNDINGS,
    "instruction_set": ISAS,
}
# The fields of a tensor whose values have names.
TENSOR_NAMES = {
    "chains": CHAINS,
    "update": UPDATES,
    "dtype": DTYPES,
    "grad_dtype": DTYPES,
    "state_dtype": DTYPES,
}
NON_FINITE_GRADIENT = 1


class Options(ctypes.Structure):
    """sonew_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("band", c_int32),
        ("threads", c_int32),
        ("beta1", c_double),
        ("beta2", c_double),
        ("eps", c_double),
        ("gamma", c_double),
        ("graft_eps", c_double),
        ("weight_decay", c_double),
        ("seed", c_uint64),
        ("statistics", c_int32),
        ("damping", c_int32),
        ("graft", c_int32),
        ("bias_correction", c_int32),
        ("graft_bias_correction", c_int32),
        ("rounding", c_int32),
        ("instruction_set", c_int32),
        ("lagged_norms", c_int32),
        ("nesterov", c_int32),
        ("pooling", c_int32),
        ("pool", c_void_p),
        ("shrink", c_double),
        ("rank", c_int32),
        ("reserved", c_int32 * 1),
    ]


class Tensor(ctypes.Structure):
    """sonew_tensor"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("ndim", c_size_t),
        ("dims", c_size_t * MAX_DIMS),
        ("first_row", c_size_t),
        ("whole_rows", c_size_t),
        ("chains", c_int32),
        ("update", c_int32),
        ("dtype", c_int32),
        ("grad_dtype", c_int32),
        ("state_dtype", c_int32),
        ("master", c_int32),
        ("reserved", c_int32 * 2),
        ("options", POINTER(Options)),
    ]


class StepOptions(ctypes.Structure):
    """sonew_step_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("lr", c_double),
        ("grad_scale", c_double),
        ("statistics_weight", c_double),
        ("clip_norm", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("non_finite", c_int32),
        ("reserved", c_int32 * 1),
    ]


class LoadOptions(ctypes.Structure):
    """sonew_load_options"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("renames", POINTER(c_char_p)),
        ("rename_count", c_size_t),
        ("paths", POINTER(c_char_p)),
        ("path_count", c_size_t),
        ("override_options", c_int32),
        ("common_tensors_only", c_int32),
        ("mode", c_int32),
        ("older_copy", c_int32),
        ("convert_state", c_int32),
        ("reserved", c_int32 * 1),
        ("overrides", POINTER(c_char_p)),
        ("override_count", c_size_t),
        ("data", c_void_p),
        ("size", c_size_t),
    ]


class Settings(ctypes.Structure):
    """sonew_settings"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("lr_scale", c_double),
        ("weight_decay", c_double),
        ("step_count", c_uint64),
        ("scalars", c_double * SCALARS),
    ]


class Info(ctypes.Structure):
    """sonew_optimizer_info"""

    _fields_ = [
        ("step_count", c_uint64),
        ("gradient_norm", c_double),
        ("tensor_count", c_size_t),
        ("state_bytes", c_size_t),
        ("memory_bytes", c_size_t),
        ("threads", c_size_t),
        ("instruction_set", c_char_p),
        ("has_gradient_norm", c_int32),
        ("reserved", c_int32 * 1),
    ]


class View(ctypes.Structure):
    """sonew_view"""

    _fields_ = [
        ("data", c_void_p),
        ("len", c_size_t),
        ("tensor", c_char_p),
        ("plane", c_char_p),
        ("ndim", c_size_t),
        ("dims", c_size_t * MAX_DIMS),
        ("dtype", c_int32),
        ("plane_count", c_int32),
        ("step_count", c_uint64),
    ]


class Planes(ctypes.Structure):
    """sonew_planes"""

    _fields_ = [
        ("names", POINTER(c_char_p)),
        ("dtypes", POINTER(c_int32)),
        ("count", c_size_t),
        ("lens", POINTER(c_size_t)),
    ]


class Buffers(ctypes.Structure):
    """sonew_buffers"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("params", c_void_p),
        ("direction", c_void_p),
        ("grad", c_void_p),
        ("planes", POINTER(c_void_p)),
        ("plane_count", c_size_t),
        ("len", c_size_t),
        ("lr_scale", c_double),
        ("weight_decay", c_double),
        ("step_number", c_uint64),
        ("scalars", POINTER(c_double)),
    ]


_handle, _handles, _pointers = c_void_p, POINTER(c_void_p), POINTER(c_void_p)
# The arguments of each function. A status is returned where nothing else is said.
FUNCTIONS = {
    "sonew_options_init": [POINTER(Options), c_size_t],
    "sonew_tensors_init": [POINTER(Tensor), c_size_t, c_size_t],
    "sonew_step_options_init": [POINTER(StepOptions), c_size_t],
    "sonew_load_options_init": [POINTER(LoadOptions), c_size_t],
    "sonew_buffers_init": [POINTER(Buffers), c_size_t, c_size_t],
    "sonew_struct_field": [c_char_p, c_char_p, POINTER(c_size_t), POINTER(c_size_t)],
    "sonew_create": [POINTER(Options), POINTER(Tensor), c_size_t, _handles],
    "sonew_free": [_handle],
    "sonew_reset": [_handle],
    "sonew_step": [_handle, POINTER(StepOptions), _pointers, _pointers, c_size_t],
    "sonew_info": [_handle, POINTER(Info), c_size_t],
    "sonew_save": [_handle, c_char_p, _pointers, c_size_t],
    "sonew_load": [_handle, c_char_p, POINTER(LoadOptions), _pointers, c_size_t],
    "sonew_set_state": [_handle, c_uint64, _pointers, c_size_t],
    "sonew_reset_master": [_handle],
    "sonew_get_settings": [_handle, c_size_t, POINTER(Settings), c_size_t],
    "sonew_set_settings": [_handle, c_size_t, POINTER(Settings)],
    "sonew_plane_view": [_handle, c_size_t, c_size_t, POINTER(View), c_size_t],
    "sonew_set_text": [_handle, c_char_p, c_char_p],
    "sonew_get_text": [_handle, c_char_p, POINTER(c_char_p)],
    "sonew_plan_create": [POINTER(Options), POINTER(Tensor), c_size_t, _handles],
    "sonew_plan_free": [_handle],
    "sonew_plan_planes": [_handle, c_size_t, POINTER(Planes), c_size_t],
    "sonew_plan_step": [_handle, POINTER(StepOptions), c_uint64, POINTER(Buffers), c_size_t],
}
TEXTS = ("sonew_version", "sonew_last_error")
# The structs by their names in C, for a check of their layout.
STRUCTS = {
    "sonew_options": Options,
    "sonew_tensor": Tensor,
    "sonew_step_options": StepOptions,
    "sonew_load_options": LoadOptions,
    "sonew_settings": Settings,
    "sonew_optimizer_info": Info,
    "sonew_view": View,
    "sonew_planes": Planes,
    "sonew_buffers": Buffers,
}
