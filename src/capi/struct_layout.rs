//! Where every field of every struct of the header lies, for callers whose
//! compiler does not read it.

use std::mem::{offset_of, size_of};

use super::file::{sonew_load_options, sonew_rename};
use super::options::sonew_options;
use super::plan::sonew_buffers;
use super::step::sonew_step_options;
use super::tensor::sonew_tensor;
use super::view::sonew_view;
use crate::error::{Error, Result};

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    pub offset: usize,
    pub size: usize,
}

struct Struct {
    name: &'static str,
    size: usize,
    fields: &'static [(&'static str, Place)],
}

/// What the compiler says of a struct. That all its fields are listed is
/// checked by destructuring it.
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
                Place {
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
        instruction_set, reserved,
    }),
    layout!(sonew_tensor {
        name, ndim, dims, chains, update, dtype, grad_dtype, state_dtype, master, reserved,
    }),
    layout!(sonew_step_options {
        struct_size, lr, grad_scale, statistics_weight, clip_norm, non_finite, reserved,
    }),
    layout!(sonew_rename { from, to }),
    layout!(sonew_load_options {
        struct_size, renames, rename_count, override_options, common_tensors_only, mode, reserved,
    }),
    layout!(sonew_view { data, len, tensor, plane, ndim, dims, dtype, reserved }),
    layout!(sonew_buffers {
        struct_size, params, direction, grad, planes, plane_count, len, lr_scale, weight_decay,
    }),
];

/// Where a field lies; without one, the struct as a whole.
pub(super) fn place(structure: &str, field: Option<&str>) -> Result<Place> {
    let unknown = |owner: &str, kind, name: &str| Error::UnknownName {
        owner: owner.to_owned(),
        kind,
        name: name.to_owned(),
    };
    let found = STRUCTS.iter().find(|s| s.name == structure);
    let found = found.ok_or_else(|| unknown("the library", "struct", structure))?;
    let Some(field) = field else {
        return Ok(Place {
            offset: 0,
            size: found.size,
        });
    };
    let place = found.fields.iter().find(|(name, _)| *name == field);
    place
        .map(|(_, place)| *place)
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
            for (name, place) in s.fields {
                assert_eq!(place.offset, end, "{}.{name}", s.name);
                assert!(place.size > 0, "{}.{name}", s.name);
                end += place.size;
            }
            assert_eq!(end, s.size, "{}", s.name);
        }
    }
}
