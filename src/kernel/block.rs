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
use super::sink::{Apply, Sink};
use super::source::{splat, Denominator, Source, TakeIn, Taken};
use super::vector::{Scalar, Vector, LANES};
use super::window::{Along, Kept, Packed, Window};
use super::workspace::{Array, Arrays, Shape, Workspace};
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

    /// See [`steady`].
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
            (0, _, _) => E::run::<V, S, Along<V, 0>, 0, false>(work, task),
            (1, true, false) => E::run::<V, S, Along<V, 1>, 1, false>(work, task),
            (1, true, true) => E::run::<V, S, Along<V, 1>, 1, true>(work, task),
            (1, false, false) => E::run::<V, S, Kept<V, 1, false>, 1, false>(work, task),
            (4, true, false) => E::run::<V, S, Kept<V, 4, true>, 4, false>(work, task),
            (4, false, false) => E::run::<V, S, Kept<V, 4, false>, 4, false>(work, task),
            (_, true, _) => E::run::<V, S, Kept<V, ANY, true>, ANY, true>(work, task),
            (_, false, _) => E::run::<V, S, Kept<V, ANY, false>, ANY, true>(work, task),
        }
    }
}

/// Whether a case is common enough for a loop of its own: where a vector is one
/// register, so that all that it needs can be in registers, or two and the band
/// narrow; directions are computed again where state is small (see
/// `Tensor::keeps`), and 16-bit state is for narrow bands.
const fn is_common<V: Vector, S: Stored, C: Case>(band: usize, broken: bool) -> bool {
    let narrow = band <= 1 || band <= 4 && !S::ROUNDS && V::REGISTERS == 1;
    V::REGISTERS <= 2
        && !broken
        && match C::TAKES {
            Some(false) => band == 0 || S::ROUNDS && narrow,
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
        let take_in = task.take_in.as_ref();
        let mut source = Source::<V, S>::new(
            &task.state,
            task.denominator,
            take_in,
            task.packed_from,
            shape,
        );
        let ends = source.has_ends(at);
        let taken = source.take::<Any, BAND, false>(shape.along(), ends, &arrays, at, place);
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
        let mut source = Source::<V, S>::new(
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
            lag,
            end: front + core,
            keep: keep.wrapping_sub(front),
            keeps: !keep.is_null(),
        };
        let mut from = Cursor::new(lines);
        let mut to = Cursor::new(target_lines);
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
            }
            if stretch.finishes.is_some() && delivers {
                end = end.min(at + to.run());
            }
            stretch.end = end;
            let whole = |place: Option<Place>| place.is_some_and(Place::is_whole);
            let steady = whole(stretch.takes)
                && !ends
                && stretch.solves
                && (whole(stretch.finishes) || measures && stretch.finishes.is_some());
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
            while at < end {
                at += pass.group::<E, Any, false>(work, &task, &stretch, at, end);
            }
            if stretch.takes.is_some() {
                from.advance(at - stretch.start);
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

/// The loop over the middle of a block, where all stages are at work and what
/// they do is known.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
pub(crate) unsafe fn steady<V, E, S, C, W, const BAND: usize, const BROKEN: bool>(
    pass: &mut Pass<'_, '_, V, S, W, BAND, BROKEN>,
    work: &mut Workspace,
    task: &Task<'_>,
    stretch: &Stretch,
) where
    V: Vector,
    E: Entries,
    S: Stored,
    C: Case,
    W: Window<V, BAND>,
{
    // Nobody else knows where these are, so that they can be in registers.
    let (mut source, mut window) = (*pass.source, *pass.window);
    let (mut direction, mut totals) = (*pass.direction, *pass.totals);
    let sink = *pass.sink;
    let mut here = Pass {
        source: &mut source,
        window: &mut window,
        direction: &mut direction,
        totals: &mut totals,
        sink: &sink,
        ..*pass
    };
    let mut at = stretch.start;
    while at < stretch.end {
        // SAFETY: passed on from the caller.
        at += unsafe { here.group::<E, C, true>(work, task, stretch, at, stretch.end) };
    }
    (*pass.source, *pass.window, *pass.totals) = (source, window, totals);
}

/// What is at work from one position to another, and where in the tensor.
pub(crate) struct Stretch {
    start: usize,
    end: usize,
    takes: Option<Place>,
    solves: bool,
    finishes: Option<Place>,
}

/// What a pass adds up.
#[derive(Clone, Copy)]
struct Totals<V: Vector> {
    direction: V::Sums,
    reference: V::Sums,
    poison: V,
}

/// One pass over a block, and its stages.
pub(crate) struct Pass<'p, 'a, V: Vector, S, W, const BAND: usize, const BROKEN: bool> {
    source: &'p mut Source<'a, V, S>,
    window: &'p mut W,
    direction: &'p mut Direction<V, BAND, BROKEN>,
    sink: &'p Option<Sink<'a, V>>,
    totals: &'p mut Totals<V>,
    arrays: &'p Arrays<V::Scalar>,
    /// Positions that directions are behind.
    lag: usize,
    /// Where the block's coordinates end.
    end: usize,
    /// Where directions are kept, if they are; counted from position 0.
    keep: *mut V::Scalar,
    keeps: bool,
}

impl<V, S, W, const BAND: usize, const BROKEN: bool> Pass<'_, '_, V, S, W, BAND, BROKEN>
where
    V: Vector,
    S: Stored,
    W: Window<V, BAND>,
{
    /// Takes the next vectors, up to a group, through all stages; returns the
    /// positions done. In the `STEADY` middle of a block all are at work.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn group<E: Entries, C: Case, const STEADY: bool>(
        &mut self,
        work: &mut Workspace,
        task: &Task<'_>,
        stretch: &Stretch,
        at: usize,
        end: usize,
    ) -> usize {
        let vectors = match W::GROUP {
            1 => 1,
            most => ((end - at) / LANES).min(self.window.room()).min(most),
        };
        // SAFETY: passed on from the caller.
        unsafe {
            for i in 0..vectors {
                let at = at + i * LANES;
                let packed = self.take::<E, C, STEADY>(work, task, stretch, at);
                self.window.push(i, &packed);
            }
            if STEADY || stretch.solves {
                for i in 0..vectors {
                    let j = at - self.lag + i * LANES;
                    let reach = self.arrays.reach.add(j);
                    self.direction.solve(self.window, i, reach);
                }
                if STEADY || stretch.finishes.is_some() {
                    for i in 0..vectors {
                        let u = self.direction.combine(self.window, i);
                        self.finish::<E, C, STEADY>(task, stretch, at + i * LANES, u);
                    }
                }
            }
            self.window.advance(vectors);
        }
        vectors * LANES
    }

    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn take<E: Entries, C: Case, const STEADY: bool>(
        &mut self,
        work: &mut Workspace,
        task: &Task<'_>,
        stretch: &Stretch,
        at: usize,
    ) -> Packed<V, BAND> {
        let band = work.shape().band;
        // SAFETY: passed on from the caller.
        unsafe {
            let Some(place) = stretch.takes else {
                return Packed::load(self.arrays, at, band);
            };
            let place = place.further(at - stretch.start);
            let taken = if STEADY || place.is_whole() {
                let ends = !STEADY && self.source.has_ends(at);
                self.source
                    .take::<C, BAND, true>(W::ALONG, ends, self.arrays, at, place)
            } else if V::REGISTERS == 1 {
                let ends = self.source.has_ends(at);
                self.source
                    .take::<C, BAND, false>(W::ALONG, ends, self.arrays, at, place)
            } else {
                let mut rest = [V::Scalar::ZERO; 2 * LANES];
                let rest = rest.as_mut_ptr();
                E::take_rest::<V, S, BAND>(work, task, at, place, rest);
                Taken {
                    packed: Packed::load(self.arrays, at, band),
                    reference: V::load(rest),
                    poison: V::load(rest.add(LANES)),
                }
            };
            self.totals.poison = self.totals.poison.add(taken.poison);
            if self.source.refers::<C>() {
                let sums = &mut self.totals.reference;
                *sums = taken.reference.add_squares(*sums);
            }
            taken.packed
        }
    }

    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn finish<E: Entries, C: Case, const STEADY: bool>(
        &mut self,
        task: &Task<'_>,
        stretch: &Stretch,
        at: usize,
        mut u: V,
    ) {
        let Some(place) = stretch.finishes else {
            return;
        };
        let applies = C::APPLIES.unwrap_or(matches!(task.output, Output::Apply(..)));
        // SAFETY: passed on from the caller.
        unsafe {
            if applies {
                let mut place = place.further(at - stretch.start);
                if STEADY {
                    place.count = LANES;
                }
                match (self.sink, &task.output) {
                    (Some(sink), _) if sink.is_plain::<C>() => sink.update(W::ALONG, u, place),
                    _ if C::APPLIES.is_some() => {}
                    (_, Output::Apply(target, apply)) => {
                        let mut lanes = [V::Scalar::ZERO; LANES];
                        u.store(lanes.as_mut_ptr());
                        E::deliver_rest::<V>(target, *apply, lanes.as_ptr(), place);
                    }
                    _ => {}
                }
                return;
            }
            let j = at - self.lag;
            if self.end - j < LANES {
                u = u.first(self.end - j, V::Scalar::ZERO);
            }
            self.totals.direction = u.add_squares(self.totals.direction);
            if self.keeps {
                u.stream(self.keep.wrapping_add(j));
            }
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
    // SAFETY: passed on from the caller.
    unsafe {
        match work.shape().band {
            1 => pack_banded::<V, S, 1>(work, state, at, denominator),
            4 => pack_banded::<V, S, 4>(work, state, at, denominator),
            _ => pack_banded::<V, S, MAX_BAND>(work, state, at, denominator),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn pack_banded<V: Vector, S: Stored, const BAND: usize>(
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
        let mut source = Source::<V, S>::new(state, denominator, None, 0, shape);
        let mut cursor = Cursor::new(state.lines);
        for at in (at..end).step_by(LANES) {
            let place = cursor.place();
            let taken = match place.is_whole() {
                true => source.take::<Again, BAND, true>(true, false, &arrays, at, place),
                false => source.take::<Again, BAND, false>(true, false, &arrays, at, place),
            };
            taken.packed.store(&arrays, at, shape.band);
            cursor.advance(LANES);
        }
    }
}
