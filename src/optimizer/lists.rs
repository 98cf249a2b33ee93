//! Converts the buffers of a step into lists of [`Elements`].

use std::mem::take;

use crate::dtype::{Elements, ElementsMut};
use crate::error::Result;
use crate::memory::{again, fill};

/// Lists of parameters and gradients for
/// [`step_any`](super::Optimizer::step_any). They are empty between steps and
/// keep their allocations, so that a step allocates nothing.
#[derive(Default)]
pub(crate) struct SpareElements {
    params: Vec<ElementsMut<'static>>,
    grads: Vec<Option<Elements<'static>>>,
}

impl SpareElements {
    /// Calls `body` with lists of the buffers. Running out of memory for the
    /// lists is an error.
    pub(crate) fn with<'a, R>(
        &mut self,
        params: impl ExactSizeIterator<Item = ElementsMut<'a>>,
        grads: impl ExactSizeIterator<Item = Option<Elements<'a>>>,
        body: impl FnOnce(&mut [ElementsMut<'a>], &[Option<Elements<'a>>]) -> Result<R>,
    ) -> Result<R> {
        let mut listed_params = again(take(&mut self.params));
        let mut listed_grads = again(take(&mut self.grads));
        fill(&mut listed_params, params)?;
        fill(&mut listed_grads, grads)?;
        let outcome = body(&mut listed_params, &listed_grads);
        self.params = again(listed_params);
        self.grads = again(listed_grads);
        outcome
    }
}
