//! Step
//!
//! The settings of one step are passed to that step.

use std::ffi::c_void;

use super::arguments::{named, unused, List};
use super::guard::{call, call_always};
use super::handles::sonew_optimizer;
use super::owned::with;
use super::status::sonew_status;
use super::versioned::{self, Growing, Versioned};
use crate::error::Result;
use crate::layout::check_count;
use crate::options::{in_range, NonFinite, StepOptions};

/// What a step does about a gradient with a NaN, an infinity, or a number
/// whose square overflows (after grad_scale).
#[repr(C)]
pub enum sonew_non_finite {
    /// Check every gradient first. If one is not finite, change nothing and
    /// return SONEW_NON_FINITE_GRADIENT.
    SONEW_SKIP = 0,
    /// Do not check, unless clip_norm does. The state and parameters of a tensor
    /// with such a gradient may become useless.
    SONEW_UNCHECKED = 1,
}

/// The options of one step. Fill them in once with sonew_step_options_init(),
/// and change fields between steps as needed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_step_options {
    /// Set by sonew_step_options_init().
    pub struct_size: usize,
    /// Learning rate, finite and not negative. Default 0.001.
    pub lr: f64,
    /// Every gradient is multiplied by this first (for example 1 / loss scale,
    /// or 1 / number of micro-batches); finite and positive. Default 1.
    pub grad_scale: f64,
    /// The weight of this step's gradients with SONEW_WEIGHTED_SUM, finite and
    /// not negative. Must be 1 with SONEW_MOVING_AVERAGE. Default 1.
    pub statistics_weight: f64,
    /// Clipping: if the gradient norm, sqrt(sum |g|^2) over all tensors and
    /// after grad_scale, exceeds this, all gradients are multiplied by
    /// clip_norm / norm. Finite and positive, or 0 for no clipping. Clipping
    /// reads every gradient first, and refuses those that are not finite
    /// whatever non_finite says. Default 0.
    pub clip_norm: f64,
    /// The decay rate of the momentum in this step, at least 0 and less than 1, for
    /// schedules; -1 for that of the options. Bias correction follows the product of
    /// the betas of all steps. Default -1.
    pub beta1: f64,
    /// The same in place of the options' beta2. Default -1.
    pub beta2: f64,
    /// One of sonew_non_finite. Default SONEW_SKIP.
    pub non_finite: i32,
    /// Must be 0.
    pub reserved: [i32; 1],
}

// SAFETY: 7 * 8 + 2 * 4 bytes without padding.
unsafe impl Growing for sonew_step_options {
    const SIZES: &'static [usize] = &[size_of::<sonew_step_options>()];
}

// SAFETY: the first field is the size; only numbers.
unsafe impl Versioned for sonew_step_options {
    const HINT: &'static str = "call sonew_step_options_init() first";

    fn with_defaults(struct_size: usize) -> Self {
        let step = StepOptions::default();
        sonew_step_options {
            struct_size,
            lr: step.lr,
            grad_scale: step.grad_scale,
            statistics_weight: step.statistics_weight,
            clip_norm: step.clip_norm.unwrap_or(0.0),
            beta1: step.beta1.unwrap_or(OF_OPTIONS),
            beta2: step.beta2.unwrap_or(OF_OPTIONS),
            non_finite: super::arguments::number(step.non_finite, NON_FINITE),
            reserved: [0],
        }
    }
}

/// Stands for a beta of the options.
const OF_OPTIONS: f64 = -1.0;

const NON_FINITE: &[(i32, NonFinite)] = &[
    (sonew_non_finite::SONEW_SKIP as i32, NonFinite::Skip),
    (
        sonew_non_finite::SONEW_UNCHECKED as i32,
        NonFinite::Unchecked,
    ),
];

/// The step options of a caller; NULL means the defaults.
///
/// # Safety
/// As for [`versioned::read`].
pub(crate) unsafe fn step_options(pointer: *const sonew_step_options) -> Result<StepOptions> {
    if pointer.is_null() {
        return Ok(StepOptions::default());
    }
    // SAFETY: the caller's promise.
    let c = unsafe { versioned::read(pointer, "step") }?;
    unused(&c.reserved, || "step.reserved".to_owned())?;
    // What stands for no number is among what is allowed.
    let given = |field: &str, value: f64, none: f64, holds: bool, allowed| {
        let given = (value != none).then_some(value);
        let holds = holds || given.is_none();
        in_range(format_args!("step.{field}"), value, holds, allowed)?;
        Ok(given)
    };
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let decay = |field, value| {
        let allowed = "in [0, 1), or -1 for that of the options";
        given(
            field,
            value,
            OF_OPTIONS,
            (0.0..1.0).contains(&value),
            allowed,
        )
    };
    let no_clipping = "finite and positive, or 0 for no clipping";
    Ok(StepOptions {
        lr: c.lr,
        grad_scale: c.grad_scale,
        statistics_weight: c.statistics_weight,
        clip_norm: given(
            "clip_norm",
            c.clip_norm,
            0.0,
            positive(c.clip_norm),
            no_clipping,
        )?,
        beta1: decay("beta1", c.beta1)?,
        beta2: decay("beta2", c.beta2)?,
        non_finite: named(c.non_finite, || "step.non_finite".to_owned(), NON_FINITE)?,
    })
}

/// Fills in the defaults. Pass sizeof *step for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_step_options_init(
    step: *mut sonew_step_options,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for a struct of this size.
    call_always(|| unsafe { versioned::init(step, size, "step") })
}

/// Takes one step: params[i] and the state of tensor i are updated from
/// grads[i], and the step count grows by one. params and grads have count
/// entries each, which is the number of tensors; each points to as many elements
/// as its tensor has, in the tensor's order: params[i] to elements of the tensor's
/// dtype, grads[i] to elements of its grad_dtype. Both are float unless the tensor says
/// otherwise. step may be NULL, which means the defaults.
///
/// grads[i] may be NULL: tensor i then takes no part in the step: its
/// parameters, its state and its own step count, which its bias correction
/// follows, stay as they are. So tensors may also be stepped in separate calls,
/// with NULL for the others: they get the same bits as in one call for all,
/// except with clip_norm, and the optimizer's step count grows with each call.
/// (The learning rate of each step is the caller's in any case.) params[i] may
/// not be NULL. Two gradients may be the same buffer; parameters may not
/// overlap any other buffer of the call, nor the state. A parameter that is
/// used in two places of a model is one tensor, passed once with the sum of its
/// gradients.
///
/// If all gradients are NULL, the step is none of any tensor and counts for the optimizer
/// alone, so that processes which hold different tensors of one model keep one step count.
/// A program that has forgotten its gradients sees it by the gradient norm, which is 0,
/// and by the step counts of its tensors: sonew_info(), sonew_get_settings().
///
/// A step takes at most 20 KiB of the calling thread's stack, as every other way to
/// take one does.
///
/// Errors: SONEW_NON_FINITE_GRADIENT, SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD,
/// SONEW_UNKNOWN_VALUE, SONEW_OUT_OF_RANGE, SONEW_TENSOR_COUNT,
/// SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_OVERLAP, SONEW_PARTIAL_SUMS (with pooled
/// shards), SONEW_OUT_OF_MEMORY. On a live file SONEW_FORKED and, in the first step after a
/// sync, SONEW_IO. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_step(
    optimizer: *mut sonew_optimizer,
    step: *const sonew_step_options,
    params: *const *mut c_void,
    grads: *const *const c_void,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let (step, params, grads) = unsafe { arguments(step, params, grads, count) }?;
        with(optimizer, |owned| {
            let (optimizer, spare) = (&mut owned.optimizer, &mut owned.spare);
            check_count("params", params.len(), optimizer.tensors().len())?;
            let passed = spare.check(optimizer, &params, &grads)?;
            // SAFETY: no written buffer overlaps another one, and the header asks for
            // buffers that nobody else uses now.
            let (params, grads) = unsafe { passed.lend() };
            let stepped = optimizer.step_with(&step, params, grads);
            spare.keep(passed);
            stepped
        })
    })
}

/// The arguments of a step: options, parameters, gradients.
///
/// # Safety
/// As for [`sonew_step`].
pub(super) unsafe fn arguments(
    options: *const sonew_step_options,
    params: *const *mut c_void,
    grads: *const *const c_void,
    count: usize,
) -> Result<(StepOptions, List<*mut c_void>, List<*const c_void>)> {
    // SAFETY: the caller's promise.
    unsafe {
        Ok((
            step_options(options)?,
            List::new(params, count, "params")?,
            List::new(grads, count, "grads")?,
        ))
    }
}
