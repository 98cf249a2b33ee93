//! The checked buffers of a step of a plan, and the scalars that it leaves to their caller.

use super::tensor_settings::{numbers_of, scalars_of, Numbers};
use crate::layout::Scalars;
use crate::TensorBuffers;

/// The checked buffers of a step.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) buffers: Vec<TensorBuffers<'static>>,
    /// Where the caller keeps the scalars of each tensor.
    pub(super) scalars: Vec<CallersScalars>,
}

/// The scalars of a tensor, or null.
pub(super) struct CallersScalars(pub(super) *mut f64);

// SAFETY: the header asks that nobody else uses them until the step is done, whichever
// thread takes its stages.
unsafe impl Send for CallersScalars {}

impl CallersScalars {
    /// # Safety
    /// They are there, or the pointer is null.
    pub(super) unsafe fn read(&self) -> Scalars {
        match self.0.is_null() {
            true => Scalars::default(),
            // SAFETY: the caller's promise; checked to be aligned.
            false => scalars_of(unsafe { self.0.cast::<Numbers>().read() }),
        }
    }

    /// # Safety
    /// They are there, or the pointer is null.
    unsafe fn write(&self, scalars: Scalars) {
        if !self.0.is_null() {
            // SAFETY: as above.
            unsafe { self.0.cast::<Numbers>().write(numbers_of(scalars)) };
        }
    }
}

impl Passed {
    /// Hands over what a step that is done has left to the next.
    ///
    /// # Safety
    /// The pointers that were passed are still valid.
    pub(super) unsafe fn give_scalars(&self) {
        for (place, buffers) in self.scalars.iter().zip(&self.buffers) {
            // SAFETY: the caller's promise.
            unsafe { place.write(buffers.scalars) };
        }
    }
}
