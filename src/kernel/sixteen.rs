//! Numbers of 16 bits: their float32, and how these are rounded to them.
//!
//! Conversions work on the bits, so that they do the same everywhere: some
//! processors' own flush subnormals.

use super::element::{Bf16, F16};
use super::vector::{SingleVector, Words};

/// A type of 16 bits.
pub(super) trait Sixteen {
    /// # Safety
    /// The processor has the instructions of `S`.
    unsafe fn read<S: SingleVector>(x: S::Words) -> S;

    /// To nearest even; every NaN becomes the same.
    ///
    /// # Safety
    /// As for [`Sixteen::read`].
    unsafe fn round<S: SingleVector>(x: S) -> S::Words;

    /// Up or down by chance, in proportion to how near each is, after random
    /// `bits`.
    ///
    /// # Safety
    /// As for [`Sixteen::read`].
    unsafe fn round_by_chance<S: SingleVector>(x: S, bits: S::Words) -> S::Words;
}

// SAFETY, of every block below: the caller has the instructions of `S`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Sixteen for Bf16 {
    #[inline(always)]
    unsafe fn read<S: SingleVector>(x: S::Words) -> S {
        unsafe { S::from_words(x.shl::<16>()) }
    }

    #[inline(always)]
    unsafe fn round<S: SingleVector>(x: S) -> S::Words {
        unsafe {
            let x = x.canonical().to_words();
            let odd = x.shr::<16>().and(S::Words::splat(1));
            x.add(odd).add(S::Words::splat(0x7fff)).shr::<16>()
        }
    }

    /// The part that is cut off decides with which probability the magnitude grows.
    #[inline(always)]
    unsafe fn round_by_chance<S: SingleVector>(x: S, bits: S::Words) -> S::Words {
        unsafe {
            let chance = bits.and(S::Words::splat(0xffff));
            x.canonical().to_words().add(chance).shr::<16>()
        }
    }
}

const SIGN: u32 = 0x8000_0000;
/// Bits of a float32's fraction that a float16 has not.
const CUT: u32 = 0x1fff;
/// The smallest normal float16.
const SMALLEST_F16: f32 = 6.103_515_6e-5;

// SAFETY, of every block below: the caller has the instructions of `S`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Sixteen for F16 {
    #[inline(always)]
    unsafe fn read<S: SingleVector>(x: S::Words) -> S {
        unsafe {
            // The fraction and exponent in place, and the exponent's bias mended
            // by a multiplication, which is exact for subnormal numbers, too.
            let magnitude = x.and(S::Words::splat(0x7fff)).shl::<13>();
            let rebias = S::splat(f32::from_bits((127 + 112) << 23));
            let finite = S::from_words(magnitude).mul(rebias);
            let special = S::from_words(magnitude.or(S::Words::splat(0x7f80_0000)));
            let value = S::select(finite.lt(S::splat(65536.0)), finite, special);
            let sign = x.and(S::Words::splat(0x8000)).shl::<16>();
            S::from_words(value.to_words().or(sign))
        }
    }

    #[inline(always)]
    unsafe fn round<S: SingleVector>(x: S) -> S::Words {
        unsafe {
            let magnitude = x.abs();
            let bits = magnitude.to_words();
            let odd = bits.shr::<13>().and(S::Words::splat(1));
            let rounded = bits.add(odd).add(S::Words::splat(CUT / 2));
            let normal = rounded
                .shr::<13>()
                .add(S::Words::splat((112u32 << 10).wrapping_neg()));
            // Adding 1/2 leaves the subnormal's fraction in the lowest bits,
            // rounded.
            let half = S::splat(0.5);
            let minus_half = S::Words::splat(0.5f32.to_bits().wrapping_neg());
            let subnormal = magnitude.add(half).to_words().add(minus_half);
            // Words are selected as if they were numbers: only bits are moved.
            let (subnormal, normal) = (S::from_words(subnormal), S::from_words(normal));
            let [infinity, nan] = [0x7c00, 0x7e00].map(f32::from_bits);
            let h = S::select(magnitude.lt(S::splat(SMALLEST_F16)), subnormal, normal);
            let h = S::select(magnitude.lt(S::splat(65536.0)), h, S::splat(infinity));
            let h = S::select(x.is_nan(), S::splat(nan), h).to_words();
            h.or(x.to_words().and(S::Words::splat(SIGN)).shr::<16>())
        }
    }

    /// Cuts off the fraction, after adding a random one, so that what is left is
    /// a float16. Among the subnormals the place of the cut is fixed, which an
    /// added constant brings about.
    #[inline(always)]
    unsafe fn round_by_chance<S: SingleVector>(x: S, bits: S::Words) -> S::Words {
        unsafe {
            let magnitude = x.abs();
            let is_small = magnitude.lt(S::splat(SMALLEST_F16));
            let zero = S::splat(0.0);
            let fixed = S::select(is_small, S::splat(SMALLEST_F16), zero);
            let chance = bits.and(S::Words::splat(CUT));
            let cut = magnitude.add(fixed).to_words().add(chance);
            let cut = S::from_words(cut.and(S::Words::splat(!CUT)));
            let unfixed = S::select(is_small, S::splat(-SMALLEST_F16), zero);
            let value = cut.add(unfixed).to_words();
            let sign = x.to_words().and(S::Words::splat(SIGN));
            Self::round(S::from_words(value.or(sign)))
        }
    }
}
