//! The arithmetic, on blocks of coordinates. Knows no threads, files or C.
//!
//! Every loop stands once, over [`vector::Vector`]; a file in `isa` supplies
//! the registers of one instruction set. Buffers arrive as bytes with their
//! element type, so that the rooms above need not be written per type.

mod block;
mod case;
mod damping;
mod direction;
mod element;
mod float_mode;
mod gradient;
mod halo;
mod isa;
mod lines;
pub mod oracle;
mod pass;
mod sink;
mod sixteen;
mod source;
mod vector;
mod window;
mod workspace;

pub(crate) use block::{Output, Squares, Task};
pub(crate) use element::Noise;
pub(crate) use float_mode::FloatMode;
pub(crate) use isa::Isa;
pub(crate) use lines::{Gradient, Lines, Planes, State, Target, MAX_PLANES};
pub(crate) use sink::Apply;
pub(crate) use source::{Average, Denominator, Reference, TakeIn};
pub(crate) use vector::LANES;
pub(crate) use workspace::{Shape, Workspace};

pub(crate) use crate::options::MAX_BAND;

use crate::dtype::Dtype;
use vector::Vector;

/// The kernels of one instruction set for one type of arithmetic.
pub(crate) struct Kernels {
    gradient_squares: unsafe fn(&[u8], Dtype, f64) -> f64,
    begin: fn(&mut Workspace, Shape),
    pad: fn(&mut Workspace, usize, usize),
    pad_gradient: fn(&mut Workspace, usize, usize),
    set_reach: fn(&mut Workspace, usize, usize, usize, usize),
    pack: unsafe fn(&mut Workspace, &State<'_>, usize, Denominator),
    pack_gradient: unsafe fn(&mut Workspace, usize, &[u8], Dtype, f64),
    largest_l1: unsafe fn(&mut Workspace, usize, usize) -> f64,
    l1_of_first: fn(&mut Workspace, usize) -> f64,
    block: unsafe fn(&mut Workspace, Task<'_>) -> Squares,
    deliver: unsafe fn(&[u8], &Target<'_>, Apply),
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
    /// The sum of squares of `scale * gradient` over a run; NaN if it is not
    /// finite.
    pub(crate) fn gradient_squares(&self, run: &[u8], dtype: Dtype, scale: f64) -> f64 {
        entry!(self.gradient_squares(run, dtype, scale))
    }

    /// Starts a block in a workspace.
    pub(crate) fn begin(&self, work: &mut Workspace, shape: Shape) {
        (self.begin)(work, shape)
    }

    /// Makes `count` positions from `at` coordinates without neighbours.
    pub(crate) fn pad(&self, work: &mut Workspace, at: usize, count: usize) {
        (self.pad)(work, at, count)
    }

    /// Makes the gradient of `count` positions from `at` zero.
    pub(crate) fn pad_gradient(&self, work: &mut Workspace, at: usize, count: usize) {
        (self.pad_gradient)(work, at, count)
    }

    /// Says of `count` positions from `at` how many coordinates of their chain
    /// follow: `rest` after the last, `step` more after each before it.
    pub(crate) fn set_reach(
        &self,
        work: &mut Workspace,
        at: usize,
        count: usize,
        rest: usize,
        step: usize,
    ) {
        (self.set_reach)(work, at, count, rest, step)
    }

    /// Packs state that lies beside the block's own, at position `at`.
    pub(crate) fn pack(
        &self,
        work: &mut Workspace,
        state: &State<'_>,
        at: usize,
        denominator: Denominator,
    ) {
        entry!(self.pack(work, state, at, denominator))
    }

    /// Packs `scale * gradient` of a run at position `at`.
    pub(crate) fn pack_gradient(
        &self,
        work: &mut Workspace,
        at: usize,
        run: &[u8],
        dtype: Dtype,
        scale: f64,
    ) {
        entry!(self.pack_gradient(work, at, run, dtype, scale))
    }

    /// The largest `H_jj + |H_j,j-1|` of `count` packed positions from `at`.
    pub(crate) fn largest_l1(&self, work: &mut Workspace, at: usize, count: usize) -> f64 {
        entry!(self.largest_l1(work, at, count))
    }

    /// `H_jj + |H_j+1,j|` of the coordinate at position `at`.
    pub(crate) fn l1_of_first(&self, work: &mut Workspace, at: usize) -> f64 {
        (self.l1_of_first)(work, at)
    }

    /// Takes a gradient in, computes directions, and delivers or measures
    /// them: what the task says of it.
    pub(crate) fn block(&self, work: &mut Workspace, task: Task<'_>) -> Squares {
        entry!(self.block(work, task))
    }

    /// Delivers directions that were kept.
    pub(crate) fn deliver(&self, kept: &[u8], target: &Target<'_>, apply: Apply) {
        entry!(self.deliver(kept, target, apply))
    }
}

/// Orders stores past the caches before what other threads are told next.
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Adds up the accumulators of all lanes, pairwise.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn total<V: Vector>(sums: V::Sums) -> f64 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array is as long as a vector.
    unsafe { V::store_sums(sums, lanes.as_mut_ptr()) };
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}
