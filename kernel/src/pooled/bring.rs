//! State comes into a panel, and directions leave it.

use std::ops::Range;

use super::band::Prepare;
use super::panel::INCOMING;
use super::{Panel, PooledBlock, PooledChains};
use crate::access::Run;
use crate::apply::Keep;
use crate::runs::slice_mut;
use crate::simd::{Kernel, Scalar, Vector, LANES};
use crate::{Access, Directions, Factor, Gradient, Incoming, Kernels, Norms, Rule, Workspace};

impl Kernels {
    /// State of some positions of some chains comes into the panel, from a row on.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    pub(super) fn bring<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        chains: &PooledChains,
        block: &PooledBlock<'_>,
        panel: &mut Panel,
        of: &Range<usize>,
        new: &Range<usize>,
        row: usize,
        norms: &mut Norms,
    ) {
        let real = new.start.min(chains.length)..new.end.min(chains.length);
        let len = real.len();
        let width = chains.width();
        if !chains.rows {
            for (at, position) in real.enumerate() {
                let (col, len) = (of.start, of.len());
                let run = Run {
                    row: position,
                    col,
                    len,
                };
                let mut arrays = panel.arrays::<T>(chains);
                let to = arrays
                    .incoming(row + at)
                    .map(|to| &mut to.as_flattened_mut()[..width]);
                self.come::<T>(work, access, rule, block, run, to, norms);
            }
            return;
        }
        let pitch = chains.staged();
        for vector in 0..width / LANES {
            let first = of.start + vector * LANES;
            let mut arrays = panel.arrays::<T>(chains);
            for lane in 0..LANES {
                let is_there = first + lane < of.end && len > 0;
                let at = lane * pitch;
                let to = arrays
                    .staged
                    .each_mut()
                    .map(|to| &mut to[at..at + new.len()]);
                if is_there {
                    let (row, col) = (first + lane, real.start);
                    self.come::<T>(work, access, rule, block, Run { row, col, len }, to, norms);
                } else {
                    to.into_iter().for_each(|to| to.fill(T::ZERO));
                }
            }
            let staged = std::mem::take(&mut arrays.staged);
            let vectors = width / LANES;
            for (to, rows) in arrays.incoming(row).into_iter().zip(staged) {
                let (to, count) = (&mut to[vector..], new.len());
                self.call(ToColumns {
                    rows,
                    pitch,
                    to,
                    vectors,
                    count,
                });
            }
        }
    }

    /// The state of a run takes in the gradient, if it is to, and comes prepared; what is
    /// behind it is zero.
    #[allow(clippy::too_many_arguments)]
    fn come<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        block: &PooledBlock<'_>,
        run: Run,
        to: [&mut [T]; INCOMING],
        norms: &mut Norms,
    ) {
        work.along(false);
        // Whole vectors, then the rest.
        let whole = run.len - run.len % LANES;
        let [mut x, mut inverse_root, mut z] = to;
        for (from, len) in [(0, whole), (whole, run.len - whole)] {
            if len == 0 {
                continue;
            }
            let run = Run {
                col: run.col + from,
                len,
                ..run
            };
            let in_place = len.is_multiple_of(LANES) && self.reads_in_place(access, rule);
            let needs_gradient = block.takes_in || block.products.is_some();
            if needs_gradient && !in_place {
                self.gradient(work, access, run, (0, from), rule.scale);
            }
            let gradient = match (block.takes_in, in_place) {
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
            self.update(work, access, rule, &incoming, &mut norms.reference);
            let arrays = work.arrays::<T>();
            let (state, plane) = (&*arrays.state, arrays.new.plane);
            let (gradient, scale) = match in_place {
                true => (bytemuck::cast_slice(access.gradient(run)), rule.scale),
                false => (&arrays.new.gradient[from..], Factor::ONE),
            };
            let count = len.next_multiple_of(LANES);
            self.call(Prepare {
                momentum: state[from..from + count].as_chunks().0,
                diagonal: state[plane + from..plane + from + count].as_chunks().0,
                gradient: block
                    .products
                    .is_some()
                    .then(|| gradient[..count].as_chunks().0),
                scale,
                to: [
                    x[from..from + count].as_chunks_mut().0,
                    inverse_root[from..from + count].as_chunks_mut().0,
                    z[from..from + count].as_chunks_mut().0,
                ],
            });
        }
        for to in [&mut x, &mut inverse_root, &mut z] {
            to[run.len..].fill(T::ZERO);
        }
    }

    /// Directions of some positions leave the panel for where they are wanted.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn take_directions<T: Scalar>(
        &self,
        access: &mut Access<'_>,
        rule: &Rule,
        chains: &PooledChains,
        block: &PooledBlock<'_>,
        panel: &mut Panel,
        of: &Range<usize>,
        positions: Range<usize>,
        then: Directions,
    ) {
        let mut arrays = panel.arrays::<T>(chains);
        let count = positions.len().next_multiple_of(LANES);
        let (directions, vectors, staged) = arrays.leaving(count);
        let (kept, kept_row) = block.kept;
        if !chains.rows {
            for (at, row) in positions.clone().enumerate() {
                let run = Run {
                    row,
                    col: of.start,
                    len: of.len(),
                };
                let kept = kept + row * kept_row + of.start - block.chains.start;
                let directions = &directions[at * vectors..][..vectors];
                self.leave::<T>(access, rule, run, directions, kept, then);
            }
            return;
        }
        let pitch = chains.staged();
        for (vector, first) in of.clone().step_by(LANES).enumerate() {
            let from = &directions[vector..];
            self.call(ToRows {
                from,
                vectors,
                rows: &mut *staged,
                pitch,
                count,
            });
            for lane in 0..LANES.min(of.end - first) {
                let (row, col) = (first + lane, positions.start);
                let run = Run {
                    row,
                    col,
                    len: positions.len(),
                };
                let kept = kept + (row - block.chains.start) * kept_row + col;
                let directions = staged[lane * pitch..][..count].as_chunks().0;
                self.leave::<T>(access, rule, run, directions, kept, then);
            }
        }
    }

    fn leave<T: Scalar>(
        &self,
        access: &mut Access<'_>,
        rule: &Rule,
        run: Run,
        directions: &[[T; LANES]],
        kept: usize,
        then: Directions,
    ) {
        let direction = &directions[..run.len.div_ceil(LANES)];
        match then {
            Directions::Measured => {
                // SAFETY: the access is borrowed exclusively.
                if let Some(keep) = unsafe { access.kept(kept, run.len) } {
                    let (to, many) = (slice_mut::<T>(keep), access.keeps_many());
                    self.call(Keep {
                        direction,
                        to,
                        many,
                    });
                }
            }
            Directions::Applied | Directions::AppliedAndMeasured => {
                // SAFETY: the access is borrowed exclusively.
                let target = unsafe { access.target(run) };
                self.deliver::<T>(direction, target, rule.apply);
            }
        }
    }
}

/// Rows of a vector of chains become columns.
struct ToColumns<'a, T> {
    rows: &'a [T],
    pitch: usize,
    to: &'a mut [[T; LANES]],
    vectors: usize,
    count: usize,
}

impl<T: Scalar> Kernel<T> for ToColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let mut block = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for (lane, row) in block.iter_mut().enumerate() {
                row.copy_from_slice(&self.rows[lane * self.pitch + first..][..LANES]);
            }
            V::transpose(isa, &mut block);
            for (position, column) in block.iter().enumerate() {
                self.to[(first + position) * self.vectors] = *column;
            }
        }
    }
}

/// Columns become rows of a vector of chains.
struct ToRows<'a, T> {
    from: &'a [[T; LANES]],
    vectors: usize,
    rows: &'a mut [T],
    pitch: usize,
    count: usize,
}

impl<T: Scalar> Kernel<T> for ToRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let mut block = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for (position, column) in block.iter_mut().enumerate() {
                *column = self.from[(first + position) * self.vectors];
            }
            V::transpose(isa, &mut block);
            for (lane, row) in block.iter().enumerate() {
                self.rows[lane * self.pitch + first..][..LANES].copy_from_slice(row);
            }
        }
    }
}
