//! What is done to a chunk.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::access::{Run, TargetRun};
use crate::element::Stored;
use crate::isa::Scalar;
use crate::noise::Random;
use crate::simd::LANES;
use crate::{Apply, Dtype, Factor, Largest, Reading, Squares, TakeIn};

/// How a step treats a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Multiplies the gradient.
    pub scale: Factor,
    /// Multiplies the momentum, where directions are computed from state that takes in
    /// nothing: a power of two, which is in `scale`, too.
    pub lift: f64,
    /// How the state takes it in.
    pub take_in: TakeIn,
    /// The tolerance of edge removal.
    pub gamma: f64,
    /// How directions reach the target.
    pub apply: Apply,
}

impl Rule {
    /// What a state plane becomes in the chunk.
    pub fn reading(&self, plane: usize) -> Reading {
        match plane {
            0 if self.take_in.nesterov => Reading::Nesterov {
                times: self.lift,
                by: self.take_in.momentum,
                scale: self.scale,
            },
            0 => Reading::Times(self.lift),
            1 => Reading::Denominator(self.take_in.denominator),
            _ => Reading::Times(1.0),
        }
    }
}

/// A run of state that comes into the chunk. If it takes in a gradient, it is whole
/// vectors, or less than one.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    /// Where it is.
    pub run: Run,
    /// The new coordinate with which it begins.
    pub from: usize,
    /// The gradient that it takes in.
    pub gradient: Gradient,
    /// Entries that would lead beyond the end of a chain are zero (see
    /// [`Kernels::set_reach`](crate::Kernels::set_reach)).
    pub ends: bool,
}

/// Where a gradient is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// There is none: the state comes as it is.
    None,
    /// In the chunk (see [`Kernels::gradient`](crate::Kernels::gradient)).
    InChunk,
    /// Where it lies, in the type of the arithmetic.
    InMemory {
        /// Elements from one chain neighbour to the next.
        step: usize,
    },
}

/// Lines that come into the chunk one after the other, where chains run across memory.
#[derive(Debug, Clone)]
pub struct Lines {
    /// Their rows.
    pub rows: Range<usize>,
    /// Their columns: those of a strip.
    pub cols: Range<usize>,
    /// They take in the gradient.
    pub takes_in: bool,
    /// Where the first direction is kept, if they are, and how far behind it the first
    /// of the next line.
    pub kept: usize,
    /// See above.
    pub pitch: usize,
}

/// Which directions are wanted: of `count` coordinates at hand, those of a run, which
/// begins with the `from`-th. All are solved for; `count` and `from` are whole vectors.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// How many coordinates are at hand.
    pub count: usize,
    /// Chains may end among them (see [`Kernels::set_reach`](crate::Kernels::set_reach)).
    pub ends: bool,
    /// The first whose direction is wanted.
    pub from: usize,
    /// Where these are.
    pub run: Run,
    /// Where the first of them is kept, if they are.
    pub kept: usize,
}

/// Whether directions are measured, applied, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Their squares are added up, and they are kept, if there is room for it.
    Measured,
    /// They reach their target.
    Applied,
    /// They reach their target, and their squares are added up for the next step.
    AppliedAndMeasured,
}

impl Directions {
    /// Whether their squares are added up.
    pub(crate) fn measures(self) -> bool {
        self != Directions::Applied
    }
}

/// What a step wants to know of whole tensors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Norms {
    /// The squares of directions.
    pub direction: Squares,
    /// What comes of the state, when it takes in the gradient.
    pub taken_in: TakenIn,
}

/// What comes of the state, when it takes in the gradient.
#[derive(Debug, Clone, Copy, Default)]
pub struct TakenIn {
    /// The squares of the other method's directions.
    pub reference: Squares,
    /// The largest entry of the diagonal.
    pub largest: Largest,
}

impl TargetRun<'_> {
    /// What is left after so many vectors.
    pub(crate) fn skip(self, vectors: usize) -> Self {
        let count = vectors * LANES;
        let behind = |bytes, dtype: Dtype| split(bytes, count * dtype.size());
        TargetRun {
            to: behind(self.to, self.dtype),
            master: self.master.map(|master| behind(master, Dtype::F32)),
            noise: later(self.noise, vectors),
            ..self
        }
    }
}

fn split(bytes: &mut [u8], at: usize) -> &mut [u8] {
    &mut bytes[at..]
}

/// Numbers of the arithmetic's type, as whole vectors.
pub(crate) fn slice_mut<T: Scalar>(bytes: &mut [u8]) -> &mut [[T; LANES]] {
    bytemuck::cast_slice_mut(bytes).as_chunks_mut().0
}

/// The random bits so many vectors later.
pub(crate) fn later(noise: Random, vectors: usize) -> Random {
    noise.map(|(noise, index)| (noise, index + vectors * LANES))
}

/// Visits a run's whole vectors, and then the rest of it, padded with zeros in a
/// copy. `visit` is also given how many vectors come before.
pub(crate) fn padded<E: Stored>(run: &[u8], mut visit: impl FnMut(usize, &[[E; LANES]])) {
    let (whole, rest) = bytemuck::cast_slice::<u8, E>(run).as_chunks();
    if !whole.is_empty() {
        visit(0, whole);
    }
    if !rest.is_empty() {
        let mut vector = [E::zeroed(); LANES];
        vector[..rest.len()].copy_from_slice(rest);
        visit(whole.len(), &[vector]);
    }
}

/// The same for a run that is written.
pub(crate) fn padded_mut<E: Stored>(
    run: &mut [u8],
    mut visit: impl FnMut(usize, &mut [[E; LANES]]),
) {
    let (whole, rest) = bytemuck::cast_slice_mut::<u8, E>(run).as_chunks_mut();
    if !whole.is_empty() {
        visit(0, whole);
    }
    if !rest.is_empty() {
        let mut vectors = [[E::zeroed(); LANES]];
        vectors[0][..rest.len()].copy_from_slice(rest);
        visit(whole.len(), &mut vectors);
        rest.copy_from_slice(&vectors[0][..rest.len()]);
    }
}

/// Does something with up to `N` runs that are parts of vectors, of elements of this
/// size: they are whole in a copy, padded with zeros.
pub(crate) fn with_padded<const N: usize>(
    runs: &mut [&mut [u8]],
    size: usize,
    body: impl FnOnce(&mut [&mut [u8]]),
) {
    // Aligned for all types, and room for each. No more of them are made zero than there
    // are runs.
    let mut vectors = ArrayVec::<[f64; LANES], N>::new();
    vectors.extend(runs.iter().map(|_| [0.0; LANES]));
    let mut padded = ArrayVec::<_, N>::new();
    for (vector, run) in vectors.iter_mut().zip(&*runs) {
        let vector = &mut bytemuck::bytes_of_mut(vector)[..size * LANES];
        vector[..run.len()].copy_from_slice(run);
        padded.push(vector);
    }
    body(&mut padded);
    for (run, vector) in runs.iter_mut().zip(padded) {
        run.copy_from_slice(&vector[..run.len()]);
    }
}
