//! Lines of chains that run across memory.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::access::Run;
use crate::directions::has_finish;
use crate::element::with_state;
use crate::elimination::COMMON_BAND;
use crate::outcome::Outcome;
use crate::read::Read;
use crate::runs::slice_mut;
use crate::simd::LANES;
use crate::workspace::{Arrays, PADDED};
use crate::{
    Access, Directions, Gradient, Incoming, Kernels, Lines, Norms, Rule, Wanted, Workspace, CHUNK,
};

/// Lines of fewer elements are padded in a copy, a few of them at a time; of others only the rest
/// that is no whole vector.
const NARROW: usize = 128;

impl Kernels {
    /// Lines of chains that run across memory, where no chain ends and every neighbour
    /// exists: each comes into the chunk, and then the directions of the one `band`
    /// lines before are computed, if they are wanted.
    pub fn lines(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        lines: &Lines,
        then: Option<Directions>,
        norms: &mut Norms,
    ) {
        let (shape, width) = (work.shape(), lines.cols.len());
        let kept = |row: usize, at: usize| lines.kept + (row - lines.rows.start) * lines.pitch + at;
        // Whether lines go through a loop at once that updates, solves, and finishes.
        let is_common = |then| self.is_unlimited(shape.band, access, rule, then);
        let is_common = lines.takes_in && then.is_some_and(is_common);
        // Short lines of whole vectors are one run, in memory and in the chunk.
        if shape.is_short() && shape.line == Some(access.cols()) {
            let most = if is_common { usize::MAX } else { CHUNK / width };
            let mut row = lines.rows.start;
            while row < lines.rows.end {
                let count = most.min(lines.rows.end - row);
                work.across(row as isize, 0);
                let (col, len) = (0, count * width);
                let run = Run { row, col, len };
                let kept = kept(row, 0);
                let left = self.part(work, access, rule, lines, run, is_common, kept, then, norms);
                self.advance(work, left);
                row += count;
            }
            return;
        }
        let is_whole = shape.is_short() && width == access.cols();
        if is_whole
            && width < NARROW
            && self.goes_through_a_copy(shape.band, access, rule, lines, is_common, then)
        {
            return self.padded_lines(work, access, rule, lines, then, norms);
        }
        for row in lines.rows.clone() {
            for part in parts_of_line(width, is_common) {
                work.across(row as isize, part.start);
                let (col, len) = (lines.cols.start + part.start, part.len());
                let (run, kept) = (Run { row, col, len }, kept(row, part.start));
                self.part(work, access, rule, lines, run, is_common, kept, then, norms);
            }
            self.end_line(work);
        }
    }

    /// A part of a line, or short lines together. Returns how many coordinates are left
    /// to advance by.
    #[allow(clippy::too_many_arguments)]
    fn part(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        lines: &Lines,
        run: Run,
        is_common: bool,
        kept: usize,
        then: Option<Directions>,
        norms: &mut Norms,
    ) -> usize {
        let band = work.shape().band;
        let target = Run {
            row: run.row - band.min(run.row),
            ..run
        };
        let gradient = match is_common {
            true => Gradient::InMemory {
                step: access.cols(),
            },
            false => self.gradient_of_line(work, access, rule, lines, run),
        };
        let incoming = Incoming {
            run,
            from: 0,
            gradient,
            ends: false,
        };
        let mut incoming = Some(&incoming);
        let count = run.len.next_multiple_of(LANES);
        let is_separate = |incoming: &mut &Incoming| {
            then.is_none() || run.len < count && incoming.gradient == Gradient::InChunk
        };
        if let Some(incoming) = incoming.take_if(is_separate) {
            self.update(work, access, rule, incoming, &mut norms.taken_in);
            self.pad(work, run.len, count - run.len);
        }
        let Some(then) = then else { return 0 };
        let wanted = Wanted {
            count,
            ends: false,
            from: 0,
            run: target,
            kept,
        };
        self.solve(work, access, rule, incoming, &wanted, then, norms)
    }

    /// Whether lines can be padded in a copy, in which they are float32 or shorter.
    fn goes_through_a_copy(
        &self,
        band: usize,
        access: &Access<'_>,
        rule: &Rule,
        lines: &Lines,
        is_common: bool,
        then: Option<Directions>,
    ) -> bool {
        let is_known = match (lines.takes_in, then) {
            (true, Some(_)) => is_common,
            (true, None) => self.reads_in_place(access, rule) && rule.take_in.rms.is_none(),
            (false, Some(then)) => has_finish(access, rule, then) && !rule.take_in.nesterov,
            (false, None) => false,
        };
        is_known && self.is_fast() && band <= COMMON_BAND && !access.is_random()
    }

    /// Narrow lines that are not whole vectors: as many as there is room for, padded with zeros in
    /// a copy, go through the loops at once.
    fn padded_lines(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        lines: &Lines,
        then: Option<Directions>,
        norms: &mut Norms,
    ) {
        let (band, width) = (work.shape().band, lines.cols.len());
        let pitch = width.next_multiple_of(LANES);
        let size = access.state_dtype().size();
        let mut padded = work.take_padded();
        let mut row = lines.rows.start;
        while row < lines.rows.end {
            let count = (PADDED / pitch).min(lines.rows.end - row);
            let (col, len, vectors) = (0, count * width, count * pitch / LANES);
            let run = Run { row, col, len };
            work.across(row as isize, 0);
            let mut arrays = padded.arrays();
            let mut copy = |from: &[u8], size: usize| {
                let array = arrays
                    .next()
                    .expect("there is one for each plane, and one more");
                let array = &mut array[..count * pitch * size];
                pad_lines(from, array, width * size, pitch * size);
                array
            };
            let mut planes = ArrayVec::new();
            if lines.takes_in {
                self.gradient_of_lines(work, access, rule, (row, count), pitch);
                // The access is borrowed exclusively, and nothing else that it gives out is
                // in use; planes and targets are different buffers.
                // SAFETY: as said.
                unsafe { access.planes(run, 0, &mut planes) };
            }
            let mut in_lines = ArrayVec::<&mut [u8], { COMMON_BAND + 2 }>::new();
            for p in 0..2 + band {
                in_lines.push(match planes.get(p) {
                    Some(plane) => copy(plane, size),
                    None => copy(access.plane(p, run), size),
                });
            }
            let mut advanced = 0;
            if let Some(then) = then {
                let kept = lines.kept + (row - lines.rows.start) * lines.pitch;
                let row = row - band;
                // SAFETY: as above.
                let (kept, target) = unsafe {
                    match then {
                        Directions::Measured => (access.kept(kept, count * pitch), None),
                        _ => (None, Some(access.target(Run { row, ..run }).to)),
                    }
                };
                let params = target
                    .as_deref()
                    .map(|target| copy(target, size_of::<f32>()));
                let mut to = params.or(kept);
                let into = to.as_deref_mut().map_or(&mut [][..], slice_mut);
                let copy = (&mut in_lines[..], vectors);
                if lines.takes_in {
                    advanced = self.fused_in_copy(work, access, rule, run, copy, then, into, norms);
                } else {
                    self.solve_in_copy(work, access, rule, copy, then, into, norms);
                }
                if let (Some(target), Some(params)) = (target, to) {
                    let size = size_of::<f32>();
                    take_lines(target, params, width * size, pitch * size);
                }
            } else {
                let incoming = Incoming {
                    run,
                    from: 0,
                    gradient: Gradient::InChunk,
                    ends: false,
                };
                with_state!(f32, access.state_dtype(), E => {
                    let (planes, taken_in) = (&mut in_lines[..], &mut norms.taken_in);
                    self.update_whole::<f32, E>(work, access, rule, &incoming, planes, taken_in);
                });
            }
            for (plane, array) in planes.iter_mut().zip(&in_lines) {
                take_lines(plane, array, width * size, pitch * size);
            }
            self.advance(work, count * pitch - advanced * LANES);
            row += count;
        }
        work.give_padded(padded);
    }

    /// The scaled gradient of lines and of those that follow comes into the chunk, padded.
    fn gradient_of_lines(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        (row, count): (usize, usize),
        pitch: usize,
    ) {
        let (width, scale) = (access.cols(), rule.scale.number as f32);
        let count = count + work.shape().band;
        work.gradient_of_lines(pitch);
        let (col, len) = (0, count * width);
        let gradient = bytemuck::cast_slice::<u8, f32>(access.gradient(Run { row, col, len }));
        let to = &mut work.arrays::<f32>().new.gradient[..count * pitch];
        for (to, from) in to.chunks_mut(pitch).zip(gradient.chunks(width)) {
            let (to, padding) = to.split_at_mut(width);
            to.iter_mut().zip(from).for_each(|(to, g)| *to = scale * g);
            padding.fill(0.0);
        }
    }

    /// Directions from so many vectors of planes that are padded in a copy, which reach
    /// parameters that are padded, too, or are kept.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    fn solve_in_copy(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        (planes, vectors): (&mut [&mut [u8]], usize),
        then: Directions,
        to: &mut [[f32; LANES]],
        norms: &mut Norms,
    ) {
        for (p, plane) in planes.iter().enumerate() {
            let Arrays { state, new, .. } = work.arrays::<f32>();
            let to = &mut state[p * new.plane + new.at.new..].as_chunks_mut().0[..vectors];
            with_state!(f32, access.state_dtype(), E => self.call(Read {
                from: bytemuck::cast_slice::<u8, E>(plane).as_chunks().0,
                to,
                ahead: 0,
                reading: rule.reading(p),
            }));
        }
        let outcome = Outcome::new(then, to, rule.apply, &mut norms.direction.0);
        self.solve_only::<f32>(work, 0..vectors, 0, rule.gamma, false, Some(outcome));
    }

    /// Updates and solves for so many vectors of planes that are padded in a copy, whose
    /// gradient is in the chunk. Directions reach parameters that are padded, too, or are
    /// kept. Returns by how many vectors the chunk has advanced.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    fn fused_in_copy(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        run: Run,
        (planes, vectors): (&mut [&mut [u8]], usize),
        then: Directions,
        to: &mut [[f32; LANES]],
        norms: &mut Norms,
    ) -> usize {
        let incoming = Incoming {
            run,
            from: 0,
            gradient: Gradient::InChunk,
            ends: false,
        };
        let Norms {
            direction,
            taken_in,
        } = norms;
        let outcome = Outcome::new(then, to, rule.apply, &mut direction.0);
        let planes = (planes, 0);
        self.fused(
            work,
            access,
            rule,
            &incoming,
            planes,
            0..vectors,
            outcome,
            taken_in,
        )
    }

    /// Ends a line, where chains run across memory.
    pub fn end_line(&self, work: &mut Workspace) {
        let shape = work.shape();
        if shape.is_short() {
            self.advance(work, shape.line.unwrap_or(0));
        }
    }

    /// Where the gradient of a part of a line is read: whole vectors where they lie.
    fn gradient_of_line(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        lines: &Lines,
        run: Run,
    ) -> Gradient {
        if !lines.takes_in {
            return Gradient::None;
        }
        if self.reads_in_place(access, rule) && run.len.is_multiple_of(LANES) {
            let step = access.cols();
            return Gradient::InMemory { step };
        }
        for neighbour in 0..=work.shape().band {
            let row = run.row + neighbour;
            self.gradient(work, access, Run { row, ..run }, (neighbour, 0), rule.scale);
        }
        Gradient::InChunk
    }
}

/// The parts of a line that is so wide: all of it `at_once`; or whole vectors, up to a chunk at a
/// time, and what is left of them by itself.
pub fn parts_of_line(width: usize, at_once: bool) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let left = width - next;
        let whole = (left - left % LANES).min(CHUNK);
        let part = next..next + if whole > 0 && !at_once { whole } else { left };
        next = part.end;
        (!part.is_empty()).then_some(part)
    })
}

/// Copies lines, of which each gets so wide.
fn pad_lines(from: &[u8], to: &mut [u8], narrow: usize, wide: usize) {
    for (from, to) in from.chunks_exact(narrow).zip(to.chunks_exact_mut(wide)) {
        let (to, padding) = to.split_at_mut(narrow);
        to.copy_from_slice(from);
        padding.fill(0);
    }
}

/// Copies them back.
fn take_lines(to: &mut [u8], from: &[u8], narrow: usize, wide: usize) {
    for (to, from) in to.chunks_exact_mut(narrow).zip(from.chunks_exact(wide)) {
        to.copy_from_slice(&from[..narrow]);
    }
}
