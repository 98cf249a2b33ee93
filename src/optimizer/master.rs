//! Master weights: when they are copied from the parameters, and the parameters
//! from them.

use bytemuck::{cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;

use super::state::TensorState;
use super::Optimizer;
use crate::checkpoint::{Master, Settings};
use crate::dtype::{bf16, f16, Dtype, Elements, ElementsMut};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::memory::{list, OF_A_STEP};
use crate::step::{fits, TensorBuffers};

impl Optimizer {
    /// Discards the master weights of all tensors that have them, so that the
    /// next step copies them from the parameters again. Call this after changing
    /// parameters between steps; otherwise the next step overwrites the change.
    ///
    /// # Errors
    /// [`Error::Forked`] and [`Error::Io`] where the state is in a live file.
    pub fn reset_master(&mut self) -> Result<()> {
        self.between_steps()?;
        let set = |(_, state): &(usize, &TensorState)| state.master_set;
        let set = self.state.iter().enumerate().filter(set);
        let set: Vec<usize> = set.map(|(tensor, _)| tensor).collect();
        if !set.is_empty() {
            self.begin_live()?;
        }
        set.into_iter()
            .for_each(|tensor| self.forget_master(tensor));
        Ok(())
    }

    /// Copies master weights that are not set from the parameters, even for
    /// tensors that have no gradient in this step, so that the next save has
    /// them all. Returns the tensors, so that a refused step can discard them
    /// again.
    pub(super) fn take_masters(&mut self, buffers: &[TensorBuffers<'_>]) -> Result<Vec<usize>> {
        let specs = self.specs.iter().zip(&self.state).enumerate();
        let empty = specs.filter(|(_, (spec, state))| spec.master && !state.master_set);
        let empty = list(empty.map(|(tensor, _)| tensor), OF_A_STEP)?;
        for &tensor in &empty {
            let spec = &self.specs[tensor];
            let params = buffers[tensor].target.elements().elements();
            fits(spec, "the parameter", params, spec.params)?;
        }
        if !empty.is_empty() {
            self.begin_live()?;
        }
        for &tensor in &empty {
            self.change_master(tensor);
            let state = &mut self.state[tensor];
            widen(buffers[tensor].target.elements().elements(), state.master());
            // A live file records them as set only when the step is complete, so
            // that a process that dies before leaves them as not set.
            state.master_set = true;
        }
        Ok(empty)
    }

    /// Discards the master weights of a tensor: those that are not set are zero.
    pub(super) fn forget_master(&mut self, tensor: usize) {
        self.change_master(tensor);
        let state = &mut self.state[tensor];
        state.master().fill(0.0);
        state.master_set = false;
        let forgotten = state.settings();
        self.set_live(tensor, forgotten);
    }

    /// Notes in the live file that master weights are being written in place.
    fn change_master(&mut self, tensor: usize) {
        let changing = Settings {
            master: Master::Changing,
            ..self.state[tensor].settings()
        };
        self.set_live(tensor, changing);
        self.state[tensor].same = false;
    }
}

impl TensorState {
    /// The plane of master weights of a tensor that has them.
    fn master(&mut self) -> &mut [f32] {
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

/// Computes parameters from master weights as a step does: rounded to nearest.
pub(super) fn narrow(master: &[f32], mut params: ElementsMut<'_>) {
    let dtype = params.dtype();
    let bytes = params.bytes_mut();
    match dtype {
        Dtype::F32 => bytes.copy_from_slice(cast_slice(master)),
        Dtype::Bf16 => cast_slice_mut::<u8, bf16>(bytes).convert_from_f32_slice(master),
        Dtype::F16 => cast_slice_mut::<u8, f16>(bytes).convert_from_f32_slice(master),
        Dtype::F64 => unreachable!("such a tensor was refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Element;

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
