//! The arithmetic of a step on one block, in one loop.
//!
//! Each vector of coordinates goes through four stages: its state takes in the
//! gradient and is packed ([`Source`]); the windows are solved, then multiplied
//! to directions ([`Direction`]); directions are delivered or measured
//! ([`Sink`]). The stages follow one another through the block, each as far
//! behind the one before as it needs, so that memory and arithmetic are always
//! busy at the same time.

use super::direction::Direction;
use super::element::{Bf16, Stored, F32, F64};
use super::lines::{Cursor, State, Target};
use super::sink::{Apply, Sink};
use super::source::{Correct, Source, TakeIn};
use super::vector::{Scalar, Vector, LANES};
use super::workspace::{Array, Arrays, Shape, Workspace};
use super::{total, MAX_BAND};
use crate::dtype::Dtype;

/// What is done to a block.
pub(crate) struct Task<'a> {
    pub state: State<'a>,
    /// Where the state is packed.
    pub at: usize,
    pub take_in: Option<TakeIn>,
    pub correct: Correct,
    pub gamma: f64,
    pub output: Output<'a>,
}

/// What becomes of the directions.
pub(crate) enum Output<'a> {
    /// None are computed.
    None,
    /// They reach their target.
    Apply(Target<'a>, Apply),
    /// Their squares are summed up; they are kept, if there is room for it, in
    /// the order in which they lie in the workspace. Other threads may look
    /// at them after a [`fence`](super::fence).
    Measure(Option<&'a mut [u8]>),
}

/// Squares of lengths, over a block.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Squares {
    pub direction: f64,
    pub reference: f64,
}

/// Vectors between two stages, besides what they need: so many stores are
/// behind before their places are read in other vectors.
const GAP: usize = 8 * LANES;

/// The functions of an instruction set that [`run`] is inlined into.
pub(crate) trait Entries {
    /// See [`run`].
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    unsafe fn run<V: Vector, S: Stored, const BAND: usize, const BROKEN: bool>(
        work: &mut Workspace,
        task: Task<'_>,
    ) -> Squares;

    /// Takes less than a vector, at the end of a line: see [`Source::take`].
    ///
    /// # Safety
    /// As for [`Source::take`].
    unsafe fn take_rest<V: Vector, S: Stored>(
        source: &mut Source<'_, V, S>,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        cursor: &Cursor,
        broken: bool,
    );

    /// Delivers what is not plain: see [`Sink::deliver`].
    ///
    /// # Safety
    /// As for [`Sink::deliver`]; `u` is good for a vector.
    unsafe fn deliver_rest<V: Vector>(sink: &Sink<'_, V>, u: *const V::Scalar, cursor: &Cursor);
}

/// Chooses the entry for a block.
///
/// # Safety
/// The processor has the instructions of `V`.
pub(crate) unsafe fn block<V: Vector, E: Entries>(work: &mut Workspace, task: Task<'_>) -> Squares {
    // SAFETY: passed on from the caller.
    unsafe {
        match task.state.dtype {
            Dtype::Bf16 => banded::<V, E, Bf16>(work, task),
            Dtype::F64 if size_of::<V::Scalar>() == 8 => banded::<V, E, F64>(work, task),
            _ => banded::<V, E, F32>(work, task),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
unsafe fn banded<V: Vector, E: Entries, S: Stored>(
    work: &mut Workspace,
    task: Task<'_>,
) -> Squares {
    let shape = work.shape();
    // SAFETY: passed on from the caller.
    unsafe {
        match (shape.band, shape.broken) {
            _ if !V::UNROLLS && shape.broken => E::run::<V, S, MAX_BAND, true>(work, task),
            _ if !V::UNROLLS => E::run::<V, S, MAX_BAND, false>(work, task),
            (0, _) => E::run::<V, S, 0, false>(work, task),
            (1, false) => E::run::<V, S, 1, false>(work, task),
            (1, true) => E::run::<V, S, 1, true>(work, task),
            (4, false) => E::run::<V, S, 4, false>(work, task),
            (_, false) => E::run::<V, S, MAX_BAND, false>(work, task),
            (_, true) => E::run::<V, S, MAX_BAND, true>(work, task),
        }
    }
}

/// See [`Entries::take_rest`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn take_rest<V: Vector, S: Stored>(
    source: &mut Source<'_, V, S>,
    arrays: &Arrays<V::Scalar>,
    at: usize,
    cursor: &Cursor,
    broken: bool,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        if broken {
            source.take::<MAX_BAND, true, false>(arrays, at, cursor);
        } else {
            source.take::<MAX_BAND, false, false>(arrays, at, cursor);
        }
    }
}

/// The loop. `BAND` is the band, or `MAX_BAND` for any; `BROKEN` says that
/// chains end among the block's coordinates.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn run<
    V: Vector,
    E: Entries,
    S: Stored,
    const BAND: usize,
    const BROKEN: bool,
>(
    work: &mut Workspace,
    mut task: Task<'_>,
) -> Squares {
    let shape = work.shape();
    let Shape { front, core, .. } = shape;
    let lines = task.state.lines;
    let source_len = lines.positions();
    let source_end = task.at + source_len;
    assert!(source_end <= (front + core + shape.lead).next_multiple_of(LANES));
    assert!(task.take_in.is_none() || task.state.writable);
    let measures = matches!(task.output, Output::Measure(_));
    let mut keep = std::ptr::null_mut();
    if let Output::Measure(Some(room)) = &mut task.output {
        let room: &mut [V::Scalar] = bytemuck::cast_slice_mut(room);
        assert!(room.len() >= core.next_multiple_of(LANES));
        keep = room.as_mut_ptr();
    }
    // Where the stages are when the first is at 0, counted backwards.
    let solving = front + GAP;
    let ending = solving + GAP;
    let stop = match task.output {
        Output::None => source_end,
        _ => ending + front + core,
    };
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are below the workspace's extent (checked above, and
    // by `Workspace::begin`); a target is good for its own lines, which are
    // the block's; and the caller has the instructions.
    unsafe {
        let mut source =
            Source::<V, S>::new(&task.state, &task.correct, task.take_in.as_ref(), shape);
        let mut direction = Direction::<V, BAND, BROKEN>::new(shape, task.gamma);
        let (sink, target_lines) = match &task.output {
            Output::Apply(target, apply) => (Some(Sink::<V>::new(target, *apply)), target.lines),
            _ => (None, lines),
        };
        assert!(sink.is_none() || target_lines.positions() >= core);
        let mut squares = V::no_sums();
        let mut from = Cursor::new(lines);
        let mut to = Cursor::new(target_lines);

        let mut at = task.at.min(solving);
        while at < stop {
            // Wrapping, a stage that has not begun is beyond its end.
            if at.wrapping_sub(task.at) < source_len {
                if from.is_whole() {
                    source.take::<BAND, BROKEN, true>(&arrays, at, &from);
                } else {
                    E::take_rest(&mut source, &arrays, at, &from, BROKEN);
                }
                from.advance();
            }
            if at.wrapping_sub(solving) < front + core {
                direction.solve(&arrays, at - solving);
            }
            if at >= ending + front {
                let j = at - ending;
                let mut u = direction.multiply(&arrays, j);
                if let Some(sink) = &sink {
                    if sink.plain && to.is_whole() {
                        sink.update(u, &to);
                    } else {
                        let mut lanes = [V::Scalar::ZERO; LANES];
                        u.store(lanes.as_mut_ptr());
                        E::deliver_rest(sink, lanes.as_ptr(), &to);
                    }
                    to.advance();
                } else {
                    let left = front + core - j;
                    if left < LANES {
                        u = u.first(left, V::Scalar::ZERO);
                    }
                    squares = u.add_squares(squares);
                    if !keep.is_null() {
                        u.stream(keep.add(j - front));
                    }
                }
            }
            at += LANES;
        }
        Squares {
            direction: if measures { total::<V>(squares) } else { 0.0 },
            reference: total::<V>(source.squares),
        }
    }
}

/// Packs state that lies beside the block's own, at position `at`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack<V: Vector>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    correct: &Correct,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match state.dtype {
            Dtype::Bf16 => pack_stored::<V, Bf16>(work, state, at, correct),
            Dtype::F64 if size_of::<V::Scalar>() == 8 => {
                pack_stored::<V, F64>(work, state, at, correct)
            }
            _ => pack_stored::<V, F32>(work, state, at, correct),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn pack_stored<V: Vector, S: Stored>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    correct: &Correct,
) {
    let end = at + state.lines.positions();
    let shape = work.shape();
    assert!(end <= work.array::<V::Scalar>(Array::Momentum).len());
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are inside the arrays, as checked above, and nothing
    // but the state is looked at without a gradient to take in; the caller has
    // the instructions of `V`.
    unsafe {
        let mut source = Source::<V, S>::new(state, correct, None, shape);
        let mut cursor = Cursor::new(state.lines);
        for at in (at..end).step_by(LANES) {
            source.take::<MAX_BAND, false, false>(&arrays, at, &cursor);
            cursor.advance();
        }
    }
}
