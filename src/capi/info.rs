//! About an optimizer

use std::ffi::c_char;

use super::optimizer::{query, sonew_optimizer, Owned};
use super::status::sonew_status;

/// Writes the number of steps taken so far to *count. Refused and skipped steps
/// are not counted; steps in which some tensors took no part are. Bias correction
/// counts those of each tensor: sonew_tensor_step_count(). Loading sets it to the
/// file's count. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_step_count(
    optimizer: *const sonew_optimizer,
    count: *mut u64,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, count, "count", |o| Ok(o.optimizer.step_count())) }
}

/// Writes the gradient norm of the last step to *norm: sqrt(sum |g|^2) over all
/// tensors, after grad_scale and before clipping. It is NaN before the first
/// step, and after a step that did not compute it: with SONEW_UNCHECKED and no
/// clip_norm, a step may not read all gradients beforehand. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_gradient_norm(
    optimizer: *const sonew_optimizer,
    norm: *mut f64,
) -> sonew_status {
    let value = |o: &Owned| Ok(o.optimizer.gradient_norm().unwrap_or(f64::NAN));
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, norm, "norm", value) }
}

/// Writes the number of tensors to *count. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_tensor_count(
    optimizer: *const sonew_optimizer,
    count: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, count, "count", |o| Ok(o.names.len())) }
}

/// Writes the size of the state in bytes to *bytes. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_state_bytes(
    optimizer: *const sonew_optimizer,
    bytes: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, bytes, "bytes", |o| Ok(o.optimizer.state_bytes())) }
}

/// Writes to *bytes how much memory the optimizer holds: the state, directions
/// if a graft needs them, and scratch memory for each thread. Names and other
/// small lists are not counted, nor is state that is mapped from a file. A step
/// allocates nothing that grows with the number of parameters. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_memory_bytes(
    optimizer: *const sonew_optimizer,
    bytes: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe {
        query(optimizer, bytes, "bytes", |o| {
            Ok(o.optimizer.memory_bytes())
        })
    }
}

/// Writes to *threads the largest number of threads that a step uses, the
/// calling thread included: while the threads of its pool are running, those that
/// the system gave, otherwise those that were asked for. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_threads(
    optimizer: *const sonew_optimizer,
    threads: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, threads, "threads", |o| Ok(o.optimizer.threads())) }
}

/// Writes the name of the instruction set in use to *name: "avx512", "avx2",
/// "neon" or "portable". Results do not depend on it. The string lives as long
/// as the optimizer. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_instruction_set(
    optimizer: *const sonew_optimizer,
    name: *mut *const c_char,
) -> sonew_status {
    // SAFETY: the header asks for a pointer to the result.
    unsafe { query(optimizer, name, "name", |o| Ok(o.instruction_set.as_ptr())) }
}
