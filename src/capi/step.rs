//! Step
//!
//! The settings of one step are passed to that step.

use std::ffi::c_void;
use std::mem::take;

use super::arguments::{named, unused, List};
use super::buffers::{for_each_of_state, none_overlap, state, Buffer, RawBuffer};
use super::guard::{call, call_always};
use super::optimizer::{sonew_optimizer, with};
use super::status::sonew_status;
use super::versioned::{self, Growing, Versioned};
use crate::dtype::{Elements, ElementsMut};
use crate::error::Result;
use crate::layout::{check_count, TensorSpec};
use crate::memory::{again, reserve, OF_A_STEP};
use crate::options::{in_range, NonFinite, StepOptions};
use crate::Optimizer;

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

/// The checked buffers of a step: parameters and gradients of all tensors.
#[derive(Default)]
pub(super) struct StepArguments {
    params: Vec<RawBuffer>,
    grads: Vec<Option<RawBuffer>>,
}

impl StepArguments {
    /// Lends the parameters and the gradients to a step.
    ///
    /// # Safety
    /// The buffers have their tensors' lengths, and nobody else uses them during
    /// `'b`.
    pub(super) unsafe fn lend<'b>(
        &self,
    ) -> (
        impl ExactSizeIterator<Item = ElementsMut<'b>> + use<'_, 'b>,
        impl ExactSizeIterator<Item = Option<Elements<'b>>> + use<'_, 'b>,
    ) {
        // SAFETY: the caller's promise; written buffers overlap no other one.
        let written = |raw: &RawBuffer| unsafe { raw.elements_mut() };
        // SAFETY: the caller's promise.
        let read = |raw: &Option<RawBuffer>| raw.map(|raw| unsafe { raw.elements() });
        (self.params.iter().map(written), self.grads.iter().map(read))
    }

    /// Calls `body` with each of the buffers, and with those of the state.
    pub(super) fn for_each(
        &self,
        optimizer: &Optimizer,
        mut body: impl FnMut(Buffer<'_>) -> Result<()>,
    ) -> Result<()> {
        let tensors = optimizer.tensors();
        for (tensor, &raw) in tensors.iter().zip(&self.params) {
            body(Buffer::checked(tensor, "the parameter", raw))?;
        }
        for (tensor, raw) in tensors.iter().zip(&self.grads) {
            if let Some(raw) = *raw {
                body(Buffer::checked(tensor, "the gradient", raw))?;
            }
        }
        for_each_of_state(optimizer, body)
    }
}

/// The checked buffers of the last step, of which most steps pass the same again; and a list
/// that is empty between steps and keeps its allocation, so that a step allocates nothing.
#[derive(Default)]
pub(super) struct SpareStepArguments {
    passed: StepArguments,
    /// Where the state was, which they do not overlap. Empty if they were not checked.
    state: Vec<usize>,
    all: Vec<Buffer<'static>>,
}

impl SpareStepArguments {
    /// Checks the buffers of a step.
    pub(super) fn check(
        &mut self,
        optimizer: &Optimizer,
        params: &List<*mut c_void>,
        grads: &List<*const c_void>,
    ) -> Result<StepArguments> {
        let tensors = optimizer.tensors();
        if self.are_as_before(optimizer, params, grads) {
            return Ok(take(&mut self.passed));
        }
        self.state.clear();
        let mut passed = take(&mut self.passed);
        let mut all = again(take(&mut self.all));
        passed.params.clear();
        passed.grads.clear();
        let what = || OF_A_STEP.to_owned();
        reserve(&mut passed.params, tensors.len(), what)?;
        reserve(&mut passed.grads, tensors.len(), what)?;
        reserve(&mut all, 2 * tensors.len(), what)?;
        for (i, (tensor, param)) in tensors.iter().zip(params.iter()).enumerate() {
            let buffer = written_param(i, tensor, param)?;
            all.push(buffer);
            passed.params.push(buffer.raw());
        }
        for (i, (tensor, grad)) in tensors.iter().zip(grads.iter()).enumerate() {
            let name = || format!("grads[{i}]");
            let buffer = || Buffer::read(tensor, "the gradient", tensor.grads, grad, name);
            let buffer = (!grad.is_null()).then(buffer).transpose()?;
            all.extend(buffer);
            passed.grads.push(buffer.map(|buffer| buffer.raw()));
        }
        state(optimizer, &mut all)?;
        none_overlap(&mut all)?;
        // As many as for the list above, also of state that is in a live file later.
        reserve(&mut self.state, all.capacity(), what)?;
        self.state.extend(optimizer.state_addresses());
        self.all = again(all);
        Ok(passed)
    }

    /// Whether all buffers, and those of the state, are where they were when they were last
    /// checked. Tensors and types are always the same.
    fn are_as_before(
        &self,
        optimizer: &Optimizer,
        params: &List<*mut c_void>,
        grads: &List<*const c_void>,
    ) -> bool {
        let StepArguments {
            params: before,
            grads: grads_before,
        } = &self.passed;
        let same = |(now, raw): (*mut c_void, &RawBuffer)| raw.is_at(now);
        let same_grad = |(now, raw): (*const c_void, &Option<RawBuffer>)| match raw {
            Some(raw) => raw.is_at(now),
            None => now.is_null(),
        };
        !self.state.is_empty()
            && (params.len(), grads.len()) == (before.len(), grads_before.len())
            && params.iter().zip(before).all(same)
            && grads.iter().zip(grads_before).all(same_grad)
            && self.state.iter().copied().eq(optimizer.state_addresses())
    }

    /// Keeps the allocations of arguments that are not needed any more.
    pub(super) fn keep(&mut self, passed: StepArguments) {
        self.passed = passed;
    }
}

/// The checked buffers of parameters that a call writes, one for each tensor.
pub(super) fn written_params<'a>(
    params: &List<*mut c_void>,
    tensors: &'a [TensorSpec],
) -> Result<Vec<Buffer<'a>>> {
    params.collect("the list of parameters", |i, param| {
        written_param(i, &tensors[i], param)
    })
}

fn written_param(i: usize, tensor: &TensorSpec, param: *mut c_void) -> Result<Buffer<'_>> {
    let name = || format!("params[{i}]");
    Buffer::write(tensor, "the parameter", tensor.params, param, name)
}
