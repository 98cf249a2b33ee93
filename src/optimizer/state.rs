//! The state of one tensor, in memory or in a mapped file.

use std::ops::{Deref, DerefMut};

use crate::checkpoint::{Master, Part, Settings};
use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{planes, Plane, TensorSpec};
use crate::memory::{list, reserve, try_list, AlignedBytes, OF_A_STEP, OF_TENSORS};
use crate::options::Options;
use crate::step::{Target, TensorBuffers};

/// Where the elements of a plane are.
pub(super) enum Storage {
    Memory(AlignedBytes),
    /// In a mapped file.
    Mapped(Part),
}

impl Deref for Storage {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Storage::Memory(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for Storage {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Storage::Memory(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        }
    }
}

/// State planes and per-tensor settings.
pub(super) struct TensorState {
    pub planes: Vec<Plane>,
    /// The elements of every plane.
    pub elements: Vec<Storage>,
    /// The other copy of a live file, which the next step writes; empty where
    /// the state is not live.
    pub other: Vec<Storage>,
    /// Whether the other copy is known to be equal.
    pub same: bool,
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
            .map(|plane| zeros(spec, &plane.name, plane.dtype).map(Storage::Memory));
        let elements = try_list(elements, OF_TENSORS)?;
        Ok(TensorState {
            planes,
            elements,
            other: Vec::new(),
            same: false,
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

    /// Bytes that are in memory of its own.
    pub(super) fn memory(&self) -> usize {
        let elements = self.elements.iter().filter_map(|bytes| match bytes {
            Storage::Memory(bytes) => Some(bytes.len()),
            Storage::Mapped(_) => None,
        });
        elements.sum()
    }

    /// What a live file keeps beside the planes.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
            master: match self.master_set {
                true => Master::Set,
                false => Master::Empty,
            },
        }
    }

    /// The state lent for a step, and the planes as they are before it where
    /// they are not updated in place.
    pub(super) fn buffers<'a>(
        &'a mut self,
        target: Target<'a>,
        gradient: Option<Elements<'a>>,
    ) -> Result<(TensorBuffers<'a>, Vec<Elements<'a>>)> {
        let (written, read): (_, &[Storage]) = match self.other.is_empty() {
            true => (&mut self.elements, &[]),
            false => (&mut self.other, &self.elements),
        };
        let before = self.planes.iter().zip(read);
        let before = before.map(|(plane, bytes)| Elements::from_bytes(plane.dtype, bytes));
        let before = list(before, OF_A_STEP)?;
        let planes = self.planes.iter().zip(written);
        let planes = planes.map(|(plane, bytes)| ElementsMut::from_bytes(plane.dtype, bytes));
        let buffers = TensorBuffers {
            target,
            gradient,
            planes: list(planes, OF_A_STEP)?,
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
        };
        Ok((buffers, before))
    }

    /// Makes the other copy what this one is.
    pub(super) fn copy_to_other(&mut self) {
        if !self.same {
            for (to, from) in self.other.iter_mut().zip(&self.elements) {
                to.copy_from_slice(from);
            }
            self.same = true;
        }
    }

    /// Makes the other copy, which a step has written, this one.
    pub(super) fn swap(&mut self) {
        std::mem::swap(&mut self.elements, &mut self.other);
    }
}

/// The state of all tensors lent for a step with these buffers; see
/// [`TensorState::buffers`].
pub(super) fn lend<'a>(
    state: &'a mut [TensorState],
    params: &'a mut [ElementsMut<'_>],
    grads: &[Option<Elements<'a>>],
) -> Result<(Vec<TensorBuffers<'a>>, Vec<Vec<Elements<'a>>>)> {
    let (mut buffers, mut before) = (Vec::new(), Vec::new());
    reserve(&mut buffers, state.len(), || OF_A_STEP.to_owned())?;
    reserve(&mut before, state.len(), || OF_A_STEP.to_owned())?;
    for ((state, param), &grad) in state.iter_mut().zip(params).zip(grads) {
        let (written, read) = state.buffers(Target::Parameters(param.reborrow()), grad)?;
        buffers.push(written);
        before.push(read);
    }
    Ok((buffers, before))
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
