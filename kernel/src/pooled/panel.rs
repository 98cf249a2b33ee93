//! The arrays of a panel.

use super::band::{Products, Solve};
use super::{BandInverse, PooledChains};
use crate::simd::{Scalar, LANES};
use crate::workspace::{lines, Line};

/// The memory of a thread's panel.
#[derive(Default)]
pub(crate) struct Panel(Box<[Line]>);

/// Arrays of a panel, each of so many rows, one for each position, of `vectors` vectors:
/// first as many positions as directions lag behind, which have been done; then those at
/// hand, and behind them those that the ones at hand look at.
pub(crate) struct Arrays<'a, T> {
    pub(super) chains: PooledChains,
    pub(super) vectors: usize,
    /// `m / q`, then directions.
    pub(super) x: &'a mut [[T; LANES]],
    /// `1 / q`.
    pub(super) inverse_root: &'a mut [[T; LANES]],
    /// `g / q`.
    pub(super) z: &'a mut [[T; LANES]],
    /// `D L^T x`.
    solved: &'a mut [[T; LANES]],
    /// The same three, in rows of as many chains as a vector has lanes.
    pub(super) staged: [&'a mut [T]; INCOMING],
    /// What a structure needs that takes chains as a whole, see [`PooledChains::beside`].
    pub(super) beside: &'a mut [T],
}

/// The arrays that come in.
pub(super) const INCOMING: usize = 3;

impl PooledChains {
    /// Rows of an array.
    fn rows_of_panel(&self) -> usize {
        self.strip() + 2 * self.lag()
    }

    /// Elements of a row that is staged.
    pub(super) fn staged(&self) -> usize {
        match self.rows {
            true => self.rows_of_panel(),
            false => 0,
        }
    }

    fn elements(&self) -> usize {
        let panel = 4 * self.rows_of_panel() * self.width();
        panel + INCOMING * LANES * self.staged() + self.beside()
    }
}

impl Panel {
    /// Room for chains of any of these shapes, of either arithmetic.
    ///
    /// # Errors
    /// The number of bytes, if they are not to be had.
    pub(crate) fn new(of: impl Iterator<Item = PooledChains>) -> Result<Self, usize> {
        let bytes = of.map(|chains| chains.elements() * size_of::<f64>()).max();
        lines(bytes.unwrap_or(0)).map(Panel)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    pub(super) fn arrays<T: Scalar>(&mut self, chains: &PooledChains) -> Arrays<'_, T> {
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.0);
        let len = chains.rows_of_panel() * chains.width();
        let (arrays, staged) = all.split_at_mut(4 * len);
        let mut arrays = arrays.chunks_exact_mut(len);
        let mut array = || {
            let array = arrays.next().expect("so many were split off");
            array.as_chunks_mut().0
        };
        let (x, inverse_root, z, solved) = (array(), array(), array(), array());
        let rows = LANES * chains.staged();
        let (first, staged) = staged.split_at_mut(rows);
        let (second, staged) = staged.split_at_mut(rows);
        let (third, beside) = staged.split_at_mut(rows);
        Arrays {
            chains: *chains,
            vectors: chains.width() / LANES,
            x,
            inverse_root,
            z,
            solved,
            staged: [first, second, third],
            beside: &mut beside[..chains.beside()],
        }
    }
}

impl<T: Scalar> Arrays<'_, T> {
    /// Where `m / q`, `1 / q` and `g / q` come in: the rows from one on.
    pub(super) fn incoming(&mut self, row: usize) -> [&mut [[T; LANES]]; INCOMING] {
        let at = row * self.vectors;
        let arrays = [&mut *self.x, &mut *self.inverse_root, &mut *self.z];
        arrays.map(|array| &mut array[at..])
    }

    /// No position of these chains has come yet.
    pub(super) fn clear(&mut self) {
        let history = self.chains.lag() * self.vectors;
        self.solved[..history].fill([T::ZERO; LANES]);
    }

    /// No positions are in the rows from this one on.
    pub(super) fn clear_behind(&mut self, row: usize) {
        let at = row * self.vectors;
        for array in [&mut *self.x, &mut *self.inverse_root, &mut *self.z] {
            array[at..].fill([T::ZERO; LANES]);
        }
    }

    /// The first positions are done; those behind them come in their place.
    pub(super) fn advance(&mut self, count: usize) {
        let (from, lag) = (count * self.vectors, self.chains.lag() * self.vectors);
        for array in [&mut *self.x, &mut *self.inverse_root, &mut *self.z] {
            array.copy_within(from + lag..from + 2 * lag, lag);
        }
        self.solved.copy_within(from..from + lag, 0);
    }

    /// Directions of the positions at hand.
    pub(super) fn directions(&self, count: usize) -> &[[T; LANES]] {
        let first = self.chains.lag() * self.vectors;
        &self.x[first..][..count * self.vectors]
    }

    /// Directions, and where they become rows.
    pub(super) fn leaving(&mut self, count: usize) -> (&[[T; LANES]], usize, &mut [T]) {
        let first = self.chains.lag() * self.vectors;
        let directions = &self.x[first..][..count * self.vectors];
        (directions, self.vectors, &mut *self.staged[0])
    }

    pub(super) fn products<'b>(
        &'b self,
        sums: &'b mut [T],
        start: usize,
        count: usize,
    ) -> Products<'b, T> {
        Products {
            z: &self.z[self.chains.lag() * self.vectors..],
            vectors: self.vectors,
            sums: &mut sums[start..],
            pitch: self.chains.padded(),
            count,
            band: self.chains.band,
        }
    }

    pub(super) fn solve<'b>(
        &'b mut self,
        inverse: &'b BandInverse,
        start: usize,
        count: usize,
    ) -> Solve<'b, T> {
        Solve {
            x: self.x,
            solved: self.solved,
            inverse_root: self.inverse_root,
            vectors: self.vectors,
            lag: self.chains.lag(),
            count,
            factors: inverse.factors(start),
        }
    }
}
