//! Which bytes of a tensor's buffers a tile may touch.
//!
//! Tiles are rectangles of one matrix, so their bytes interleave and no slice
//! holds one tile alone. [`Lent`] keeps the whole buffers; an [`Access`] gives
//! kernels rectangles of them after checking that they lie where its tile may
//! read or write.

use std::marker::PhantomData;
use std::ops::Range;

use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::kernel::{Gradient, Lines, Noise, Planes, State, Target, MAX_PLANES};
use crate::layout::{Rect, Run};

/// A buffer that is written by several threads in different places.
#[derive(Clone, Copy)]
struct Shared<'a> {
    start: *mut u8,
    _buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `Shared` is an exclusively borrowed byte buffer; what is done with
// it from several threads is governed by `Access`.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    fn new(buffer: &'a mut [u8]) -> Self {
        Shared {
            start: buffer.as_mut_ptr(),
            _buffer: PhantomData,
        }
    }
}

/// The buffers of one tensor for the length of a step.
pub(crate) struct Lent<'a> {
    gradient: Elements<'a>,
    planes: [Option<Shared<'a>>; MAX_PLANES],
    /// Where the planes are read, if not where they are written.
    before: [Option<Elements<'a>>; MAX_PLANES],
    state: Dtype,
    target: Shared<'a>,
    params: Dtype,
    master: Option<Shared<'a>>,
    master_before: Option<Elements<'a>>,
    /// Where directions are kept, and bytes of an element there.
    kept: Option<(Shared<'a>, usize)>,
    noise: &'a [Noise],
    rows: usize,
    cols: usize,
}

/// The buffers of a tensor.
pub(crate) struct Buffers<'a, 'b> {
    pub gradient: Elements<'a>,
    /// Momentum, diagonal, sub-diagonals, normalized RMSProp, master.
    pub planes: &'a mut [ElementsMut<'b>],
    /// Where these are read, if not where they are written.
    pub before: Option<&'a [Elements<'a>]>,
    pub target: ElementsMut<'a>,
    /// Whether the last of the planes is the master.
    pub master: bool,
    /// Where directions are kept between two sweeps, if they are.
    pub kept: Option<&'a mut [u8]>,
    /// For each plane, and then the target, where its roundings are left to
    /// chance.
    pub noise: &'a [Noise],
}

impl<'a> Lent<'a> {
    /// Lends the buffers of a tensor that is a matrix of this shape, and keeps
    /// so many directions.
    ///
    /// # Panics
    /// If a buffer does not hold one element for each place of the matrix.
    pub(crate) fn new(buffers: Buffers<'a, '_>, (rows, cols): (usize, usize), kept: usize) -> Self {
        let len = rows * cols;
        let share = |buffer: ElementsMut<'a>| {
            assert_eq!(buffer.len(), len);
            Shared::new(buffer.into_bytes())
        };
        assert_eq!(buffers.gradient.len(), len);
        let written = buffers.planes.len() - usize::from(buffers.master);
        let (state_planes, master) = buffers.planes.split_at_mut(written);
        let mut planes = [None; MAX_PLANES];
        let state = state_planes[0].dtype();
        for (shared, plane) in planes.iter_mut().zip(state_planes) {
            assert_eq!(plane.dtype(), state);
            *shared = Some(share(plane.reborrow()));
        }
        let mut before = [None; MAX_PLANES];
        let mut master_before = None;
        if let Some(planes) = buffers.before {
            assert_eq!(planes.len(), written + usize::from(buffers.master));
            assert!(planes.iter().all(|p| p.len() == len));
            let (planes, master) = planes.split_at(written);
            for (place, plane) in before.iter_mut().zip(planes) {
                assert_eq!(plane.dtype(), state);
                *place = Some(*plane);
            }
            master_before = master.first().copied();
        }
        Lent {
            gradient: buffers.gradient,
            planes,
            before,
            master_before,
            state,
            params: buffers.target.dtype(),
            target: share(buffers.target),
            master: master.first_mut().map(|plane| share(plane.reborrow())),
            kept: buffers.kept.map(|room| {
                assert!(room.len().is_multiple_of(kept));
                let size = room.len() / kept;
                (Shared::new(room), size)
            }),
            noise: buffers.noise,
            rows,
            cols,
        }
    }

    /// Access for whoever works on a tile now. With `state`, the state inside
    /// that rectangle may be read and written, and none outside; without, all
    /// of it may be read. The target may be written inside its rectangle, and
    /// the directions kept at `kept`.
    ///
    /// # Safety
    /// While the access lives, no other one may reach the same place of the
    /// target or of the kept directions; nor, if this one writes state, any of
    /// the state inside its rectangle; nor, if it reads all state, may another
    /// one write state.
    pub(super) unsafe fn access(
        &self,
        state: Option<Rect>,
        target: Rect,
        kept: Range<usize>,
    ) -> Access<'_> {
        Access {
            lent: self,
            state,
            target,
            kept,
        }
    }
}

/// What a tile may touch.
pub(crate) struct Access<'a> {
    lent: &'a Lent<'a>,
    state: Option<Rect>,
    target: Rect,
    kept: Range<usize>,
}

/// Panics unless one rectangle lies inside the other.
fn check(inner: &Rect, outer: &Rect) {
    let within = |a: &Range<usize>, b: &Range<usize>| b.start <= a.start && a.end <= b.end;
    assert!(
        within(&inner.rows, &outer.rows) && within(&inner.cols, &outer.cols),
        "{inner:?} is outside {outer:?}"
    );
}

/// The buffers for a block.
pub(crate) struct Parts<'a> {
    pub state: State<'a>,
    pub target: Target<'a>,
    pub kept: Option<&'a mut [u8]>,
}

impl Access<'_> {
    fn lines(&self, rect: &Rect) -> Lines {
        let cols = self.lent.cols;
        Lines {
            first: rect.rows.start * cols + rect.cols.start,
            width: rect.cols.len(),
            count: rect.rows.len(),
            step: cols,
        }
    }

    /// The type of the gradient's elements.
    pub(crate) fn gradient_dtype(&self) -> Dtype {
        self.lent.gradient.dtype()
    }

    /// A run of the gradient, which no one writes.
    pub(crate) fn gradient(&self, run: Run) -> &[u8] {
        let size = self.lent.gradient.dtype().size();
        let start = (run.row * self.lent.cols + run.col) * size;
        &self.lent.gradient.bytes()[start..start + run.len * size]
    }

    /// The state in a rectangle, to be read.
    pub(crate) fn state(&self, rect: &Rect) -> State<'_> {
        // SAFETY: `self` is borrowed for as long as the state lives, and its
        // kernels may not write.
        unsafe { self.state_in(rect, false) }
    }

    /// What a block works on: the state in one rectangle, which may be
    /// written if this access writes state, and target and kept directions
    /// in another.
    pub(crate) fn parts(&mut self, state: &Rect, target: &Rect, kept: Range<usize>) -> Parts<'_> {
        check(target, &self.target);
        let lines = self.lines(target);
        let lent = self.lent;
        let kept = lent.kept.map(|(shared, size)| {
            assert!(self.kept.start <= kept.start && kept.end <= self.kept.end);
            // SAFETY: the range lies in the buffer and among those that this
            // access alone may touch, and `self` is borrowed as long as the
            // slice. Its buffer is none of the others.
            unsafe {
                let start = shared.start.add(kept.start * size);
                std::slice::from_raw_parts_mut(start, kept.len() * size)
            }
        });
        let noise = lent.noise.last().copied();
        let master = lent.master.map(|shared| {
            let from = lent.master_before.map(|p| p.bytes().as_ptr());
            (from.unwrap_or(shared.start), shared.start)
        });
        // SAFETY: both lie inside what this access alone may touch (or no one
        // writes), and `self` is borrowed as long as they live. State and
        // target are different buffers.
        unsafe {
            Parts {
                state: self.state_in(state, self.state.is_some()),
                target: Target::new(lent.target.start, lent.params, noise, master, lines),
                kept,
            }
        }
    }

    /// # Safety
    /// `self` is borrowed as long as the state lives; exclusively, if it is
    /// writable.
    unsafe fn state_in<'b>(&self, rect: &Rect, writable: bool) -> State<'b>
    where
        Self: 'b,
    {
        let whole = Rect {
            rows: 0..self.lent.rows,
            cols: 0..self.lent.cols,
        };
        check(rect, self.state.as_ref().unwrap_or(&whole));
        let start = |shared: Option<Shared<'_>>| shared.map_or(std::ptr::null_mut(), |s| s.start);
        let to = self.lent.planes.map(start);
        let mut from = to.map(<*mut u8>::cast_const);
        for (from, before) in from.iter_mut().zip(&self.lent.before) {
            if let Some(before) = before.filter(|_| writable) {
                *from = before.bytes().as_ptr();
            }
        }
        let planes = Planes { from, to };
        let lines = self.lines(rect);
        let gradient = self.lent.gradient;
        let gradient = Gradient::new(gradient.bytes(), gradient.dtype());
        let (dtype, noise) = (self.lent.state, self.lent.noise);
        // SAFETY: the rectangle lies in the buffers. If this access alone may
        // write there, the caller's promise; otherwise no one writes state
        // (see `Lent::access`).
        unsafe { State::new(planes, dtype, noise, gradient, lines, writable) }
    }
}
