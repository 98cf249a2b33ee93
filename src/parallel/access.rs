//! Which bytes of a tensor's buffers a tile may touch.
//!
//! Tiles are rectangles of one matrix, so their bytes interleave and no slice
//! holds one tile alone. [`Lent`] keeps the whole buffers; an [`Access`] gives
//! slices of them, runs of one row, after checking that they lie where its tile
//! may read or write.

use std::marker::PhantomData;
use std::ops::Range;

use arrayvec::ArrayVec;
use sonew_kernel::{Noise, PlaneRuns, TargetRun, MAX_PLANES};

use crate::dtype::{Dtype, Elements, ElementsMut};
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

    /// # Safety
    /// The elements are in the buffer, and no one writes them while the slice
    /// lives.
    unsafe fn slice<'b>(self, index: usize, len: usize, dtype: Dtype) -> &'b [u8] {
        let size = dtype.size();
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(index * size), len * size) }
    }

    /// # Safety
    /// The elements are in the buffer, and no one else uses them while the slice
    /// lives.
    unsafe fn slice_mut<'b>(self, index: usize, len: usize, dtype: Dtype) -> &'b mut [u8] {
        let size = dtype.size();
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * size), len * size) }
    }
}

/// The buffers of one tensor for the time of a step.
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
    /// Where directions are kept, and their type.
    kept: Option<(Shared<'a>, Dtype)>,
    noise: &'a [Noise],
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
    /// With stochastic rounding: the random bits of each plane, and then of the
    /// target.
    pub noise: &'a [Noise],
}

impl<'a> Lent<'a> {
    /// Lends the buffers of a tensor that is a matrix of this shape, and keeps
    /// so many directions.
    ///
    /// # Panics
    /// If a buffer does not hold one element for each place of the matrix.
    pub(crate) fn new(
        buffers: Buffers<'a, '_>,
        (rows, cols): (usize, usize),
        kept: usize,
        arithmetic: Dtype,
    ) -> Self {
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
                assert_eq!(room.len(), kept * arithmetic.size());
                (Shared::new(room), arithmetic)
            }),
            noise: buffers.noise,
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

impl Access<'_> {
    /// The type of the gradient's elements.
    pub(crate) fn gradient_dtype(&self) -> Dtype {
        self.lent.gradient.dtype()
    }

    /// The type of the state's elements.
    pub(crate) fn state_dtype(&self) -> Dtype {
        self.lent.state
    }

    /// The type of the target's elements, and whether there are master weights.
    pub(crate) fn target_type(&self) -> (Dtype, bool) {
        (self.lent.params, self.lent.master.is_some())
    }

    /// The index of a run's first element in its tensor.
    pub(crate) fn index(&self, run: Run) -> usize {
        run.row * self.lent.cols + run.col
    }

    /// A run of the gradient, which no one writes.
    pub(crate) fn gradient(&self, run: Run) -> &[u8] {
        bytes(self.lent.gradient, self.index(run), run.len)
    }

    /// A run of a state plane as it is.
    pub(crate) fn plane(&self, plane: usize, run: Run) -> &[u8] {
        if let Some(state) = &self.state {
            check(run, state);
        }
        let shared = self.lent.planes[plane].expect("the tensor has the plane");
        // SAFETY: the run lies where this access alone may write, or no one
        // writes state (see `Lent::access`); `self` is borrowed as long as the
        // slice.
        unsafe { shared.slice(self.index(run), run.len, self.lent.state) }
    }

    /// What a chunk works on: the state of one run, if it is updated, and the
    /// target of another, with the place where its directions are kept. Memory is
    /// asked for so many elements ahead.
    pub(crate) fn parts(
        &mut self,
        state: Option<Run>,
        target: Run,
        kept: Range<usize>,
        ahead: usize,
    ) -> Parts<'_> {
        if target.len > 0 {
            check(target, &self.target);
        }
        // SAFETY: the runs lie where this access alone may touch state and target
        // (`state_run` looks for itself), which are different buffers, and so is
        // that of kept directions; and `self` is borrowed as long as the slices.
        unsafe {
            Parts {
                state: state.map(|run| self.state_run(run, ahead)),
                target: self.target_run(target, ahead),
                kept: self.kept_run(kept),
            }
        }
    }

    /// The state planes of a run to be updated. Where they are read in another
    /// place than they are written, they are copied first.
    ///
    /// # Safety
    /// They are given out once while they live.
    unsafe fn state_run(&self, run: Run, ahead: usize) -> StateRun<'_> {
        check(run, self.state.as_ref().expect("this access writes state"));
        let (index, lent) = (self.index(run), self.lent);
        let mut planes = ArrayVec::new();
        for (shared, before) in lent.planes.iter().zip(&lent.before) {
            let Some(shared) = shared else { break };
            // SAFETY: the run lies where this access alone may write.
            let plane = unsafe { shared.slice_mut(index, run.len, lent.state) };
            if let Some(before) = before {
                plane.copy_from_slice(bytes(*before, index, run.len));
            }
            planes.push(plane);
        }
        StateRun {
            planes: PlaneRuns {
                planes,
                dtype: lent.state,
                noise: lent.noise,
                index,
                ahead: ahead * lent.state.size(),
            },
            gradient: &lent.gradient.bytes()[index * lent.gradient.dtype().size()..],
        }
    }

    /// A run of the target, with the master weights where there are any.
    ///
    /// # Safety
    /// The run lies in this access' target, and is given out once while it lives.
    unsafe fn target_run(&self, run: Run, ahead: usize) -> TargetRun<'_> {
        let (index, lent) = (self.index(run), self.lent);
        // SAFETY: the caller's promise; target and master weights are different
        // buffers.
        unsafe {
            TargetRun {
                to: lent.target.slice_mut(index, run.len, lent.params),
                dtype: lent.params,
                master: lent.master.map(|master| {
                    let master = master.slice_mut(index, run.len, Dtype::F32);
                    if let Some(before) = lent.master_before {
                        master.copy_from_slice(bytes(before, index, run.len));
                    }
                    master
                }),
                noise: lent.noise.last().map(|&noise| (noise, index)),
                ahead: ahead * lent.params.size(),
            }
        }
    }

    /// Where some directions are kept, if they are.
    ///
    /// # Safety
    /// They are given out once while they live.
    #[allow(clippy::mut_from_ref)] // What is shared is governed by `Access`.
    unsafe fn kept_run(&self, kept: Range<usize>) -> Option<&mut [u8]> {
        let (shared, dtype) = self.lent.kept?;
        assert!(self.kept.start <= kept.start && kept.end <= self.kept.end);
        // SAFETY: the range lies in the buffer and among those that this access
        // alone may touch.
        Some(unsafe { shared.slice_mut(kept.start, kept.len(), dtype) })
    }
}

/// What a chunk works on.
pub(crate) struct Parts<'a> {
    pub state: Option<StateRun<'a>>,
    pub target: TargetRun<'a>,
    pub kept: Option<&'a mut [u8]>,
}

/// The state of a run to be updated, and the gradient from there on, which no one
/// writes.
pub(crate) struct StateRun<'a> {
    pub planes: PlaneRuns<'a>,
    pub gradient: &'a [u8],
}

/// Some elements of a buffer that no one writes.
fn bytes(elements: Elements<'_>, index: usize, len: usize) -> &[u8] {
    let size = elements.dtype().size();
    &elements.bytes()[index * size..][..len * size]
}

/// Panics unless a run lies inside a rectangle.
fn check(run: Run, rect: &Rect) {
    let cols = rect.cols.start <= run.col && run.col + run.len <= rect.cols.end;
    assert!(
        cols && rect.rows.contains(&run.row),
        "{run:?} is outside {rect:?}"
    );
}
