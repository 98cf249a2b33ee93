//! The scratch memory in which one thread works on one block.
//!
//! What lies around a block is packed into it (converted and damped), in an
//! order in which the chain neighbours at distance `k` of every coordinate
//! stand `k` strides away, whatever the tensor's layout: stride 1 where chains
//! run along memory, the width of a line where they run across it. What does
//! not exist (before the first coordinate of a chain, after the last) is packed
//! as a coordinate with unit diagonal and no edges, which changes no bit of its
//! neighbours. The block's own coordinates have their positions here, too, but
//! only the last of them are kept, in a ring, and incomplete vectors.
//!
//! ```text
//!   0        front                     front + core
//!   | halo   | the block's coordinates | halo | slack for a whole vector |
//! ```

use super::vector::{Scalar, LANES};
use super::window::ALONG_PLANE;
use super::MAX_BAND;
use crate::error::Result;
use crate::memory::{AlignedBytes, LINE};

/// The arrays of a workspace.
#[derive(Clone, Copy)]
pub(crate) enum Array {
    /// The scaled gradient.
    Gradient,
    /// The momentum.
    Momentum,
    /// What divides the momentum where there are no edges: the damped
    /// diagonal.
    Diagonal,
    /// How many chain neighbours follow a coordinate, where chains end.
    Reach,
    /// Sub-diagonal `k`, from 1.
    Band(usize),
}

/// Scratch arrays for blocks of up to a fixed size and band.
pub(crate) struct Workspace {
    memory: AlignedBytes,
    ring: AlignedBytes,
    /// Bytes of one array, a multiple of 64.
    array_bytes: usize,
    max_band: usize,
    block: Shape,
}

/// The block at hand.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Shape {
    /// Sub-diagonals in use.
    pub band: usize,
    /// Distance of chain neighbours.
    pub stride: usize,
    /// Where the block's own coordinates start.
    pub front: usize,
    /// How many they are.
    pub core: usize,
    /// How far behind them packed coordinates reach, neighbours not counted.
    pub lead: usize,
    /// Whether chains end at any place, as [`Array::Reach`] says.
    pub broken: bool,
    /// The position from which on, too, coordinates have to look there; what
    /// does not exist behind them is packed.
    pub tail: usize,
}

impl Shape {
    /// A block of `core` positions whose chain neighbours are `stride` apart;
    /// up to `lead` more are packed behind them.
    pub(crate) fn new(band: usize, stride: usize, core: usize, lead: usize) -> Self {
        Shape {
            band,
            stride,
            front: (band * stride).next_multiple_of(LANES),
            core,
            lead,
            broken: false,
            tail: usize::MAX,
        }
    }

    /// Whether chains run along memory.
    pub(crate) fn along(&self) -> bool {
        self.stride == 1
    }

    /// Elements from one line that is kept to the next: not a multiple of the
    /// distance at which lines would drive each other out of the cache.
    fn ring_line(&self) -> usize {
        self.stride + 3 * LANES
    }

    /// Elements of a plane of the lines that are kept.
    fn ring_plane(&self) -> usize {
        match self.along() {
            true => ALONG_PLANE,
            false => (self.band + 1) * self.ring_line(),
        }
    }

    /// Elements of all planes.
    fn ring(&self) -> usize {
        (2 * self.band + 3) * self.ring_plane()
    }

    /// Elements that an array needs for this block.
    fn extent(&self) -> usize {
        let halo = self.band * self.stride;
        (self.front + self.core + self.lead + halo).next_multiple_of(LANES) + LANES
    }
}

impl Workspace {
    /// Room for any block whose shape is one of `shapes`, each with the size of
    /// its numbers in bytes.
    pub(crate) fn new(shapes: &[(Shape, usize)]) -> Result<Self> {
        let max_band = shapes.iter().map(|(s, _)| s.band).max().unwrap_or(0);
        let bytes = shapes.iter().map(|(s, size)| s.extent() * size);
        let array_bytes = bytes.max().unwrap_or(0).next_multiple_of(LINE);
        let bytes = array_bytes * Self::arrays(max_band);
        let name = || "a thread's workspace".to_owned();
        let ring = shapes.iter().map(|(s, size)| s.ring() * size);
        Ok(Workspace {
            memory: AlignedBytes::zeroed(bytes, name)?,
            ring: AlignedBytes::zeroed(ring.max().unwrap_or(0), name)?,
            array_bytes,
            max_band,
            block: Shape::default(),
        })
    }

    const fn arrays(band: usize) -> usize {
        4 + band
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.len() + self.ring.len()
    }

    /// Starts a block; its shape must be one that the workspace was made for.
    pub(crate) fn begin<T: Scalar>(&mut self, block: Shape) {
        assert!(block.band <= self.max_band && block.front >= block.band * block.stride);
        assert!(block.extent() * size_of::<T>() <= self.array_bytes);
        assert!(block.ring() * size_of::<T>() <= self.ring.len());
        self.block = block;
        let unused = block.front - block.band * block.stride;
        self.pad::<T>(0, unused);
    }

    pub(crate) fn shape(&self) -> Shape {
        self.block
    }

    pub(super) fn ring<T: Scalar>(&mut self) -> Ring<T> {
        Ring {
            first: self.ring.as_mut_ptr().cast(),
            line: self.block.ring_line(),
            plane: self.block.ring_plane(),
        }
    }

    /// Makes `count` positions from `at` coordinates without neighbours.
    pub(crate) fn pad<T: Scalar>(&mut self, at: usize, count: usize) {
        self.array::<T>(Array::Momentum)[at..at + count].fill(T::ZERO);
        self.array::<T>(Array::Diagonal)[at..at + count].fill(T::ONE);
        for k in 1..=self.block.band {
            self.array::<T>(Array::Band(k))[at..at + count].fill(T::ZERO);
        }
    }

    /// Makes the gradient of `count` positions from `at` zero.
    pub(crate) fn pad_gradient<T: Scalar>(&mut self, at: usize, count: usize) {
        self.array::<T>(Array::Gradient)[at..at + count].fill(T::ZERO);
    }

    /// Says of `count` positions from `at` how many coordinates of their chain
    /// follow: `rest` after the last of them, and `step` more after each
    /// before it.
    pub(crate) fn set_reach<T: Scalar>(
        &mut self,
        at: usize,
        count: usize,
        rest: usize,
        step: usize,
    ) {
        let reach = &mut self.array::<T>(Array::Reach)[at..at + count];
        // Beyond the widest band it does not matter how many they are.
        let varied = if step == 0 { 0 } else { count.min(MAX_BAND) };
        let (same, varied) = reach.split_at_mut(count - varied);
        let first = rest + step * varied.len();
        same.fill(T::from_f64(first.min(MAX_BAND) as f64));
        for (i, x) in varied.iter_mut().rev().enumerate() {
            *x = T::from_f64((rest + i * step).min(MAX_BAND) as f64);
        }
    }

    /// `H_jj + |H_j+1,j|` of the coordinate at position `at`.
    pub(crate) fn l1_of_first<T: Scalar>(&mut self, at: usize) -> f64 {
        let diagonal = self.array::<T>(Array::Diagonal)[at].to_f64();
        if self.block.band == 0 {
            return diagonal;
        }
        let entry = self.array::<T>(Array::Band(1))[at].to_f64();
        // Rounded as the vector kernel rounds it.
        T::from_f64(diagonal + entry.abs()).to_f64()
    }

    /// One array, whole.
    pub(crate) fn array<T: Scalar>(&mut self, array: Array) -> &mut [T] {
        let elements = self.array_bytes / size_of::<T>();
        let index = match array {
            Array::Gradient => 0,
            Array::Momentum => 1,
            Array::Diagonal => 2,
            Array::Reach => 3,
            Array::Band(k) => 3 + k,
        };
        assert!(index < Self::arrays(self.max_band));
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.memory);
        &mut all[index * elements..][..elements]
    }
}

/// Where the last coordinates of a block are kept: planes of momentum,
/// diagonal, `D L^T m`, and each sub-diagonal and `psi`.
#[derive(Clone, Copy)]
pub(super) struct Ring<T> {
    pub(super) first: *mut T,
    /// Elements from one line to the next, where chains run across memory.
    pub(super) line: usize,
    /// Elements from one plane to the next.
    pub(super) plane: usize,
}

/// Where the arrays of a workspace start.
pub(super) struct Arrays<T> {
    pub(super) gradient: *mut T,
    pub(super) momentum: *mut T,
    pub(super) diagonal: *mut T,
    pub(super) reach: *mut T,
    pub(super) bands: [*mut T; MAX_BAND],
}

impl<T: Scalar> Arrays<T> {
    pub(super) fn new(work: &mut Workspace) -> Self {
        let band = work.block.band;
        let mut start = |array| work.array::<T>(array).as_mut_ptr();
        let mut bands = [std::ptr::null_mut(); MAX_BAND];
        for (k, place) in bands[..band].iter_mut().enumerate() {
            *place = start(Array::Band(k + 1));
        }
        Arrays {
            gradient: start(Array::Gradient),
            momentum: start(Array::Momentum),
            diagonal: start(Array::Diagonal),
            reach: start(Array::Reach),
            bands,
        }
    }
}
