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

use super::inverse::TILE;
use super::matrix::{Combine, Less, Outer, Weigh};
use super::panel::Arrays;
use super::rank::RankInverse;
use super::transpose::ToRows;
use super::{Panel, Pass, PooledChains, PooledInverse, PooledStructure, POSITIONS};
use crate::norms::AddSquares;
use crate::simd::{Scalar, LANES};
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
        let strips = || {
            (0..padded)
                .step_by(strip)
                .map(|at| at..padded.min(at + strip))
        };
        let has = [self.block.then.is_some(), self.block.products.is_some()];
        panel.arrays::<T>(chains).beside.fill(T::ZERO);
        for strip in strips() {
            self.bring_strip::<T>(panel, of, &strip);
            let mut arrays = panel.arrays::<T>(chains);
            if let PooledInverse::Rank(inverse) = inverse {
                arrays.gather(kernels, inverse, &strip, has);
            }
        }
        panel.arrays::<T>(chains).turn_chains(kernels, inverse, has);
        let takes_in = self.block.takes_in;
        for strip in strips() {
            if strip.len() < padded {
                // The state has taken in the gradient.
                self.block.takes_in = false;
                self.bring_strip::<T>(panel, of, &strip);
            }
            let mut arrays = panel.arrays::<T>(chains);
            if let Some(sums) = &mut self.block.products {
                arrays.add_products(kernels, bytemuck::cast_slice_mut(sums), &strip);
            }
            let Some(then) = self.block.then else {
                continue;
            };
            arrays.apply(kernels, inverse, &strip);
            if then.measures() {
                let (of, sums) = (arrays.directions(strip.len()), &mut self.norms.direction.0);
                kernels.call(AddSquares { of, sums });
            }
            let positions = strip.start..chains.length.min(strip.end);
            self.take_away::<T>(panel, of, positions, then);
        }
        self.block.takes_in = takes_in;
    }

    fn bring_strip<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        of: &Range<usize>,
        strip: &Range<usize>,
    ) {
        // As many as a chunk holds at a time.
        for first in strip.clone().step_by(POSITIONS) {
            let new = first..strip.end.min(first + POSITIONS);
            self.bring::<T>(panel, of, &new, first - strip.start);
        }
        let there = strip.end.min(self.chains.length) - strip.start;
        panel.arrays::<T>(self.chains).clear_behind(there);
    }
}

/// What is beside the arrays of a panel: of each direction, `-U' x` and `-U' z`; of each
/// chain, `-z' U`, or `z`.
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
        strip: &Range<usize>,
        has: [bool; 2],
    ) {
        let beside = Beside::new(&self.chains, self.beside);
        let along = inverse.along::<T>();
        let (vectors, tiled) = (self.vectors, along.rank.next_multiple_of(TILE));
        let both = [(&self.x, beside.x), (&self.z, beside.z)];
        for ((from, to), wanted) in both.into_iter().zip(has) {
            if wanted {
                kernels.call(Less {
                    matrix: along.gather,
                    columns: self.chains.padded(),
                    first: strip.start,
                    x: &from[..strip.len() * vectors],
                    to: &mut to[..tiled * vectors],
                    vectors,
                });
            }
        }
    }

    /// What has been gathered is weighed; what multiplies `z` becomes rows of chains.
    fn turn_chains(&mut self, kernels: &Kernels, inverse: &PooledInverse, has: [bool; 2]) {
        let (vectors, pitch) = (self.vectors, self.chains.pitch_of_chains());
        let count = self.chains.products_of_position();
        let Beside { x, z, chains } = Beside::new(&self.chains, self.beside);
        let from = match inverse {
            PooledInverse::Rank(inverse) => {
                for (to, by) in [&mut *x, &mut *z]
                    .into_iter()
                    .zip(inverse.along::<T>().weights)
                {
                    kernels.call(Weigh { by, to, vectors });
                }
                &*z
            }
            _ => &*self.z,
        };
        if !has[1] {
            return;
        }
        for (vector, rows) in chains.chunks_exact_mut(LANES * pitch).enumerate() {
            kernels.call(ToRows {
                from: &from[vector..],
                vectors,
                rows,
                pitch,
                count,
            });
        }
    }

    /// The products of a strip's positions are added to the sums of a block.
    fn add_products(&mut self, kernels: &Kernels, sums: &mut [T], strip: &Range<usize>) {
        let (vectors, pitch) = (self.vectors, self.chains.pitch_of_chains());
        let columns = self.chains.products_of_position() / LANES;
        let is_rank = matches!(self.chains.structure, PooledStructure::Rank(_));
        let (squares, products) = match is_rank {
            true => sums.split_at_mut(self.chains.padded()),
            false => (&mut [][..], sums),
        };
        if is_rank {
            kernels.call(self.products(squares, strip.start, strip.len()));
        }
        let chains = Beside::new(&self.chains, self.beside).chains;
        let products = products.as_chunks_mut().0;
        kernels.call(Outer {
            left: &self.z[..strip.len() * vectors],
            vectors,
            right: chains,
            pitch,
            sums: &mut products[strip.start * columns..][..strip.len() * columns],
            columns,
            upper: !is_rank,
        });
    }

    /// Directions of a strip in place of `x`.
    fn apply(&mut self, kernels: &Kernels, inverse: &PooledInverse, strip: &Range<usize>) {
        let (vectors, len) = (self.vectors, strip.len() * self.vectors);
        let beside = Beside::new(&self.chains, self.beside);
        let (x, inverse_root) = (&mut self.x[..len], &self.inverse_root[..len]);
        match inverse {
            PooledInverse::Band(_) => {}
            PooledInverse::Rank(inverse) => {
                let along = inverse.along::<T>();
                kernels.call(Combine {
                    matrix: &along.spread[strip.start / TILE * along.rank..],
                    columns: along.rank,
                    along: beside.x,
                    scale: along.scale,
                    inverse_root,
                    x,
                    vectors,
                });
            }
            PooledInverse::All(inverse) => {
                kernels.call(inverse.solve(x, inverse_root, vectors));
            }
        }
    }
}
