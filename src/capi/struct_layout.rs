//! Offset and size of every field of every struct of the header, for callers
//! whose compiler does not read it.

use std::mem::{offset_of, size_of};

use super::contents::sonew_contents;
use super::file::sonew_load_options;
use super::info::sonew_optimizer_info;
use super::options::sonew_options;
use super::plan::{sonew_buffers, sonew_planes};
use super::step::sonew_step_options;
use super::tensor::sonew_tensor;
use super::tensor_settings::sonew_settings;
use super::view::sonew_view;
use crate::error::{Error, Result};

/// Offset and size of a field in its struct, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Extent {
    pub offset: usize,
    pub size: usize,
}

struct Struct {
    name: &'static str,
    size: usize,
    fields: &'static [(&'static str, Extent)],
}

/// The layout of a struct as the compiler has it. Destructuring checks that all
/// fields are listed.
macro_rules! layout {
    ($name:ident { $($field:ident),* $(,)? }) => {{
        #[allow(dead_code)]
        fn has_no_other_field(value: $name) {
            let $name { $($field: _),* } = value;
        }
        const fn size_of_field<T>(_: fn(&$name) -> &T) -> usize {
            size_of::<T>()
        }
        Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$((
                stringify!($field),
                Extent {
                    offset: offset_of!($name, $field),
                    size: size_of_field(|value| &value.$field),
                },
            )),*],
        }
    }};
}

#[rustfmt::skip]
static STRUCTS: &[Struct] = &[
    layout!(sonew_options {
        struct_size, band, threads, beta1, beta2, eps, gamma, graft_eps, weight_decay, seed,
        statistics, damping, graft, bias_correction, graft_bias_correction, rounding,
        instruction_set, lagged_norms, nesterov, pooling, pool, shrink, rank, reserved,
    }),
    layout!(sonew_tensor {
        struct_size, name, ndim, dims, first_row, whole_rows, chains, update, dtype, grad_dtype,
        state_dtype, master, reserved, options,
    }),
    layout!(sonew_step_options {
        struct_size, lr, grad_scale, statistics_weight, clip_norm, beta1, beta2, non_finite,
        reserved,
    }),
    layout!(sonew_load_options {
        struct_size, renames, rename_count, paths, path_count, override_options, common_tensors_only, mode,
        older_copy, convert_state, reserved, overrides, override_count, data, size,
    }),
    layout!(sonew_view { data, len, tensor, plane, ndim, dims, dtype, plane_count, step_count }),
    layout!(sonew_optimizer_info {
        step_count, gradient_norm, tensor_count, state_bytes, memory_bytes, threads,
        instruction_set, has_gradient_norm, reserved,
    }),
    layout!(sonew_contents {
        step_count, file_bytes, tensor_count, format, parameters, live, unsynced, text_keys,
        text_count,
    }),
    layout!(sonew_settings { struct_size, lr_scale, weight_decay, step_count, scalars }),
    layout!(sonew_planes { names, dtypes, count, lens }),
    layout!(sonew_buffers {
        struct_size, params, direction, grad, planes, plane_count, len, lr_scale, weight_decay,
        step_number, scalars,
    }),
];

/// Offset and size of a field; without one, those of the whole struct.
pub(super) fn extent(structure: &str, field: Option<&str>) -> Result<Extent> {
    let unknown = |owner: &str, kind, name: &str| Error::UnknownName {
        owner: owner.to_owned(),
        kind,
        name: name.to_owned(),
    };
    let found = STRUCTS.iter().find(|s| s.name == structure);
    let found = found.ok_or_else(|| unknown("the library", "struct", structure))?;
    let Some(field) = field else {
        return Ok(Extent {
            offset: 0,
            size: found.size,
        });
    };
    let extent = found.fields.iter().find(|(name, _)| *name == field);
    extent
        .map(|(_, extent)| *extent)
        .ok_or_else(|| unknown(structure, "field", field))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No struct has padding, so the fields fill it from end to end.
    #[test]
    fn fields_fill_their_structs() {
        for s in STRUCTS {
            let mut end = 0;
            for (name, extent) in s.fields {
                assert_eq!(extent.offset, end, "{}.{name}", s.name);
                assert!(extent.size > 0, "{}.{name}", s.name);
                end += extent.size;
            }
            assert_eq!(end, s.size, "{}", s.name);
        }
    }
}
