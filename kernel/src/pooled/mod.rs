//! Pooled correlations: all chains of a tensor share those of their positions.
//!
//! With the diagonal `d` of each coordinate, `q = sqrt(d + damping)` and the correlations
//! `R` of a chain's positions, the statistics of a chain are modelled as `q R q`, and the
//! direction is `u = q^-1 R^-1 q^-1 m`. `R` is estimated from sums of products over chains,
//! of `z = g / q`, and `R^-1` comes in factors ([`PooledInverse`]).
//!
//! A block of chains goes through in **panels**: some chains in the lanes of vectors, and a
//! strip of positions one after the other, so that neighbours are whole vectors, and a
//! number that belongs to a position is one for all lanes:
//!
//! ```text
//! bring      the state takes in the gradient (as everywhere); m, d, g  ->  m / q, 1 / q,
//!            g / q, which become columns
//! products   sum over chains of z[j] z[j + i]
//! solve      v = D L^T x, then L v
//! take away  L v becomes rows again; directions are q^-1 L v, and reach their target
//! ```
//!
//! What does not exist (lanes without a chain, positions behind the last) is zero
//! everywhere, which adds nothing to any sum.
//!
//! Products are half of the arithmetic, and many chains tell nothing that fewer do not. Where
//! a tensor has more than a **group** of chains, groups take turns in them.

mod added;
mod band;
mod bring;
mod full;
mod inverse;
mod matrix;
mod orthonormal;
mod panel;
mod prepare;
mod rank;
mod structure;
mod sums;
mod transpose;
mod whole;

use std::ops::Range;

pub use inverse::PooledEstimate;
pub(crate) use panel::Panel;
pub use structure::{PooledInverse, PooledStructure};
pub use sums::PooledSums;

use inverse::{BandInverse, TILE};

use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::simd::LANES;
use crate::{Access, Directions, Dtype, Kernels, Norms, Rule, Workspace};

/// The widest band of pooled correlations.
pub const MAX_POOLED_BAND: usize = 64;

/// The most directions of pooled correlations.
pub const MAX_POOLED_RANK: usize = 64;

/// Positions of the longest chain all of whose correlations are pooled.
pub const MAX_POOLED_LENGTH: usize = 4096;

/// Coordinates of a panel, so that its arrays stay in the second-level cache.
const COORDINATES: usize = 16 * 1024;
/// Its chains at the most: few where a chain is a row, since each is a stream of memory of
/// its own; many where it is a column, since a run is as long as they are many, and memory
/// delivers long runs much faster.
const ROWS: usize = 64;
const COLUMNS: usize = 512;
/// The fewest of whole chains of a rank; if these are too long for that, they come in strips.
const FEWEST_COLUMNS: usize = 64;
/// Its positions at the most.
const POSITIONS: usize = 512;
/// Coordinates of a panel of whole chains: directions need all positions of a chain, and
/// these are better fetched from the next cache than from memory.
const WHOLE: usize = 64 * 1024;

/// Chains that take part in products together: of rows a whole number of panels; a panel of
/// columns is a whole number of groups.
const GROUP: usize = 256;
const _: () = assert!(GROUP.is_multiple_of(ROWS) && COLUMNS.is_multiple_of(GROUP));
/// Groups take part in at least one of so many steps.
const TURNS: usize = 4;

/// How the chains of a tensor lie in memory, seen as a matrix, and how far their
/// correlations reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PooledChains {
    /// Each row is a chain; otherwise each column is.
    pub rows: bool,
    /// Coordinates of a chain.
    pub length: usize,
    /// How many there are.
    pub count: usize,
    /// The number of the first of them in the whole tensor, of which they may be a part, and how
    /// many there are in that.
    pub first: usize,
    /// See [`PooledChains::first`].
    pub whole: usize,
    /// The most chains of a block: a number that [`PooledChains::of_blocks`] returned.
    pub block: usize,
    /// What is estimated of their correlations.
    pub structure: PooledStructure,
    /// Of a band: positions up to so far apart are correlated. Otherwise 0.
    pub band: usize,
}

impl PooledChains {
    /// Positions by which directions lag behind the state: whole vectors of them, or whole
    /// tiles where a vector is of chains.
    fn lag(&self) -> usize {
        let whole = if self.rows { LANES } else { TILE };
        self.band.next_multiple_of(whole)
    }

    /// How many chains blocks are to have, of so many, that should have at least `wanted`:
    /// whole panels, of which a group has a whole number.
    pub fn of_blocks(rows: bool, count: usize, wanted: usize) -> usize {
        let panel = if rows { ROWS } else { COLUMNS };
        let block = match wanted < panel {
            true => wanted.next_multiple_of(LANES).next_power_of_two(),
            false => wanted.next_multiple_of(panel),
        };
        block.min(count)
    }

    /// Chains of a panel, as whole vectors.
    fn width(&self) -> usize {
        let most = match (self.rows, self.structure) {
            (true, _) => ROWS,
            (false, PooledStructure::Band) => COLUMNS,
            (false, _) => GROUP,
        };
        let most = most.min(self.widest());
        self.block.next_multiple_of(LANES).min(most)
    }

    /// Those of these chains that take part in the products of a tensor's `step`-th step, each
    /// group by itself: groups are those of the whole tensor, so that it does not matter where
    /// it is cut.
    pub fn taking_part(
        &self,
        of: &Range<usize>,
        step: u64,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let turns = self.whole.div_ceil(GROUP).min(TURNS);
        let turn = (step % turns as u64) as usize;
        let (first, start, end) = (self.first, self.first + of.start, self.first + of.end);
        let groups =
            (start / GROUP..end.div_ceil(GROUP)).filter(move |group| group % turns == turn);
        let within = move |at: usize| at.clamp(start, end) - first;
        groups.map(move |group| within(group * GROUP)..within((group + 1) * GROUP))
    }

    /// The first of these chains, as many as a panel holds, and of whole groups.
    fn panel_of(&self, chains: &Range<usize>) -> Range<usize> {
        let (first, width) = (self.first + chains.start, self.width());
        // Several groups only where none of them begins within a vector.
        let groups = match first.is_multiple_of(LANES) {
            true => (width / GROUP).max(1),
            false => 1,
        };
        let left = groups * GROUP - first % GROUP;
        chains.start..chains.start + width.min(left).min(chains.len())
    }

    /// Positions of a chain, as whole vectors of them.
    pub fn padded(&self) -> usize {
        self.length.next_multiple_of(LANES)
    }

    /// Positions of a panel whose directions are computed at once.
    fn strip(&self) -> usize {
        let most = match self.structure {
            PooledStructure::Band => (COORDINATES / self.width()).min(POSITIONS),
            _ => self.longest(),
        };
        self.padded().min(most - most % LANES)
    }
}

/// What is done to a block of chains.
pub struct PooledBlock<'a> {
    /// The chains.
    pub chains: Range<usize>,
    /// The state takes in the gradient.
    pub takes_in: bool,
    /// Where products are added up, numbers of the arithmetic's type: those of two positions
    /// at the first of them, see [`PooledChains::products`].
    pub products: Option<&'a mut [u8]>,
    /// The number of the tensor's step, which says which chains take part in them.
    pub step: u64,
    /// What becomes of directions, if they are computed.
    pub then: Option<Directions>,
    /// Where the block's first direction is kept, if they are, and how far behind it the
    /// first of the next row.
    pub kept: (usize, usize),
}

/// A block on its way: what it works on, and with.
struct Pass<'p, 'a> {
    kernels: &'p Kernels,
    work: &'p mut Workspace,
    access: &'p mut Access<'a>,
    rule: &'p Rule,
    chains: &'p PooledChains,
    block: PooledBlock<'p>,
    norms: &'p mut Norms,
}

impl Kernels {
    /// A block of chains whose correlations are pooled.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    pub fn pooled(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        chains: &PooledChains,
        inverse: &PooledInverse,
        block: PooledBlock<'_>,
        norms: &mut Norms,
    ) {
        let mut panel = work.take_panel();
        let mut pass = Pass {
            kernels: self,
            work,
            access,
            rule,
            chains,
            block,
            norms,
        };
        let mut left = pass.block.chains.clone();
        while !left.is_empty() {
            let of = chains.panel_of(&left);
            in_arithmetic!(self, T => match inverse {
                PooledInverse::Band(inverse) => pass.panel::<T>(&mut panel, inverse, &of),
                _ => pass.whole::<T>(&mut panel, inverse, &of),
            });
            left.start = of.end;
        }
        work.give_panel(panel);
    }
}

impl Pass<'_, '_> {
    /// Some chains, a strip at a time.
    fn panel<T: Scalar>(&mut self, panel: &mut Panel, inverse: &BandInverse, of: &Range<usize>) {
        let (kernels, chains) = (self.kernels, self.chains);
        let (strip, lag, padded) = (chains.strip(), chains.lag(), chains.padded());
        let vectors = of.len().div_ceil(LANES);
        let step = self.block.step;
        let groups = || chains.taking_part(of, step);
        let adds_up = self.block.products.is_some() && groups().next().is_some();
        panel.arrays::<T>(chains).clear(vectors);
        let mut come = 0;
        for start in (0..padded).step_by(strip) {
            let count = strip.min(padded - start);
            // New are those that are looked ahead at, too.
            let new = come..padded.min(start + strip + lag);
            self.bring::<T>(panel, of, &new, new.start - start, adds_up);
            come = new.end;
            let mut arrays = panel.arrays::<T>(chains);
            arrays.clear_behind(vectors, chains.length.min(come) - start);
            if let Some(sums) = self.block.products.as_mut().filter(|_| adds_up) {
                let sums: &mut [T] = bytemuck::cast_slice_mut(sums);
                for group in groups() {
                    let first = (group.start - of.start) / LANES;
                    let vectors = first..first + group.len().div_ceil(LANES);
                    kernels.call(arrays.products(vectors, sums, start, count));
                }
            }
            if let Some(then) = self.block.then {
                for vector in 0..vectors {
                    kernels.call(arrays.solve(vector, inverse, start, count));
                }
                let positions = start..chains.length.min(start + count);
                self.take_away::<T>(panel, of, positions, then);
            }
            panel.arrays::<T>(chains).advance(vectors, adds_up);
        }
    }
}
