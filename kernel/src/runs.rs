//! What kernels are handed: runs of buffers, as bytes with their type.

use arrayvec::ArrayVec;

use crate::element::Element;
use crate::simd::{Scalar, LANES};
use crate::{Apply, Dtype, Noise, Squares, TakeIn, MAX_PLANES};

/// A run of parameters or directions that is written.
pub struct TargetRun<'a> {
    /// Its bytes.
    pub to: &'a mut [u8],
    /// The type of its elements.
    pub dtype: Dtype,
    /// The float32 parameters behind those in few bits.
    pub master: Option<&'a mut [u8]>,
    /// With stochastic rounding: its random bits, and the index of its first
    /// element.
    pub noise: Option<(Noise, usize)>,
    /// How many bytes ahead memory is asked for.
    pub ahead: usize,
}

/// The state planes of a run: momentum, diagonal, sub-diagonals, and that of
/// normalized RMSProp.
pub struct PlaneRuns<'a> {
    /// Their bytes.
    pub planes: ArrayVec<&'a mut [u8], MAX_PLANES>,
    /// The type of their elements.
    pub dtype: Dtype,
    /// With stochastic rounding: each plane's random bits, or none.
    pub noise: &'a [Noise],
    /// The index of the run's first element.
    pub index: usize,
    /// How many bytes ahead memory is asked for.
    pub ahead: usize,
}

/// A run of state that takes in a gradient: whole vectors, or less than one.
pub struct Intake<'a> {
    /// The new coordinate with which it begins.
    pub from: usize,
    /// The state.
    pub state: PlaneRuns<'a>,
    /// The gradient; where it is not given, it is that of the chunk (see
    /// [`Kernels::gradient`](crate::Kernels::gradient)).
    pub gradient: Option<GradientRun<'a>>,
    /// How the state takes it in.
    pub by: &'a TakeIn,
    /// Entries that would lead beyond the end of a chain are zero (see
    /// [`Kernels::set_reach`](crate::Kernels::set_reach)).
    pub ends: bool,
    /// The squares of the reference are added up here.
    pub sums: &'a mut Squares,
}

/// The gradient of a run and its chain neighbours, where these are in memory as the
/// arithmetic's type.
pub struct GradientRun<'a> {
    /// Its bytes, from the run's first element to the last neighbour's at least.
    pub bytes: &'a [u8],
    /// Elements from one neighbour to the next.
    pub step: usize,
    /// Multiplies it.
    pub scale: f64,
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

/// Which directions are wanted: of `count` coordinates at hand, `len` from the
/// `from`-th on. All are solved for; `count` and `from` are whole vectors.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// How many coordinates are at hand.
    pub count: usize,
    /// The first whose direction is wanted.
    pub from: usize,
    /// How many are.
    pub len: usize,
}

/// What becomes of directions.
pub enum Finish<'a> {
    /// They reach their target.
    Deliver(TargetRun<'a>, Apply),
    /// Their squares are added up. They are kept, if there is room for it: memory
    /// that starts at a multiple of 64 bytes and holds whole vectors. Other threads
    /// may look at it after a [`fence`](crate::fence()).
    Measure(&'a mut Squares, Option<&'a mut [u8]>),
}

/// Numbers of the arithmetic's type, as whole vectors.
pub(crate) fn slice_mut<T: Scalar>(bytes: &mut [u8]) -> &mut [[T; LANES]] {
    bytemuck::cast_slice_mut(bytes).as_chunks_mut().0
}

/// The random bits so many vectors later.
pub(crate) fn later(noise: Option<(Noise, usize)>, vectors: usize) -> Option<(Noise, usize)> {
    noise.map(|(noise, index)| (noise, index + vectors * LANES))
}

/// Visits a run's whole vectors, and then the rest of it, padded with zeros in a
/// copy. `visit` is also given how many vectors come before.
pub(crate) fn padded<E: Element>(run: &[u8], mut visit: impl FnMut(usize, &[[E; LANES]])) {
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
pub(crate) fn padded_mut<E: Element>(
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
