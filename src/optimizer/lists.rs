//! The lists of a step's buffers, for those who have them in another form.

use std::mem::take;

use crate::dtype::{Elements, ElementsMut};
use crate::error::Result;
use crate::memory::{again, fill};

/// Parameters and gradients, listed for [`step_any`](super::Optimizer::step_any):
/// empty between steps, which keep the memory for the next one.
#[derive(Default)]
pub(crate) struct StepLists {
    params: Vec<ElementsMut<'static>>,
    grads: Vec<Option<Elements<'static>>>,
}

impl StepLists {
    /// Lists buffers, and uses them. The memory may be refused.
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
