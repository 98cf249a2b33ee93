//! Chains that go through a panel as a whole: where directions need all of their positions.
//!
//! ```text
//! gather     -U' x and -U' z, over all positions of some chains         (of a rank)
//! outer      sum over chains of z (z' U), or of z z'
//! spread     u = q^-1 (x - U (1 - rest / lambda) U' x) / rest           (of a rank)
//! solve      u = q^-1 L^-T D^-1 L^-1 x                                  (of all)
//! ```
//!
//! Where the chains are too long for a panel, they come twice: first for what is gathered,
//! and then for the rest, a strip at a time.

use std::ops::Range;

use super::any_inverse::PooledInverse;
use super::chains::{PooledChains, MICRO_TILE};
use super::matrix::{Combine, Less, Outer, Weigh};
use super::panel::{Arrays, Panel};
use super::pass::Pass;
use super::rank::RankInverse;
use super::structure::PooledStructure;
use super::transpose::ToRows;
use crate::isa::Scalar;
use crate::simd::LANES;
use crate::Kernels;

impl Pass<'_, '_> {
    /// Some chains, first for what all positions give together, and then for their directions.
    pub(super) fn whole<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        inverse: &PooledInverse,
        of: &Range<usize>,
    ) {
        let (kernels, chains) = (self.kernels, self.chains);
        let (strip, padded) = (chains.strip(), chains.padded());
        let vectors = of.len().div_ceil(LANES);
        let strips = || {
            (0..padded)
                .step_by(strip)
                .map(|at| at..padded.min(at + strip))
        };
        let has_directions = self.block.then.is_some();
        let mut groups = chains.taking_part(of, self.block.step);
        let adds_up = self.block.products.is_some() && groups.next().is_some();
        let has = [has_directions, adds_up];
        panel.arrays::<T>(chains).beside.fill(T::ZERO);
        for strip in strips() {
            self.bring_strip::<T>(panel, of, &strip, adds_up);
            let mut arrays = panel.arrays::<T>(chains);
            if let PooledInverse::Rank(inverse) = inverse {
                arrays.gather(kernels, inverse, vectors, &strip, has);
            }
        }
        let mut arrays = panel.arrays::<T>(chains);
        arrays.turn_chains(kernels, inverse, vectors, has);
        let takes_in = self.block.takes_in;
        for strip in strips() {
            if strip.len() < padded {
                // The state has taken in the gradient.
                self.block.takes_in = false;
                self.bring_strip::<T>(panel, of, &strip, adds_up);
            }
            let mut arrays = panel.arrays::<T>(chains);
            if let Some(sums) = self.block.products.as_mut().filter(|_| adds_up) {
                let sums = bytemuck::cast_slice_mut(sums);
                arrays.add_products(kernels, sums, vectors, &strip);
            }
            if let Some(then) = self.block.then {
                arrays.apply(kernels, inverse, vectors, &strip);
                let positions = strip.start..chains.length.min(strip.end);
                self.take_away::<T>(panel, of, positions, then);
            }
        }
        self.block.takes_in = takes_in;
    }

    fn bring_strip<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        of: &Range<usize>,
        strip: &Range<usize>,
        adds_up: bool,
    ) {
        self.bring::<T>(panel, of, strip, 0, adds_up);
        let there = strip.end.min(self.chains.length) - strip.start;
        let vectors = of.len().div_ceil(LANES);
        let mut arrays = panel.arrays::<T>(self.chains);
        arrays.clear_behind(vectors, there);
    }
}

/// What is beside the arrays of a panel: of each vector of chains along each direction, `-U' x`
/// and `-U' z`; of each chain, `-z' U`, or `z`.
struct Beside<'a, T> {
    x: &'a mut [[T; LANES]],
    z: &'a mut [[T; LANES]],
    chains: &'a mut [T],
}

impl<'a, T: Scalar> Beside<'a, T> {
    fn new(chains: &PooledChains, all: &'a mut [T]) -> Self {
        let gathered = match chains.structure {
            PooledStructure::Rank(_) => chains.products_of_position() * chains.width(),
            _ => 0,
        };
        let (x, all) = all.split_at_mut(gathered);
        let (z, chains) = all.split_at_mut(gathered);
        let (x, z) = (x.as_chunks_mut().0, z.as_chunks_mut().0);
        Beside { x, z, chains }
    }
}

impl<T: Scalar> Arrays<'_, T> {
    /// What positions of a strip give to `-U' x` and `-U' z`, of which `has` tells whether they
    /// are wanted.
    fn gather(
        &mut self,
        kernels: &Kernels,
        inverse: &RankInverse,
        vectors: usize,
        strip: &Range<usize>,
        has: [bool; 2],
    ) {
        let (chains, beside) = (&self.chains, Beside::new(&self.chains, self.beside));
        let (pitch, directions) = (chains.pitch(), chains.products_of_position());
        let along = inverse.along::<T>();
        let tiled = along.rank.next_multiple_of(MICRO_TILE);
        let both = [(&self.x, beside.x), (&self.z, beside.z)];
        for ((from, to), _) in both.into_iter().zip(has).filter(|(_, wanted)| *wanted) {
            for vector in 0..vectors {
                kernels.call(Less {
                    matrix: along.gather,
                    columns: chains.padded(),
                    first: strip.start,
                    x: &from[vector * pitch..][..strip.len()],
                    to: &mut to[vector * directions..][..tiled],
                });
            }
        }
    }

    /// What has been gathered is weighed; what multiplies `z` becomes rows of chains.
    fn turn_chains(
        &mut self,
        kernels: &Kernels,
        inverse: &PooledInverse,
        vectors: usize,
        has: [bool; 2],
    ) {
        let (own_pitch, pitch) = (self.chains.pitch(), self.chains.pitch_of_chains());
        let count = self.chains.products_of_position();
        let Beside { x, z, chains } = Beside::new(&self.chains, self.beside);
        let (from, from_pitch) = match inverse {
            PooledInverse::Rank(inverse) => {
                let both = [&mut *x, &mut *z];
                for (all, by) in both.into_iter().zip(inverse.along::<T>().weights) {
                    for to in all.chunks_exact_mut(count).take(vectors) {
                        kernels.call(Weigh { by, to });
                    }
                }
                (&*z, count)
            }
            _ => (&*self.z, own_pitch),
        };
        if !has[1] {
            return;
        }
        let rows = chains.chunks_exact_mut(LANES * pitch).take(vectors);
        for (vector, rows) in rows.enumerate() {
            let from = &from[vector * from_pitch..][..count];
            kernels.call(ToRows { from, rows, pitch });
        }
    }

    /// The products of a strip's positions are added to the sums of a block.
    fn add_products(
        &mut self,
        kernels: &Kernels,
        sums: &mut [T],
        vectors: usize,
        strip: &Range<usize>,
    ) {
        let pitch = self.chains.pitch_of_chains();
        let columns = self.chains.products_of_position() / LANES;
        let is_rank = matches!(self.chains.structure, PooledStructure::Rank(_));
        let (squares, products) = match is_rank {
            true => sums.split_at_mut(self.chains.padded()),
            false => (&mut [][..], sums),
        };
        if is_rank {
            kernels.call(self.products(0..vectors, squares, strip.start, strip.len()));
        }
        let chains = Beside::new(&self.chains, self.beside).chains;
        let products = products.as_chunks_mut().0;
        kernels.call(Outer {
            left: self.z,
            left_pitch: self.chains.pitch(),
            vectors,
            right: chains,
            pitch,
            sums: &mut products[strip.start * columns..][..strip.len() * columns],
            columns,
            upper: !is_rank,
        });
    }

    /// What the inverse correlations make of a strip, in place of `x`.
    fn apply(
        &mut self,
        kernels: &Kernels,
        inverse: &PooledInverse,
        vectors: usize,
        strip: &Range<usize>,
    ) {
        let pitch = self.chains.pitch();
        let directions = self.chains.products_of_position();
        let beside = Beside::new(&self.chains, self.beside);
        let all = &mut self.x[..vectors * pitch];
        match inverse {
            PooledInverse::Band(_) => {}
            PooledInverse::Rank(inverse) => {
                let along = inverse.along::<T>();
                for (vector, x) in all.chunks_exact_mut(pitch).enumerate() {
                    kernels.call(Combine {
                        matrix: &along.spread[strip.start / MICRO_TILE * along.rank..],
                        along: &beside.x[vector * directions..][..along.rank],
                        scale: along.scale,
                        x: &mut x[..strip.len()],
                    });
                }
            }
            PooledInverse::All(inverse) => kernels.call(inverse.solve(all, pitch)),
        }
    }
}
