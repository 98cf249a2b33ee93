//! Which bytes of a tensor's buffers a tile may touch.
//!
//! Tiles are rectangles of one matrix, so their bytes interleave and no slice
//! holds one tile alone. An [`Access`] gives slices of the buffers, runs of one row,
//! after checking that they lie where its tile may read or write.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::buffers::{Memory, MAX_PLANES};
use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::noise::{Noise, Random};
use crate::simd::LANES;

/// A rectangle of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rect {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub cols: Range<usize>,
}

/// A run of columns in one row, or whole rows one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The row.
    pub row: usize,
    /// The first of the columns.
    pub col: usize,
    /// How many coordinates they are.
    pub len: usize,
}

/// What a tile may touch.
pub struct Access<'a> {
    memory: &'a Memory<'a>,
    gradient: Elements<'a>,
    state: Option<Rect>,
    target: Rect,
    kept: Range<usize>,
}

impl<'a> Access<'a> {
    /// Access for whoever works on a tile now. With `state`, the state inside
    /// that rectangle may be read and written, and none outside; without, all
    /// of it may be read. The target may be written inside its rectangle, and
    /// the directions kept at `kept`.
    ///
    /// # Panics
    /// If there is no gradient.
    ///
    /// # Safety
    /// While the access lives, no other one may reach the same place of the
    /// target or of the kept directions; nor, if this one writes state, any of
    /// the state inside its rectangle; nor, if it reads all state, may another
    /// one write state. The rectangles lie in the matrix, and every buffer has an
    /// element for each place of it.
    pub unsafe fn new(
        memory: &'a Memory<'a>,
        state: Option<Rect>,
        target: Rect,
        kept: Range<usize>,
    ) -> Self {
        let gradient = memory.buffers.gradient;
        Access {
            memory,
            gradient: gradient.expect("the tensor takes part"),
            state,
            target,
            kept,
        }
    }

    /// The type of the gradient's elements.
    pub(crate) fn gradient_dtype(&self) -> Dtype {
        self.gradient.dtype()
    }

    /// The type of the state's elements.
    pub(crate) fn state_dtype(&self) -> Dtype {
        self.memory.buffers.planes[0].dtype()
    }

    /// The type of the target's elements, and whether there are master weights.
    pub(crate) fn target_type(&self) -> (Dtype, bool) {
        let target = self.memory.buffers.target.elements();
        (target.dtype(), self.memory.master)
    }

    /// How many elements ahead memory is asked for.
    pub(crate) fn ahead(&self) -> usize {
        self.memory.ahead
    }

    /// With stochastic rounding, the random bits of each state plane come into an empty list.
    pub(crate) fn noise(&self, into: &mut ArrayVec<Noise, MAX_PLANES>) {
        if let Some(rounding) = self.memory.rounding {
            let planes = self.memory.buffers.planes.len().min(MAX_PLANES);
            into.extend((0..planes).map(|p| rounding.noise(p)));
        }
    }

    /// Whether state is rounded stochastically.
    pub(crate) fn is_random(&self) -> bool {
        self.memory.rounding.is_some()
    }

    /// The index of a run's first element in its tensor.
    pub(crate) fn index(&self, run: Run) -> usize {
        run.row * self.memory.cols + run.col
    }

    /// Columns of the matrix.
    pub(crate) fn cols(&self) -> usize {
        self.memory.cols
    }

    /// Panics unless a run lies inside a rectangle.
    // Inlined, so that the run is not copied for it.
    #[inline(always)]
    fn check(&self, run: Run, rect: &Rect) {
        let all = self.memory.cols;
        let end = match run.col + run.len <= all {
            true => run.row + 1,
            false => run.row + run.len.div_ceil(all),
        };
        let rows = rect.rows.start <= run.row && end <= rect.rows.end;
        let last = (run.col + run.len).min(all);
        let cols = rect.cols.start <= run.col && last <= rect.cols.end;
        let is_inside = rows && cols && (end == run.row + 1 || run.col == 0);
        assert!(is_inside, "{run:?} is outside {rect:?}");
    }

    /// A run of the gradient, which no one writes.
    pub(crate) fn gradient(&self, run: Run) -> &'a [u8] {
        part(self.gradient, self.index(run), run.len)
    }

    /// The gradient from a run's first element on.
    pub(crate) fn gradient_from(&self, run: Run) -> &'a [u8] {
        &self.gradient.bytes()[self.index(run) * self.gradient.dtype().size()..]
    }

    /// A run of a state plane as it is.
    pub(crate) fn plane(&self, plane: usize, run: Run) -> &[u8] {
        if let Some(state) = &self.state {
            self.check(run, state);
        }
        // SAFETY: the run lies where this access alone may write, or no one
        // writes state (see `new`); `self` is borrowed as long as the slice.
        unsafe { self.memory.buffers.planes[plane].part(self.index(run), run.len) }
    }

    /// How many bytes after the place where it is written the state of a run is read, as a
    /// number that wraps around, for a step that reads it there. 0 where it has to be in
    /// place: if it is, or if that is not the same for all planes, they are not whole cache
    /// lines of float32, or the band has no loop for it.
    pub(crate) fn source(&self, run: Run, band: usize) -> usize {
        let buffers = self.memory.buffers;
        if !buffers.is_read_elsewhere() || band > 1 || self.state_dtype() != Dtype::F32 {
            return 0;
        }
        let planes = &buffers.planes[..self.state_planes()];
        let first = self.index(run) * size_of::<f32>();
        let is_line = |plane: &ElementsMut<'_>| {
            let address = plane.elements().bytes().as_ptr().addr();
            (address + first).is_multiple_of(64)
        };
        let source = planes
            .iter()
            .all(is_line)
            .then(|| buffers.source(planes.len()));
        source.flatten().unwrap_or(0)
    }

    /// The state planes of a run to be updated, without the master weights, where they are
    /// written, into an empty list. Where they are read in another place, they are copied first,
    /// unless that is their `source`.
    ///
    /// # Safety
    /// They are given out once while they live.
    pub(crate) unsafe fn planes(
        &self,
        run: Run,
        source: usize,
        into: &mut ArrayVec<&mut [u8], MAX_PLANES>,
    ) {
        self.check(run, self.state.as_ref().expect("this access writes state"));
        let (index, buffers) = (self.index(run), self.memory.buffers);
        for (p, plane) in buffers.planes[..self.state_planes()].iter().enumerate() {
            // SAFETY: the run lies where this access alone may write.
            let plane = unsafe { plane.part(index, run.len) };
            if let Some(before) = buffers.before(p).filter(|_| source == 0) {
                plane.copy_from_slice(part(before, index, run.len));
            }
            into.push(plane);
        }
    }

    /// How many planes of the state there are, without pooled sums and master weights.
    fn state_planes(&self) -> usize {
        let others = usize::from(self.memory.pooled) + usize::from(self.memory.master);
        self.memory.buffers.planes.len() - others
    }

    /// A run of the target, with the master weights where there are any.
    ///
    /// # Safety
    /// It is given out once while it lives.
    pub(crate) unsafe fn target<'b>(&self, run: Run) -> TargetRun<'b>
    where
        'a: 'b,
    {
        self.check(run, &self.target);
        let (index, memory) = (self.index(run), self.memory);
        let buffers = memory.buffers;
        let target = buffers.target.elements();
        let last = buffers.planes.len() - 1;
        let master = memory.master.then(|| {
            // SAFETY: as below.
            let master = unsafe { buffers.planes[last].part(index, run.len) };
            if let Some(before) = buffers.before(last).filter(|_| !memory.is_written) {
                master.copy_from_slice(part(before, index, run.len));
            }
            master
        });
        TargetRun {
            // SAFETY: the run lies where this access alone may touch target and
            // master weights, which are different buffers.
            to: unsafe { target.part(index, run.len) },
            dtype: target.dtype(),
            master,
            noise: memory.rounding.map(|r| (r.noise(last + 1), index)),
            ahead: memory.ahead * target.dtype().size(),
        }
    }

    /// Whether the tensor keeps more directions than a cache should hold until they are
    /// applied.
    pub(crate) fn keeps_many(&self) -> bool {
        const FEW: usize = 1 << 16;
        self.memory
            .kept
            .as_ref()
            .is_some_and(|kept| kept.len() > FEW)
    }

    /// Where the directions of so many coordinates are kept, if they are.
    ///
    /// # Safety
    /// They are given out once while they live.
    pub(crate) unsafe fn kept<'b>(&self, first: usize, len: usize) -> Option<&'b mut [u8]> {
        let kept: &ElementsMut<'_> = self.memory.kept.as_ref()?;
        let len = len.next_multiple_of(LANES);
        assert!(self.kept.start <= first && first + len <= self.kept.end);
        // SAFETY: the range lies among those that this access alone may touch.
        Some(unsafe { kept.part(first, len) })
    }
}

/// A run of parameters or directions that is written.
pub(crate) struct TargetRun<'a> {
    /// Its bytes.
    pub(crate) to: &'a mut [u8],
    pub(crate) dtype: Dtype,
    /// The float32 parameters behind those in few bits.
    pub(crate) master: Option<&'a mut [u8]>,
    /// With stochastic rounding: its random bits, and the index of its first
    /// element.
    pub(crate) noise: Random,
    /// How many bytes ahead memory is asked for.
    pub(crate) ahead: usize,
}

/// The bytes of some elements of a buffer that no one writes.
fn part(elements: Elements<'_>, index: usize, len: usize) -> &[u8] {
    let size = elements.dtype().size();
    &elements.bytes()[index * size..][..len * size]
}
