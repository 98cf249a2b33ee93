//! State comes into a panel, and directions leave it.

use std::ops::Range;

use super::panel::{Arrays, INCOMING};
use super::{Panel, PooledBlock, PooledChains};
use crate::access::Run;
use crate::apply::Keep;
use crate::runs::slice_mut;
use crate::simd::{Kernel, Scalar, Vector, LANES};
use crate::{Access, Directions, Gradient, Incoming, Kernels, Norms, Rule, Workspace};

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
        if !chains.rows {
            for (at, position) in real.enumerate() {
                let (col, len) = (of.start, of.len());
                let run = Run {
                    row: position,
                    col,
                    len,
                };
                self.come::<T>(work, access, rule, block, run, norms);
                let mut arrays = panel.arrays::<T>(chains);
                let (to, vectors) = arrays.incoming(row + at);
                for (to, from) in to.into_iter().zip(come_in::<T>(work)) {
                    let to = to[..vectors].as_flattened_mut();
                    to[..len].copy_from_slice(&from[..len]);
                    to[len..].fill(T::ZERO);
                }
            }
            let mut arrays = panel.arrays::<T>(chains);
            let (to, vectors) = arrays.incoming(row + len);
            for to in to {
                to[..(new.len() - len) * vectors].fill([T::ZERO; LANES]);
            }
            return;
        }
        let pitch = chains.staged();
        for vector in 0..chains.width() / LANES {
            let first = of.start + vector * LANES;
            let group = of.end.saturating_sub(first);
            for lane in 0..LANES {
                let is_there = lane < group && len > 0;
                if is_there {
                    let (row, col) = (first + lane, real.start);
                    self.come::<T>(work, access, rule, block, Run { row, col, len }, norms);
                }
                let count = if is_there { len } else { 0 };
                let Arrays { staged, .. } = panel.arrays::<T>(chains);
                for (to, from) in staged.into_iter().zip(come_in::<T>(work)) {
                    let to = &mut to[lane * pitch..][..new.len()];
                    to[..count].copy_from_slice(&from[..count]);
                    to[count..].fill(T::ZERO);
                }
            }
            let mut arrays = panel.arrays::<T>(chains);
            let staged = std::mem::take(&mut arrays.staged);
            let (to, vectors) = arrays.incoming(row);
            for (to, rows) in to.into_iter().zip(staged) {
                let to = &mut to[vector..];
                let count = new.len();
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

    /// The state of a run comes into the chunk, from its first coordinate on, with the
    /// gradient if that is needed.
    fn come<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        block: &PooledBlock<'_>,
        run: Run,
        norms: &mut Norms,
    ) {
        work.along(false);
        if block.takes_in || block.products.is_some() {
            self.gradient(work, access, run, (0, 0), rule.scale);
        }
        if !block.takes_in {
            for plane in 0..2 {
                self.read(work, access, run, (plane, 0), rule.reading(plane));
            }
            return;
        }
        // Whole vectors, then the rest.
        let whole = run.len - run.len % LANES;
        for (from, len) in [(0, whole), (whole, run.len - whole)] {
            if len > 0 {
                let incoming = Incoming {
                    run: Run {
                        col: run.col + from,
                        len,
                        ..run
                    },
                    from,
                    gradient: Gradient::InChunk,
                    ends: false,
                };
                self.update(work, access, rule, &incoming, &mut norms.reference);
            }
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

/// The momentum, diagonal and gradient in the chunk.
fn come_in<T: Scalar>(work: &mut Workspace) -> [&[T]; INCOMING] {
    let arrays = work.arrays::<T>();
    let (plane, at) = (arrays.new.plane, arrays.new.at.new);
    let state = &*arrays.state;
    [&state[at..], &state[plane + at..], &*arrays.new.gradient]
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
