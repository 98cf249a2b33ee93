//! The direction reaches the parameters or the caller, or is measured.

use super::case::Case;
use super::element::{read, read_any, write, write_any, Any, F32, F64};
use super::lines::{Cursor, Place, Target};
use super::source::{ahead, splat};
use super::vector::{Vector, LANES};
use crate::dtype::Dtype;

/// What becomes of directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Apply {
    /// `p <- p + decay p + rate u`; both factors are negative or zero.
    Update { rate: f64, decay: f64 },
    /// `out = scale u`.
    Write { scale: f64 },
}

/// Whether parameters are updated in the type of the arithmetic, and nothing
/// else is: see [`Sink::update`].
pub(super) fn is_plain<V: Vector>(target: &Target<'_>, apply: Apply) -> bool {
    matches!(apply, Apply::Update { .. })
        && target.master.is_none()
        && target.dtype.size() == size_of::<V::Scalar>()
}

/// The last stage of a block. Numbers stand in every lane.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a, V: Vector> {
    target: &'a Target<'a>,
    /// See [`is_plain`].
    pub(super) plain: bool,
    updates: bool,
    /// The rate, or the scale.
    rate: V,
    decay: V,
}

impl<'a, V: Vector> Sink<'a, V> {
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn new(target: &'a Target<'a>, apply: Apply) -> Self {
        let (updates, rate, decay) = match apply {
            Apply::Update { rate, decay } => (true, rate, decay),
            Apply::Write { scale } => (false, scale, 0.0),
        };
        // SAFETY: the caller's promise.
        unsafe {
            Sink {
                target,
                plain: is_plain::<V>(target, apply),
                updates,
                rate: splat(rate),
                decay: splat(decay),
            }
        }
    }

    /// See [`is_plain`](self::is_plain).
    #[inline(always)]
    pub(super) fn is_plain<C: Case>(&self) -> bool {
        C::APPLIES == Some(true) || self.plain
    }

    /// Delivers the directions of a vector of coordinates, where all is plain.
    ///
    /// # Safety
    /// As for [`Sink::deliver`].
    #[inline(always)]
    pub(super) unsafe fn update(&self, along: bool, u: V, place: Place) {
        // SAFETY: the caller's promise.
        unsafe {
            let Place { index, count, asks } = place;
            let to = self.target.first.add(index * size_of::<V::Scalar>());
            if asks {
                let ask = ahead(along, self.target.lines.step) * size_of::<V::Scalar>();
                V::prefetch(to.wrapping_add(ask));
            }
            if size_of::<V::Scalar>() == 4 {
                let p = self.updated(read::<V, F32>(to, count), u);
                write::<V, F32>(p, to, index, count, None);
            } else {
                let p = self.updated(read::<V, F64>(to, count), u);
                write::<V, F64>(p, to, index, count, None);
            }
        }
    }

    /// Delivers whole vectors of directions, one after the other from `u` on.
    ///
    /// # Safety
    /// As for [`Sink::deliver`]; `u` is good for as many.
    #[inline(always)]
    unsafe fn update_run(&self, along: bool, u: *const V::Scalar, run: usize, place: Place) {
        let mut i = 0;
        while i < run {
            // SAFETY: the caller's promise.
            unsafe {
                let mut place = Place {
                    count: V::LANES,
                    asks: true,
                    ..place.further(i)
                };
                self.update(along, V::load(u.add(i)), place);
                i += V::LANES;
                if V::LANES < LANES && i < run {
                    place = place.further(V::LANES);
                    place.asks = false;
                    self.update(along, V::load(u.add(i)), place);
                    i += V::LANES;
                }
            }
        }
    }

    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    unsafe fn updated(&self, p: V, u: V) -> V {
        // SAFETY: the caller's promise.
        unsafe { self.rate.mul_add(u, self.decay.mul_add(p, p)).canonical() }
    }

    /// Delivers the directions of a vector of coordinates.
    ///
    /// # Safety
    /// The target is good for the cursor's elements, and the processor has the
    /// instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn deliver(&self, u: V, place: Place) {
        let Target { dtype, noise, .. } = *self.target;
        let Place { index, count, .. } = place;
        // SAFETY: the caller's promise.
        unsafe {
            let to = self.target.first.add(index * dtype.size());
            if !self.updates {
                let out = self.rate.mul(u).canonical();
                write_any(out, Any(dtype), to, index, count, noise);
                return;
            }
            // The master is the parameter; what is in few bits is its copy.
            let first = index * Dtype::F32.size();
            let p: V = match self.target.master {
                None => read_any(Any(dtype), to, count),
                Some((from, _)) => read::<V, F32>(from.add(first), count),
            };
            let mut p = self.updated(p, u);
            let noise = match self.target.master {
                None => noise,
                Some((_, to)) => {
                    p = write::<V, F32>(p, to.add(first), index, count, None);
                    None
                }
            };
            write_any(p, Any(dtype), to, index, count, noise);
        }
    }
}

/// Delivers directions that were kept, in the order of their lines.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn deliver<V: Vector>(kept: &[u8], target: &Target<'_>, apply: Apply) {
    let kept: &[V::Scalar] = bytemuck::cast_slice(kept);
    assert!(kept.len() >= target.lines.positions());
    // SAFETY: the target is good for its own lines, and as many vectors were
    // kept; the caller has the instructions of `V`.
    unsafe {
        let sink = Sink::<V>::new(target, apply);
        let along = target.lines.count == 1;
        let mut cursor = Cursor::new::<V>(target.lines);
        let mut from = kept.as_ptr();
        let end = from.add(target.lines.positions());
        while from < end {
            let place = cursor.place();
            let mut run = V::LANES;
            if sink.plain && place.is_whole::<V>() {
                run = cursor.run();
                sink.update_run(along, from, run, place);
            } else if sink.plain {
                sink.update(along, V::load(from), place);
            } else {
                sink.deliver(V::load(from), place);
            }
            from = from.add(run);
            cursor.advance(run);
        }
    }
}
