//! The random bits of stochastic rounding.

use super::simd::{SingleRegister, LANES};

/// Stochastic rounding of a tensor in one step: its random bits are the same for the
/// same seed, step, tensor, plane and element, whoever computes them.
#[derive(Debug, Clone, Copy)]
pub struct Stochastic {
    /// The seed of the options.
    pub seed: u64,
    /// The number of the tensor's step.
    pub step: u64,
    /// The tensor's index.
    pub tensor: usize,
}

impl Stochastic {
    /// The bits of one plane. That after the last plane of the state is the target.
    pub(crate) fn noise(self, plane: usize) -> Noise {
        let key = [self.step, self.tensor as u64, plane as u64]
            .into_iter()
            .fold(self.seed, |key, x| mix(key ^ mix(x)));
        Noise {
            key: [key as u32, (key >> 32) as u32],
        }
    }
}

/// The random bits of one plane, whose elements are told apart by the low 32 bits of
/// their index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    key: [u32; 2],
}

/// With stochastic rounding: the random bits of a plane, and the index of the first element
/// that is stored.
pub(crate) type Random = Option<(Noise, usize)>;

/// `0, 1, 2 ..`.
static COUNTING: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Noise {
    /// 32 random bits for each of the elements from `index` on.
    ///
    /// A counter goes through the two-round integer hash "lowbias32" of C.
    /// Wellons' hash prospector, keyed before each round.
    #[inline(always)]
    pub(crate) fn bits<R: SingleRegister>(self, isa: R::Isa, index: usize) -> R {
        let x = R::load_bits(isa, &COUNTING).add_bits(R::splat_bits(isa, index as u32));
        let x = x.xor_bits(R::splat_bits(isa, self.key[0]));
        let x = x
            .xor_bits(x.shr_bits::<16>())
            .mul_bits(R::splat_bits(isa, 0x7feb_352d));
        let x = x.add_bits(R::splat_bits(isa, self.key[1]));
        let x = x
            .xor_bits(x.shr_bits::<15>())
            .mul_bits(R::splat_bits(isa, 0x846c_a68b));
        x.xor_bits(x.shr_bits::<16>())
    }
}

/// By so much the state of SplitMix64 (Steele, Lea and Flood, 2014) grows for each number.
pub(crate) const GROWTH: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of SplitMix64 that follows on this state.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(GROWTH);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
