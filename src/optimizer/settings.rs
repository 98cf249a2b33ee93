//! What can be set of a single tensor.

use super::Optimizer;
use crate::checkpoint::Live;
use crate::error::Result;
use crate::layout::{check_scalars, Scalars};
use crate::options::not_negative;

/// The settings of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSettings {
    /// The factor on its learning rate, finite and not negative; 1 at first.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative; at first that of the options.
    pub weight_decay: f64,
    /// The steps that the tensor took part in, which its bias correction counts. So
    /// tensors may also be stepped in separate calls, each with the gradients of the
    /// others `None`: they get the same bits as in one call for all, but for clipping.
    ///
    /// It is set for state that came with one count for all
    /// ([`Optimizer::set_state`]), and, to 0, for tensors whose planes begin anew. Bias
    /// correction does not follow it where it follows the betas of single steps
    /// ([`StepOptions::beta1`](crate::options::StepOptions::beta1)).
    pub step_count: u64,
    /// What the tensor's last step left to the next besides the planes: zeros before the
    /// first.
    pub scalars: Scalars,
}

impl Default for TensorSettings {
    fn default() -> Self {
        TensorSettings {
            lr_scale: 1.0,
            weight_decay: 0.0,
            step_count: 0,
            scalars: Scalars::default(),
        }
    }
}

impl Optimizer {
    /// The settings of a tensor.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`](crate::Error::UnknownTensor).
    pub fn settings(&self, tensor: usize) -> Result<TensorSettings> {
        let state = self.state_of(tensor)?;
        Ok(TensorSettings {
            lr_scale: state.lr_scale,
            weight_decay: state.weight_decay,
            step_count: state.step_count,
            scalars: state.scalars,
        })
    }

    /// Changes some of the settings of a tensor, as `change` does.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`](crate::Error::UnknownTensor) and
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), which a step count of 2^47 or more
    /// is where the state is in a live file;
    /// [`Error::Forked`](crate::Error::Forked) and [`Error::Io`](crate::Error::Io) there,
    /// too.
    pub fn change_settings(
        &mut self,
        tensor: usize,
        change: impl FnOnce(&mut TensorSettings),
    ) -> Result<()> {
        self.between_steps()?;
        let mut settings = self.settings(tensor)?;
        change(&mut settings);
        let spec = &self.specs[tensor];
        let of = |argument| format!("{argument} of tensor \"{}\"", spec.name);
        not_negative(of("lr_scale"), settings.lr_scale)?;
        not_negative(of("weight_decay"), settings.weight_decay)?;
        check_scalars(spec, &settings.scalars)?;
        if self.live.is_some() {
            Live::check_tensor_step(&spec.name, settings.step_count)?;
        }
        self.begin_live()?;
        let state = &mut self.state[tensor];
        state.lr_scale = settings.lr_scale;
        state.weight_decay = settings.weight_decay;
        state.step_count = settings.step_count;
        state.scalars = settings.scalars;
        self.set_live(tensor, self.state[tensor].settings());
        Ok(())
    }
}
