//! The arrays of a panel.

use std::ops::Range;

use super::band::{Order, Products, Solve};
use super::chains::PooledChains;
use super::inverse::BandInverse;
use super::structure::PooledStructure;
use crate::cache_lines::CacheLine;
use crate::isa::Scalar;
use crate::simd::LANES;
use crate::Workspace;

/// The memory of a thread's panel.
pub(super) struct Panel(Box<[CacheLine]>);

/// Arrays of a panel, of vectors of chains and of positions, see [`Order`]: those at hand first
/// and then those that they look ahead at.
pub(super) struct Arrays<'a, T> {
    pub(super) chains: PooledChains,
    /// `m / q`, then what the inverse correlations make of it.
    pub(super) x: &'a mut [[T; LANES]],
    /// `1 / q`: as the others if chains are columns; otherwise each chain after the other.
    pub(super) inverse_root: &'a mut [[T; LANES]],
    /// `g / q`.
    pub(super) z: &'a mut [[T; LANES]],
    /// `D L^T x`; before those at hand are those that directions lag behind.
    solved: &'a mut [[T; LANES]],
    /// Rows of as many chains as a vector has lanes, which are to become columns or come from
    /// them.
    pub(super) staged: [&'a mut [T]; STAGED],
    /// Directions of a run.
    pub(super) run: &'a mut [[T; LANES]],
    /// What a structure needs that takes chains as a whole, see [`PooledChains::beside`].
    pub(super) beside: &'a mut [T],
}

/// What is staged: `m / q` or directions, and `g / q`.
const STAGED: usize = 2;

impl PooledChains {
    /// Positions follow each other; but on a band, where chains are columns, a run of them is one
    /// position of many, and stays together: an odd number of vectors, as [`Self::pitch`] is. (One
    /// vector of them is the same in either order.)
    pub(super) fn order(&self) -> Order {
        let vectors = self.width() / LANES;
        match self.structure {
            PooledStructure::Band if !self.rows && vectors > 1 => Order {
                position: vectors | 1,
                vector: 1,
            },
            _ => Order {
                position: 1,
                vector: self.pitch(),
            },
        }
    }

    /// Vectors of an array.
    fn vectors(&self) -> usize {
        let order = self.order();
        match order.position {
            1 => self.pitch() * self.width() / LANES,
            row => (self.strip() + self.lag()) * row,
        }
    }

    /// Positions from a vector of chains to the next: an odd number, so that they do not
    /// drive each other out of the cache.
    pub(super) fn pitch(&self) -> usize {
        self.strip() + self.lag() + 1
    }

    /// Vectors of a row of `1 / q` where each chain is a row.
    pub(super) fn row_vectors(&self) -> usize {
        (self.strip() + self.lag()) / LANES
    }

    /// Elements of a row that is staged.
    pub(super) fn staged(&self) -> usize {
        match self.rows {
            true => self.strip() + self.lag() + LANES,
            false => 0,
        }
    }

    /// Elements of a run of directions.
    fn run(&self) -> usize {
        if self.rows {
            self.strip()
        } else {
            self.width()
        }
    }

    fn elements(&self) -> usize {
        let panel = 4 * self.vectors() * LANES;
        panel + STAGED * LANES * self.staged() + self.run() + self.beside()
    }

    /// Bytes of a panel of them, of either arithmetic: what a [`Workspace`] is to have.
    pub fn panel_bytes(&self) -> usize {
        self.elements() * size_of::<f64>()
    }
}

impl Panel {
    /// The memory that a thread's workspace has for panels, until it is given back.
    pub(super) fn of(work: &mut Workspace) -> Self {
        Panel(work.take_panel())
    }

    pub(super) fn give_back(self, work: &mut Workspace) {
        work.give_panel(self.0);
    }

    pub(super) fn arrays<T: Scalar>(&mut self, chains: &PooledChains) -> Arrays<'_, T> {
        let mut rest: &mut [T] = bytemuck::cast_slice_mut(&mut self.0);
        let mut take = |len: usize| {
            let (first, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            first
        };
        let (len, rows) = (chains.vectors() * LANES, LANES * chains.staged());
        let [x, inverse_root, z, solved] = [0; 4].map(|_| take(len).as_chunks_mut().0);
        Arrays {
            chains: *chains,
            x,
            inverse_root,
            z,
            solved,
            staged: [0; STAGED].map(|_| take(rows)),
            run: take(chains.run()).as_chunks_mut().0,
            beside: take(chains.beside()),
        }
    }
}

impl<T: Scalar> Arrays<'_, T> {
    /// No position of so many vectors of chains has come yet.
    pub(super) fn clear(&mut self, vectors: usize) {
        let (part, parts, position) = self.parts(vectors);
        let lag = self.chains.lag() * position;
        for solved in self.solved.chunks_exact_mut(part).take(parts) {
            solved[..lag].fill([T::ZERO; LANES]);
        }
    }

    /// No positions are from this one on.
    pub(super) fn clear_behind(&mut self, vectors: usize, position: usize) {
        let (part, parts, of_position) = self.parts(vectors);
        for array in [&mut *self.x, &mut *self.z] {
            for array in array.chunks_exact_mut(part).take(parts) {
                array[position * of_position..].fill([T::ZERO; LANES]);
            }
        }
    }

    /// Those at hand are done, and those behind them take their place.
    pub(super) fn advance(&mut self, vectors: usize, adds_up: bool) {
        let chains = &self.chains;
        let (part, parts, position) = self.parts(vectors);
        let (strip, lag) = (chains.strip() * position, chains.lag() * position);
        let z = if adds_up { &mut *self.z } else { &mut [] };
        for array in [&mut *self.x, &mut *self.solved, z] {
            for array in array.chunks_exact_mut(part).take(parts) {
                array.copy_within(strip..strip + lag, 0);
            }
        }
        let (part, strip, lag, parts) = match chains.rows {
            true => (
                chains.row_vectors(),
                strip / LANES,
                lag / LANES,
                vectors * LANES,
            ),
            false => (part, strip, lag, parts),
        };
        for array in self.inverse_root.chunks_exact_mut(part).take(parts) {
            array.copy_within(strip..strip + lag, 0);
        }
    }

    /// Vectors of a part of an array in which positions follow each other, how many parts so many
    /// vectors of chains are, and the vectors of a position in a part.
    fn parts(&self, vectors: usize) -> (usize, usize, usize) {
        match self.chains.order() {
            Order {
                position: 1,
                vector,
            } => (vector, vectors, 1),
            Order { position, .. } => (self.chains.vectors(), 1, position),
        }
    }

    /// The products of some vectors of chains.
    pub(super) fn products<'b>(
        &'b self,
        vectors: Range<usize>,
        sums: &'b mut [T],
        start: usize,
        count: usize,
    ) -> Products<'b, T> {
        let order = self.chains.order();
        Products {
            z: &self.z[vectors.start * order.vector..],
            order,
            vectors: vectors.len(),
            sums: &mut sums[start..],
            padded: self.chains.padded(),
            count,
            band: self.chains.band,
        }
    }

    /// For a vector of chains.
    pub(super) fn solve<'b>(
        &'b mut self,
        vector: usize,
        inverse: &'b BandInverse,
        start: usize,
        count: usize,
    ) -> Solve<'b, T> {
        let order = self.chains.order();
        Solve {
            x: &mut self.x[vector * order.vector..],
            solved: &mut self.solved[vector * order.vector..],
            position: order.position,
            lag: self.chains.lag(),
            count,
            factors: inverse.factors(start),
        }
    }
}
