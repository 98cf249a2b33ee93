//! The state of one tensor, in memory.

use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{planes, Plane, TensorSpec};
use crate::memory::AlignedBytes;
use crate::options::Options;
use crate::step::{Target, TensorBuffers};

/// State planes and per-tensor settings.
pub(super) struct TensorState {
    pub planes: Vec<Plane>,
    /// The elements of every plane.
    pub elements: Vec<AlignedBytes>,
    /// Whether the tensor keeps master weights and they have been taken from
    /// the parameters. Until then their plane is zero.
    pub master_set: bool,
    pub lr_scale: f64,
    pub weight_decay: f64,
}

impl TensorState {
    /// Zero planes for a valid tensor.
    pub(super) fn zeroed(spec: &TensorSpec, options: &Options) -> Result<Self> {
        let planes = planes(options, spec);
        let elements = planes
            .iter()
            .map(|plane| zeros(spec, &plane.name, plane.dtype))
            .collect::<Result<_>>()?;
        Ok(TensorState {
            planes,
            elements,
            master_set: false,
            lr_scale: 1.0,
            weight_decay: options.weight_decay,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements.iter().map(|bytes| bytes.len()).sum()
    }

    /// A plane, if there is one of this index.
    pub(super) fn plane(&self, plane: usize) -> Option<Elements<'_>> {
        let dtype = self.planes.get(plane)?.dtype;
        Some(Elements::from_bytes(dtype, &self.elements[plane]))
    }

    /// The state lent for a step.
    pub(super) fn buffers<'a>(
        &'a mut self,
        target: Target<'a>,
        gradient: Option<Elements<'a>>,
    ) -> TensorBuffers<'a> {
        let planes = self.planes.iter().zip(&mut self.elements);
        TensorBuffers {
            target,
            gradient,
            planes: planes
                .map(|(plane, bytes)| ElementsMut::from_bytes(plane.dtype, bytes))
                .collect(),
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
        }
    }
}

/// Zeros for one array of a tensor; `name` is for the message.
pub(super) fn zeros(spec: &TensorSpec, name: &str, dtype: Dtype) -> Result<AlignedBytes> {
    let len = spec.len().checked_mul(dtype.size());
    let len = len.ok_or_else(|| Error::SizeOverflow {
        tensor: spec.name.clone(),
        dims: spec.dims.clone(),
    })?;
    AlignedBytes::zeroed(len, || format!("{name} of tensor \"{}\"", spec.name))
}
