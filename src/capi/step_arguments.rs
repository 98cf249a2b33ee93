//! The parameters and gradients of a step of an optimizer, which are checked before it begins.

use std::ffi::c_void;
use std::mem::take;

use super::arguments::List;
use super::buffers::{for_each_of_state, none_overlap, state, Buffer, RawBuffer};
use crate::dtype::{Elements, ElementsMut};
use crate::error::Result;
use crate::layout::TensorSpec;
use crate::memory::{again, reserve, OF_A_STEP};
use crate::Optimizer;

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
