//! Pooled sums of a tensor that is cut over processes: each has those of its own chains.

use std::ops::Range;

use super::Optimizer;
use crate::dtype::{Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{last_sums, POOLED};
use crate::step::fits;

/// What messages call them.
pub(crate) const PARTIAL: &str = "the partial sums";
pub(crate) const REDUCED: &str = "the reduced sums";

impl Optimizer {
    /// How many [partial sums](Optimizer::partial_sums) there are of a tensor: with `L`
    /// coordinates in a chain, `(band + 1) L`, `(rank + 1) L` or `L L`. 0 if it has no pooled
    /// correlations, or those of the step itself.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`].
    pub fn partial_sums_len(&self, tensor: usize) -> Result<usize> {
        self.state_of(tensor)?;
        Ok(self.last_sums(tensor).len())
    }

    /// Writes what this optimizer has of the sums of products of a tensor's last step, of the
    /// chains that are here: that step's part of the plane `pooled`, see
    /// [`planes`](crate::layout::planes). A tensor with pooled correlations that is a
    /// [shard](crate::layout::Shard) needs the sums over all shards. Add these numbers up over
    /// them, and give the result back by [`set_reduced_sums`](Optimizer::set_reduced_sums)
    /// before the next step, which is the first that uses it, and before the state is saved.
    /// Both are refused until then, with [`Error::PartialSums`].
    ///
    /// Nothing needs to be added, and all numbers are zero, of a tensor that is whole, that took
    /// no part in the last step or has no rows here, and of sums that have been set. So a program
    /// may pass those of all tensors on after every step.
    ///
    /// They may be asked for, too, as soon as a step in stages has reached
    /// [`Stage::Norms`](crate::Stage::Norms).
    ///
    /// # Errors
    /// [`Error::UnknownTensor`]; [`Error::WrongDtype`] and [`Error::WrongLength`] for numbers
    /// that are not as many as [`partial_sums_len`](Optimizer::partial_sums_len) says, of the
    /// type of the tensor's arithmetic (float64 if its parameters or state are, otherwise
    /// float32); [`Error::InStages`] at an earlier stage.
    pub fn partial_sums(&self, tensor: usize, mut to: ElementsMut<'_>) -> Result<()> {
        let state = self.state_of(tensor)?;
        let is_partial = match &self.staged {
            None => state.is_partial,
            Some(staged) if staged.has_summed() => state.is_cut && state.takes_part,
            Some(_) => return Err(Error::InStages),
        };
        self.check_sums(tensor, PARTIAL, to.elements())?;
        match self.place_of_sums(tensor).filter(|_| is_partial) {
            Some((plane, bytes)) => {
                let all: &[u8] = &state.elements[plane];
                to.bytes_mut().copy_from_slice(&all[bytes]);
            }
            None => to.bytes_mut().fill(0),
        }
        Ok(())
    }

    /// Puts sums over all shards in the place of a tensor's
    /// [partial sums](Optimizer::partial_sums). All shards must be given the same bits, since
    /// each adds them to its own copy of the sums of all steps. Where these were zero because
    /// nothing needed to be added, the state stays as it is.
    ///
    /// # Errors
    /// As for [`partial_sums`](Optimizer::partial_sums), and [`Error::InStages`] at any stage.
    pub fn set_reduced_sums(&mut self, tensor: usize, sums: Elements<'_>) -> Result<()> {
        self.between_steps()?;
        self.check_sums(tensor, REDUCED, sums)?;
        let place = self.place_of_sums(tensor);
        let state = &mut self.state[tensor];
        if let Some((plane, bytes)) = place.filter(|_| state.is_partial) {
            state.elements[plane][bytes].copy_from_slice(sums.bytes());
            state.is_partial = false;
        }
        Ok(())
    }

    /// Refuses while sums have to be added up over shards.
    pub(super) fn check_reduced(&self) -> Result<()> {
        match self.state.iter().position(|state| state.is_partial) {
            None => Ok(()),
            Some(tensor) => Err(Error::PartialSums {
                tensor: self.specs[tensor].name.clone(),
            }),
        }
    }

    /// Refuses state that is written between steps, for a live file.
    pub(super) fn check_live(&self) -> Result<()> {
        match self.state.iter().position(|state| state.is_cut) {
            None => Ok(()),
            Some(tensor) => Err(Error::LiveShard {
                tensor: self.specs[tensor].name.clone(),
            }),
        }
    }

    fn check_sums(&self, tensor: usize, argument: &str, sums: Elements<'_>) -> Result<()> {
        let len = self.partial_sums_len(tensor)?;
        let spec = &self.specs[tensor];
        fits(spec, argument, sums, spec.arithmetic(), len)
    }

    /// Where the sums of a tensor's last step alone are in their plane.
    fn last_sums(&self, tensor: usize) -> Range<usize> {
        last_sums(self.options(), &self.specs[tensor]).unwrap_or_default()
    }

    /// The plane, and the bytes of these sums in it.
    fn place_of_sums(&self, tensor: usize) -> Option<(usize, Range<usize>)> {
        let planes = &self.state[tensor].planes;
        let plane = planes.iter().position(|plane| plane.name == POOLED)?;
        let (sums, size) = (self.last_sums(tensor), planes[plane].dtype.size());
        Some((plane, sums.start * size..sums.end * size))
    }
}
