//! Where gradients are read: in the tensor, or, what is converted or lies around
//! the block, packed in the workspace.

use super::{ahead, splat, Source};
use crate::kernel::element::Stored;
use crate::kernel::lines::Place;
use crate::kernel::vector::Vector;
use crate::kernel::workspace::Arrays;

/// Where the gradients of a stretch of vectors lie.
pub(in crate::kernel) struct Streams<V: Vector, const BAND: usize> {
    own: Stream<V>,
    /// Of the `k`-th neighbours at `k - 1`.
    others: [Stream<V>; BAND],
    /// How far ahead memory is asked for.
    ask: usize,
}

#[derive(Clone, Copy)]
struct Stream<V: Vector> {
    first: *const V::Scalar,
    /// What is packed has been scaled.
    scale: V,
}

impl<V: Vector, const BAND: usize> Streams<V, BAND> {
    /// The gradient of the vector that comes so many positions after the first.
    ///
    /// # Safety
    /// It is in the stretch, and the processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn own(&self, further: usize, asks: bool) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.own.first.add(further);
            if asks {
                V::prefetch(from.wrapping_add(self.ask).cast());
            }
            V::load(from).mul(self.own.scale)
        }
    }

    /// That of its `k`-th neighbours.
    ///
    /// # Safety
    /// As for [`Streams::own`].
    #[inline(always)]
    pub(super) unsafe fn other(&self, further: usize, k: usize) -> V {
        let Stream { first, scale } = self.others[k - 1];
        // SAFETY: the caller's promise.
        unsafe { V::load(first.add(further)).mul(scale) }
    }
}

impl<V: Vector, S: Stored> Source<'_, V, S> {
    /// Where gradients lie from position `at` on, which is `place` in the
    /// tensor: up to the next change, and the end of the line.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    pub(in crate::kernel) unsafe fn streams<const BAND: usize>(
        &self,
        along: bool,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        place: Place,
    ) -> Streams<V, BAND> {
        let stream = |position: usize, index: usize| {
            let packed = position >= self.packed_from;
            let first = match packed {
                true => arrays.gradient.cast_const().wrapping_add(position),
                false => {
                    let first = self.gradient.first.cast::<V::Scalar>();
                    first.wrapping_add(index)
                }
            };
            (first, packed)
        };
        // SAFETY: the caller's promise.
        let scales = unsafe { [self.by.scale, splat(1.0)] };
        let (first, packed) = stream(at, place.index);
        let own = Stream {
            first,
            scale: scales[usize::from(packed)],
        };
        let mut others = [own; BAND];
        for (k, other) in (1..).zip(&mut others) {
            if along {
                other.first = first.wrapping_add(k);
            } else {
                let (first, packed) = stream(at + k * self.stride, place.index + k * self.step);
                let scale = scales[usize::from(packed)];
                *other = Stream { first, scale };
            }
        }
        Streams {
            own,
            others,
            ask: ahead(along, self.step),
        }
    }

    /// The position after `at` at which gradients begin to lie elsewhere than
    /// before, or those of neighbours do.
    #[inline(always)]
    pub(in crate::kernel) fn changes(&self, along: bool, at: usize) -> usize {
        match at + self.reads_on(along) {
            end if end < self.packed_from => self.packed_from - self.reads_on(along),
            _ if at < self.packed_from => self.packed_from,
            _ => usize::MAX,
        }
    }

    /// Whether [`Source::streams`] say where the gradients of these positions
    /// lie.
    #[inline(always)]
    pub(in crate::kernel) fn streams_to(&self, along: bool, at: usize, end: usize) -> bool {
        at >= self.packed_from || end + self.reads_on(along) <= self.packed_from
    }

    /// How far behind a vector gradients of neighbours are read.
    #[inline(always)]
    fn reads_on(&self, along: bool) -> usize {
        match along && self.band > 0 {
            true => V::LANES,
            false => 0,
        }
    }
}
