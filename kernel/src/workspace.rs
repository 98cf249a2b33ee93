//! The memory in which one thread works: the chunk at hand, and as much of its
//! neighbourhood as directions need.
//!
//! Coordinates come in the order of memory, [`CHUNK`] or fewer at a time. Their
//! state is copied here (converted and damped), where it stays in the nearest
//! cache. The direction of a coordinate needs its chain neighbours on both
//! sides, so directions lag behind:
//!
//! ```text
//! chains along memory        | history | chunk ............ |     at hand: LAG positions
//!                            | at hand ............ |             before the chunk
//! chains across memory       ring buffer of band + 1 lines:      at hand: the oldest line,
//!                            the chunk goes to the newest         the same columns
//! the same, short lines      | band lines | more lines .. |       at hand: band lines
//!                            at hand ............ |               before the chunk
//! ```
//!
//! Coordinates that do not exist (before the first of a chain, after the last,
//! behind a line) are padded with unit diagonal and no edges, which changes no
//! bit of their neighbours.

use super::cache_lines::{cache_lines, CacheLine};
use super::elimination::{self, COMMON_BAND};
use super::simd::{rounded, Number, LANES};
use crate::MAX_BAND;

/// The most coordinates of a chunk.
pub const CHUNK: usize = 1024;

/// Lines up to this length follow one another in the chunk: that costs less for each of
/// them than a ring buffer, which holds no more of them than are needed.
const SHORT: usize = 256;
const _: () = assert!(SHORT <= CHUNK);

/// How far directions lag behind where chains run along memory. A whole vector,
/// so that vectors of directions start where vectors of state do.
pub const LAG: usize = LANES;
const _: () = assert!(LAG >= MAX_BAND && CHUNK.is_multiple_of(LANES));

/// How a tensor's coordinates are laid out in a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sub-diagonals in use.
    pub band: usize,
    /// Positions of a line where chains run across memory: a multiple of
    /// [`LANES`]. `None` where they run along it.
    pub line: Option<usize>,
}

impl Shape {
    /// Positions by which directions lag behind in the chunk.
    pub(crate) fn lag(&self) -> usize {
        match self.line {
            None if self.band > 0 => LAG,
            Some(line) if self.is_short() => self.band * line,
            _ => 0,
        }
    }

    /// Whether lines are so short that they follow one another in the chunk.
    pub(crate) fn is_short(&self) -> bool {
        self.line.is_some_and(|line| line <= SHORT)
    }

    /// Elements from one line to the next. In a ring buffer that is not a multiple of
    /// the distance at which lines would drive each other out of the cache.
    fn pitch(&self) -> usize {
        match self.line {
            Some(line) if !self.is_short() => line + 3 * LANES,
            line => line.unwrap_or(0),
        }
    }

    /// Elements of a plane of the neighbourhood.
    fn plane(&self) -> usize {
        match self.line {
            Some(_) if !self.is_short() => (self.band + 1) * self.pitch(),
            _ => self.lag() + self.room(),
        }
    }

    /// Elements of a plane behind those that directions lag behind.
    fn room(&self) -> usize {
        CHUNK + 2 * LANES
    }

    /// Elements of the planes of the neighbourhood: momentum, diagonal and
    /// sub-diagonals; `D L^T m` and the `psi`.
    fn planes(&self) -> (usize, usize) {
        let plane = self.plane();
        ((2 + self.band) * plane, (1 + self.band) * plane)
    }

    /// Elements of the gradient, which is that of the chunk and its neighbours.
    fn gradient(&self) -> usize {
        match self.line {
            None => ARRAY,
            Some(_) => (self.band + 1) * ARRAY,
        }
    }

    /// Elements that an elimination needs.
    fn elimination(&self) -> usize {
        elimination::vectors(self.band) * LANES
    }

    fn elements(&self) -> usize {
        let (state, solved) = self.planes();
        ARRAYS * ARRAY + state + solved + self.gradient() + self.elimination()
    }
}

/// Arrays of a chunk alone, and elements of each: two of how many coordinates
/// follow in a chain, one for directions, two for normalized RMSProp.
const ARRAYS: usize = 5;
const ARRAY: usize = LAG + CHUNK + 2 * LANES;

/// The memory of one thread.
pub struct Workspace {
    memory: Box<[CacheLine]>,
    /// Room for [`PADDED`] elements of each array of lines that are padded.
    padded: Box<[CacheLine]>,
    /// For panels of chains whose correlations are pooled.
    panel: Box<[CacheLine]>,
    shape: Shape,
    /// Elements of a plane, of all planes of the state, and of all of what is
    /// solved.
    plane: usize,
    planes: (usize, usize),
    at: At,
}

/// Where the chunk and its neighbours are in the planes of the neighbourhood.
#[derive(Default)]
pub(crate) struct At {
    /// The new coordinates.
    pub(crate) new: usize,
    /// The coordinates before them in their chains.
    pub(crate) previous: usize,
    /// Of the coordinates at hand, the `k`-th neighbours that follow.
    pub(crate) after: [usize; MAX_BAND + 1],
    /// And those before, in the planes of what is solved.
    pub(crate) before: [usize; MAX_BAND + 1],
    /// Between the gradients of the `k`-th and the next neighbours.
    pub(crate) gradient_step: usize,
}

/// The arrays of a workspace.
pub(crate) struct Arrays<'a, T> {
    /// Planes of momentum, diagonal, and each sub-diagonal.
    pub(crate) state: &'a mut [T],
    pub(crate) new: New<'a, T>,
    pub(crate) at_hand: AtHand<'a, T>,
    /// Directions of the coordinates at hand.
    pub(crate) direction: &'a mut [T; ARRAY],
}

/// Those for the new coordinates.
pub(crate) struct New<'a, T> {
    /// Elements of a plane.
    pub(crate) plane: usize,
    pub(crate) at: &'a At,
    /// The scaled gradient.
    pub(crate) gradient: &'a mut [T],
    /// How many coordinates of their chain follow, where chains end.
    pub(crate) reach: &'a mut [T; ARRAY],
    /// The normalized gradient of normalized RMSProp, and its average square.
    pub(crate) normalized: &'a mut [T; ARRAY],
    pub(crate) rms: &'a mut [T; ARRAY],
}

/// Those for the coordinates at hand.
pub(crate) struct AtHand<'a, T> {
    /// Elements of a plane.
    pub(crate) plane: usize,
    pub(crate) at: &'a At,
    /// Planes of `D L^T m`, and of each `psi`.
    pub(crate) solved: &'a mut [T],
    /// For the elimination of a band without a loop of its own.
    pub(crate) elimination: &'a mut [T],
    /// How many coordinates of their chain follow, where chains end.
    pub(crate) reach: &'a mut [T; ARRAY],
    /// By how many elements directions lag behind in the chunk.
    pub(crate) lag: usize,
}

/// Elements of lines that are padded at once: as many as come into the chunk.
pub(crate) const PADDED: usize = CHUNK;
/// Arrays of them: planes of the common bands, and parameters.
const PADDED_ARRAYS: usize = COMMON_BAND + 3;

/// Arrays of lines that are padded, of float32 or fewer bits.
pub(crate) struct Padded(Box<[CacheLine]>);

impl Padded {
    /// Each of the arrays, as bytes.
    pub(crate) fn arrays(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0);
        bytes.chunks_exact_mut(PADDED * size_of::<f32>())
    }
}

/// Which coordinates of a chunk are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// Those whose state has come.
    New,
    /// Those whose directions are computed.
    AtHand,
}

impl Workspace {
    /// Room for tensors of any of these shapes, and for panels of pooled chains that need any
    /// of these numbers of bytes.
    ///
    /// # Errors
    /// The number of bytes, if they are not to be had.
    pub fn new(
        shapes: impl Iterator<Item = Shape>,
        panels: impl Iterator<Item = usize>,
    ) -> Result<Self, usize> {
        // Of either arithmetic.
        let mut needs_padding = false;
        let bytes = shapes
            .map(|shape| {
                needs_padding |= shape.is_short();
                shape.elements() * size_of::<f64>()
            })
            .max();
        let padded = match needs_padding {
            true => PADDED_ARRAYS * PADDED * size_of::<f32>(),
            false => 0,
        };
        Ok(Workspace {
            memory: cache_lines(bytes.unwrap_or(0))?,
            padded: cache_lines(padded)?,
            panel: cache_lines(panels.max().unwrap_or(0))?,
            shape: Shape {
                band: 0,
                line: None,
            },
            plane: 0,
            planes: (0, 0),
            at: At::default(),
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.memory) + size_of_val(&*self.padded) + size_of_val(&*self.panel)
    }

    /// The memory for panels, until it is given back.
    pub(crate) fn take_panel(&mut self) -> Box<[CacheLine]> {
        std::mem::take(&mut self.panel)
    }

    pub(crate) fn give_panel(&mut self, panel: Box<[CacheLine]>) {
        self.panel = panel;
    }

    /// The room for lines that are padded, until it is given back.
    pub(crate) fn take_padded(&mut self) -> Padded {
        Padded(std::mem::take(&mut self.padded))
    }

    pub(crate) fn give_padded(&mut self, padded: Padded) {
        self.padded = padded.0;
    }

    /// Lines follow one another as the gradient does in memory, so far apart.
    pub(crate) fn gradient_of_lines(&mut self, pitch: usize) {
        self.at.gradient_step = pitch;
    }

    /// The shape of the tensor at hand.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Starts at a place of a tensor whose shape is one that the workspace was
    /// made for. No coordinate is before it, until some have come.
    pub(crate) fn begin<T: Number>(&mut self, shape: Shape) {
        assert!(shape.elements() * size_of::<T>() <= size_of_val(&*self.memory));
        self.shape = shape;
        (self.plane, self.planes) = (shape.plane(), shape.planes());
        if shape.line.is_none() {
            let plane = self.plane;
            for plane in self.arrays::<T>().at_hand.solved.chunks_exact_mut(plane) {
                plane[..LAG].fill(T::ZERO);
            }
        }
    }

    /// The next chunk where chains run along memory. The first has the
    /// coordinates that directions lag behind as well.
    pub fn along(&mut self, first: bool) {
        self.at.new = if first { 0 } else { self.shape.lag() };
        self.at.previous = self.at.new.saturating_sub(1);
        for k in 0..=self.shape.band {
            self.at.after[k] = k;
            self.at.before[k] = LAG - k;
        }
        self.at.gradient_step = 1;
    }

    /// The next chunk where chains run across memory: that at a column of a row,
    /// which may be before the first.
    pub fn across(&mut self, row: isize, col: usize) {
        let (band, pitch) = (self.shape.band, self.shape.pitch());
        self.at.gradient_step = ARRAY;
        if self.shape.is_short() {
            self.at.new = band * pitch + col;
            self.at.previous = self.at.new.saturating_sub(pitch);
            for k in 0..=band {
                self.at.after[k] = k * pitch + col;
                self.at.before[k] = (band - k) * pitch + col;
            }
            return;
        }
        let lines = band + 1;
        let newest = row.rem_euclid(lines as isize) as usize;
        let at = |line: usize| line * pitch + col;
        self.at.new = at(newest);
        self.at.previous = at(if newest == 0 { band } else { newest - 1 });
        // In the next line of the ring buffer is the oldest one, which is at hand.
        let oldest = if newest == band { 0 } else { newest + 1 };
        let (mut after, mut before) = (oldest, oldest);
        for k in 0..=band {
            (self.at.after[k], self.at.before[k]) = (at(after), at(before));
            after = if after == band { 0 } else { after + 1 };
            before = if before == 0 { band } else { before - 1 };
        }
    }

    /// So many coordinates at hand are done; the last of the new ones become
    /// the history.
    pub(crate) fn advance<T: Number>(&mut self, count: usize) {
        let (plane, lag) = (self.plane, self.shape.lag());
        if lag == 0 || count == 0 {
            return;
        }
        let arrays = self.arrays::<T>();
        for planes in [arrays.state, arrays.at_hand.solved] {
            for plane in planes.chunks_exact_mut(plane) {
                plane.copy_within(count..count + lag, 0);
            }
        }
    }

    /// Makes `count` new coordinates, from the `from`-th on, ones that do not
    /// exist.
    pub(crate) fn pad<T: Number>(&mut self, from: usize, count: usize) {
        let (plane, from) = (self.plane, self.at.new + from);
        let planes = self.arrays::<T>().state.chunks_exact_mut(plane);
        for (i, plane) in planes.enumerate() {
            let fill = if i == 1 { T::ONE } else { T::ZERO };
            plane[from..from + count].fill(fill);
        }
    }

    /// Makes the gradient of neighbours that do not exist zero.
    pub(crate) fn pad_gradient<T: Number>(
        &mut self,
        (neighbour, from): (usize, usize),
        count: usize,
    ) {
        let from = neighbour * self.at.gradient_step + from;
        let gradient = self.arrays::<T>().new.gradient;
        gradient[from..from + count].fill(T::ZERO);
    }

    /// Says of `count` coordinates, from the `from`-th on, how many of their
    /// chain follow: `rest` after the last of them, and `step` more after each
    /// before it.
    pub(crate) fn set_reach<T: Number>(
        &mut self,
        which: Coordinates,
        (from, count): (usize, usize),
        rest: usize,
        step: usize,
    ) {
        // Beyond the band it does not matter how many they are.
        let most = self.shape.band;
        let arrays = self.arrays::<T>();
        let reach = match which {
            Coordinates::New => arrays.new.reach,
            Coordinates::AtHand => arrays.at_hand.reach,
        };
        let reach = &mut reach[from..from + count];
        let varied = if step == 0 { 0 } else { count.min(most) };
        let (same, varied) = reach.split_at_mut(count - varied);
        let first = rest + step * varied.len();
        same.fill(T::from_f64(first.min(most) as f64));
        for (i, x) in varied.iter_mut().rev().enumerate() {
            *x = T::from_f64((rest + i * step).min(most) as f64);
        }
    }

    /// `H_jj + |H_j+1,j|` of the `i`-th new coordinate.
    pub(crate) fn l1_of_first<T: Number>(&mut self, i: usize) -> f64 {
        let (plane, at) = (self.plane, self.at.new + i);
        let state = self.arrays::<T>().state;
        let diagonal = state[plane + at].to_f64();
        match state.get(2 * plane + at) {
            Some(entry) => rounded::<T>(diagonal + entry.to_f64().abs()),
            None => diagonal,
        }
    }

    /// All arrays.
    #[inline]
    pub(crate) fn arrays<T: Number>(&mut self) -> Arrays<'_, T> {
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.memory);
        let (scratch, all) = all.split_at_mut(ARRAYS * ARRAY);
        let (state, all) = all.split_at_mut(self.planes.0);
        let (solved, all) = all.split_at_mut(self.planes.1);
        let (elimination, gradient) = all.split_at_mut(self.shape.elimination());
        let [new, at_hand, direction, normalized, rms] = scratch.as_chunks_mut().0 else {
            unreachable!("so many arrays were split off");
        };
        let (plane, at) = (self.plane, &self.at);
        let lag = self.shape.lag();
        Arrays {
            state,
            new: New {
                plane,
                at,
                gradient,
                reach: new,
                normalized,
                rms,
            },
            at_hand: AtHand {
                plane,
                at,
                solved,
                elimination,
                reach: at_hand,
                lag,
            },
            direction,
        }
    }
}
