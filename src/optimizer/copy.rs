//! Begins anew, and copies.

use super::state::TensorState;
use super::Optimizer;
use crate::checkpoint::{ask_for_texts, Master};
use crate::error::Result;
use crate::layout::MASTER;
use crate::memory::{try_list, OF_TENSORS};

impl Optimizer {
    /// Makes the optimizer what it was when it was created: all state zero, step counts 0,
    /// the first settings of tensors, no [texts](Optimizer::set_text). A live file that held
    /// the state is closed at its last step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory);
    /// [`Error::InStages`](crate::Error::InStages).
    pub fn reset(&mut self) -> Result<()> {
        self.between_steps()?;
        let zero = |spec| TensorState::zeroed(spec, self.options());
        let state = try_list(self.specs.iter().map(zero), OF_TENSORS)?;
        self.close_live();
        self.state = state;
        self.step_count = 0;
        self.texts.clear();
        self.fresh = true;
        self.plan.forget_norm();
        Ok(())
    }

    /// A copy with options, tensors, settings, texts and state, which is in memory, also if
    /// that of the original is in a file. The copy uses the same pool. From then on both give
    /// the same bits for the same steps. Master weights that were discarded
    /// ([`reset_master`](Optimizer::reset_master)) are not copied. That this may fail is why
    /// it is not [`Clone`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory);
    /// [`Error::InStages`](crate::Error::InStages).
    pub fn try_clone(&self) -> Result<Optimizer> {
        self.between_steps()?;
        ask_for_texts(&self.texts)?;
        let pool = self.pool().own();
        let mut copy = Optimizer::in_pool(self.options().clone(), &self.specs, pool)?;
        for (from, to) in self.state.iter().zip(&mut copy.state) {
            to.master = match from.master {
                Master::Reset => Master::Empty,
                master => master,
            };
            let is_set = to.master == Master::Set;
            let planes = from.planes.iter().zip(from.held()).zip(&mut to.elements);
            for ((plane, from), to) in planes {
                // What is not set is zero.
                if plane.name != MASTER || is_set {
                    to.copy_from_slice(from);
                }
            }
            (to.lr_scale, to.weight_decay) = (from.lr_scale, from.weight_decay);
            (to.step_count, to.scalars) = (from.step_count, from.scalars);
            to.is_partial = from.is_partial;
        }
        copy.step_count = self.step_count;
        copy.texts = self.texts.clone();
        copy.fresh = false;
        Ok(copy)
    }
}
