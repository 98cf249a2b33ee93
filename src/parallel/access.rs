//! Which bytes of a tensor's buffers a tile may touch.
//!
//! Tiles are rectangles of one matrix, so their bytes interleave and no slice
//! holds one tile alone. [`Lent`] keeps the whole buffers; an [`Access`] gives
//! out runs of them after checking that they lie where its tile may read or
//! write.

use std::marker::PhantomData;

use crate::layout::{Rect, Run};

/// A buffer that is written by several threads in different places.
#[derive(Clone, Copy)]
struct Shared<'a> {
    start: *mut u8,
    /// Bytes of an element.
    size: usize,
    _buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `Shared` is an exclusively borrowed byte buffer; what is done with
// it from several threads is governed by `Access`.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

/// The buffers of one tensor for the length of a step.
pub(crate) struct Lent<'a> {
    gradient: &'a [u8],
    gradient_size: usize,
    planes: Vec<Shared<'a>>,
    target: Shared<'a>,
    direction: Option<Shared<'a>>,
    rows: usize,
    cols: usize,
}

/// The buffers of a tensor, in the order of its planes.
pub(crate) struct Buffers<'a> {
    pub gradient: &'a [u8],
    pub planes: Vec<&'a mut [u8]>,
    pub target: &'a mut [u8],
    /// Where directions are kept between two sweeps, if they are.
    pub direction: Option<&'a mut [u8]>,
}

impl<'a> Lent<'a> {
    /// Lends the buffers of a tensor that is a matrix of this shape.
    ///
    /// # Panics
    /// If a buffer does not hold one element for each place of the matrix.
    pub(crate) fn new(buffers: Buffers<'a>, (rows, cols): (usize, usize)) -> Self {
        let len = rows * cols;
        let share = |buffer: &'a mut [u8]| {
            assert!(len > 0 && buffer.len().is_multiple_of(len));
            Shared {
                start: buffer.as_mut_ptr(),
                size: buffer.len() / len,
                _buffer: PhantomData,
            }
        };
        assert!(buffers.gradient.len().is_multiple_of(len));
        Lent {
            gradient: buffers.gradient,
            gradient_size: buffers.gradient.len() / len,
            planes: buffers.planes.into_iter().map(share).collect(),
            target: share(buffers.target),
            direction: buffers.direction.map(share),
            rows,
            cols,
        }
    }

    /// Access for whoever works on a tile now. With `state`, the state inside
    /// that rectangle may be read and written, and none outside; without, all
    /// of it may be read. The target (with the directions kept for it) may be
    /// written inside its rectangle.
    ///
    /// # Safety
    /// While the access lives, no other one may reach the same place of the
    /// target; nor, if this one writes state, any of the state inside its
    /// rectangle; nor, if it reads all state, may another one write state.
    pub(super) unsafe fn access(&self, state: Option<Rect>, target: Rect) -> Access<'_> {
        Access {
            lent: self,
            state,
            target,
        }
    }
}

/// What a tile may touch.
pub(crate) struct Access<'a> {
    lent: &'a Lent<'a>,
    state: Option<Rect>,
    target: Rect,
}

/// Panics unless the run lies inside the rectangle.
fn check(run: Run, rect: &Rect) {
    let Run { row, col, len } = run;
    assert!(
        rect.rows.contains(&row) && rect.cols.start <= col && col + len <= rect.cols.end,
        "{run:?} is outside {rect:?}"
    );
}

impl<'a> Access<'a> {
    /// The first byte and the number of bytes of a run in a buffer.
    fn bytes(&self, run: Run, size: usize) -> (usize, usize) {
        ((run.row * self.lent.cols + run.col) * size, run.len * size)
    }

    /// A run of the gradient, which no one writes.
    pub(crate) fn gradient(&self, run: Run) -> &'a [u8] {
        let (start, len) = self.bytes(run, self.lent.gradient_size);
        &self.lent.gradient[start..start + len]
    }

    /// A run of a state plane; empty if the tensor has no such plane.
    pub(crate) fn plane(&self, plane: usize, run: Run) -> &[u8] {
        match &self.state {
            Some(rect) => check(run, rect),
            None => check(
                run,
                &Rect {
                    rows: 0..self.lent.rows,
                    cols: 0..self.lent.cols,
                },
            ),
        }
        let Some(shared) = self.lent.planes.get(plane) else {
            return &[];
        };
        let (start, len) = self.bytes(run, shared.size);
        // SAFETY: the run lies in the buffer. If this access alone may write
        // there, `self` is borrowed and so does not; otherwise no one writes
        // state (see `Lent::access`).
        unsafe { std::slice::from_raw_parts(shared.start.add(start), len) }
    }

    /// A run of a state plane to be changed.
    pub(crate) fn plane_mut(&mut self, plane: usize, run: Run) -> &mut [u8] {
        let rect = self.state.as_ref();
        check(run, rect.expect("state is read only in this sweep"));
        let shared = self.lent.planes[plane];
        let (start, len) = self.bytes(run, shared.size);
        // SAFETY: the run lies in the buffer, inside the rectangle that this
        // access alone may touch, and `self` is borrowed for as long as the
        // slice lives.
        unsafe { std::slice::from_raw_parts_mut(shared.start.add(start), len) }
    }

    /// A run of the target to be changed, with the directions kept for it:
    /// none if none are kept.
    pub(crate) fn target_mut(&mut self, run: Run) -> (&mut [u8], Option<&mut [u8]>) {
        check(run, &self.target);
        let write = |shared: Shared<'_>| {
            let (start, len) = self.bytes(run, shared.size);
            // SAFETY: the run lies in the buffer, inside the rectangle that
            // this access alone may touch, and `self` is borrowed as long as
            // the slice. The two are different buffers.
            unsafe { std::slice::from_raw_parts_mut(shared.start.add(start), len) }
        };
        (write(self.lent.target), self.lent.direction.map(write))
    }
}
