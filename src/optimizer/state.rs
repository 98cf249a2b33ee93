//! The state of one tensor, in memory or in a mapped file.

use std::mem::take;
use std::ops::{Deref, DerefMut};

use crate::checkpoint::{Master, Part, Settings};
use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{planes, Plane, TensorSpec};
use crate::memory::{again, fill, reserve, try_list, AlignedBytes, OF_A_STEP, OF_TENSORS};
use crate::options::Options;
use crate::step::{SpareLists, Target, TensorBuffers};

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

    /// The state lent for a step; and, put into their list, the planes as they
    /// are before it where they are not updated in place.
    fn buffers<'a>(
        &'a mut self,
        lists: &mut SpareLists,
        before: &mut Vec<Elements<'a>>,
        target: Target<'a>,
        gradient: Option<Elements<'a>>,
    ) -> Result<TensorBuffers<'a>> {
        let (written, read): (_, &[Storage]) = match self.other.is_empty() {
            true => (&mut self.elements, &[]),
            false => (&mut self.other, &self.elements),
        };
        let planes = self.planes.iter().zip(read);
        let planes = planes.map(|(plane, bytes)| Elements::from_bytes(plane.dtype, bytes));
        fill(before, planes)?;
        let planes = self.planes.iter().zip(written);
        let planes = planes.map(|(plane, bytes)| ElementsMut::from_bytes(plane.dtype, bytes));
        Ok(TensorBuffers {
            target,
            gradient,
            planes: lists.planes(planes)?,
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
        })
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

/// The lists of a step, empty: their memory is kept for the next one.
#[derive(Default)]
pub(super) struct Lists {
    buffers: SpareLists,
    before: Vec<Vec<Elements<'static>>>,
}

impl Lists {
    /// The state of all tensors lent for a step with these buffers; see
    /// [`TensorState::buffers`].
    pub(super) fn lend<'a>(
        &mut self,
        state: &'a mut [TensorState],
        params: &'a mut [ElementsMut<'_>],
        grads: &[Option<Elements<'a>>],
    ) -> Result<Lent<'a>> {
        let mut buffers = self.buffers.buffers(state.len())?;
        let before = take(&mut self.before).into_iter().map(again);
        let mut before: Vec<_> = before.collect();
        let missing = state.len().saturating_sub(before.len());
        reserve(&mut before, missing, || OF_A_STEP.to_owned())?;
        before.resize_with(state.len(), Vec::new);
        let tensors = state.iter_mut().zip(params).zip(grads).zip(&mut before);
        for (((state, param), &grad), before) in tensors {
            let target = Target::Parameters(param.reborrow());
            buffers.push(state.buffers(&mut self.buffers, before, target, grad)?);
        }
        Ok(Lent { buffers, before })
    }

    /// Takes back what was lent.
    pub(super) fn keep(&mut self, lent: Lent<'_>) {
        self.buffers.keep(lent.buffers);
        self.before = lent.before.into_iter().map(again).collect();
    }
}

/// State that is lent for a step.
pub(super) struct Lent<'a> {
    pub(super) buffers: Vec<TensorBuffers<'a>>,
    pub(super) before: Vec<Vec<Elements<'a>>>,
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
