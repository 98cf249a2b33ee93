//! Which elements of a tensor's buffers a kernel works on.

use std::marker::PhantomData;

use super::element::Noise;
use super::vector::LANES;
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

/// How far ahead of the loop that first touches them buffers are asked for, in
/// elements, where nothing better is known: several streams interleave, each
/// too slow for the processor to see it coming by itself.
pub(crate) const AHEAD: usize = 512;

impl Lines {
    /// Positions of the workspace that they take: each line whole vectors.
    pub(crate) fn positions(&self) -> usize {
        self.count * self.width.next_multiple_of(LANES)
    }

    /// How many elements further the loop will be soon: some vectors on, or
    /// in the next line.
    pub(super) fn ahead(&self) -> usize {
        if self.count > 1 {
            self.step
        } else {
            AHEAD
        }
    }
}

/// Where a vector of coordinates is in the tensor's buffers.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its first element.
    pub(super) index: usize,
    /// How many it has.
    pub(super) count: usize,
}

impl Place {
    #[inline(always)]
    pub(super) fn is_whole(self) -> bool {
        self.count == LANES
    }

    #[inline(always)]
    pub(super) fn further(self, elements: usize) -> Self {
        Place {
            index: self.index + elements,
            ..self
        }
    }
}

/// Walks through lines, a vector at a time.
pub(super) struct Cursor {
    index: usize,
    left: usize,
    line: usize,
    lines: Lines,
}

impl Cursor {
    #[inline(always)]
    pub(super) fn new(lines: Lines) -> Self {
        Cursor {
            index: lines.first,
            left: lines.width,
            line: lines.first,
            lines,
        }
    }

    /// Positions before the next vector that is another kind, whole or a
    /// part, or does not follow in memory.
    #[inline(always)]
    pub(super) fn run(&self) -> usize {
        (self.left - self.left % LANES).max(LANES)
    }

    #[inline(always)]
    pub(super) fn place(&self) -> Place {
        Place {
            index: self.index,
            count: self.left.min(LANES),
        }
    }

    /// So many positions further, inside the run or to its end.
    #[inline(always)]
    pub(super) fn advance(&mut self, positions: usize) {
        if self.left > positions {
            self.index += positions;
            self.left -= positions;
        } else {
            self.line = self.line.wrapping_add(self.lines.step);
            self.index = self.line;
            self.left = self.lines.width;
        }
    }
}

/// Where the gradient of the next block is, to be asked for in time. Nothing is
/// read through this.
#[derive(Clone, Copy)]
pub(crate) struct NextGradient {
    first: *const u8,
    size: usize,
}

impl NextGradient {
    /// So many elements further than the block's own.
    pub(crate) fn new(gradient: &[u8], dtype: Dtype, further: usize) -> Self {
        let size = dtype.size();
        NextGradient {
            first: gradient.as_ptr().wrapping_add(further * size),
            size,
        }
    }

    #[inline(always)]
    pub(super) fn at(self, index: usize) -> *const u8 {
        self.first.wrapping_add(index * self.size)
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
    pub(super) next_gradient: NextGradient,
    pub(super) lines: Lines,
    pub(super) writable: bool,
    _planes: PhantomData<&'a mut [u8]>,
}

impl<'a> State<'a> {
    /// # Safety
    /// Each of the planes that the tensor has is valid for reads (if writable,
    /// also for writes) of the lines' elements while this lives, and nobody
    /// else writes (if writable, uses) these. State that is not writable is
    /// read where it is written.
    pub(crate) unsafe fn new(
        planes: Planes,
        dtype: Dtype,
        noise: &'a [Noise],
        next_gradient: NextGradient,
        lines: Lines,
        writable: bool,
    ) -> Self {
        State {
            planes,
            dtype,
            noise,
            next_gradient,
            lines,
            writable,
            _planes: PhantomData,
        }
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
