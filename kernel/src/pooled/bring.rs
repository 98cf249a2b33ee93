//! State comes into a panel, and directions leave it.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::band::{Direct, Solved};
use super::panel::Panel;
use super::pass::Pass;
use super::prepare::{Prepare, Prepared, UpdateAndPrepare};
use super::transpose::{ToColumns, ToRows};
use crate::access::Run;
use crate::directions::has_finish;
use crate::dtype::Dtype;
use crate::isa::Scalar;
use crate::outcome::Outcome;
use crate::runs::slice_mut;
use crate::simd::{is_single, LANES};
use crate::update::Update;
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
        let order = chains.order();
        let real = new.start.min(chains.length)..new.end.min(chains.length);
        let arrays = panel.arrays::<T>(chains);
        if !chains.rows {
            for (at, row) in real.enumerate() {
                let at = (to + at) * order.position;
                let to = Prepared {
                    x: &mut arrays.x[at..],
                    inverse_root: &mut arrays.inverse_root[at..],
                    z: adds_up.then(|| &mut arrays.z[at..]),
                    step: order.vector,
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
            let at = vector * order.vector + to;
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
    // Inlined, as what it calls and `leave`: a run is short where chains are columns, and one that
    // is passed on through memory has to be stored before it can be read, which takes longer.
    #[inline(always)]
    fn come<T: Scalar>(&mut self, run: Run, mut to: Prepared<'_, T>) {
        let whole = run.len - run.len % LANES;
        let mut at_once = 0;
        if whole > 0 && self.has_loop::<T>() {
            let run = Run { len: whole, ..run };
            at_once = whole;
            if !self.come_at_once::<T>(run, to.from(0)) {
                self.come_through_chunk::<T>(run, to.from(0), false);
            }
        }
        // Whole vectors of what is left, and then the rest.
        let parts = [at_once..whole, whole..run.len].into_iter();
        for part in parts.filter(|part| !part.is_empty()) {
            let (col, len) = (run.col + part.start, part.len());
            let (run, to) = (Run { col, len, ..run }, to.from(part.start / LANES));
            self.come_through_chunk::<T>(run, to, self.block.takes_in);
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

    /// Returns whether what it made is to be kept.
    #[inline(always)]
    fn come_at_once<T: Scalar>(&mut self, run: Run, to: Prepared<'_, T>) -> bool {
        let (kernels, access, rule) = (self.kernels, &mut *self.access, self.rule);
        let taken_in = &mut self.norms.taken_in;
        let incoming = incoming(run, Gradient::InMemory { step: 1 });
        let scale = rule.scale;
        let (noise, planes) = (&mut ArrayVec::new(), &mut ArrayVec::new());
        access.noise(noise);
        // SAFETY: the access is borrowed exclusively, and no other of its planes are in use.
        unsafe { access.planes(run, 0, planes) };
        let Arrays { new, state, .. } = self.work.arrays::<T>();
        macro_rules! call {
            ($E:ty) => {{
                let update = &mut Update::<T, $E, 0, false>::new(
                    new, 0, access, rule, &incoming, planes, 0, noise, taken_in,
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

    /// The same of a run of any length, as many coordinates at a time as the chunk holds.
    fn come_through_chunk<T: Scalar>(&mut self, all: Run, mut to: Prepared<'_, T>, takes_in: bool) {
        for done in (0..all.len).step_by(CHUNK) {
            let (kernels, work, access) = (self.kernels, &mut *self.work, &mut *self.access);
            let (col, len) = (all.col + done, (all.len - done).min(CHUNK));
            let (run, rule) = (Run { col, len, ..all }, self.rule);
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
            let vectors = len.div_ceil(LANES);
            kernels.call(Prepare {
                momentum: &state.as_chunks().0[..vectors],
                diagonal: &state[plane..].as_chunks().0[..vectors],
                gradient: &arrays.new.gradient.as_chunks().0[..vectors],
                scale: Factor::ONE,
                to: to.from(done / LANES),
            });
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
        let order = chains.order();
        let arrays = panel.arrays::<T>(chains);
        if !chains.rows {
            for (at, row) in positions.enumerate() {
                let (col, len) = (of.start, of.len());
                let at = at * order.position;
                let solved = Solved {
                    x: &arrays.x[at..],
                    inverse_root: &arrays.inverse_root[at..],
                    step: order.vector,
                };
                let kept = kept + row * kept_row + col - first_chain;
                self.leave::<T>(Run { row, col, len }, &solved, arrays.run, kept, then);
            }
            return;
        }
        let (staged, row_pitch) = (chains.staged(), chains.row_vectors());
        let (col, len) = (positions.start, positions.len());
        let count = len.next_multiple_of(LANES);
        let [rows, _] = arrays.staged;
        for (vector, first) in of.clone().step_by(LANES).enumerate() {
            self.kernels.call(ToRows {
                from: &arrays.x[vector * order.vector..][..count],
                rows: &mut *rows,
                pitch: staged,
            });
            for lane in 0..LANES.min(of.end - first) {
                let row = first + lane;
                let solved = Solved {
                    x: rows[lane * staged..].as_chunks().0,
                    inverse_root: &arrays.inverse_root[(vector * LANES + lane) * row_pitch..],
                    step: 1,
                };
                let kept = kept + (row - first_chain) * kept_row + col;
                self.leave::<T>(Run { row, col, len }, &solved, arrays.run, kept, then);
            }
        }
    }

    /// Those of a run; in `room` there is room for them.
    #[inline(always)]
    fn leave<T: Scalar>(
        &mut self,
        run: Run,
        of: &Solved<'_, T>,
        room: &mut [[T; LANES]],
        kept: usize,
        then: Directions,
    ) {
        let (kernels, access, apply) = (self.kernels, &mut *self.access, self.rule.apply);
        let sums = &mut self.norms.direction.0;
        let vectors = run.len.div_ceil(LANES);
        if then == Directions::Measured {
            // SAFETY: the access is borrowed exclusively.
            let kept = unsafe { access.kept(kept, run.len) };
            let to = kept.map_or(&mut [][..], slice_mut);
            let outcome = Outcome {
                many: access.keeps_many(),
                ..Outcome::new(then, to, apply, sums)
            };
            kernels.call(Direct {
                of,
                vectors: 0..vectors,
                outcome,
            });
            return;
        }
        // Whole vectors reach the common kinds of targets at once.
        let mut done = 0;
        if const { is_single::<T>() } && has_finish(access, self.rule, then) {
            done = run.len / LANES;
            // SAFETY: as above.
            let target = unsafe { access.target(run) };
            let outcome = Outcome {
                ahead: target.ahead,
                ..Outcome::new(then, slice_mut(target.to), apply, sums)
            };
            kernels.call(Direct {
                of,
                vectors: 0..done,
                outcome,
            });
        }
        if done < vectors {
            let room = &mut room[..vectors - done];
            let outcome = Outcome {
                measures: then.measures(),
                ..Outcome::stored(room, sums)
            };
            kernels.call(Direct {
                of,
                vectors: done..vectors,
                outcome,
            });
            // SAFETY: as above; what was given out before is not in use any more.
            let target = unsafe { access.target(run) };
            kernels.deliver::<T>(room, target.skip(done), apply);
        }
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
