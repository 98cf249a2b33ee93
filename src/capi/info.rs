//! About an optimizer

use std::ffi::c_char;

use super::optimizer::{query, sonew_optimizer, Owned};
use super::status::sonew_status;

/// Steps taken so far, in *count: those that were neither refused nor
/// skipped. Loading sets it to the file's. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_step_count(
    optimizer: *const sonew_optimizer,
    count: *mut u64,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, count, "count", |o| Ok(o.optimizer.step_count())) }
}

/// The length of all gradients together in the last step, sqrt(sum |g|^2) over
/// all tensors, in *norm: with grad_scale, before clipping. NaN before the first
/// step, and after one that did not need it: with SONEW_UNCHECKED and no
/// clip_norm, it may not have looked at all gradients. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_gradient_norm(
    optimizer: *const sonew_optimizer,
    norm: *mut f64,
) -> sonew_status {
    let value = |o: &Owned| Ok(o.optimizer.gradient_norm().unwrap_or(f64::NAN));
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, norm, "norm", value) }
}

/// The number of tensors, in *count. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_tensor_count(
    optimizer: *const sonew_optimizer,
    count: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, count, "count", |o| Ok(o.names.len())) }
}

/// Bytes of state, in *bytes. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_state_bytes(
    optimizer: *const sonew_optimizer,
    bytes: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, bytes, "bytes", |o| Ok(o.optimizer.state_bytes())) }
}

/// Bytes that the optimizer holds in all, in *bytes: the state, directions
/// where a graft needs them, and scratch for each thread; names and the like
/// are not counted, nor is state that is mapped from a file. A step allocates nothing that grows with the parameters.
/// Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_memory_bytes(
    optimizer: *const sonew_optimizer,
    bytes: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe {
        query(optimizer, bytes, "bytes", |o| {
            Ok(o.optimizer.memory_bytes())
        })
    }
}

/// The largest number of threads that a step uses, the calling one included,
/// in *threads. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_threads(
    optimizer: *const sonew_optimizer,
    threads: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, threads, "threads", |o| Ok(o.optimizer.threads())) }
}

/// The instruction set in use, in *name: "avx512", "avx2", "neon" or
/// "portable". Results do not depend on it. The string lives as long as the
/// optimizer. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_instruction_set(
    optimizer: *const sonew_optimizer,
    name: *mut *const c_char,
) -> sonew_status {
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, name, "name", |o| Ok(o.instruction_set.as_ptr())) }
}
