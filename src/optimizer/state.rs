//! The state of one tensor, in memory.

use crate::error::{Error, Result};
use crate::layout::{planes, TensorSpec};
use crate::memory::AlignedBytes;
use crate::options::Options;
use crate::step::{Target, TensorBuffers};

/// State planes and per-tensor settings.
pub(super) struct TensorState {
    pub names: Vec<String>,
    pub planes: Vec<AlignedBytes>,
    pub lr_scale: f64,
    pub weight_decay: f64,
}

impl TensorState {
    /// Zero planes for a valid tensor.
    pub(super) fn zeroed(spec: &TensorSpec, options: &Options) -> Result<Self> {
        let names = planes(options, spec.update);
        let planes = names
            .iter()
            .map(|name| plane(spec, name))
            .collect::<Result<_>>()?;
        Ok(TensorState {
            names,
            planes,
            lr_scale: 1.0,
            weight_decay: options.weight_decay,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.planes.iter().map(|plane| plane.len()).sum()
    }

    /// The state lent for a step.
    pub(super) fn buffers<'a>(
        &'a mut self,
        target: Target<'a>,
        gradient: Option<&'a [f32]>,
    ) -> TensorBuffers<'a> {
        let planes = self.planes.iter_mut();
        TensorBuffers {
            target,
            gradient,
            planes: planes.map(|p| bytemuck::cast_slice_mut(p)).collect(),
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
        }
    }
}

/// Zeros for one array of a tensor; `name` is for the message.
pub(super) fn plane(spec: &TensorSpec, name: &str) -> Result<AlignedBytes> {
    let len = spec.len().checked_mul(size_of::<f32>());
    let len = len.ok_or_else(|| Error::SizeOverflow {
        tensor: spec.name.clone(),
        dims: spec.dims.clone(),
    })?;
    AlignedBytes::zeroed(len, || format!("{name} of tensor \"{}\"", spec.name))
}
