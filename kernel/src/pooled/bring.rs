//! State comes into a panel, and directions leave it.

use std::ops::Range;

use super::band::Direct;
use super::prepare::{Prepare, Prepared, UpdateAndPrepare};
use super::transpose::{ToColumns, ToRows};
use super::{Panel, Pass};
use crate::access::Run;
use crate::apply::Keep;
use crate::directions::{is_single, update};
use crate::dtype::Dtype;
use crate::runs::slice_mut;
use crate::simd::{Scalar, LANES};
use crate::workspace::Arrays;
use crate::{Directions, Factor, Gradient, Incoming, CHUNK};

impl Pass<'_, '_> {
    /// State of some positions of some chains comes into the panel, from a position of it on;
    /// with the gradients, if products are wanted.
    pub(super) fn bring<T: Scalar>(
        &mut self,
        panel: &mut Panel,
        of: &Range<usize>,
        new: &Range<usize>,
        to: usize,
        adds_up: bool,
    ) {
        let (chains, vectors) = (self.chains, of.len().div_ceil(LANES));
        let pitch = chains.pitch();
        let real = new.start.min(chains.length)..new.end.min(chains.length);
        let arrays = panel.arrays::<T>(chains);
        if !chains.rows {
            for (at, row) in real.enumerate() {
                let at = to + at;
                let to = Prepared {
                    x: &mut arrays.x[at..],
                    inverse_root: &mut arrays.inverse_root[at..],
                    z: adds_up.then(|| &mut arrays.z[at..]),
                    step: pitch,
                };
                let (col, len) = (of.start, of.len());
                self.come::<T>(Run { row, col, len }, to);
            }
            return;
        }
        let (col, len) = (real.start, real.len());
        if len == 0 {
            return;
        }
        let (row_pitch, first) = (chains.row_vectors(), to / LANES);
        let count = len.next_multiple_of(LANES);
        let staged = chains.staged();
        let [x, z] = arrays.staged;
        for vector in 0..vectors {
            for lane in 0..LANES {
                let (chain, row) = (lane * staged, of.start + vector * LANES + lane);
                let (x, z) = (&mut x[chain..][..count], &mut z[chain..][..count]);
                if row >= of.end {
                    x.fill(T::ZERO);
                    z.fill(T::ZERO);
                    continue;
                }
                let at = (vector * LANES + lane) * row_pitch + first;
                let to = Prepared {
                    x: x.as_chunks_mut().0,
                    inverse_root: &mut arrays.inverse_root[at..],
                    z: adds_up.then_some(z.as_chunks_mut().0),
                    step: 1,
                };
                self.come::<T>(Run { row, col, len }, to);
            }
            let at = vector * pitch + to;
            let columns = [(&*x, &mut arrays.x[at..]), (&*z, &mut arrays.z[at..])];
            for (rows, to) in columns.into_iter().take(1 + usize::from(adds_up)) {
                self.kernels.call(ToColumns {
                    rows,
                    pitch: staged,
                    to: &mut to[..count],
                });
            }
        }
    }

    /// The state of a run takes in the gradient, if it is to, and is prepared.
    fn come<T: Scalar>(&mut self, run: Run, mut to: Prepared<'_, T>) {
        let whole = run.len - run.len % LANES;
        let mut done = 0;
        if whole > 0 && self.has_loop::<T>() {
            self.come_at_once::<T>(Run { len: whole, ..run }, to.from(0));
            done = whole;
        }
        // Whole vectors of what is left, as many as the chunk holds, and then the rest.
        while done < run.len {
            let most = if done < whole { whole - done } else { LANES };
            let (col, len) = (run.col + done, (run.len - done).min(most).min(CHUNK));
            let run = Run { col, len, ..run };
            self.come_through_chunk::<T>(run, to.from(done / LANES));
            done += len;
        }
    }

    /// Whether there is a loop that updates and prepares whole vectors at once.
    fn has_loop<T: Scalar>(&self) -> bool {
        let (kernels, access, rule) = (self.kernels, &*self.access, self.rule);
        let is_common = rule.take_in.is_adam() || rule.take_in.is_plain();
        let in_place = kernels.reads_in_place(access, rule);
        let is_fast = const { is_single::<T>() } && kernels.is_fast();
        is_fast && self.block.takes_in && is_common && in_place
    }

    fn come_at_once<T: Scalar>(&mut self, run: Run, to: Prepared<'_, T>) {
        let (kernels, access, rule) = (self.kernels, &mut *self.access, self.rule);
        let taken_in = &mut self.norms.taken_in;
        let incoming = incoming(run, Gradient::InMemory { step: 1 });
        let (scale, noise) = (rule.scale, access.noise());
        // SAFETY: the access is borrowed exclusively, and no other of its planes are in use.
        let planes = &mut unsafe { access.planes(run, 0) };
        let Arrays { new, state, .. } = self.work.arrays::<T>();
        macro_rules! call {
            ($E:ty) => {{
                let update = &mut update::<T, $E, 0, false>(
                    new, 0, access, rule, &incoming, planes, 0, &noise, taken_in,
                );
                kernels.call(UpdateAndPrepare {
                    update,
                    state,
                    scale,
                    to,
                })
            }};
        }
        match access.state_dtype() {
            Dtype::F32 => call!(f32),
            _ => call!(half::bf16),
        }
    }

    fn come_through_chunk<T: Scalar>(&mut self, run: Run, to: Prepared<'_, T>) {
        let (kernels, work, access) = (self.kernels, &mut *self.work, &mut *self.access);
        let (rule, takes_in) = (self.rule, self.block.takes_in);
        work.along(false);
        if takes_in || to.z.is_some() {
            kernels.gradient(work, access, run, (0, 0), rule.scale);
        }
        let gradient = match takes_in {
            true => Gradient::InChunk,
            false => Gradient::None,
        };
        let incoming = incoming(run, gradient);
        kernels.update(work, access, rule, &incoming, &mut self.norms.taken_in);
        let arrays = work.arrays::<T>();
        let (state, plane) = (&*arrays.state, arrays.new.plane);
        let vectors = run.len.div_ceil(LANES);
        kernels.call(Prepare {
            momentum: &state.as_chunks().0[..vectors],
            diagonal: &state[plane..].as_chunks().0[..vectors],
            gradient: &arrays.new.gradient.as_chunks().0[..vectors],
            scale: Factor::ONE,
            to,
        });
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
        let (pitch, vectors) = (chains.pitch(), of.len().div_ceil(LANES));
        let arrays = panel.arrays::<T>(chains);
        let measures = then.measures();
        if !chains.rows {
            for (at, row) in positions.enumerate() {
                let (col, len) = (of.start, of.len());
                self.kernels.call(Direct {
                    from: &arrays.x[at..],
                    inverse_root: &arrays.inverse_root[at..],
                    step: pitch,
                    to: &mut arrays.run[..vectors],
                    sums: measures.then_some(&mut self.norms.direction.0),
                });
                let kept = kept + row * kept_row + col - first_chain;
                self.leave::<T>(Run { row, col, len }, &arrays.run[..vectors], kept, then);
            }
            return;
        }
        let (staged, row_pitch) = (chains.staged(), chains.row_vectors());
        let (col, len) = (positions.start, positions.len());
        let count = len.next_multiple_of(LANES);
        let [rows, _] = arrays.staged;
        for (vector, first) in of.clone().step_by(LANES).enumerate() {
            self.kernels.call(ToRows {
                from: &arrays.x[vector * pitch..][..count],
                rows: &mut *rows,
                pitch: staged,
            });
            for lane in 0..LANES.min(of.end - first) {
                let row = first + lane;
                let directions = &mut arrays.run[..count / LANES];
                self.kernels.call(Direct {
                    from: rows[lane * staged..].as_chunks().0,
                    inverse_root: &arrays.inverse_root[(vector * LANES + lane) * row_pitch..],
                    step: 1,
                    to: &mut *directions,
                    sums: measures.then_some(&mut self.norms.direction.0),
                });
                let kept = kept + (row - first_chain) * kept_row + col;
                self.leave::<T>(Run { row, col, len }, directions, kept, then);
            }
        }
    }

    /// Those of a run.
    fn leave<T: Scalar>(
        &mut self,
        run: Run,
        direction: &[[T; LANES]],
        kept: usize,
        then: Directions,
    ) {
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

fn incoming(run: Run, gradient: Gradient) -> Incoming {
    Incoming {
        run,
        from: 0,
        gradient,
        ends: false,
    }
}
