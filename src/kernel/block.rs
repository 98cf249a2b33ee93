//! The arithmetic of a step on one block, in one loop.
//!
//! Each vector of coordinates goes through four stages: its state takes in the
//! gradient and is packed ([`Source`]); the windows are solved, then multiplied
//! to directions ([`Direction`]); directions are delivered or measured
//! ([`Sink`]). The stages follow one another through the block, each as far
//! behind the one before as it needs, so that memory and arithmetic are always
//! busy at the same time.

use std::ops::Range;

use super::direction::Direction;
use super::element::{Bf16, Stored, F32, F64};
use super::lines::{Cursor, Place, State, Target, MAX_PLANES};
use super::sink::{Apply, Sink};
use super::source::{Denominator, Source, TakeIn};
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
    pub denominator: Denominator,
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

/// The functions of an instruction set that are called from inside the loop or
/// hold it.
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
    /// What it returns is written to `reference`.
    ///
    /// # Safety
    /// As for [`Source::take`]; `reference` is good for a vector.
    unsafe fn take_rest<V: Vector, S: Stored>(
        work: &mut Workspace,
        task: &Task<'_>,
        at: usize,
        place: Place,
        reference: *mut V::Scalar,
    );

    /// See [`source::mend`].
    ///
    /// # Safety
    /// As there.
    unsafe fn mend<V: Vector, S: Stored>(
        planes: &[*mut u8; MAX_PLANES],
        count: usize,
        place: Place,
    );

    /// Delivers what is not plain: see [`Sink::deliver`].
    ///
    /// # Safety
    /// As for [`Sink::deliver`]; `u` is good for a vector.
    unsafe fn deliver_rest<V: Vector>(
        target: &Target<'_>,
        apply: Apply,
        u: *const V::Scalar,
        place: Place,
    );
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
pub(crate) unsafe fn take_rest<V: Vector, E: Entries, S: Stored>(
    work: &mut Workspace,
    task: &Task<'_>,
    at: usize,
    place: Place,
    reference: *mut V::Scalar,
) {
    let shape = work.shape();
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: passed on from the caller.
    unsafe {
        let source = Source::<V, S>::new(&task.state, task.denominator, task.take_in.as_ref(), shape);
        let a = if shape.broken {
            source.take::<E, MAX_BAND, true, false, true>(&arrays, at, place)
        } else {
            source.take::<E, MAX_BAND, false, false, true>(&arrays, at, place)
        };
        a.store(reference);
    }
}

/// See [`Entries::deliver_rest`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn deliver_rest<V: Vector>(
    target: &Target<'_>,
    apply: Apply,
    u: *const V::Scalar,
    place: Place,
) {
    // SAFETY: passed on from the caller.
    unsafe { Sink::<V>::new(target, apply).deliver(V::load(u), place) }
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
    let mut source_len = lines.positions();
    let source_end = task.at + source_len;
    assert!(source_end <= (front + core + shape.lead).next_multiple_of(LANES));
    // SAFETY: passed on from the caller.
    unsafe {
        match &task.take_in {
            Some(_) => assert!(task.state.writable),
            // Nothing is taken in along the way then.
            None => {
                pack_stored::<V, E, S>(work, &task.state, task.at, task.denominator);
                source_len = 0;
            }
        }
    }
    let (mut keep, mut delivers, mut measures) = (std::ptr::null_mut(), false, false);
    let mut target_lines = lines;
    match &mut task.output {
        Output::None => {}
        Output::Apply(target, _) => {
            target_lines = target.lines;
            assert!(target_lines.positions() >= core);
            delivers = true;
        }
        Output::Measure(room) => {
            measures = true;
            if let Some(room) = room {
                let room: &mut [V::Scalar] = bytemuck::cast_slice_mut(room);
                assert!(room.len() >= core.next_multiple_of(LANES));
                keep = room.as_mut_ptr();
            }
        }
    }
    // When each stage is at work, by the place of the first.
    let behind = |gap, from, to: usize| gap + from..gap + to.next_multiple_of(LANES);
    let (solving, ending) = (front + GAP, front + 2 * GAP);
    let take = task.at..task.at + source_len;
    let (solve, finish) = if measures || delivers {
        (behind(solving, 0, front + core), behind(ending, front, front + core))
    } else {
        (0..0, 0..0)
    };
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are below the workspace's extent (checked above, and
    // by `Workspace::begin`); a target is good for its own lines, which are
    // the block's; and the caller has the instructions.
    unsafe {
        let source = Source::<V, S>::new(&task.state, task.denominator, task.take_in.as_ref(), shape);
        let mut direction = Direction::<V, BAND, BROKEN>::new(shape, task.gamma);
        let sink = match &task.output {
            Output::Apply(target, apply) => Some(Sink::<V>::new(target, *apply)),
            _ => None,
        };
        let mut squares = V::no_sums();
        let mut reference = V::no_sums();
        let mut from = Cursor::new(lines);
        let mut to = Cursor::new(target_lines);
        let mut at = if solve.is_empty() { take.start } else { take.start.min(solve.start) };
        while at < take.end.max(finish.end) {
            // From here to `end` nothing changes about what is at work.
            let (takes, finishes) = (take.contains(&at), finish.contains(&at));
            let solves = solve.contains(&at);
            let mut end = [&take, &solve, &finish].map(|stage| change(stage, at));
            end.sort_unstable();
            let mut end = end[0];
            if takes {
                end = end.min(at + from.run());
            }
            if finishes && delivers {
                end = end.min(at + to.run());
            }
            let (source_place, target_place) = (from.place(), to.place());
            let start = at;
            while at < end {
                if takes {
                    let place = source_place.further(at - start);
                    let a = if source_place.is_whole() {
                        source.take::<E, BAND, BROKEN, true, true>(&arrays, at, place)
                    } else {
                        let mut lanes = [V::Scalar::ZERO; LANES];
                        E::take_rest::<V, S>(work, &task, at, place, lanes.as_mut_ptr());
                        V::load(lanes.as_ptr())
                    };
                    if source.refers() {
                        reference = a.add_squares(reference);
                    }
                }
                if solves {
                    direction.solve(&arrays, at - solving);
                }
                if finishes {
                    let j = at - ending;
                    let mut u = direction.multiply(&arrays, j);
                    if delivers {
                        let place = target_place.further(at - start);
                        match (&sink, &task.output) {
                            (Some(sink), _) if sink.plain && target_place.is_whole() => {
                                sink.update(u, place)
                            }
                            (_, Output::Apply(target, apply)) => {
                                let mut lanes = [V::Scalar::ZERO; LANES];
                                u.store(lanes.as_mut_ptr());
                                E::deliver_rest::<V>(target, *apply, lanes.as_ptr(), place);
                            }
                            _ => {}
                        }
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
            if takes {
                from.advance(at - start);
            }
            if finishes {
                to.advance(at - start);
            }
        }
        Squares {
            direction: if measures { total::<V>(squares) } else { 0.0 },
            reference: total::<V>(reference),
        }
    }
}

/// The next position at which a stage begins or ends.
fn change(stage: &Range<usize>, at: usize) -> usize {
    if at < stage.start {
        stage.start
    } else if at < stage.end {
        stage.end
    } else {
        usize::MAX
    }
}

/// Packs state that lies beside the block's own, at position `at`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack<V: Vector, E: Entries>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match state.dtype {
            Dtype::Bf16 => pack_stored::<V, E, Bf16>(work, state, at, denominator),
            Dtype::F64 if size_of::<V::Scalar>() == 8 => {
                pack_stored::<V, E, F64>(work, state, at, denominator)
            }
            _ => pack_stored::<V, E, F32>(work, state, at, denominator),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn pack_stored<V: Vector, E: Entries, S: Stored>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    let end = at + state.lines.positions();
    let shape = work.shape();
    assert!(end <= work.array::<V::Scalar>(Array::Momentum).len());
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are inside the arrays, as checked above, and nothing
    // but the state is looked at without a gradient to take in; the caller has
    // the instructions of `V`.
    unsafe {
        let source = Source::<V, S>::new(state, denominator, None, shape);
        let mut cursor = Cursor::new(state.lines);
        for at in (at..end).step_by(LANES) {
            source.take::<E, MAX_BAND, false, false, false>(&arrays, at, cursor.place());
            cursor.advance(LANES);
        }
    }
}
