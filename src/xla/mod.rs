//! XLA custom call
//!
//! JAX, and whatever else compiles to XLA, calls the library without a line of
//! C++: the function below is a handler of XLA's typed FFI (API version 0.1),
//! for the platform "cpu". The Python package in bindings/jax registers it and
//! hides what follows; other frontends register it under a name of their
//! choice, api_version 1, with has_side_effect false.
//!
//! The step is stateless: everything comes as operands and leaves as results,
//! every array with its last dimension fastest. Where operand and result are
//! one buffer (input_output_aliases) it is updated in place; where they are
//! two, it is copied first. T stands for the number of tensors.
//!
//! ```text
//! attributes (i64 and f64 scalars, unless they say otherwise)
//!   names              string: the tensors' names, a line each
//!   chains, updates    s32[T]: as in sonew_tensor
//!   master             s32[T]: 1 for float32 master weights
//!   lr_scales, weight_decays   f64[T]: as in sonew_buffers
//!   band, threads, seed, statistics, damping, graft, bias_correction,
//!   graft_bias_correction, rounding, instruction_set   i64: as in
//!                      sonew_options
//!   non_finite         i64: as in sonew_step_options. A step that is skipped
//!                      is no error: it leaves everything as it was, and taken
//!                      is 0
//!   numbers            f64[10]: beta1, beta2, eps, gamma, graft_eps, lr,
//!                      grad_scale, statistics_weight, clip_norm, and what
//!                      multiplies weight_decays
//!   traced             i64: bit i is set where numbers[i] comes as an operand
//!   direction          i64: 1 to write the direction u instead of updating
//!                      parameters
//!   staged             i64: 1 for one stage of a step, see below
//!   reached            s32[R]: the stages before it: 0, 1, 2
//! operands
//!   count              s32[]: steps taken so far
//!   traced             f32[k] or f64[k]: numbers that were left open, in order
//!   reached            u32[R, D, T, 2, 2], only if staged and R > 0
//!   for each tensor: parameters (not with direction, unless staged, when it
//!   is what earlier stages wrote, zeros at first), gradient, state planes
//! results
//!   taken              s32[]: 1; 0 if a gradient was not finite
//!   for each tensor: u32[2, 2] only if staged, parameters or direction,
//!   state planes
//! ```
//!
//! All operands and results may have the same further dimensions in front:
//! members of a batch, each of which takes a step of its own.
//!
//! Staged, for tensors that are parts of larger ones: one call goes on to the
//! next point where numbers of whole tensors are needed, and gives this part's.
//! A float64 is two u32, the low one first. The caller brings together the
//! numbers of all D parts (rows of zeros for tensors with fewer), which are
//! added, or, for stage 1, of which the first is the largest and the second
//! added. Stages are: 0 squares of gradients (with SONEW_SKIP, a clip_norm, or
//! SONEW_GRAFT_NORMALIZED_RMSPROP); 1 largest l1, and squares of the length to
//! be taken (with SONEW_RELATIVE, if a tensor has SONEW_UPDATE_SONEW); 2 squares
//! of the direction, and of the length to be taken (with a graft, if a tensor
//! has SONEW_UPDATE_SONEW). The call after the last stage applies.

// What follows is documented for the header.
#![allow(clippy::doc_markdown)]

mod cache;
mod ffi;
mod frame;
mod operands;
mod settings;
mod step;

use std::ffi::{c_void, CString};

use crate::capi::guard::caught;
use crate::error::Error;

/// The handler. call_frame is the runtime's XLA_FFI_CallFrame; the result is
/// NULL, or an XLA_FFI_Error with the code INVALID_ARGUMENT and a message as
/// sonew_last_error() would give it. May be called by several threads at once;
/// plans with their threads and scratch are kept between calls, at most 8 of
/// those that are not in use. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_xla_step_v1(call_frame: *mut c_void) -> *mut c_void {
    let call_frame = call_frame.cast::<ffi::CallFrame>();
    // SAFETY: the header asks for what the runtime passes.
    let outcome = caught(|| unsafe {
        if frame::answered_metadata(call_frame)? {
            return Ok(());
        }
        match frame::Frame::new(call_frame)? {
            Some(frame) => step::run(&frame),
            None => Ok(()),
        }
    });
    match outcome {
        Ok(()) => std::ptr::null_mut(),
        // SAFETY: as above.
        Err(error) => unsafe { failure(call_frame, &error) },
    }
}

/// Frees the plans that are kept for the handler's next calls, their scratch
/// and their threads; those in use are kept. For programs that are done with
/// training but not with themselves. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_xla_release() {
    // A panic while freeing has nobody to be told to.
    let _ = caught(|| {
        cache::clear();
        Ok(())
    });
}

/// The runtime's form of an error; null where it gives no way to make one.
///
/// # Safety
/// `call_frame` is null, or what the runtime passes.
unsafe fn failure(call_frame: *const ffi::CallFrame, error: &Error) -> *mut c_void {
    let text = error.to_string().replace('\0', " ");
    let message = CString::new(text).unwrap_or_default();
    // SAFETY: the caller's promise; sizes are checked before fields are read.
    unsafe {
        let Ok(create) = frame::error_create(call_frame) else {
            return std::ptr::null_mut();
        };
        create(&mut ffi::ErrorCreateArgs {
            struct_size: std::mem::offset_of!(ffi::ErrorCreateArgs, code)
                + size_of::<std::ffi::c_int>(),
            extension_start: std::ptr::null_mut(),
            message: message.as_ptr(),
            code: ffi::INVALID_ARGUMENT,
        })
    }
}

#[cfg(test)]
mod tests;
