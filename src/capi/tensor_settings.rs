//! Settings of one tensor
//!
//! They can be changed at any time between calls. tensor is an index into the
//! list that the optimizer was created with; sonew_find_tensor() finds it.

use std::ffi::c_char;

use super::arguments::{string, Out};
use super::guard::call;
use super::optimizer::{query, sonew_optimizer, with};
use super::status::sonew_status;
use crate::error::{Error, Result};

/// The index of the tensor of this name, in *tensor.
///
/// Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_find_tensor(
    optimizer: *const sonew_optimizer,
    name: *const c_char,
    tensor: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a place for the result.
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

/// Changes what the learning rate of a tensor is multiplied with; finite and
/// not negative, 1 at first.
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

/// What the learning rate of a tensor is multiplied with, in *scale.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_lr_scale(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    scale: *mut f64,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, scale, "scale", |o| o.optimizer.lr_scale(tensor)) }
}

/// Changes the decoupled weight decay of a tensor; finite and not negative,
/// that of the options at first.
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

/// The decoupled weight decay of a tensor, in *decay.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_weight_decay(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    decay: *mut f64,
) -> sonew_status {
    let value = |o: &super::optimizer::Owned| o.optimizer.weight_decay(tensor);
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, decay, "decay", value) }
}

fn change(
    optimizer: *mut sonew_optimizer,
    change: impl FnOnce(&mut crate::Optimizer) -> Result<()>,
) -> sonew_status {
    call(|| with(optimizer, |owned| change(&mut owned.optimizer)))
}
