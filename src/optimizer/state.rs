//! The state of one tensor, in memory or in a mapped file.

use std::ops::{Deref, DerefMut};

use crate::checkpoint::{Master, Part, Settings};
use crate::dtype::{Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{last_sums, planes, Plane, Scalars, TensorSpec, MASTER};
use crate::memory::{try_list, AlignedBytes, OF_TENSORS};
use crate::options::Options;
use crate::step::TensorBuffers;

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
    /// The steps that the tensor took part in, for its bias correction.
    pub step_count: u64,
    /// What its last step left to the next, besides the planes.
    pub scalars: Scalars,
    /// Whether the tensor takes part in the step under way, or took part in the last.
    pub takes_part: bool,
    /// It is a part of a tensor whose chains share their correlations.
    pub is_cut: bool,
    /// The pooled sums of its last step are those of its own chains alone.
    pub is_partial: bool,
}

impl TensorState {
    /// Zero planes for a valid tensor.
    pub(super) fn zeroed(spec: &TensorSpec, options: &Options) -> Result<Self> {
        let state = Self::without_elements(spec, options);
        let elements = state
            .planes
            .iter()
            .map(|plane| zeros(spec, plane).map(Storage::Memory));
        let elements = try_list(elements, OF_TENSORS)?;
        Ok(TensorState { elements, ..state })
    }

    /// The same without memory for the planes, which must be mapped before they are used.
    pub(super) fn without_elements(spec: &TensorSpec, options: &Options) -> Self {
        TensorState {
            planes: planes(options, spec),
            elements: Vec::new(),
            other: Vec::new(),
            same: false,
            master: Master::Empty,
            beside: None,
            copied: false,
            lr_scale: 1.0,
            weight_decay: spec.options_or(options).weight_decay,
            step_count: 0,
            scalars: Scalars::default(),
            takes_part: false,
            is_cut: spec.is_part() && last_sums(options, spec).is_some(),
            is_partial: false,
        }
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
            step_count: self.step_count,
            scalars: self.scalars,
        }
    }

    /// Lends the state to a step. If it is in a live file, the step reads it here and
    /// writes the other copy; otherwise it updates the planes in place.
    pub(super) fn lend<'a>(&'a mut self, buffers: &mut TensorBuffers<'a>) {
        let is_empty = self.elements[0].is_empty();
        self.takes_part = buffers.gradient.is_some() && !is_empty;
        let (written, read): (_, &[Storage]) = match self.other.is_empty() {
            true => (&mut self.elements, &[]),
            false => (&mut self.other, &self.elements),
        };
        let written = self.planes.iter().zip(written);
        let written = written.map(|(plane, bytes)| ElementsMut::from_bytes(plane.dtype, bytes));
        buffers.planes.clear();
        buffers.planes.extend(written);
        if !read.is_empty() {
            let read = self.planes.iter().zip(read).map(|(plane, bytes)| {
                match self.beside.as_deref().filter(|_| plane.name == MASTER) {
                    Some(beside) => Elements::from_bytes(plane.dtype, beside),
                    None => Elements::from_bytes(plane.dtype, bytes),
                }
            });
            buffers.read_from(read);
        }
        (buffers.lr_scale, buffers.weight_decay) = (self.lr_scale, self.weight_decay);
        buffers.step_number = self.step_count.saturating_add(1);
        // A tensor whose count was set to zero begins anew.
        buffers.scalars = match self.step_count {
            0 => Scalars::default(),
            _ => self.scalars,
        };
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

/// Lends the state of all tensors to a step with these parameters and gradients.
pub(super) fn lend<'a>(
    state: &'a mut [TensorState],
    mut buffers: Vec<TensorBuffers<'a>>,
) -> Vec<TensorBuffers<'a>> {
    for (state, buffers) in state.iter_mut().zip(&mut buffers) {
        state.lend(buffers);
    }
    buffers
}

/// Zeroed memory for one array of a tensor.
pub(super) fn zeros(spec: &TensorSpec, plane: &Plane) -> Result<AlignedBytes> {
    let Plane { name, dtype, dims } = plane;
    let len = dims
        .iter()
        .try_fold(dtype.size(), |len, &d| len.checked_mul(d));
    let len = len.ok_or_else(|| Error::SizeOverflow {
        tensor: spec.name.clone(),
        dims: dims.clone(),
    })?;
    AlignedBytes::zeroed(len, || format!("{name} of tensor \"{}\"", spec.name))
}
