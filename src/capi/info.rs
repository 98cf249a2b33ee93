//! About an optimizer

use std::ffi::c_char;
use std::sync::atomic::Ordering::Relaxed;

use super::handles::sonew_optimizer;
use super::options::{from_options, sonew_options};
use super::owned::{ask, told};
use super::status::sonew_status;
use super::told::Told;
use super::versioned::{self, Growing};

/// What can be asked of an optimizer as a whole; see sonew_info().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_optimizer_info {
    /// The number of steps taken so far, with those in which some tensors took no
    /// part, and without those that were refused or skipped. Bias correction counts
    /// those of each tensor: sonew_settings.step_count. Loading sets it to the file's
    /// count.
    pub step_count: u64,
    /// The gradient norm of the last step: sqrt(sum |g|^2) over all tensors, after
    /// grad_scale and before clipping; 0 if no tensor had a gradient. NaN if there is
    /// none: see has_gradient_norm.
    pub gradient_norm: f64,
    /// The number of tensors.
    pub tensor_count: usize,
    /// The size of the state in bytes.
    pub state_bytes: usize,
    /// How much memory the optimizer holds, in bytes: the state, directions if a graft
    /// needs them, and scratch memory for each thread. Names and other small lists are
    /// not counted, nor is state that is mapped from a file. A step allocates nothing
    /// that grows with the number of parameters.
    pub memory_bytes: usize,
    /// The largest number of threads that a step uses, the calling thread included:
    /// while the threads of its pool are running, those that the system gave,
    /// otherwise those that were asked for.
    pub threads: usize,
    /// The name of the instruction set in use: "avx512", "avx2", "neon" or "portable".
    /// Results do not depend on it. The string is never freed.
    pub instruction_set: *const c_char,
    /// 1: gradient_norm is a number. 0: there is none, because no step was taken since the
    /// optimizer was created, loaded or set; or the last one was skipped
    /// (SONEW_NON_FINITE_GRADIENT); or it did not compute the norm, or had gradients that
    /// are not finite: with SONEW_UNCHECKED and no clip_norm a step may not read all
    /// gradients beforehand. Programs that are compiled with -ffast-math need this flag,
    /// because there a comparison does not find a NaN.
    pub has_gradient_norm: i32,
    /// 0.
    pub reserved: [i32; 1],
}

// SAFETY: 7 * 8 + 2 * 4 bytes without padding.
unsafe impl Growing for sonew_optimizer_info {
    const SIZES: &'static [usize] = &[size_of::<sonew_optimizer_info>()];
}

/// Writes the options of an optimizer to *options, as sonew_options_init() writes the defaults,
/// but pool, which is NULL. Options of single tensors are in sonew_get_tensor(). Pass sizeof
/// *options for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_get_options(
    optimizer: *const sonew_optimizer,
    options: *mut sonew_options,
    size: usize,
) -> sonew_status {
    let value = || {
        ask(optimizer, |owned| {
            Ok(from_options(owned.optimizer.options(), size))
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(options, size, "options", value) }
}

/// Writes what there is to know of an optimizer to *info, also while another thread
/// uses it: then as it was when the call before that one ended. Pass sizeof *info for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_info(
    optimizer: *const sonew_optimizer,
    info: *mut sonew_optimizer_info,
    size: usize,
) -> sonew_status {
    let value = || Ok(told(optimizer)?.info());
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(info, size, "info", value) }
}

impl Told {
    fn info(&self) -> sonew_optimizer_info {
        let gradient_norm = f64::from_bits(self.gradient_norm.load(Relaxed));
        sonew_optimizer_info {
            step_count: self.step_count.load(Relaxed),
            gradient_norm,
            tensor_count: self.tensor_count,
            state_bytes: self.state_bytes,
            memory_bytes: self.memory_bytes.load(Relaxed),
            threads: self.pool.threads(),
            instruction_set: self.instruction_set.as_ptr(),
            has_gradient_norm: (!gradient_norm.is_nan()).into(),
            reserved: [0],
        }
    }
}
