//! The arithmetic of a step on one block, in one loop.
//!
//! Each vector of coordinates goes through three stages: its state takes in
//! the gradient ([`Source`]); when its chain neighbours have come
//! ([`Window`]), its direction is computed ([`Direction`]), and delivered or
//! measured ([`Sink`]). So memory and arithmetic are always busy at the same
//! time, and nothing is written down in between.

use std::ops::Range;

use super::direction::Direction;
use super::element::{Bf16, Stored, F32, F64};
use super::lines::{Cursor, Lines, Place, State, Target, MAX_PLANES};
use super::sink::{Apply, Sink};
use super::source::{Denominator, Source, TakeIn, Taken};
use super::vector::{Scalar, Vector, LANES};
use super::window::{Across, Along, Packed, Window};
use super::workspace::{Array, Arrays, Shape, Workspace};
use super::{total, MAX_BAND};
use crate::dtype::Dtype;

/// What is done to a block.
pub(crate) struct Task<'a> {
    pub state: State<'a>,
    /// Where the state is among the positions of the workspace.
    pub at: usize,
    /// From where on the gradient is packed; before, it is whole vectors.
    pub packed_from: usize,
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

/// The functions of an instruction set that are called from inside the loop or
/// hold it.
pub(crate) trait Entries {
    /// See [`run`].
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    unsafe fn run<V: Vector, S: Stored, W, const BAND: usize, const BROKEN: bool>(
        work: &mut Workspace,
        task: Task<'_>,
    ) -> Squares
    where
        W: Window<V, BAND>;

    /// Takes less than a vector, at the end of a line: see [`take_rest`].
    ///
    /// # Safety
    /// As there.
    unsafe fn take_rest<V: Vector, S: Stored>(
        work: &mut Workspace,
        task: &Task<'_>,
        at: usize,
        place: Place,
        rest: *mut V::Scalar,
    );

    /// See [`mend`](super::source::mend).
    ///
    /// # Safety
    /// As there.
    unsafe fn mend<V: Vector, S: Stored>(
        planes: &[*mut u8; MAX_PLANES],
        count: usize,
        lines: Lines,
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

/// Narrow bands have loops of their own, where anybody looks for speed.
///
/// # Safety
/// The processor has the instructions of `V`.
unsafe fn banded<V: Vector, E: Entries, S: Stored>(
    work: &mut Workspace,
    task: Task<'_>,
) -> Squares {
    const ANY: usize = MAX_BAND;
    let shape = work.shape();
    let known = match shape.band {
        band @ (0 | 1 | 4) if V::UNROLLS => band,
        _ => ANY,
    };
    // SAFETY: passed on from the caller.
    unsafe {
        match (known, shape.along(), shape.broken) {
            (0, _, _) => E::run::<V, S, Along<V, 0>, 0, false>(work, task),
            (1, true, false) => E::run::<V, S, Along<V, 1>, 1, false>(work, task),
            (1, true, true) => E::run::<V, S, Along<V, 1>, 1, true>(work, task),
            (1, false, false) => E::run::<V, S, Across<V, 1>, 1, false>(work, task),
            (4, true, false) => E::run::<V, S, Along<V, 4>, 4, false>(work, task),
            (4, false, false) => E::run::<V, S, Across<V, 4>, 4, false>(work, task),
            (_, true, _) => E::run::<V, S, Along<V, ANY>, ANY, true>(work, task),
            (_, false, _) => E::run::<V, S, Across<V, ANY>, ANY, true>(work, task),
        }
    }
}

/// Takes less than a vector, packs it, and writes down the other two vectors
/// of [`Taken`] (reference, poison).
///
/// # Safety
/// As for [`Source::take`]; `rest` is good for two vectors.
#[inline(always)]
pub(crate) unsafe fn take_rest<V: Vector, S: Stored>(
    work: &mut Workspace,
    task: &Task<'_>,
    at: usize,
    place: Place,
    rest: *mut V::Scalar,
) {
    let shape = work.shape();
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: passed on from the caller.
    unsafe {
        let take_in = task.take_in.as_ref();
        let source = Source::<V, S>::new(
            &task.state,
            task.denominator,
            take_in,
            task.packed_from,
            shape,
        );
        let taken = source.take::<MAX_BAND, true, false>(shape.along(), &arrays, at, place);
        taken.packed.store(&arrays, at, shape.band);
        taken.reference.store(rest);
        taken.poison.store(rest.add(LANES));
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
pub(crate) unsafe fn run<V, E, S, W, const BAND: usize, const BROKEN: bool>(
    work: &mut Workspace,
    mut task: Task<'_>,
) -> Squares
where
    V: Vector,
    E: Entries,
    S: Stored,
    W: Window<V, BAND>,
{
    let shape = work.shape();
    let Shape { front, core, .. } = shape;
    let lines = task.state.lines;
    let take = task.at..task.at + lines.positions();
    assert!(take.end <= (front + core + shape.lead).next_multiple_of(LANES));
    assert!(task.take_in.is_none() || task.state.writable);
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
    // When each stage is at work, by the position of the first.
    let lag = W::lag(shape);
    let (solve, finish) = if measures || delivers {
        let end = lag + (front + core).next_multiple_of(LANES);
        (0..end, lag + front..end)
    } else {
        (take.clone(), 0..0)
    };
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are below the workspace's extent (checked above, and
    // by `Workspace::begin`); a target is good for its own lines, which are
    // the block's; and the caller has the instructions.
    unsafe {
        let take_in = task.take_in.as_ref();
        let source = Source::<V, S>::new(
            &task.state,
            task.denominator,
            take_in,
            task.packed_from,
            shape,
        );
        let mut window = W::new(shape, work.ring());
        let mut direction = Direction::<V, BAND, BROKEN>::new(shape, task.gamma);
        let sink = match &task.output {
            Output::Apply(target, apply) => Some(Sink::<V>::new(target, *apply)),
            _ => None,
        };
        let mut squares = V::no_sums();
        let mut reference = V::no_sums();
        let mut poison = V::splat(V::Scalar::ZERO);
        let mut from = Cursor::new(lines);
        let mut to = Cursor::new(target_lines);
        let mut at = solve.start;
        while at < solve.end {
            // From here to `end` nothing changes about what is at work.
            let (takes, finishes) = (take.contains(&at), finish.contains(&at));
            let solves = (measures || delivers) && at >= lag;
            let mut end = change(&take, at).min(change(&finish, at)).min(solve.end);
            if at < lag {
                end = end.min(lag);
            }
            if takes {
                end = end.min(at + from.run());
            }
            if finishes && delivers {
                end = end.min(at + to.run());
            }
            let (source_place, target_place) = (from.place(), to.place());
            let start = at;
            while at < end {
                let packed = if !takes {
                    Packed::load(&arrays, at, shape.band)
                } else {
                    let place = source_place.further(at - start);
                    let taken = if source_place.is_whole() {
                        source.take::<BAND, BROKEN, true>(W::ALONG, &arrays, at, place)
                    } else {
                        let mut rest = [V::Scalar::ZERO; 2 * LANES];
                        let rest = rest.as_mut_ptr();
                        E::take_rest::<V, S>(work, &task, at, place, rest);
                        Taken {
                            packed: Packed::load(&arrays, at, shape.band),
                            reference: V::load(rest),
                            poison: V::load(rest.add(LANES)),
                        }
                    };
                    poison = poison.add(taken.poison);
                    if source.refers() {
                        reference = taken.reference.add_squares(reference);
                    }
                    taken.packed
                };
                window.push(&packed);
                if solves {
                    let j = at - lag;
                    let mut u = direction.next(&mut window, arrays.reach.add(j));
                    if !finishes {
                    } else if delivers {
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
                window.advance();
                at += LANES;
            }
            if takes {
                from.advance(at - start);
            }
            if finishes {
                to.advance(at - start);
            }
        }
        if let (true, Some(by)) = (V::any(poison.is_nan()), take_in) {
            let planes = 2 + shape.band + usize::from(by.rms.is_some());
            E::mend::<V, S>(&task.state.planes.to, planes, lines);
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
pub(crate) unsafe fn pack<V: Vector>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match state.dtype {
            Dtype::Bf16 => pack_stored::<V, Bf16>(work, state, at, denominator),
            Dtype::F64 if size_of::<V::Scalar>() == 8 => {
                pack_stored::<V, F64>(work, state, at, denominator)
            }
            _ => pack_stored::<V, F32>(work, state, at, denominator),
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
    denominator: Denominator,
) {
    let end = at + state.lines.positions();
    let mut shape = work.shape();
    shape.broken = false;
    assert!(end <= work.array::<V::Scalar>(Array::Momentum).len());
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are inside the arrays, as checked above, and nothing
    // but the state is looked at without a gradient to take in; the caller has
    // the instructions of `V`.
    unsafe {
        let source = Source::<V, S>::new(state, denominator, None, 0, shape);
        let mut cursor = Cursor::new(state.lines);
        for at in (at..end).step_by(LANES) {
            let taken = source.take::<MAX_BAND, false, false>(true, &arrays, at, cursor.place());
            taken.packed.store(&arrays, at, shape.band);
            cursor.advance(LANES);
        }
    }
}
