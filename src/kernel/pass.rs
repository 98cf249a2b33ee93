//! The stages of the loop over a block, and its steady middle.

use super::block::{Entries, Output, Task};
use super::case::Case;
use super::direction::Direction;
use super::element::Stored;
use super::lines::Place;
use super::sink::Sink;
use super::source::{Source, Streams, Taken};
use super::vector::{Scalar, Vector, LANES};
use super::window::{Packed, Window};
use super::workspace::{Arrays, Workspace};

/// The loop over the middle of a block, where all stages are at work, what they
/// do is known, and all vectors are whole; from a multiple of [`LANES`] to another.
///
/// # Safety
/// As for [`run`](super::block::run).
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
    let (Some(takes), Some(finishes)) = (stretch.takes, stretch.finishes) else {
        return;
    };
    let stretch = Stretch {
        takes: Some(takes),
        solves: true,
        finishes: Some(finishes),
        ..*stretch
    };
    // What the loop uses is made anew or copied: where the compiler knows all
    // that happens to it, it can be in registers, and a number that stands in
    // every lane in a single one.
    //
    // SAFETY: passed on from the caller.
    unsafe {
        let shape = work.shape();
        let mut source = task.source::<V, S>(shape);
        let mut direction = Direction::<V, BAND, BROKEN>::new(shape, task.gamma);
        let sink = task.sink();
        let streams = source.streams(W::ALONG, pass.arrays, stretch.start, takes);
        let (mut window, mut totals) = (*pass.window, *pass.totals);
        let mut here = Pass {
            source: &mut source,
            window: &mut window,
            direction: &mut direction,
            totals: &mut totals,
            sink: &sink,
            streams: Some(&streams),
            lag: W::lag(shape),
            ..*pass
        };
        // As they are; so the compiler knows, too.
        let end = stretch.end - stretch.end % LANES;
        let mut at = stretch.start - stretch.start % LANES;
        while at < end {
            at += here.group::<E, C, true>(work, task, &stretch, at, end, true);
            if W::GROUP == 1 && V::LANES < LANES {
                at += here.group::<E, C, true>(work, task, &stretch, at, end, false);
            }
        }
        (*pass.window, *pass.totals) = (window, totals);
    }
}

/// What is at work from one position to another, and where in the tensor.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) takes: Option<Place>,
    pub(super) solves: bool,
    pub(super) finishes: Option<Place>,
}

/// What a pass adds up.
#[derive(Clone, Copy)]
pub(super) struct Totals<V: Vector> {
    pub(super) direction: V::Sums,
    pub(super) reference: V::Sums,
    pub(super) poison: V,
}

/// One pass over a block, and its stages.
pub(crate) struct Pass<'p, 'a, V: Vector, S, W, const BAND: usize, const BROKEN: bool> {
    pub(super) source: &'p mut Source<'a, V, S>,
    pub(super) window: &'p mut W,
    pub(super) direction: &'p mut Direction<V, BAND, BROKEN>,
    pub(super) sink: &'p Option<Sink<'a, V>>,
    pub(super) totals: &'p mut Totals<V>,
    pub(super) arrays: &'p Arrays<V::Scalar>,
    /// Where gradients lie, in a steady stretch.
    pub(super) streams: Option<&'p Streams<V, BAND>>,
    /// Positions that directions are behind.
    pub(super) lag: usize,
    /// Where the block's coordinates end.
    pub(super) end: usize,
    /// Where directions are kept, if they are; counted from position 0.
    pub(super) keep: *mut V::Scalar,
    pub(super) keeps: bool,
}

impl<V, S, W, const BAND: usize, const BROKEN: bool> Pass<'_, '_, V, S, W, BAND, BROKEN>
where
    V: Vector,
    S: Stored,
    W: Window<V, BAND>,
{
    /// Takes the next vectors, up to a group, through all stages; returns the
    /// positions done. In the `STEADY` middle of a block all are at work. Where
    /// two vectors share a line of the cache, the first of them `asks` for those
    /// ahead.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    pub(super) unsafe fn group<E: Entries, C: Case, const STEADY: bool>(
        &mut self,
        work: &mut Workspace,
        task: &Task<'_>,
        stretch: &Stretch,
        at: usize,
        end: usize,
        asks: bool,
    ) -> usize {
        let vectors = match W::GROUP {
            1 => 1,
            most => ((end - at) / V::LANES).min(self.window.room()).min(most),
        };
        // One vector after the other; in the steady middle, groups have both of
        // those that share a line of the cache.
        macro_rules! each {
            (|$i:ident, $at:ident, $asks:ident| $do:expr) => {
                let mut $i = 0;
                while $i < vectors {
                    let ($at, $asks) = (at + $i * V::LANES, asks);
                    $do;
                    $i += 1;
                    if STEADY && W::GROUP > 1 && V::LANES < LANES {
                        let ($at, $asks) = (at + $i * V::LANES, false);
                        $do;
                        $i += 1;
                    }
                }
            };
        }
        // SAFETY: passed on from the caller.
        unsafe {
            each!(|i, at, asks| {
                let packed = self.take::<E, C, STEADY>(work, task, stretch, at, asks);
                self.window.push(i, &packed);
            });
            if STEADY || stretch.solves {
                each!(|i, at, _asks| {
                    let reach = self.arrays.reach.add(at - self.lag);
                    self.direction.solve(self.window, i, reach);
                });
                if STEADY || stretch.finishes.is_some() {
                    each!(|i, at, asks| {
                        let u = self.direction.combine(self.window, i);
                        self.finish::<E, C, STEADY>(task, stretch, at, u, asks);
                    });
                }
            }
            self.window.advance(vectors);
        }
        vectors * V::LANES
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
        asks: bool,
    ) -> Packed<V, BAND> {
        let band = work.shape().band;
        // SAFETY: passed on from the caller.
        unsafe {
            let Some(place) = stretch.takes else {
                return Packed::load(self.arrays, at, band);
            };
            let further = at - stretch.start;
            let place = Place {
                asks,
                ..place.further(further)
            };
            if !STEADY && place.count == 0 {
                return Packed::none();
            }
            let ends = !STEADY && self.source.has_ends(at);
            let (along, arrays) = (W::ALONG, self.arrays);
            let taken = if STEADY || place.is_whole::<V>() {
                let streams = self.streams.map(|streams| (streams, further));
                self.source
                    .take::<C, BAND, true>(along, ends, arrays, at, place, streams)
            } else if V::REGISTERS == 1 {
                self.source
                    .take::<C, BAND, false>(along, ends, arrays, at, place, None)
            } else {
                let mut rest = [V::Scalar::ZERO; 2 * LANES];
                let rest = rest.as_mut_ptr();
                E::take_rest::<V, S, BAND>(work, task, at, place, rest);
                Taken {
                    packed: Packed::load(self.arrays, at, band),
                    reference: V::load(rest),
                    poison: V::load(rest.add(V::LANES)),
                }
            };
            self.totals.poison = self.totals.poison.add(taken.poison);
            if self.source.refers::<C>() {
                taken.reference.add_squares(&mut self.totals.reference, at);
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
        asks: bool,
    ) {
        let Some(place) = stretch.finishes else {
            return;
        };
        let applies = C::APPLIES.unwrap_or(matches!(task.output, Output::Apply(..)));
        // SAFETY: passed on from the caller.
        unsafe {
            if applies {
                let mut place = Place {
                    asks,
                    ..place.further(at - stretch.start)
                };
                if STEADY {
                    place.count = V::LANES;
                } else if place.count == 0 {
                    return;
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
            if !STEADY && self.end - j < V::LANES {
                u = u.first(self.end - j, V::Scalar::ZERO);
            }
            u.add_squares(&mut self.totals.direction, j);
            if self.keeps {
                u.stream(self.keep.wrapping_add(j));
            }
        }
    }
}
