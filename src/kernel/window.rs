//! The coordinates around the one at hand: its neighbours along the chain.
//!
//! Vectors of coordinates come one after the other. Where chains run along
//! memory, the neighbours of a vector's lanes are other lanes of it and of the
//! next; where they run across, they are the same lanes of the vector that
//! comes a line later. So it is in registers, or in a ring of lines that stays
//! in the cache, and never a copy of the state.

// Numbers of lines, registers and neighbours say more than iterators over them.
#![allow(clippy::needless_range_loop)]

use super::vector::{Scalar, Vector, LANES};
use super::workspace::{Arrays, Ring, Shape};
use super::MAX_BAND;

/// A vector of coordinates: what of the state its direction needs.
#[derive(Clone, Copy)]
pub(super) struct Packed<V, const BAND: usize> {
    pub(super) momentum: V,
    /// What divides the momentum where there are no edges.
    pub(super) diagonal: V,
    /// Of sub-diagonal `k` at `k - 1`.
    pub(super) bands: [V; BAND],
}

impl<V: Vector, const BAND: usize> Packed<V, BAND> {
    /// Coordinates without neighbours.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn none() -> Self {
        // SAFETY: passed on from the caller.
        unsafe {
            let zero = V::splat(V::Scalar::ZERO);
            Packed {
                momentum: zero,
                diagonal: V::splat(V::Scalar::ONE),
                bands: [zero; BAND],
            }
        }
    }

    /// What is packed at position `at`.
    ///
    /// # Safety
    /// The arrays are good for a vector at `at`, and the processor has the
    /// instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn load(arrays: &Arrays<V::Scalar>, at: usize, band: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let mut packed = Self::none();
            packed.momentum = V::load(arrays.momentum.add(at));
            packed.diagonal = V::load(arrays.diagonal.add(at));
            for k in 0..band {
                packed.bands[k] = V::load(arrays.bands[k].add(at));
            }
            packed
        }
    }

    /// Packs it at position `at`.
    ///
    /// # Safety
    /// As for [`Packed::load`].
    #[inline(always)]
    pub(super) unsafe fn store(&self, arrays: &Arrays<V::Scalar>, at: usize, band: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            self.momentum.store(arrays.momentum.add(at));
            self.diagonal.store(arrays.diagonal.add(at));
            for k in 0..band {
                self.bands[k].store(arrays.bands[k].add(at));
            }
        }
    }
}

/// The last vectors that came. Numbers of coordinates are counted from the one
/// that came [`lag`](Window::lag) positions before the newest.
///
/// # Safety
/// The processor has the instructions of `V`; the band is that of the shape,
/// and distances are at most the band.
pub(super) trait Window<V: Vector, const BAND: usize> {
    /// Whether chains run along memory.
    const ALONG: bool;

    /// Positions that a vector is behind when all its neighbours are there.
    fn lag(shape: Shape) -> usize;

    unsafe fn new(shape: Shape, ring: Ring<V::Scalar>) -> Self;
    /// Takes the next vector.
    unsafe fn push(&mut self, new: &Packed<V, BAND>);
    /// The momentum of the `k`-th coordinate further along the chain.
    unsafe fn momentum(&self, k: usize) -> V;
    /// Its diagonal.
    unsafe fn diagonal(&self, k: usize) -> V;
    /// Of its sub-diagonals, the one at `index`.
    unsafe fn band(&self, index: usize, k: usize) -> V;
    /// Keeps `psi` and `D L^T m` of the coordinates.
    unsafe fn keep(&mut self, psi: &[V; BAND], scaled: V);
    /// `psi` at distance `k` of the `k`-th coordinate before along the chain.
    unsafe fn psi(&self, k: usize) -> V;
    /// Its `D L^T m`.
    unsafe fn scaled(&self, k: usize) -> V;
    /// A vector further.
    unsafe fn advance(&mut self);
}

/// Chains along memory: the last two vectors.
pub(super) struct Along<V, const BAND: usize> {
    band: usize,
    state: [Packed<V, BAND>; 2],
    psi: [[V; BAND]; 2],
    scaled: [V; 2],
}

// SAFETY, of every block below: passed on from the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<V: Vector, const BAND: usize> Window<V, BAND> for Along<V, BAND> {
    const ALONG: bool = true;

    #[inline(always)]
    fn lag(shape: Shape) -> usize {
        if shape.band == 0 {
            0
        } else {
            LANES
        }
    }

    #[inline(always)]
    unsafe fn new(shape: Shape, _: Ring<V::Scalar>) -> Self {
        let band = if BAND == MAX_BAND { shape.band } else { BAND };
        unsafe {
            let zero = V::splat(V::Scalar::ZERO);
            Along {
                band,
                state: [Packed::none(); 2],
                psi: [[zero; BAND]; 2],
                scaled: [zero; 2],
            }
        }
    }
    #[inline(always)]
    unsafe fn push(&mut self, new: &Packed<V, BAND>) {
        let [old, newest] = &mut self.state;
        old.momentum = newest.momentum;
        old.diagonal = newest.diagonal;
        newest.momentum = new.momentum;
        newest.diagonal = new.diagonal;
        for k in 0..self.band {
            old.bands[k] = newest.bands[k];
            newest.bands[k] = new.bands[k];
        }
    }
    #[inline(always)]
    unsafe fn momentum(&self, k: usize) -> V {
        let [old, newest] = &self.state;
        unsafe { later(old.momentum, newest.momentum, self.band, k) }
    }
    #[inline(always)]
    unsafe fn diagonal(&self, k: usize) -> V {
        let [old, newest] = &self.state;
        unsafe { later(old.diagonal, newest.diagonal, self.band, k) }
    }
    #[inline(always)]
    unsafe fn band(&self, index: usize, k: usize) -> V {
        let [old, newest] = &self.state;
        unsafe { later(old.bands[index], newest.bands[index], self.band, k) }
    }
    #[inline(always)]
    unsafe fn keep(&mut self, psi: &[V; BAND], scaled: V) {
        for k in 0..self.band {
            self.psi[0][k] = self.psi[1][k];
            self.psi[1][k] = psi[k];
        }
        self.scaled = [self.scaled[1], scaled];
    }
    #[inline(always)]
    unsafe fn psi(&self, k: usize) -> V {
        unsafe { V::shift(self.psi[0][k - 1], self.psi[1][k - 1], LANES - k) }
    }
    #[inline(always)]
    unsafe fn scaled(&self, k: usize) -> V {
        unsafe { V::shift(self.scaled[0], self.scaled[1], LANES - k) }
    }
    #[inline(always)]
    unsafe fn advance(&mut self) {}
}

/// The lanes from `k` on. Without a band there is no lag: the newest vector is
/// the one at hand.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn later<V: Vector>(old: V, newest: V, band: usize, k: usize) -> V {
    // SAFETY: passed on from the caller.
    unsafe {
        match (band, k) {
            (0, _) => newest,
            (_, 0) => old,
            _ => V::shift(old, newest, k),
        }
    }
}

/// Chains across memory: `band + 1` lines, the oldest of which is overwritten.
pub(super) struct Across<V: Vector, const BAND: usize> {
    band: usize,
    ring: Ring<V::Scalar>,
    width: usize,
    /// Where the vector is in its line.
    at: usize,
    /// Where the lines start, from the one at hand to the newest.
    lines: [usize; MAX_BAND + 1],
    /// Distance of the lines of two planes.
    plane: usize,
}

impl<V: Vector, const BAND: usize> Across<V, BAND> {
    /// The place of a plane's vector in a line of the ring. Planes are:
    /// momentum, diagonal, the scaled, sub-diagonals, psi.
    #[inline(always)]
    fn place(&self, plane: usize, line: usize) -> *mut V::Scalar {
        let offset = plane * self.plane + self.lines[line] + self.at;
        self.ring.first.wrapping_add(offset)
    }

    #[inline(always)]
    fn psi_plane(&self, k: usize) -> usize {
        2 + self.band + k
    }
}

// SAFETY, of every block below: passed on from the caller; the ring was made
// for the shape.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<V: Vector, const BAND: usize> Window<V, BAND> for Across<V, BAND> {
    const ALONG: bool = false;

    #[inline(always)]
    fn lag(shape: Shape) -> usize {
        shape.band * shape.stride
    }

    #[inline(always)]
    unsafe fn new(shape: Shape, ring: Ring<V::Scalar>) -> Self {
        let band = if BAND == MAX_BAND { shape.band } else { BAND };
        let mut lines = [0; MAX_BAND + 1];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = i * ring.line;
        }
        Across {
            band,
            ring,
            width: shape.stride,
            at: 0,
            lines,
            plane: (band + 1) * ring.line,
        }
    }
    #[inline(always)]
    unsafe fn push(&mut self, new: &Packed<V, BAND>) {
        let newest = self.band;
        unsafe {
            new.momentum.store(self.place(0, newest));
            new.diagonal.store(self.place(1, newest));
            for k in 0..self.band {
                new.bands[k].store(self.place(3 + k, newest));
            }
        }
    }
    #[inline(always)]
    unsafe fn momentum(&self, k: usize) -> V {
        unsafe { V::load(self.place(0, k)) }
    }
    #[inline(always)]
    unsafe fn diagonal(&self, k: usize) -> V {
        unsafe { V::load(self.place(1, k)) }
    }
    #[inline(always)]
    unsafe fn band(&self, index: usize, k: usize) -> V {
        unsafe { V::load(self.place(3 + index, k)) }
    }
    #[inline(always)]
    unsafe fn keep(&mut self, psi: &[V; BAND], scaled: V) {
        unsafe {
            scaled.store(self.place(2, 0));
            for k in 0..self.band {
                psi[k].store(self.place(self.psi_plane(k + 1), 0));
            }
        }
    }
    // What lies `k` lines before the one at hand was the newest `band + 1 - k`
    // lines ago.
    #[inline(always)]
    unsafe fn psi(&self, k: usize) -> V {
        unsafe { V::load(self.place(self.psi_plane(k), self.band + 1 - k)) }
    }
    #[inline(always)]
    unsafe fn scaled(&self, k: usize) -> V {
        unsafe { V::load(self.place(2, self.band + 1 - k)) }
    }
    #[inline(always)]
    unsafe fn advance(&mut self) {
        self.at += LANES;
        if self.at == self.width {
            self.at = 0;
            let oldest = self.lines[0];
            for i in 0..self.band {
                self.lines[i] = self.lines[i + 1];
            }
            self.lines[self.band] = oldest;
        }
    }
}
