//! The arithmetic, on contiguous runs of coordinates. Knows no threads, files
//! or C.
//!
//! Every loop stands once, over [`vector::Vector`]; a file in `isa` supplies
//! the vector of one instruction set. Buffers arrive as bytes with the element
//! type settled when the table of kernels was chosen, so that the rooms above
//! need not be written per type.

mod apply;
mod direction;
mod float_mode;
mod isa;
mod length;
pub mod oracle;
mod pack;
mod statistics;
mod vector;
mod workspace;

pub(crate) use apply::Apply;
pub(crate) use float_mode::FloatMode;
pub(crate) use isa::Isa;
pub(crate) use length::{Planes, Reference};
pub(crate) use statistics::{Average, Term};
pub(crate) use workspace::{Array, Shape, Workspace};

pub(crate) use crate::options::MAX_BAND;

/// Bytes as elements; they come from buffers of that type. Nothing is aligned
/// however it is typed.
#[inline(always)]
fn bytes<T: bytemuck::Pod>(run: &[u8]) -> &[T] {
    if run.is_empty() {
        return &[];
    }
    bytemuck::cast_slice(run)
}

/// As [`bytes`].
#[inline(always)]
fn bytes_mut<T: bytemuck::Pod>(run: &mut [u8]) -> &mut [T] {
    if run.is_empty() {
        return &mut [];
    }
    bytemuck::cast_slice_mut(run)
}

/// The kernels of one instruction set for one choice of element types.
pub(crate) struct Kernels {
    isa: Isa,
    gradient_squares: unsafe fn(&[u8], f64) -> f64,
    average: unsafe fn(&mut [u8], &[u8], Term<'_>, Average),
    directions: fn(&mut Workspace, usize, usize) -> &[u8],
    begin: fn(&mut Workspace, Shape),
    pad: fn(&mut Workspace, usize, usize),
    set_reach: fn(&mut Workspace, usize, usize, usize),
    pack: unsafe fn(&mut Workspace, Array, usize, &[u8], f64, f64),
    largest_l1: unsafe fn(&mut Workspace, usize, usize) -> f64,
    l1_of_first: fn(&mut Workspace, usize) -> f64,
    direction: unsafe fn(&mut Workspace, f64),
    reference: unsafe fn(&mut Workspace, Array, usize, &[u8], Planes<'_>, Reference),
    block_squares: unsafe fn(&mut Workspace, Array) -> f64,
    apply: unsafe fn(&[u8], &mut [u8], Apply),
}

/// Calls an entry point of the table.
macro_rules! entry {
    ($self:ident.$name:ident($($argument:expr),*)) => {
        // SAFETY: tables are handed out by `Isa` only, and only where the
        // processor has the instruction set.
        unsafe { ($self.$name)($($argument),*) }
    };
}

impl Kernels {
    /// The instruction set in use.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The sum of squares of `scale * gradient`; NaN if it is not finite.
    pub(crate) fn gradient_squares(&self, gradient: &[u8], scale: f64) -> f64 {
        entry!(self.gradient_squares(gradient, scale))
    }

    /// Averages a term with the gradient into a run of a plane.
    pub(crate) fn average(&self, plane: &mut [u8], gradient: &[u8], term: Term<'_>, by: Average) {
        entry!(self.average(plane, gradient, term, by))
    }

    /// Starts a block in a workspace.
    pub(crate) fn begin(&self, work: &mut Workspace, block: Shape) {
        (self.begin)(work, block)
    }

    /// Makes `count` positions from `at` coordinates without neighbours.
    pub(crate) fn pad(&self, work: &mut Workspace, at: usize, count: usize) {
        (self.pad)(work, at, count)
    }

    /// Says that the chain ends after `count` positions from `at`, the last of
    /// which has `rest` coordinates of the chain after it.
    pub(crate) fn set_reach(&self, work: &mut Workspace, at: usize, count: usize, rest: usize) {
        (self.set_reach)(work, at, count, rest)
    }

    /// Packs `plane * factor + add` at position `at` of an array.
    pub(crate) fn pack(
        &self,
        work: &mut Workspace,
        array: Array,
        at: usize,
        plane: &[u8],
        factor: f64,
        add: f64,
    ) {
        entry!(self.pack(work, array, at, plane, factor, add))
    }

    /// The largest `H_jj + |H_j,j-1|` of `count` packed positions from `at`.
    pub(crate) fn largest_l1(&self, work: &mut Workspace, at: usize, count: usize) -> f64 {
        entry!(self.largest_l1(work, at, count))
    }

    /// `H_jj + |H_j+1,j|` of the coordinate at position `at`.
    pub(crate) fn l1_of_first(&self, work: &mut Workspace, at: usize) -> f64 {
        (self.l1_of_first)(work, at)
    }

    /// The SONew direction of the packed block.
    pub(crate) fn direction(&self, work: &mut Workspace, gamma: f64) {
        entry!(self.direction(work, gamma))
    }

    /// Another method's direction for a run, at position `at` of `array`.
    pub(crate) fn reference(
        &self,
        work: &mut Workspace,
        array: Array,
        at: usize,
        gradient: &[u8],
        run: Planes<'_>,
        reference: Reference,
    ) {
        entry!(self.reference(work, array, at, gradient, run, reference))
    }

    /// The directions of `count` coordinates of the block from its `at`-th.
    pub(crate) fn directions<'a>(
        &self,
        work: &'a mut Workspace,
        at: usize,
        count: usize,
    ) -> &'a [u8] {
        (self.directions)(work, at, count)
    }

    /// The sum of squares of an array over the block.
    pub(crate) fn block_squares(&self, work: &mut Workspace, array: Array) -> f64 {
        entry!(self.block_squares(work, array))
    }

    /// Applies a run of directions to a run of parameters.
    pub(crate) fn apply(&self, direction: &[u8], run: &mut [u8], apply: Apply) {
        entry!(self.apply(direction, run, apply))
    }
}
