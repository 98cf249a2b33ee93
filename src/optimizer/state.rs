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

/// The memory that holds the elements of a plane.
pub(super) enum Storage {
    Memory(AlignedBytes),
    /// Part of a mapped file.
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

/// The state planes of a tensor, and its settings.
pub(super) struct TensorState {
    pub planes: Vec<Plane>,
    /// The elements of every plane.
    pub elements: Vec<Storage>,
    /// The other copy in a live file, which the next step writes; empty if the
    /// state is not in a live file.
    pub other: Vec<Storage>,
    /// Whether the other copy is known to be equal to this one.
    pub same: bool,
    /// What the plane of master weights holds, if the tensor has one.
    pub master: Master,
    /// Master weights that are not in the live file that holds the state, if they
    /// are not set there: copied from the parameters for the step that is under way,
    /// otherwise zero. The file's stay as they are until the step is complete.
    pub beside: Option<AlignedBytes>,
    /// Whether they have been copied from the parameters.
    pub copied: bool,
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
            master: Master::Empty,
            beside: None,
            copied: false,
            lr_scale: 1.0,
            weight_decay: options.weight_decay,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements.iter().map(|bytes| bytes.len()).sum()
    }

    /// The plane with this index, if there is one.
    pub(super) fn plane(&self, plane: usize) -> Option<Elements<'_>> {
        let dtype = self.planes.get(plane)?.dtype;
        let bytes = self.held().nth(plane)?;
        Some(Elements::from_bytes(dtype, bytes))
    }

    /// The bytes of every plane.
    pub(super) fn held(&self) -> impl Iterator<Item = &[u8]> {
        let last = self.elements.len().wrapping_sub(1);
        let planes = self.elements.iter().enumerate();
        // Master weights are the last plane.
        planes.map(move |(plane, bytes)| match &self.beside {
            Some(beside) if plane == last => &beside[..],
            _ => &bytes[..],
        })
    }

    /// Bytes of memory that are not part of a mapped file.
    pub(super) fn memory(&self) -> usize {
        let elements = self.elements.iter().filter_map(|bytes| match bytes {
            Storage::Memory(bytes) => Some(bytes.len()),
            Storage::Mapped(_) => None,
        });
        elements.sum::<usize>() + self.beside.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// What a live file stores of the tensor besides its planes, after the step
    /// that is under way.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
            master: match self.copied {
                true => Master::Set,
                false => self.master,
            },
        }
    }

    /// The tensor's buffers for a step. If the state is in a live file, fills
    /// `before` with the planes that the step reads, because it then writes the
    /// other copy; otherwise leaves it empty, because it updates the planes in
    /// place.
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
        if let (Some(beside), Some(master)) = (&self.beside, before.last_mut()) {
            *master = Elements::from_bytes(Dtype::F32, beside);
        }
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

    /// Copies the state to the other copy, unless it is known to be equal.
    pub(super) fn copy_to_other(&mut self) {
        if !self.same {
            for (to, from) in self.other.iter_mut().zip(&self.elements) {
                to.copy_from_slice(from);
            }
            self.same = true;
        }
        if let (true, Some(beside), Some(to)) = (self.copied, &self.beside, self.other.last_mut()) {
            to.copy_from_slice(beside);
            self.same = false;
        }
    }

    /// Makes the other copy, which a step has written, the current one.
    pub(super) fn swap(&mut self) {
        if std::mem::take(&mut self.copied) {
            self.beside = None;
            self.master = Master::Set;
        }
        std::mem::swap(&mut self.elements, &mut self.other);
    }
}

/// Lists that are empty between steps and keep their allocations, so that a step
/// allocates nothing.
#[derive(Default)]
pub(super) struct SpareStepBuffers {
    buffers: SpareLists,
    before: Vec<Vec<Elements<'static>>>,
}

impl SpareStepBuffers {
    /// Borrows the state of all tensors for a step with these parameters and
    /// gradients; see [`TensorState::buffers`].
    pub(super) fn lend<'a>(
        &mut self,
        state: &'a mut [TensorState],
        params: &'a mut [ElementsMut<'_>],
        grads: &[Option<Elements<'a>>],
    ) -> Result<StepBuffers<'a>> {
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
        Ok(StepBuffers { buffers, before })
    }

    /// Ends the borrow of [`lend`](Self::lend) and keeps the allocations.
    pub(super) fn keep(&mut self, step_buffers: StepBuffers<'_>) {
        self.buffers.keep(step_buffers.buffers);
        self.before = step_buffers.before.into_iter().map(again).collect();
    }
}

/// The buffers of all tensors for a step.
pub(super) struct StepBuffers<'a> {
    pub(super) buffers: Vec<TensorBuffers<'a>>,
    pub(super) before: Vec<Vec<Elements<'a>>>,
}

/// Zeroed memory for one array of a tensor; `name` is for the error message.
pub(super) fn zeros(spec: &TensorSpec, name: &str, dtype: Dtype) -> Result<AlignedBytes> {
    let len = spec.len().checked_mul(dtype.size());
    let len = len.ok_or_else(|| Error::SizeOverflow {
        tensor: spec.name.clone(),
        dims: spec.dims.clone(),
    })?;
    AlignedBytes::zeroed(len, || format!("{name} of tensor \"{}\"", spec.name))
}
