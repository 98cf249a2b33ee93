//! State comes into a panel, and directions leave it.

use std::ops::Range;

use super::band::Prepare;
use super::panel::INCOMING;
use super::transpose::{ToColumns, ToRows};
use super::{Panel, Pass};
use crate::access::Run;
use crate::apply::Keep;
use crate::runs::slice_mut;
use crate::simd::{Scalar, LANES};
use crate::{Directions, Factor, Gradient, Incoming};

impl Pass<'_, '_> {
    /// State of some positions of some chains comes into the panel, from a row on.
    pub(super) fn bring<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        of: &Range<usize>,
        new: &Range<usize>,
        row: usize,
    ) {
        let chains = self.chains;
        let real = new.start.min(chains.length)..new.end.min(chains.length);
        let (col, len, width) = (real.start, real.len(), chains.width());
        if !chains.rows {
            for (at, position) in real.enumerate() {
                let mut arrays = panel.arrays::<T>(chains);
                let to = arrays.incoming(row + at);
                let to = to.map(|to| &mut to.as_flattened_mut()[..width]);
                let (row, col, len) = (position, of.start, of.len());
                self.come::<T>(Run { row, col, len }, to);
            }
            return;
        }
        let pitch = chains.staged();
        for vector in 0..width / LANES {
            let first = of.start + vector * LANES;
            let mut arrays = panel.arrays::<T>(chains);
            for lane in 0..LANES {
                let (row, at) = (first + lane, lane * pitch);
                let to = arrays.staged.each_mut();
                let to = to.map(|to| &mut to[at..at + new.len()]);
                match row < of.end && len > 0 {
                    true => self.come::<T>(Run { row, col, len }, to),
                    false => to.into_iter().for_each(|to| to.fill(T::ZERO)),
                }
            }
            let staged = std::mem::take(&mut arrays.staged);
            for (to, rows) in arrays.incoming(row).into_iter().zip(staged) {
                self.kernels.call(ToColumns {
                    rows,
                    pitch,
                    to: &mut to[vector..],
                    vectors: width / LANES,
                    count: new.len(),
                });
            }
        }
    }

    /// The state of a run takes in the gradient, if it is to, and comes prepared; what is
    /// behind it is zero.
    fn come<T: Scalar>(&mut self, run: Run, to: [&mut [T]; INCOMING]) {
        let (kernels, work, access) = (self.kernels, &mut *self.work, &mut *self.access);
        let (rule, takes_in) = (self.rule, self.block.takes_in);
        let has_products = self.block.products.is_some();
        work.along(false);
        // Whole vectors, then the rest.
        let whole = run.len - run.len % LANES;
        let [mut x, mut inverse_root, mut z] = to;
        for (from, len) in [(0, whole), (whole, run.len - whole)] {
            if len == 0 {
                continue;
            }
            let col = run.col + from;
            let run = Run { col, len, ..run };
            let in_place = len.is_multiple_of(LANES) && kernels.reads_in_place(access, rule);
            if (takes_in || has_products) && !in_place {
                kernels.gradient(work, access, run, (0, from), rule.scale);
            }
            let gradient = match (takes_in, in_place) {
                (false, _) => Gradient::None,
                (true, true) => Gradient::InMemory { step: 1 },
                (true, false) => Gradient::InChunk,
            };
            let incoming = Incoming {
                run,
                from,
                gradient,
                ends: false,
            };
            kernels.update(work, access, rule, &incoming, &mut self.norms.taken_in);
            let arrays = work.arrays::<T>();
            let (gradient, scale) = match in_place {
                true => (bytemuck::cast_slice(access.gradient(run)), rule.scale),
                false => (&arrays.new.gradient[from..], Factor::ONE),
            };
            let vectors = len.div_ceil(LANES);
            let (state, plane) = (&*arrays.state, arrays.new.plane);
            kernels.call(Prepare {
                momentum: &state[from..].as_chunks().0[..vectors],
                diagonal: &state[plane + from..].as_chunks().0[..vectors],
                gradient: has_products.then(|| &gradient.as_chunks().0[..vectors]),
                scale,
                to: [&mut x, &mut inverse_root, &mut z]
                    .map(|to| &mut to[from..].as_chunks_mut().0[..vectors]),
            });
        }
        for to in [x, inverse_root, z] {
            to[run.len..].fill(T::ZERO);
        }
    }

    /// Directions of some positions leave the panel for where they are wanted.
    pub(super) fn take_away<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        of: &Range<usize>,
        positions: Range<usize>,
        then: Directions,
    ) {
        let (chains, block) = (self.chains, &self.block);
        let (first_chain, (kept, kept_row)) = (block.chains.start, block.kept);
        let mut arrays = panel.arrays::<T>(chains);
        let count = positions.len().next_multiple_of(LANES);
        let (directions, vectors, staged) = arrays.leaving(count);
        if !chains.rows {
            for (at, row) in positions.enumerate() {
                let (col, len) = (of.start, of.len());
                let kept = kept + row * kept_row + col - first_chain;
                let directions = &directions[at * vectors..][..vectors];
                self.leave::<T>(Run { row, col, len }, directions, kept, then);
            }
            return;
        }
        let (pitch, col, len) = (chains.staged(), positions.start, positions.len());
        for (vector, first) in of.clone().step_by(LANES).enumerate() {
            self.kernels.call(ToRows {
                from: &directions[vector..],
                vectors,
                rows: &mut *staged,
                pitch,
                count,
            });
            for lane in 0..LANES.min(of.end - first) {
                let row = first + lane;
                let kept = kept + (row - first_chain) * kept_row + col;
                let directions = staged[lane * pitch..][..count].as_chunks().0;
                self.leave::<T>(Run { row, col, len }, directions, kept, then);
            }
        }
    }

    /// Those of a run.
    fn leave<T: Scalar>(
        &mut self,
        run: Run,
        directions: &[[T; LANES]],
        kept: usize,
        then: Directions,
    ) {
        let direction = &directions[..run.len.div_ceil(LANES)];
        if then == Directions::Measured {
            // SAFETY: the access is borrowed exclusively.
            if let Some(keep) = unsafe { self.access.kept(kept, run.len) } {
                let (to, many) = (slice_mut::<T>(keep), self.access.keeps_many());
                self.kernels.call(Keep {
                    direction,
                    to,
                    many,
                });
            }
            return;
        }
        // SAFETY: the access is borrowed exclusively.
        let target = unsafe { self.access.target(run) };
        self.kernels
            .deliver::<T>(direction, target, self.rule.apply);
    }
}
