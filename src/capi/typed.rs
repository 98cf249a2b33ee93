//! Other element types
//!
//! sonew_step(), sonew_save() and sonew_load() take floats. These take what
//! sonew_tensor says of each tensor, which may be something else for each; the
//! pointers are to SONEW_F64 (double), SONEW_F32 (float), SONEW_BF16 or
//! SONEW_F16 (16-bit patterns such as uint16_t, or a type of the compiler's).
//! A buffer is aligned to the size of its elements.
//!
//! Master weights. A tensor with master set keeps float32 parameters in its
//! state: 16-bit parameters would lose updates that are smaller than their
//! rounding, and with float32 ones the saved state is a whole checkpoint. They
//! begin as a copy of the parameters that the first step gets, also where a
//! tensor has no gradient in it. From then on they are the truth: a step
//! updates them and writes them, rounded to nearest, to the parameters.

use std::ffi::{c_char, c_void};

use super::file::{load, save, sonew_load_options};
use super::guard::call;
use super::optimizer::{sonew_optimizer, with};
use super::status::sonew_status;
use super::step::{sonew_step_options, step};

/// As sonew_step(), for tensors of any type: params[i] points to elements of
/// the dtype of tensor i, grads[i] to such of its grad_dtype.
///
/// Errors: those of sonew_step(), but SONEW_WRONG_DTYPE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_step_any(
    optimizer: *mut sonew_optimizer,
    options: *const sonew_step_options,
    params: *const *mut c_void,
    grads: *const *const c_void,
    count: usize,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { step(optimizer, options, params, grads, count, None) })
}

/// As sonew_save(), for tensors of any type: params[i] points to elements of
/// the dtype of tensor i.
///
/// Errors: those of sonew_save(), but SONEW_WRONG_DTYPE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_save_any(
    optimizer: *const sonew_optimizer,
    path: *const c_char,
    params: *const *mut c_void,
    count: usize,
) -> sonew_status {
    // SAFETY: the header asks for a string, and for so many pointers.
    call(|| unsafe { save(optimizer, path, params, count, None) })
}

/// As sonew_load(), for tensors of any type: params[i] points to elements of
/// the dtype of tensor i.
///
/// Errors: those of sonew_load(), but SONEW_WRONG_DTYPE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_load_any(
    optimizer: *mut sonew_optimizer,
    path: *const c_char,
    options: *const sonew_load_options,
    params: *const *mut c_void,
    count: usize,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { load(optimizer, path, options, params, count, None) })
}

/// Forgets the master weights of all tensors that keep them: the next step
/// takes them anew from the parameters. For a caller who has changed
/// parameters between steps; without it the change is lost.
///
/// Errors: in a live file, SONEW_FORKED and SONEW_IO. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_reset_master(optimizer: *mut sonew_optimizer) -> sonew_status {
    call(|| with(optimizer, |owned| owned.optimizer.reset_master()))
}
