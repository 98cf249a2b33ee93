//! The sums of all blocks come into a tensor's state.

use super::chains::{PooledChains, MAX_POOLED_RANK};
use super::structure::PooledStructure;
use crate::isa::Scalar;
use crate::Average;

/// Numbers that are added up at once.
const CHUNK: usize = 256;
const _: () = assert!(CHUNK >= MAX_POOLED_RANK);

/// Rows of sums, as in a tensor's state, take in the sums of blocks (see
/// [`PooledChains::products`]), in the order of these.
pub(super) fn add_up<'b, T: Scalar>(
    chains: &PooledChains,
    to: &mut [T],
    by: Average,
    blocks: impl Iterator<Item = &'b [u8]> + Clone,
) {
    let (length, padded) = (chains.length, chains.padded());
    let mut sums = [0.0; CHUNK];
    // The sums over blocks of some numbers one after the other.
    let mut add = |first: usize, count: usize| {
        sums[..count].fill(0.0);
        for block in blocks.clone() {
            let block: &[T] = &bytemuck::cast_slice(block)[first..];
            for (sum, x) in sums.iter_mut().zip(&block[..count]) {
                *sum += x.to_f64();
            }
        }
        sums
    };
    let take = |to: &mut T, sum: f64| *to = stored(by.keep * to.to_f64() + by.weight * sum);
    let mut row = |to: &mut [T], first: usize| {
        for (chunk, to) in to.chunks_mut(CHUNK).enumerate() {
            let sums = add(first + chunk * CHUNK, to.len());
            to.iter_mut().zip(sums).for_each(|(to, sum)| take(to, sum));
        }
    };
    match chains.structure {
        PooledStructure::Band => {
            for apart in 0..=chains.band {
                row(&mut to[apart * length..][..length], apart * padded);
            }
        }
        PooledStructure::Rank(rank) => {
            let pitch = chains.products_of_position();
            let (squares, products) = to.split_at_mut(length);
            row(squares, 0);
            for position in 0..length {
                let sums = add(padded + position * pitch, rank);
                let column = products[position..].iter_mut().step_by(length);
                column.zip(sums).for_each(|(to, sum)| take(to, sum));
            }
        }
        PooledStructure::All => {
            for (position, to) in to.chunks_exact_mut(length).enumerate() {
                row(&mut to[position..], position * padded + position);
            }
        }
    }
}

/// Rounded; zero where that is below the normal numbers.
pub(super) fn stored<T: Scalar>(x: f64) -> T {
    match x.abs() < T::LEAST_NORMAL {
        true => T::ZERO,
        false => T::from_f64(x),
    }
}
