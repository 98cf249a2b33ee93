//! The coordinates around the one at hand: its neighbours along the chain.
//!
//! Vectors of coordinates come one after the other. Where chains run along
//! memory, the neighbours of a vector's lanes are other lanes of it and of the
//! next; where they run across, they are the same lanes of the vector that
//! comes a line later. So they are in a few lines that stay in the nearest
//! cache, and never in a copy of the state. In these lines, a group of vectors
//! goes through one stage after the other: the divisions of many are under way
//! at once, where a vector that went through all stages alone would wait.

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
/// Vectors go through in groups of up to [`GROUP`](Window::GROUP): all of a
/// group are pushed, then all are solved and kept, then all are combined; `i`
/// tells them apart.
///
/// # Safety
/// The processor has the instructions of `V`; the band is that of the shape,
/// distances are at most the band, and groups end where [`room`](Window::room)
/// does.
pub(crate) trait Window<V: Vector, const BAND: usize>: Copy {
    /// Whether chains run along memory.
    const ALONG: bool;
    /// The most vectors of a group.
    const GROUP: usize;

    /// Positions that a vector is behind when all its neighbours are there.
    fn lag(shape: Shape) -> usize;

    unsafe fn new(shape: Shape, ring: Ring<V::Scalar>) -> Self;
    /// How many vectors the next group may have.
    fn room(&self) -> usize;
    /// Takes the next vector.
    unsafe fn push(&mut self, i: usize, new: &Packed<V, BAND>);
    /// The momentum of the `k`-th coordinate further along the chain.
    unsafe fn momentum(&self, i: usize, k: usize) -> V;
    /// Its diagonal.
    unsafe fn diagonal(&self, i: usize, k: usize) -> V;
    /// Of its sub-diagonals, the one at `index`.
    unsafe fn band(&self, i: usize, index: usize, k: usize) -> V;
    /// Keeps `psi` and `D L^T m` of the coordinates.
    unsafe fn keep(&mut self, i: usize, psi: &[V; BAND], scaled: V);
    /// `psi` at distance `k` of the `k`-th coordinate before along the chain.
    unsafe fn psi(&self, i: usize, k: usize) -> V;
    /// Its `D L^T m`; that of the coordinate itself for a `k` of 0.
    unsafe fn scaled(&self, i: usize, k: usize) -> V;
    /// A group further.
    unsafe fn advance(&mut self, vectors: usize);
}

/// Coordinates without neighbours: the newest vector, in registers.
#[derive(Clone, Copy)]
pub(super) struct Alone<V> {
    state: Packed<V, 0>,
    scaled: V,
}

// SAFETY, of every block below: passed on from the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<V: Vector> Window<V, 0> for Alone<V> {
    const ALONG: bool = true;
    const GROUP: usize = 1;

    #[inline(always)]
    fn lag(_: Shape) -> usize {
        0
    }
    #[inline(always)]
    unsafe fn new(shape: Shape, _: Ring<V::Scalar>) -> Self {
        assert_eq!(shape.band, 0);
        unsafe {
            Alone {
                state: Packed::none(),
                scaled: V::splat(V::Scalar::ZERO),
            }
        }
    }
    #[inline(always)]
    fn room(&self) -> usize {
        1
    }
    #[inline(always)]
    unsafe fn push(&mut self, _: usize, new: &Packed<V, 0>) {
        self.state = *new;
    }
    #[inline(always)]
    unsafe fn momentum(&self, _: usize, _: usize) -> V {
        self.state.momentum
    }
    #[inline(always)]
    unsafe fn diagonal(&self, _: usize, _: usize) -> V {
        self.state.diagonal
    }
    #[inline(always)]
    unsafe fn band(&self, _: usize, index: usize, _: usize) -> V {
        self.state.bands[index]
    }
    #[inline(always)]
    unsafe fn keep(&mut self, _: usize, _: &[V; 0], scaled: V) {
        self.scaled = scaled;
    }
    #[inline(always)]
    unsafe fn psi(&self, _: usize, k: usize) -> V {
        unreachable!("there is no neighbour {k}")
    }
    #[inline(always)]
    unsafe fn scaled(&self, _: usize, _: usize) -> V {
        self.scaled
    }
    #[inline(always)]
    unsafe fn advance(&mut self, _: usize) {}
}

/// Vectors of a group where lines of them are kept in memory.
pub(super) const GROUP: usize = 16;
/// Distance of two planes of them, where chains run along memory.
pub(super) const ALONG_PLANE: usize = (1 + GROUP) * LANES;

/// Neighbours in memory that stays in the nearest cache. Where chains run along
/// memory: the last coordinates and a group, one after the other. Where they run
/// across: `band + 1` lines, the oldest of which is overwritten.
#[derive(Clone, Copy)]
pub(super) struct Kept<V: Vector, const BAND: usize, const ALONG: bool> {
    band: usize,
    first: *mut V::Scalar,
    width: usize,
    /// Where the group is in its line.
    at: usize,
    /// Where lines start, from the one at hand to the newest, if chains run
    /// across memory.
    lines: [usize; MAX_BAND + 1],
    /// Distance of two planes.
    plane: usize,
}

impl<V: Vector, const BAND: usize, const ALONG: bool> Kept<V, BAND, ALONG> {
    #[inline(always)]
    fn bands(&self) -> usize {
        if BAND == MAX_BAND {
            self.band
        } else {
            BAND
        }
    }

    /// A place in a plane. Planes are: momentum, diagonal, the scaled,
    /// sub-diagonals, psi.
    #[inline(always)]
    fn place(&self, plane: usize, offset: usize, i: usize) -> *mut V::Scalar {
        let distance = match ALONG {
            true => ALONG_PLANE,
            false => self.plane,
        };
        let offset = plane * distance + offset + self.at + i * V::LANES;
        self.first.wrapping_add(offset)
    }

    /// The offset of the `k`-th coordinates further along their chains; of the
    /// newest for the band and one.
    #[inline(always)]
    fn later(&self, k: usize) -> usize {
        match ALONG {
            true => k,
            false => self.lines[k],
        }
    }

    /// The offset of new coordinates.
    #[inline(always)]
    fn newest(&self) -> usize {
        match ALONG {
            true => LANES,
            false => self.lines[self.bands()],
        }
    }

    /// The offset at which is kept what is known of the `k`-th coordinates
    /// before: across memory, these were the newest `band + 1 - k` lines ago.
    #[inline(always)]
    fn before(&self, k: usize) -> usize {
        match (ALONG, k) {
            (true, _) => LANES - k,
            (false, 0) => self.lines[0],
            (false, _) => self.lines[self.bands() + 1 - k],
        }
    }

    #[inline(always)]
    fn psi_plane(&self, k: usize) -> usize {
        2 + self.bands() + k
    }
}

// SAFETY, of every block below: passed on from the caller; the ring was made
// for the shape.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<V: Vector, const BAND: usize, const ALONG: bool> Window<V, BAND> for Kept<V, BAND, ALONG> {
    const ALONG: bool = ALONG;
    const GROUP: usize = GROUP;

    #[inline(always)]
    fn lag(shape: Shape) -> usize {
        match ALONG {
            true => LANES,
            false => shape.band * shape.stride,
        }
    }

    #[inline(always)]
    unsafe fn new(shape: Shape, ring: Ring<V::Scalar>) -> Self {
        let band = shape.band;
        assert!(BAND == MAX_BAND || band == BAND);
        let mut lines = [0; MAX_BAND + 1];
        for (k, line) in lines.iter_mut().enumerate() {
            *line = k * ring.line;
        }
        Kept {
            band,
            first: ring.first,
            width: shape.stride,
            at: 0,
            lines,
            plane: ring.plane,
        }
    }
    #[inline(always)]
    fn room(&self) -> usize {
        match ALONG {
            true => GROUP,
            false => (self.width - self.at) / V::LANES,
        }
    }
    #[inline(always)]
    unsafe fn push(&mut self, i: usize, new: &Packed<V, BAND>) {
        unsafe {
            new.momentum.store(self.place(0, self.newest(), i));
            new.diagonal.store(self.place(1, self.newest(), i));
            for k in 0..self.bands() {
                new.bands[k].store(self.place(3 + k, self.newest(), i));
            }
        }
    }
    #[inline(always)]
    unsafe fn momentum(&self, i: usize, k: usize) -> V {
        unsafe { V::load(self.place(0, self.later(k), i)) }
    }
    #[inline(always)]
    unsafe fn diagonal(&self, i: usize, k: usize) -> V {
        unsafe { V::load(self.place(1, self.later(k), i)) }
    }
    #[inline(always)]
    unsafe fn band(&self, i: usize, index: usize, k: usize) -> V {
        unsafe { V::load(self.place(3 + index, self.later(k), i)) }
    }
    #[inline(always)]
    unsafe fn keep(&mut self, i: usize, psi: &[V; BAND], scaled: V) {
        unsafe {
            scaled.store(self.place(2, self.before(0), i));
            for k in 0..self.bands() {
                psi[k].store(self.place(self.psi_plane(k + 1), self.before(0), i));
            }
        }
    }
    #[inline(always)]
    unsafe fn psi(&self, i: usize, k: usize) -> V {
        unsafe { V::load(self.place(self.psi_plane(k), self.before(k), i)) }
    }
    #[inline(always)]
    unsafe fn scaled(&self, i: usize, k: usize) -> V {
        unsafe { V::load(self.place(2, self.before(k), i)) }
    }
    #[inline(always)]
    unsafe fn advance(&mut self, vectors: usize) {
        if ALONG {
            for plane in 0..2 * self.bands() + 3 {
                for i in 0..LANES / V::LANES {
                    let last = unsafe { V::load(self.place(plane, 0, vectors + i)) };
                    unsafe { last.store(self.place(plane, 0, i)) };
                }
            }
            return;
        }
        self.at += vectors * V::LANES;
        if self.at == self.width {
            self.at = 0;
            // The oldest line becomes the newest.
            let oldest = self.lines[0];
            for k in 0..self.bands() {
                self.lines[k] = self.lines[k + 1];
            }
            self.lines[self.bands()] = oldest;
        }
    }
}
