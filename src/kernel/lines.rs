//! Which elements of a tensor's buffers a kernel works on.

use std::marker::PhantomData;

use super::element::Noise;
use super::vector::{Vector, LANES};
use super::MAX_BAND;
use crate::dtype::Dtype;

/// Momentum, diagonal, sub-diagonals, normalized RMSProp.
pub(crate) const MAX_PLANES: usize = MAX_BAND + 3;

/// Some elements of a tensor: `count` lines of `width` elements from `first`
/// on, `step` elements apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lines {
    pub first: usize,
    pub width: usize,
    pub count: usize,
    pub step: usize,
}

impl Lines {
    /// Positions of the workspace that they take.
    pub(crate) fn positions(&self) -> usize {
        self.count * self.pitch()
    }

    /// Positions from one line to the next: whole vectors, whatever their
    /// lanes.
    fn pitch(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }
}

/// Where a vector of coordinates is in the tensor's buffers.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its first element.
    pub(super) index: usize,
    /// How many it has.
    pub(super) count: usize,
    /// Memory is asked for ahead of it: not where the vector before has asked
    /// for all that a line of the cache holds.
    pub(super) asks: bool,
}

impl Place {
    #[inline(always)]
    pub(super) fn is_whole<V: Vector>(self) -> bool {
        self.count == V::LANES
    }

    #[inline(always)]
    pub(super) fn further(self, elements: usize) -> Self {
        Place {
            index: self.index + elements,
            ..self
        }
    }
}

/// Walks through lines, a vector of so many lanes at a time. A line's last
/// vectors may be a part of one, and empty.
pub(super) struct Cursor {
    lanes: usize,
    lines: Lines,
    /// Where the line starts.
    line: usize,
    /// Positions of the line that were passed.
    passed: usize,
}

impl Cursor {
    #[inline(always)]
    pub(super) fn new<V: Vector>(lines: Lines) -> Self {
        Cursor {
            lanes: V::LANES,
            lines,
            line: lines.first,
            passed: 0,
        }
    }

    /// Elements of the line that are left.
    #[inline(always)]
    fn left(&self) -> usize {
        self.lines.width.saturating_sub(self.passed)
    }

    /// Positions before the next vector that is another kind, whole or a
    /// part, or does not follow in memory.
    #[inline(always)]
    pub(super) fn run(&self) -> usize {
        let left = self.left();
        (left - left % self.lanes).max(self.lanes)
    }

    #[inline(always)]
    pub(super) fn place(&self) -> Place {
        Place {
            index: self.line.wrapping_add(self.passed),
            count: self.left().min(self.lanes),
            asks: true,
        }
    }

    /// So many positions further, inside the run or to its end.
    #[inline(always)]
    pub(super) fn advance(&mut self, positions: usize) {
        self.passed += positions;
        if self.passed >= self.lines.pitch() {
            self.passed = 0;
            self.line = self.line.wrapping_add(self.lines.step);
        }
    }
}

/// A tensor's gradient, whole. Nobody writes it.
#[derive(Clone, Copy)]
pub(crate) struct Gradient<'a> {
    pub(super) first: *const u8,
    pub(super) dtype: Dtype,
    _gradient: PhantomData<&'a [u8]>,
}

impl<'a> Gradient<'a> {
    pub(crate) fn new(bytes: &'a [u8], dtype: Dtype) -> Self {
        Gradient {
            first: bytes.as_ptr(),
            dtype,
            _gradient: PhantomData,
        }
    }
}

/// Where the planes of a tensor's state are.
#[derive(Clone, Copy)]
pub(crate) struct Planes {
    /// Where state that takes in a gradient is read.
    pub from: [*const u8; MAX_PLANES],
    /// Where it is written; the same place, unless both are kept.
    pub to: [*mut u8; MAX_PLANES],
}

/// The state planes of a tensor, of which some lines may be read and, if they
/// are writable, written.
pub(crate) struct State<'a> {
    pub(super) planes: Planes,
    pub(super) dtype: Dtype,
    /// For each plane, where its roundings are left to chance.
    pub(super) noise: &'a [Noise],
    pub(super) gradient: Gradient<'a>,
    pub(super) lines: Lines,
    pub(super) writable: bool,
    _planes: PhantomData<&'a mut [u8]>,
}

impl<'a> State<'a> {
    /// # Safety
    /// The lines' elements are among the gradient's. Each of the planes that the
    /// tensor has is valid for reads (if writable,
    /// also for writes) of the lines' elements while this lives, and nobody
    /// else writes (if writable, uses) these. State that is not writable is
    /// read where it is written.
    pub(crate) unsafe fn new(
        planes: Planes,
        dtype: Dtype,
        noise: &'a [Noise],
        gradient: Gradient<'a>,
        lines: Lines,
        writable: bool,
    ) -> Self {
        State {
            planes,
            dtype,
            noise,
            gradient,
            lines,
            writable,
            _planes: PhantomData,
        }
    }
}

impl State<'_> {
    /// Whether the gradient's elements are numbers of this size: of the
    /// arithmetic's type.
    pub(super) fn is_plain(&self, size: usize) -> bool {
        self.gradient.dtype.size() == size
    }
}

/// What a step writes besides the state: parameters, or the direction.
pub(crate) struct Target<'a> {
    pub(super) first: *mut u8,
    pub(super) dtype: Dtype,
    pub(super) noise: Option<Noise>,
    /// The float32 parameters behind those in few bits: where they are read,
    /// and where they are written.
    pub(super) master: Option<(*const u8, *mut u8)>,
    pub(super) lines: Lines,
    _target: PhantomData<&'a mut [u8]>,
}

impl Target<'_> {
    /// # Safety
    /// Target and master are valid for reads and writes of the lines' elements
    /// while this lives, and nobody else uses these.
    pub(crate) unsafe fn new(
        first: *mut u8,
        dtype: Dtype,
        noise: Option<Noise>,
        master: Option<(*const u8, *mut u8)>,
        lines: Lines,
    ) -> Self {
        Target {
            first,
            dtype,
            noise,
            master,
            lines,
            _target: PhantomData,
        }
    }
}
