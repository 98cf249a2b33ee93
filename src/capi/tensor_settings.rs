//! Settings of one tensor
//!
//! They can be changed at any time between calls. tensor is an index into the
//! list of tensors that the optimizer was created with; sonew_find_tensor()
//! finds it by name. sonew_optimizer_tensor() writes all of them at once.

use std::ffi::c_char;

use super::arguments::{not_null, string, Out};
use super::guard::{call, call_always};
use super::optimizer::{query, sonew_optimizer, with, Names, Owned};
use super::plan::{numbers_of, scalars_of, Numbers};
use super::status::sonew_status;
use super::tensor::{from_spec, sonew_tensor};
use super::versioned::{self, Growing};
use crate::error::{Error, Result};
use crate::layout::TensorSpec;

/// A tensor of an optimizer or of a file, and its settings.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_tensor_state {
    /// The tensor as sonew_create() takes it, with every type named. The name
    /// lives as long as the handle of the optimizer or the file.
    pub tensor: sonew_tensor,
    /// The factor by which its learning rate is multiplied.
    pub lr_scale: f64,
    /// Its decoupled weight decay.
    pub weight_decay: f64,
    /// The number of the steps that it took part in.
    pub step_count: u64,
    /// The names of its state planes, in order; of a file that has the parameters,
    /// "parameter" follows. They live as long as the handle. "parameter" has the
    /// type tensor.dtype, "master" is SONEW_F32, the others have
    /// tensor.state_dtype.
    pub arrays: *const *const c_char,
    /// The number of these names.
    pub array_count: usize,
    /// 1: it has master weights, and they have been copied from the parameters. 0:
    /// it has none, or the next step copies them.
    pub master_set: i32,
    /// Is 0.
    pub reserved: i32,
}

// SAFETY: a sonew_tensor, 5 * 8 + 2 * 4 bytes, without padding.
unsafe impl Growing for sonew_tensor_state {
    const SIZES: &'static [usize] = &[size_of::<sonew_tensor_state>()];
}

impl sonew_tensor_state {
    /// Without its settings.
    pub(super) fn new(spec: &TensorSpec, names: &Names) -> Self {
        sonew_tensor_state {
            tensor: from_spec(spec, names.tensor.as_ptr()),
            lr_scale: 1.0,
            weight_decay: 0.0,
            step_count: 0,
            arrays: names.list.as_ptr(),
            array_count: names.arrays.len(),
            master_set: 0,
            reserved: 0,
        }
    }
}

/// Writes a tensor of an optimizer and its settings to *state: for an optimizer
/// that sonew_open() has made, above all. Pass sizeof *state for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_optimizer_tensor(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    state: *mut sonew_tensor_state,
    size: usize,
) -> sonew_status {
    call_always(|| {
        not_null(state, || "state".to_owned())?;
        let value = with(
            optimizer,
            |Owned {
                 optimizer, names, ..
             }| {
                Ok(sonew_tensor_state {
                    lr_scale: optimizer.lr_scale(tensor)?,
                    weight_decay: optimizer.weight_decay(tensor)?,
                    step_count: optimizer.tensor_step_count(tensor)?,
                    master_set: optimizer.master_set(tensor)?.into(),
                    ..sonew_tensor_state::new(&optimizer.tensors()[tensor], &names[tensor])
                })
            },
        )?;
        // SAFETY: the header asks for a struct of this size.
        unsafe { versioned::write(value, state, size, "state") }
    })
}

/// Writes the index of the tensor with this name to *tensor.
///
/// Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_find_tensor(
    optimizer: *const sonew_optimizer,
    name: *const c_char,
    tensor: *mut usize,
) -> sonew_status {
    call_always(|| {
        // SAFETY: the header asks for a string and a pointer to the result.
        let (name, out) = unsafe {
            (
                string(name, || "name".to_owned())?,
                Out::new(tensor, "tensor")?,
            )
        };
        let found = with(optimizer, |owned| {
            let tensors = owned.optimizer.tensors();
            let found = tensors.iter().position(|tensor| tensor.name == name);
            found.ok_or_else(|| Error::UnknownName {
                owner: "the optimizer".to_owned(),
                kind: "tensor",
                name,
            })
        })?;
        out.write(found);
        Ok(())
    })
}

/// Changes the factor by which the learning rate of a tensor is multiplied;
/// finite and not negative, 1 at first.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED
/// and SONEW_IO. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_set_lr_scale(
    optimizer: *mut sonew_optimizer,
    tensor: usize,
    scale: f64,
) -> sonew_status {
    change(optimizer, |o| o.set_lr_scale(tensor, scale))
}

/// Writes the factor by which the learning rate of a tensor is multiplied to
/// *scale.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_lr_scale(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    scale: *mut f64,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, scale, "scale", |o| o.optimizer.lr_scale(tensor)) }
}

/// Changes the decoupled weight decay of a tensor; finite and not negative, at
/// first that of the options.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED
/// and SONEW_IO. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_set_weight_decay(
    optimizer: *mut sonew_optimizer,
    tensor: usize,
    decay: f64,
) -> sonew_status {
    change(optimizer, |o| o.set_weight_decay(tensor, decay))
}

/// Writes the decoupled weight decay of a tensor to *decay.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_weight_decay(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    decay: *mut f64,
) -> sonew_status {
    let value = |o: &Owned| o.optimizer.weight_decay(tensor);
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, decay, "decay", value) }
}

/// Writes the number of the steps that a tensor took part in to *count: its
/// bias correction counts these. A step in which it had no gradient is not among
/// them.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_tensor_step_count(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    count: *mut u64,
) -> sonew_status {
    let value = |o: &Owned| o.optimizer.tensor_step_count(tensor);
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, count, "count", value) }
}

/// Changes the number of the steps that a tensor took part in: after
/// sonew_set_state(), which gives all tensors one count, of those that have not
/// taken part in every step.
///
/// Errors: SONEW_UNKNOWN_TENSOR; in a live file SONEW_OUT_OF_RANGE (2^47 or
/// more), SONEW_FORKED and SONEW_IO. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_set_tensor_step_count(
    optimizer: *mut sonew_optimizer,
    tensor: usize,
    count: u64,
) -> sonew_status {
    change(optimizer, |o| o.set_tensor_step_count(tensor, count))
}

/// Writes the SONEW_SCALARS numbers of a tensor's state besides its planes to *scalars:
/// for programs that keep state in arrays of their own. Zeros before its first step.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_tensor_scalars(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    scalars: *mut f64,
) -> sonew_status {
    let value = |o: &Owned| Ok(numbers_of(o.optimizer.scalars(tensor)?));
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, scalars.cast::<Numbers>(), "scalars", value) }
}

/// Changes these numbers: after sonew_set_state(), which sets them to zero.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED
/// and SONEW_IO. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_set_tensor_scalars(
    optimizer: *mut sonew_optimizer,
    tensor: usize,
    scalars: *const f64,
) -> sonew_status {
    call(|| {
        let scalars = scalars.cast::<Numbers>();
        not_null(scalars, || "scalars".to_owned())?;
        // SAFETY: the header asks for so many numbers; they may lie anywhere.
        let scalars = scalars_of(unsafe { scalars.read_unaligned() });
        with(optimizer, |owned| {
            owned.optimizer.set_scalars(tensor, scalars)
        })
    })
}

fn change(
    optimizer: *mut sonew_optimizer,
    change: impl FnOnce(&mut crate::Optimizer) -> Result<()>,
) -> sonew_status {
    call(|| with(optimizer, |owned| change(&mut owned.optimizer)))
}
