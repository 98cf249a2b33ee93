//! Master weights: when they are copied from the parameters, and the parameters
//! from them.

use bytemuck::cast_slice;
use half::slice::HalfFloatSliceExt;

use super::state::{zeros, TensorState};
use super::Optimizer;
use crate::checkpoint::Master;
use crate::dtype::{bf16, f16, Dtype, Elements};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::layout::{Plane, MASTER};
use crate::memory::{list, try_list, AlignedBytes, OF_A_STEP, OF_TENSORS};
use crate::step::{fits, TensorBuffers};

impl Optimizer {
    /// Discards the master weights of all tensors that have them, so that the next
    /// step copies them from the parameters again. Call this after changing
    /// parameters between steps; otherwise the next step overwrites the change.
    ///
    /// A live file keeps those of its last step until the next step is complete, so
    /// that it stays a whole checkpoint of the last step: a process that loads the
    /// parameters from it continues as if this had not been called.
    ///
    /// # Errors
    /// [`Error::Forked`] and [`Error::Io`] where the state is in a live file.
    pub fn reset_master(&mut self) -> Result<()> {
        self.between_steps()?;
        let set = |(_, state): &(usize, &TensorState)| state.master == Master::Set;
        let set = self.state.iter().enumerate().filter(set);
        let set = list(set.map(|(tensor, _)| tensor), OF_TENSORS)?;
        if self.live.is_none() {
            set.into_iter()
                .for_each(|tensor| self.forget_master(tensor));
            return Ok(());
        }
        let room = self.beside(&set)?;
        if !set.is_empty() {
            self.begin_live()?;
        }
        for (tensor, zeros) in set.into_iter().zip(room) {
            let state = &mut self.state[tensor];
            state.beside = Some(zeros);
            state.master = Master::Reset;
            let settings = state.settings();
            self.set_live(tensor, settings);
        }
        Ok(())
    }

    /// Whether a tensor has master weights that have been copied from the parameters. If
    /// not, the next step copies those that it may have.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`].
    pub fn master_set(&self, tensor: usize) -> Result<bool> {
        Ok(self.state_of(tensor)?.master == Master::Set)
    }

    /// Room for master weights beside the live file. It takes no memory before it
    /// is written.
    pub(super) fn beside(&self, tensors: &[usize]) -> Result<Vec<AlignedBytes>> {
        let room = |&tensor: &usize| {
            let spec = &self.specs[tensor];
            zeros(spec, &Plane::of(spec, MASTER, Dtype::F32))
        };
        try_list(tensors.iter().map(room), OF_A_STEP)
    }

    /// Copies master weights that are not set from the parameters, even for
    /// tensors that have no gradient in this step, so that the next save has
    /// them all. Returns the tensors, so that a refused step can discard them
    /// again.
    pub(super) fn take_masters(&mut self, buffers: &[TensorBuffers<'_>]) -> Result<Vec<usize>> {
        if self.specs.iter().all(|spec| !spec.master) {
            return Ok(Vec::new());
        }
        let specs = self.specs.iter().zip(&self.state).enumerate();
        let empty = specs.filter(|(_, (spec, state))| spec.master && state.master != Master::Set);
        let empty = list(empty.map(|(tensor, _)| tensor), OF_A_STEP)?;
        for &tensor in &empty {
            let spec = &self.specs[tensor];
            let params = buffers[tensor].target.elements().elements();
            fits(spec, "the parameter", params, spec.params, spec.len())?;
        }
        let live = self.live.is_some();
        let room = self.beside(if live { &empty } else { &[] })?;
        let mut room = room.into_iter();
        for &tensor in &empty {
            let state = &mut self.state[tensor];
            let params = buffers[tensor].target.elements().elements();
            match room.next() {
                Some(mut bytes) => {
                    widen(params, bytemuck::cast_slice_mut(&mut bytes));
                    state.beside = Some(bytes);
                    state.copied = true;
                }
                None => {
                    widen(params, state.master_plane());
                    state.master = Master::Set;
                }
            }
        }
        Ok(empty)
    }

    /// Discards the master weights of a tensor: those that are not set are zero.
    /// With a live file, only those that were copied for the step under way.
    pub(super) fn forget_master(&mut self, tensor: usize) {
        let state = &mut self.state[tensor];
        if std::mem::take(&mut state.copied) {
            // In the file they are zero, too, unless they were discarded there.
            match (&mut state.beside, state.master) {
                (Some(bytes), Master::Reset) => bytes.fill(0),
                (beside, _) => *beside = None,
            }
        } else {
            state.master_plane().fill(0.0);
            state.master = Master::Empty;
        }
    }
}

impl TensorState {
    /// The plane of master weights of a tensor that has them.
    fn master_plane(&mut self) -> &mut [f32] {
        let last = self.elements.last_mut().expect("there are planes");
        bytemuck::cast_slice_mut(last)
    }
}

/// Copies parameters to float32, which represents them all exactly.
fn widen(params: Elements<'_>, master: &mut [f32]) {
    let bytes = params.bytes();
    match params.dtype() {
        Dtype::F32 => master.copy_from_slice(cast_slice(bytes)),
        Dtype::Bf16 => cast_slice::<u8, bf16>(bytes).convert_to_f32_slice(master),
        Dtype::F16 => cast_slice::<u8, f16>(bytes).convert_to_f32_slice(master),
        Dtype::F64 => unreachable!("such a tensor was refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{narrow, Element, ElementsMut};

    fn there_and_back<T: Element>(bits: impl Fn(u16) -> T, number: impl Fn(T) -> f64) {
        let params: Vec<T> = (0..=u16::MAX).map(bits).collect();
        let mut master = vec![0.0; params.len()];
        widen(Elements::new(&params), &mut master);
        let mut back = vec![T::default(); params.len()];
        narrow(&master, ElementsMut::new(&mut back));
        for ((&param, &wide), &back) in params.iter().zip(&master).zip(&back) {
            let param = number(param);
            assert!(param == f64::from(wide) || param.is_nan() && wide.is_nan());
            assert!(param == number(back) || param.is_nan() && number(back).is_nan());
        }
    }

    #[test]
    fn every_16_bit_number_comes_through_float32() {
        there_and_back(bf16::from_bits, bf16::to_f64);
        there_and_back(f16::from_bits, f16::to_f64);
    }
}
