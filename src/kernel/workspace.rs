//! The scratch memory in which one thread works on one block.
//!
//! State is packed into it (converted, bias-corrected, damped) in an order in
//! which the chain neighbours at distance `k` of every coordinate stand `k`
//! strides away, whatever the tensor's layout: stride 1 where chains run along
//! memory, the width of a line where they run across it. What does not exist
//! (before the first coordinate of a chain, after the last) is packed as a
//! coordinate with unit diagonal and no edges, which changes no bit of its
//! neighbours. So the arithmetic has no edges, masks or tails.
//!
//! ```text
//!   0        front                     front + core
//!   | halo   | the block's coordinates | halo | slack for a whole vector |
//! ```

use super::vector::{Scalar, MAX_LANES};
use super::MAX_BAND;
use crate::error::Result;
use crate::memory::{AlignedBytes, LINE};

/// The arrays of a workspace.
#[derive(Clone, Copy)]
pub(crate) enum Array {
    /// Bias-corrected momentum.
    Momentum,
    /// Bias-corrected, damped diagonal.
    Diagonal,
    /// `D L^T m^`.
    Scaled,
    /// The direction.
    Direction,
    /// The vector whose length the direction takes.
    Graft,
    /// How many chain neighbours follow a coordinate, where chains are broken.
    Reach,
    /// Bias-corrected sub-diagonal `k`, from 1.
    Band(usize),
    /// `psi` at distance `k`, from 1.
    Psi(usize),
}

/// Scratch arrays for blocks of up to a fixed size and band.
pub(crate) struct Workspace {
    memory: AlignedBytes,
    /// Bytes of one array, a multiple of 64.
    array_bytes: usize,
    max_band: usize,
    block: Shape,
}

/// The block at hand.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    /// Sub-diagonals in use.
    pub band: usize,
    /// Distance of chain neighbours.
    pub stride: usize,
    /// Where the block's own coordinates start.
    pub front: usize,
    /// How many they are.
    pub core: usize,
    /// Whether [`Array::Reach`] says where chains end inside the block.
    pub broken: bool,
}

impl Shape {
    /// A block of `core` positions whose chain neighbours are `stride` apart.
    pub(crate) fn new(band: usize, stride: usize, core: usize, broken: bool) -> Self {
        Shape {
            band,
            stride,
            front: (band * stride).next_multiple_of(MAX_LANES),
            core,
            broken,
        }
    }

    /// Elements that an array needs for this block.
    fn extent(&self) -> usize {
        let halo = self.band * self.stride;
        (self.front + self.core + halo).next_multiple_of(MAX_LANES) + MAX_LANES
    }
}

impl Workspace {
    /// Room for any block whose shape is one of `shapes`, in elements of
    /// `scalar_bytes`.
    pub(crate) fn new(shapes: &[Shape], scalar_bytes: usize) -> Result<Self> {
        let max_band = shapes.iter().map(|s| s.band).max().unwrap_or(0);
        let extent = shapes.iter().map(Shape::extent).max().unwrap_or(0);
        let array_bytes = (extent * scalar_bytes).next_multiple_of(LINE);
        let bytes = array_bytes * Self::arrays(max_band);
        Ok(Workspace {
            memory: AlignedBytes::zeroed(bytes, || "a thread's workspace".to_owned())?,
            array_bytes,
            max_band,
            block: Shape::default(),
        })
    }

    const fn arrays(band: usize) -> usize {
        6 + 2 * band
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Starts a block; its shape must be one that the workspace was made for.
    pub(crate) fn begin<T: Scalar>(&mut self, block: Shape) {
        assert!(block.band <= self.max_band && block.front >= block.band * block.stride);
        assert!(block.extent() * size_of::<T>() <= self.array_bytes);
        self.block = block;
        let unused = block.front - block.band * block.stride;
        self.pad::<T>(0, unused);
    }

    pub(crate) fn block(&self) -> Shape {
        self.block
    }

    /// Makes `count` positions from `at` coordinates without neighbours.
    pub(crate) fn pad<T: Scalar>(&mut self, at: usize, count: usize) {
        self.array::<T>(Array::Momentum)[at..at + count].fill(T::ZERO);
        self.array::<T>(Array::Diagonal)[at..at + count].fill(T::ONE);
        for k in 1..=self.block.band {
            self.array::<T>(Array::Band(k))[at..at + count].fill(T::ZERO);
        }
        self.array::<T>(Array::Graft)[at..at + count].fill(T::ZERO);
    }

    /// Says of `count` positions from `at` how many coordinates of their chain
    /// follow: `rest` after the last of them.
    pub(crate) fn set_reach<T: Scalar>(&mut self, at: usize, count: usize, rest: usize) {
        let reach = &mut self.array::<T>(Array::Reach)[at..at + count];
        for (i, x) in reach.iter_mut().enumerate() {
            *x = T::from_f64((count - 1 - i + rest).min(MAX_BAND) as f64);
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
            Array::Momentum => 0,
            Array::Diagonal => 1,
            Array::Scaled => 2,
            Array::Direction => 3,
            Array::Graft => 4,
            Array::Reach => 5,
            Array::Band(k) => 5 + k,
            Array::Psi(k) => 5 + self.max_band + k,
        };
        assert!(index < Self::arrays(self.max_band));
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.memory);
        &mut all[index * elements..][..elements]
    }

    /// The directions of `count` of the block's own coordinates, from the
    /// `at`-th.
    pub(crate) fn directions<T: Scalar>(&mut self, at: usize, count: usize) -> &[u8] {
        let start = self.block.front + at;
        bytemuck::cast_slice(&self.array::<T>(Array::Direction)[start..start + count])
    }
}
