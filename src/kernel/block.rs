//! The arithmetic of a step on one block, in one loop.
//!
//! Each vector of coordinates goes through three stages: its state takes in
//! the gradient ([`Source`]); when its chain neighbours have come
//! ([`Window`]), its direction is computed ([`Direction`]), and delivered or
//! measured ([`Sink`]). So memory and arithmetic are always busy at the same
//! time, and nothing is written down in between.

use std::ops::Range;

use super::case::{Again, Any, Case, Kind, Measured, Straight};
use super::direction::Direction;
use super::element::{Bf16, Stored, F32, F64};
use super::lines::{Cursor, Lines, Place, State, Target, MAX_PLANES};
use super::pass::{Pass, Stretch, Totals};
use super::sink::{Apply, Sink};
use super::source::{splat, Denominator, Source, TakeIn};
use super::vector::{Vector, LANES};
use super::window::{Alone, Kept, Window};
use super::workspace::{Arrays, Shape, Workspace};
use super::{total, MAX_BAND};
use crate::dtype::Dtype;

/// What is done to a block.
pub(crate) struct Task<'a> {
    pub state: State<'a>,
    /// Where the state is among the positions of the workspace.
    pub at: usize,
    /// From where on the gradient is packed; before, it is read where it lies,
    /// and must be of the arithmetic's type.
    pub packed_from: usize,
    pub take_in: Option<TakeIn>,
    pub denominator: Denominator,
    pub gamma: f64,
    pub output: Output<'a>,
}

impl<'a> Task<'a> {
    /// Its first stage.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn source<V: Vector, S: Stored>(&self, shape: Shape) -> Source<'a, V, S> {
        let take_in = self.take_in.as_ref();
        // SAFETY: passed on from the caller.
        unsafe {
            Source::new(
                &self.state,
                self.denominator,
                take_in,
                self.packed_from,
                shape,
            )
        }
    }

    /// Its last stage, where directions reach a target.
    ///
    /// # Safety
    /// As for [`Task::source`].
    #[inline(always)]
    pub(super) unsafe fn sink<V: Vector>(&self) -> Option<Sink<'_, V>> {
        match &self.output {
            // SAFETY: passed on from the caller.
            Output::Apply(target, apply) => Some(unsafe { Sink::new(target, *apply) }),
            _ => None,
        }
    }
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

    /// See [`steady`](super::pass::steady).
    ///
    /// # Safety
    /// As there.
    unsafe fn steady<V: Vector, S: Stored, C: Case, W, const BAND: usize, const BROKEN: bool>(
        pass: &mut Pass<'_, '_, V, S, W, BAND, BROKEN>,
        work: &mut Workspace,
        task: &Task<'_>,
        stretch: &Stretch,
    ) where
        W: Window<V, BAND>;

    /// Takes less than a vector, at the end of a line: see [`take_rest`].
    ///
    /// # Safety
    /// As there.
    unsafe fn take_rest<V: Vector, S: Stored, const BAND: usize>(
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

/// Some bands have loops of their own, where anybody looks for speed.
///
/// # Safety
/// The processor has the instructions of `V`.
unsafe fn banded<V: Vector, E: Entries, S: Stored>(
    work: &mut Workspace,
    task: Task<'_>,
) -> Squares {
    const ANY: usize = MAX_BAND;
    let shape = work.shape();
    let band = if V::UNROLLS { shape.band } else { ANY };
    // SAFETY: passed on from the caller.
    unsafe {
        match (band, shape.along(), shape.broken) {
            (0, _, _) => E::run::<V, S, Alone<V>, 0, false>(work, task),
            (1, true, false) => E::run::<V, S, Kept<V, 1, true>, 1, false>(work, task),
            (1, true, true) => E::run::<V, S, Kept<V, 1, true>, 1, true>(work, task),
            (1, false, false) => {
                E::run::<V::Wide, S, Kept<V::Wide, 1, false>, 1, false>(work, task)
            }
            (4, true, false) => E::run::<V::Wide, S, Kept<V::Wide, 4, true>, 4, false>(work, task),
            (4, false, false) => {
                E::run::<V::Wide, S, Kept<V::Wide, 4, false>, 4, false>(work, task)
            }
            (_, true, _) => E::run::<V::Wide, S, Kept<V::Wide, ANY, true>, ANY, true>(work, task),
            (_, false, _) => E::run::<V::Wide, S, Kept<V::Wide, ANY, false>, ANY, true>(work, task),
        }
    }
}

/// Whether a case is common enough for a loop of its own: where a vector is one
/// register, so that all that it needs can be in registers, or two and the band
/// narrow; directions are computed again where there are no neighbours (see
/// `Tensor::keeps`), and 16-bit state is for narrow bands.
const fn is_common<V: Vector, S: Stored, C: Case>(band: usize, broken: bool) -> bool {
    let narrow = band <= 1 || band <= 4 && !S::ROUNDS && V::REGISTERS == 1;
    V::REGISTERS <= 2
        && !broken
        && match C::TAKES {
            Some(false) => band == 0,
            _ => narrow,
        }
}

/// Takes less than a vector, packs it, and writes down the other two vectors
/// of [`Taken`] (reference, poison).
///
/// # Safety
/// As for [`Source::take`]; `rest` is good for two vectors.
#[inline(always)]
pub(crate) unsafe fn take_rest<V: Vector, S: Stored, const BAND: usize>(
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
        let mut source = task.source::<V, S>(shape);
        let (along, ends) = (shape.along(), source.has_ends(at));
        let taken = source.take::<Any, BAND, false>(along, ends, &arrays, at, place, None);
        taken.packed.store(&arrays, at, shape.band);
        taken.reference.store(rest);
        taken.poison.store(rest.add(V::LANES));
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
    assert!(task.packed_from <= task.at || task.state.is_plain(size_of::<V::Scalar>()));
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
    let computes = measures || delivers;
    let (solve, finish) = if computes {
        let end = lag + (front + core).next_multiple_of(V::LANES);
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
        let mut source = task.source::<V, S>(shape);
        let mut window = W::new(shape, work.ring());
        let mut direction = Direction::<V, BAND, BROKEN>::new(shape, task.gamma);
        let sink = task.sink::<V>();
        let mut totals = Totals {
            direction: V::no_sums(),
            reference: V::no_sums(),
            poison: splat(0.0),
        };
        let mut pass = Pass {
            source: &mut source,
            window: &mut window,
            direction: &mut direction,
            sink: &sink,
            totals: &mut totals,
            arrays: &arrays,
            streams: None,
            lag,
            end: front + core,
            keep: keep.wrapping_sub(front),
            keeps: !keep.is_null(),
        };
        let mut from = Cursor::new::<V>(lines);
        let mut to = Cursor::new::<V>(target_lines);
        if W::ALONG {
            pass.source.start(&arrays, task.at, from.place());
        }
        let kind = Kind::of::<V>(&task);
        let mut at = solve.start;
        while at < solve.end {
            // From here to `end` nothing changes about what is at work.
            let mut stretch = Stretch {
                start: at,
                end: at,
                takes: take.contains(&at).then(|| from.place()),
                solves: computes && at >= lag,
                finishes: finish.contains(&at).then(|| to.place()),
            };
            let ends = pass.source.has_ends(at);
            let mut end = change(&take, at).min(change(&finish, at)).min(solve.end);
            if at < lag {
                end = end.min(lag);
            }
            if !ends {
                end = end.min(shape.tail);
            }
            if stretch.takes.is_some() {
                end = end.min(at + from.run());
                if take_in.is_some() {
                    end = end.min(pass.source.changes(W::ALONG, at));
                }
            }
            // Directions are whole vectors up to here.
            let whole = match stretch.finishes {
                Some(place) if delivers => {
                    end = end.min(at + to.run());
                    place.is_whole::<V>()
                }
                Some(_) => {
                    let last = lag + (front + core) / V::LANES * V::LANES;
                    if at < last {
                        end = end.min(last);
                    }
                    at < last
                }
                None => false,
            };
            // The steady middle goes from one multiple to another.
            let aligned = at % LANES == 0 && end - at >= LANES;
            stretch.end = match aligned {
                true => end - end % LANES,
                false => end.min((at + 1).next_multiple_of(LANES)),
            };
            let end = stretch.end;
            let takes = stretch.takes.is_some_and(Place::is_whole::<V>);
            let steady = takes
                && aligned
                && !ends
                && stretch.solves
                && whole
                && pass.source.streams_to(W::ALONG, at, end);
            macro_rules! steady {
                ($case:ty) => {
                    if const { is_common::<V, S, $case>(BAND, BROKEN) } {
                        E::steady::<V, S, $case, W, BAND, BROKEN>(&mut pass, work, &task, &stretch);
                        at = end;
                    }
                };
            }
            match kind {
                Some(Kind::Straight) if steady => steady!(Straight),
                Some(Kind::Measured) if steady => steady!(Measured),
                Some(Kind::Again) if steady => steady!(Again),
                _ => {}
            }
            let skipped = at > stretch.start;
            while at < end {
                at += pass.group::<E, Any, false>(work, &task, &stretch, at, end, true);
            }
            if stretch.takes.is_some() {
                from.advance(at - stretch.start);
                if skipped && W::ALONG && take.contains(&at) {
                    pass.source.start(&arrays, at, from.place());
                }
            }
            if stretch.finishes.is_some() {
                to.advance(at - stretch.start);
            }
        }
        if let (true, Some(by)) = (V::any(totals.poison.is_nan()), take_in) {
            let planes = 2 + shape.band + usize::from(by.rms.is_some());
            E::mend::<V, S>(&task.state.planes.to, planes, lines);
        }
        Squares {
            direction: if measures {
                total::<V>(totals.direction)
            } else {
                0.0
            },
            reference: total::<V>(totals.reference),
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
