//! State takes in a gradient, and comes into the chunk.
//!
//! All planes are exponential moving averages `x <- keep x + a b` of something
//! with the gradient (or weighted sums of it). What is stored is the truth: all
//! that follows is computed from the state as it was rounded.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use crate::element::{chunks_mut, Stored};
use crate::factor::Times;
use crate::isa::{prefetch, Scalar};
use crate::noise::Noise;
use crate::norms::add_squares;
use crate::planes::{copy_few, Next, Plane, Rest};
use crate::read::{both, damp, damping, nesterov};
use crate::simd::{Kernel, Register, Vector, LANES};
use crate::workspace::New;
use crate::{Access, Gradient, Incoming, Reference, Rule, TakeIn, TakenIn};

/// Where a chunk's new coordinates are among the planes of the state: momentum,
/// diagonal and sub-diagonals.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    /// Elements of a plane.
    pub(crate) plane: usize,
    pub(crate) at: usize,
}

impl Chunk {
    #[inline(always)]
    fn plane<T>(self, planes: &mut [T], p: usize, vectors: usize) -> &mut [[T; LANES]] {
        let plane = &mut planes[p * self.plane + self.at..];
        &mut plane.as_chunks_mut().0[..vectors]
    }

    /// Where they start in the first of so many planes.
    ///
    /// # Panics
    /// If a plane has not so many vectors from there on.
    #[inline(always)]
    fn start<T>(self, state: *mut [T], planes: usize, vectors: usize) -> *mut T {
        assert!(self.at + vectors * LANES <= self.plane && planes * self.plane <= state.len());
        state.cast::<T>().wrapping_add(self.at)
    }
}

/// The state planes of a run take in the gradient, and are copied to the chunk,
/// where the diagonal becomes what divides the momentum.
pub(crate) struct Update<'a, 'p, T, E, const BAND: usize, const ELSEWHERE: bool> {
    pub(crate) by: &'a TakeIn,
    /// Momentum, diagonal, sub-diagonals, normalized RMSProp: their elements.
    pub(crate) planes: &'a mut [&'p mut [u8]],
    /// With `ELSEWHERE`: how many bytes after the place where it is written each of them is
    /// read.
    pub(crate) source: usize,
    pub(crate) band: usize,
    /// With stochastic rounding: each plane's random bits, and the index of the
    /// run's first element.
    pub(crate) noise: (&'a [Noise], usize),
    /// The gradient, where that of the `k`-th neighbours starts at `k step`.
    pub(crate) gradient: &'a [T],
    pub(crate) step: usize,
    /// Multiplies it.
    pub(crate) scale: f64,
    pub(crate) chunk: Chunk,
    /// With normalized RMSProp: room for the normalized gradient, and for its
    /// average square.
    pub(crate) normalized: &'a mut [[T; LANES]],
    pub(crate) rms: &'a mut [[T; LANES]],
    /// Where chains end: how many coordinates follow.
    pub(crate) reach: Option<&'a [[T; LANES]]>,
    /// The squares of the reference.
    pub(crate) sums: &'a mut [f64; LANES],
    /// The largest entry of the diagonal.
    pub(crate) largest: &'a mut [T; LANES],
    pub(crate) ahead: usize,
    pub(crate) element: PhantomData<E>,
}

impl<'a, 'p, T: Scalar, E: Stored, const BAND: usize, const ELSEWHERE: bool>
    Update<'a, 'p, T, E, BAND, ELSEWHERE>
{
    /// The kernel for a run that takes in the gradient.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    pub(crate) fn new(
        new: New<'a, T>,
        band: usize,
        access: &'a Access<'_>,
        rule: &'a Rule,
        incoming: &Incoming,
        planes: &'a mut [&'p mut [u8]],
        source: usize,
        noise: &'a [Noise],
        taken_in: &'a mut TakenIn,
    ) -> Self {
        let (from, run) = (incoming.from, incoming.run);
        let (gradient, step, scale) = match incoming.gradient {
            Gradient::InMemory { step } => {
                let gradient = bytemuck::cast_slice(access.gradient_from(run));
                (gradient, step, rule.scale.number)
            }
            _ => (&new.gradient[from..], new.at.gradient_step, 1.0),
        };
        Update {
            by: &rule.take_in,
            band,
            planes,
            source,
            noise: (noise, access.index(run)),
            gradient,
            step,
            scale,
            chunk: Chunk {
                plane: new.plane,
                at: new.at.new + from,
            },
            normalized: new.normalized.as_chunks_mut().0,
            rms: new.rms.as_chunks_mut().0,
            reach: incoming.ends.then(|| new.reach[from..].as_chunks().0),
            sums: &mut taken_in.reference.0,
            largest: taken_in.largest.lanes(),
            ahead: access.ahead() * access.state_dtype().size(),
            element: PhantomData,
        }
    }
}

/// What is found out about all vectors. Only the reference's squares tell lanes apart: of the
/// others one register is enough, which leaves more of them to the loop.
pub(crate) struct Totals<V: Vector> {
    /// The squares of the reference.
    sums: V::Sums,
    /// The largest entries of the diagonal, infinite ones among them.
    largest: V::Register,
    /// NaN if anything is that was stored as it is.
    sum: V::Register,
}

/// An update under way: what its loop needs, in registers as far as there are any.
pub(crate) struct Updating<'r, V: Vector, E, const BAND: usize, const ELSEWHERE: bool> {
    isa: V::Isa,
    next: Next<'r, V::Scalar, E, BAND, ELSEWHERE>,
    scale: V,
    /// Where the next vector comes into the first plane of the chunk, and elements of a plane.
    chunk: *mut V::Scalar,
    plane: usize,
    by_momentum: [V; 2],
    nesterov: bool,
    by: [V; 2],
    least: V,
    /// Added to the diagonal, or to its root.
    add: V,
    roots: bool,
    /// Added to the root in Adam's direction.
    eps: V,
    zero: V,
    totals: Totals<V>,
    noise: (&'r [Noise], usize),
    ahead: usize,
}

impl<T: Scalar, E: Stored, const BAND: usize, const ELSEWHERE: bool>
    Update<'_, '_, T, E, BAND, ELSEWHERE>
{
    /// The number of whole vectors in the run.
    pub(crate) fn vectors(&self) -> usize {
        self.planes[0].len() / size_of::<[E; LANES]>()
    }

    /// The number of elements behind the last whole vector.
    pub(crate) fn rest(&self) -> usize {
        self.planes[0].len() / size_of::<E>() % LANES
    }

    /// A copy of these elements, padded with zeros to a vector.
    #[inline(always)]
    pub(crate) fn pad(&self) -> Rest<T, E, BAND> {
        let mut rest = Rest {
            gradient: [T::ZERO; LANES],
            neighbours: [[T::ZERO; LANES]; BAND],
            momentum: [E::zeroed(); LANES],
            diagonal: [E::zeroed(); LANES],
            bands: [[E::zeroed(); LANES]; BAND],
        };
        let (first, len) = (self.vectors() * LANES, self.rest());
        let gradients = [&mut rest.gradient].into_iter().chain(&mut rest.neighbours);
        for (k, to) in gradients.enumerate() {
            copy_few(&self.gradient[k * self.step + first..][..len], to);
        }
        for (plane, to) in self.planes.iter().zip(rest.planes()) {
            copy_few(&bytemuck::cast_slice(plane)[first..], to);
        }
        rest
    }

    /// Copies the padded vector back to the end of the planes.
    #[inline(always)]
    fn take_rest(&mut self, mut from: Rest<T, E, BAND>) {
        let first = self.vectors() * LANES;
        for (plane, from) in self.planes.iter_mut().zip(from.planes()) {
            copy_few(from, &mut bytemuck::cast_slice_mut(plane)[first..]);
        }
    }

    /// The gradient of the `k`-th neighbours.
    #[inline(always)]
    fn neighbours(&self, k: usize) -> &[[T; LANES]] {
        &self.gradient[k * self.step..].as_chunks().0[..self.vectors()]
    }

    /// Begins. The planes of the state are those of `state`, where the chunk has room
    /// for so many vectors.
    ///
    /// # Safety
    /// As long as this lives, they are there, and nobody uses them while
    /// [`Updating::vector`] does.
    #[inline(always)]
    pub(crate) unsafe fn start<'r, V: Vector<Scalar = T>>(
        &'r mut self,
        isa: V::Isa,
        state: *mut [T],
        room: usize,
    ) -> Updating<'r, V, E, BAND, ELSEWHERE> {
        let (by, count) = (self.by, self.vectors());
        let (roots, add) = damping::<V>(isa, by.denominator);
        let eps = match by.reference {
            Some(Reference::Adam { eps }) => eps,
            _ => 0.0,
        };
        assert!(self.planes.len() >= 2 + BAND);
        let has_all = |plane: &&mut [u8]| plane.len() >= count * size_of::<[E; LANES]>();
        assert!(self.planes.iter().all(has_all));
        assert!(self.gradient.len() >= BAND * self.step + count * LANES);
        let all = count + usize::from(self.rest() > 0);
        let chunk = self.chunk.start(state, 2 + BAND, all.min(room));
        assert!(BAND == 0 || !roots, "Adam's update has no neighbours");
        let planes = self.planes.iter_mut().map(|plane| chunks_mut(plane));
        let next = Next::new(self.gradient, self.step, self.source, planes);
        Updating {
            isa,
            next,
            scale: V::number(isa, self.scale),
            chunk,
            plane: self.chunk.plane,
            by_momentum: both(isa, by.momentum),
            nesterov: by.nesterov,
            by: both(isa, by.statistics),
            least: V::number(isa, E::LEAST_NORMAL),
            add,
            roots,
            eps: V::number(isa, eps),
            zero: V::number(isa, 0.0),
            totals: Totals {
                sums: V::load_sums(isa, self.sums),
                largest: V::Register::load(isa, self.largest),
                sum: V::Register::splat(isa, T::ZERO),
            },
            noise: self.noise,
            ahead: self.ahead,
        }
    }

    /// Ends: the sums and the largest entries are written down. NaN is stored as the
    /// canonical one; it is rare, and their sum tells whether there can be any.
    #[inline(always)]
    pub(crate) fn end<V: Vector<Scalar = T>>(
        &mut self,
        isa: V::Isa,
        totals: Totals<V>,
        mut rest: Option<Rest<T, E, BAND>>,
    ) {
        let Totals {
            sums,
            mut largest,
            sum,
        } = totals;
        V::store_sums(sums, self.sums);
        if V::Register::any(largest.not_lt(V::Register::splat(isa, T::INFINITY))) {
            // They are rare, and the largest of the others is looked for once more.
            let infinity = V::splat(isa, T::INFINITY);
            largest = V::Register::load(isa, self.largest);
            let plane = chunks_mut::<E>(self.planes[1]).iter();
            for plane in plane.chain(rest.iter().map(|rest| &rest.diagonal)) {
                let h = E::load::<V>(isa, plane);
                largest = h.only(h.lt(infinity)).largest(largest);
            }
        }
        largest.store(self.largest);
        if V::Register::any(sum.is_nan()) {
            let planes = self.planes.iter_mut();
            let planes = planes.flat_map(|plane| chunks_mut::<E>(plane));
            for plane in planes.chain(rest.iter_mut().flat_map(Rest::planes)) {
                let x = E::load::<V>(isa, plane).canonical(isa);
                E::store(x, isa, plane, None);
            }
        }
        if let Some(rest) = rest {
            self.take_rest(rest);
        }
    }
}

impl<'r, V: Vector, E: Stored, const BAND: usize, const ELSEWHERE: bool>
    Updating<'r, V, E, BAND, ELSEWHERE>
{
    /// From now on vectors are so many earlier in the chunk.
    #[inline(always)]
    pub(crate) fn advance(&mut self, count: usize) {
        self.chunk = self.chunk.wrapping_sub(count * LANES);
    }

    /// The next vector is elsewhere.
    #[inline(always)]
    pub(crate) fn go_to(&mut self, next: Next<'r, V::Scalar, E, BAND, ELSEWHERE>) {
        self.next = next;
    }

    /// What is to be handed to [`Update::end`].
    #[inline(always)]
    pub(crate) fn totals(self) -> Totals<V> {
        self.totals
    }

    /// Momentum, diagonal and the first `BAND` sub-diagonals of the next vector; and the squares of
    /// Adam's direction, if that is the reference. Returns what comes into the chunk: the
    /// momentum, and what divides it; unless `in_chunk` says that it need not.
    ///
    /// # Safety
    /// What was promised to [`Update::start`]; and the vector is one for which the
    /// chunk has room, since it advanced.
    #[inline(always)]
    pub(crate) unsafe fn vector(&mut self, is_adam: bool, in_chunk: bool) -> (V, V) {
        let (isa, least) = (self.isa, self.least);
        let [keep, weight] = self.by;
        let (noise, index) = self.noise;
        let noise = |p: usize| noise.get(p).map(|&noise| (noise, index));
        // SAFETY: the caller's promise: it is one of those of the update.
        let gradient = unsafe { &*self.next.gradient.cast() };
        prefetch(gradient, self.ahead);
        let g = V::load(isa, gradient) * self.scale;
        let weighted = weight * g;

        let ahead = self.ahead;
        let [m_keep, m_weight] = self.by_momentum;
        let plane = &mut self.next.momentum;
        // SAFETY: as above.
        let mut m = unsafe { plane.average::<V>(isa, m_keep, m_weight, g, least, noise(0), ahead) };

        let plane = &mut self.next.diagonal;
        // SAFETY: as above.
        let h = unsafe { plane.average::<V>(isa, keep, weighted, g, least, noise(1), ahead) };
        self.totals.largest = h.largest(self.totals.largest);
        // Without neighbours it may be Adam's update.
        let d = damp(h, BAND == 0 && self.roots, self.add);
        if in_chunk {
            // SAFETY: the caller's promise.
            unsafe {
                m.store(&mut *self.chunk.cast());
                d.store(&mut *self.chunk.add(self.plane).cast());
            }
        }
        if !E::ROUNDS {
            self.totals.sum = (m + h).sum(self.totals.sum);
        }

        for k in 0..BAND {
            // SAFETY: as above.
            let neighbours = unsafe { &*self.next.gradient.add((k + 1) * self.next.step).cast() };
            let g = V::load(isa, neighbours) * self.scale;
            let plane = &mut self.next.bands[k];
            // SAFETY: as above.
            let e =
                unsafe { plane.average::<V>(isa, keep, weighted, g, least, noise(2 + k), ahead) };
            // SAFETY: as above.
            e.store(unsafe { &mut *self.chunk.add((2 + k) * self.plane).cast() });
            if !E::ROUNDS {
                self.totals.sum = e.sum(self.totals.sum);
            }
        }
        // What not every step does comes last, so that the numbers above are in registers
        // for a short time only.
        if self.nesterov {
            m = nesterov(m, self.by_momentum, g);
            if in_chunk {
                // SAFETY: as above.
                m.store(unsafe { &mut *self.chunk.cast() });
            }
        }
        if is_adam {
            let root = h.sqrt() + self.eps;
            m.quotient(root, self.zero)
                .add_squares(&mut self.totals.sums);
        }
        self.next.gradient = self.next.gradient.wrapping_add(LANES);
        self.chunk = self.chunk.wrapping_add(LANES);
        self.noise.1 += LANES;
        (m, d)
    }
}

impl<T: Scalar, E: Stored, const BAND: usize> Kernel<T>
    for (&mut Update<'_, '_, T, E, BAND, false>, &mut [T])
{
    type Output = ();
    const FOR_SPEED: bool = BAND > 0;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (update, state) = self;
        let (by, count) = (update.by, update.vectors());
        // SAFETY: `state` is borrowed, and not used until all vectors are updated.
        let mut updating = unsafe { update.start::<V>(isa, state, count) };
        for _ in 0..count {
            // SAFETY: the chunk has room for all of them, as `start` asserts.
            unsafe { updating.vector(by.is_adam(), true) };
        }
        let mut totals = updating.totals();

        let scale = V::number(isa, update.scale);
        let least = V::number(isa, E::LEAST_NORMAL);
        let (noise, index) = update.noise;
        let noise = |p: usize, i: usize| noise.get(p).map(|&noise| (noise, index + i * LANES));
        // Further planes, one after the other: each is a loop that memory likes.
        let [keep, weight] = both::<V>(isa, by.statistics);
        for k in BAND + 1..=update.band {
            let mut plane = Plane::<E, false>::new(chunks_mut(update.planes[1 + k]), 0);
            let neighbours = |k: usize| &update.gradient[k * update.step..].as_chunks().0[..count];
            let (g0, gk) = (neighbours(0), neighbours(k));
            let chunk = update.chunk.plane(state, 1 + k, count);
            for i in 0..count {
                let weighted = weight * (V::load(isa, &g0[i]) * scale);
                let g = V::load(isa, &gk[i]) * scale;
                let (noise, ahead) = (noise(1 + k, i), update.ahead);
                // SAFETY: there are so many, as `start` has asserted.
                let e = unsafe { plane.average::<V>(isa, keep, weighted, g, least, noise, ahead) };
                e.store(&mut chunk[i]);
                if !E::ROUNDS {
                    totals.sum = e.sum(totals.sum);
                }
            }
        }
        if let Some(average) = by.rms {
            let [keep, weight] = both::<V>(isa, average);
            let normalize = Times::new(isa, by.normalize);
            let p = 2 + update.band;
            let mut plane = Plane::<E, false>::new(chunks_mut(update.planes[p]), 0);
            for i in 0..count {
                let gradient = &update.gradient.as_chunks().0[i];
                let q = normalize.of(V::load(isa, gradient) * scale);
                let noise = noise(p, i);
                // SAFETY: there are so many, as `start` has asserted.
                let r = unsafe { plane.average::<V>(isa, keep, weight * q, q, least, noise, 0) };
                q.store(&mut update.normalized[i]);
                r.store(&mut update.rms[i]);
                if !E::ROUNDS {
                    totals.sum = r.sum(totals.sum);
                }
            }
        }
        if let Some(reach) = update.reach {
            for k in 1..=update.band {
                let plane = chunks_mut::<E>(update.planes[1 + k]);
                let chunk = update.chunk.plane(state, 1 + k, count);
                break_chains::<V, E>(isa, plane, chunk, reach, k);
            }
        }
        update.end(isa, totals, None);
        match by.reference {
            Some(Reference::Sgd) => {
                let mut sums = V::load_sums(isa, update.sums);
                for g in update.neighbours(0) {
                    (V::load(isa, g) * scale).add_squares(&mut sums);
                }
                V::store_sums(sums, update.sums);
            }
            Some(Reference::Momentum) => {
                add_squares::<V>(isa, update.chunk.plane(state, 0, count), update.sums);
            }
            Some(Reference::NormalizedRmsprop { eps }) => {
                let (zero, eps) = (V::number(isa, 0.0), V::number(isa, eps));
                let mut sums = V::load_sums(isa, update.sums);
                for (q, r) in update.normalized[..count].iter().zip(&*update.rms) {
                    let root = V::load(isa, r).sqrt() + eps;
                    V::load(isa, q).quotient(root, zero).add_squares(&mut sums);
                }
                V::store_sums(sums, update.sums);
            }
            Some(Reference::Adam { .. }) | None => {}
        }
    }
}

/// Entries that would lead beyond the end of a chain become zero: those of
/// coordinates that are followed by fewer than `needed`.
#[inline(always)]
fn break_chains<V: Vector, E: Stored>(
    isa: V::Isa,
    plane: &mut [[E; LANES]],
    chunk: &mut [[V::Scalar; LANES]],
    reach: &[[V::Scalar; LANES]],
    needed: usize,
) {
    let needed = V::number(isa, needed as f64);
    for ((plane, chunk), reach) in plane.iter_mut().zip(chunk).zip(reach) {
        let goes_on = V::load(isa, reach).not_lt(needed);
        let x = V::load(isa, chunk).only(goes_on);
        x.store(chunk);
        E::store(x, isa, plane, None);
    }
}
