//! Other element types
//!
//! sonew_step(), sonew_save() and sonew_load() take float buffers. The functions
//! below take buffers of the types that each sonew_tensor declares, which may
//! differ between tensors: pointers are to double (SONEW_F64), float (SONEW_F32),
//! or 16-bit patterns such as uint16_t or a 16-bit type of the compiler
//! (SONEW_BF16, SONEW_F16). A buffer is aligned to the size of its elements.
//!
//! Master weights. A tensor with master set keeps a float32 copy of its
//! parameters in its state, because 16-bit parameters would lose updates that
//! are smaller than their rounding error. It also makes the saved state a whole
//! checkpoint. The first step copies the master weights from the parameters,
//! even if the tensor has no gradient in that step. After that, every step
//! updates the master weights, and overwrites the parameters with them, rounded
//! to nearest.

use std::ffi::{c_char, c_void};

use super::file::{load, save, sonew_load_options};
use super::guard::call;
use super::optimizer::{sonew_optimizer, with};
use super::status::sonew_status;
use super::step::{sonew_step_options, step};

/// As sonew_step(), for tensors of any type: params[i] points to elements of
/// the dtype of tensor i, grads[i] to elements of its grad_dtype.
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
    // SAFETY: the header asks for a string, and for `count` pointers.
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

/// Discards the master weights of all tensors that have them, so that the next
/// step copies them from the parameters again. Call this after changing
/// parameters between steps; otherwise the next step overwrites the change.
///
/// A live file keeps the master weights of the last step until the next step is
/// complete. If the process dies before that, a load with parameters continues as
/// if this had not been called; after a load without them, the next step copies
/// the caller's parameters.
///
/// Errors: in a live file, SONEW_FORKED, SONEW_IO and SONEW_OUT_OF_MEMORY. Since
/// 0.1.
#[no_mangle]
pub extern "C" fn sonew_reset_master(optimizer: *mut sonew_optimizer) -> sonew_status {
    call(|| with(optimizer, |owned| owned.optimizer.reset_master()))
}
