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
mod any_inverse;
mod band;
mod bring;
mod chains;
mod full;
mod inverse;
mod matrix;
mod orthonormal;
mod panel;
mod pass;
mod prepare;
mod rank;
mod structure;
mod sums;
mod transpose;
mod whole;

use std::ops::Range;

pub use any_inverse::PooledInverse;
pub use chains::{PooledChains, MAX_POOLED_BAND, MAX_POOLED_LENGTH, MAX_POOLED_RANK};
pub use inverse::PooledEstimate;
pub use pass::PooledBlock;
pub use structure::PooledStructure;
pub use sums::PooledSums;

use inverse::BandInverse;
use panel::Panel;
use pass::Pass;

use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::simd::LANES;
use crate::{Access, Kernels, Norms, Rule, Workspace};

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
        let mut panel = Panel::of(work);
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
        panel.give_back(work);
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
