//! Numbers of 16 bits: their float32, and how these are rounded to them.
//!
//! Conversions work on the bits, so that they do the same everywhere: some
//! processors' own flush subnormals.

use half::{bf16, f16};

use super::simd::SingleRegister;

/// A type of 16 bits, held in the low half of a 32-bit word.
pub(crate) trait Sixteen {
    fn read<R: SingleRegister>(isa: R::Isa, x: R) -> R;

    /// To nearest even. A NaN is the canonical one already.
    fn round<R: SingleRegister>(isa: R::Isa, x: R) -> R;

    /// Up or down with random `bits`, in proportion to how near each is.
    fn round_stochastically<R: SingleRegister>(isa: R::Isa, x: R, bits: R) -> R;
}

impl Sixteen for bf16 {
    #[inline(always)]
    fn read<R: SingleRegister>(_: R::Isa, x: R) -> R {
        x.shl_bits::<16>()
    }

    #[inline(always)]
    fn round<R: SingleRegister>(isa: R::Isa, x: R) -> R {
        let odd = x.shr_bits::<16>().and_bits(R::splat_bits(isa, 1));
        let half = R::splat_bits(isa, 0x7fff);
        x.add_bits(odd).add_bits(half).shr_bits::<16>()
    }

    /// The part that is cut off decides with which probability the magnitude grows.
    #[inline(always)]
    fn round_stochastically<R: SingleRegister>(isa: R::Isa, x: R, bits: R) -> R {
        let random = bits.and_bits(R::splat_bits(isa, 0xffff));
        x.add_bits(random).shr_bits::<16>()
    }
}

const SIGN: u32 = 0x8000_0000;
/// Bits of a float32's fraction that a float16 has not.
const CUT: u32 = 0x1fff;
/// The smallest normal float16.
const SMALLEST_F16: f32 = 6.103_515_6e-5;

impl Sixteen for f16 {
    #[inline(always)]
    fn read<R: SingleRegister>(isa: R::Isa, x: R) -> R {
        // The fraction and exponent in place, and the exponent's bias corrected
        // by a multiplication, which is exact for subnormal numbers, too.
        let magnitude = x.and_bits(R::splat_bits(isa, 0x7fff)).shl_bits::<13>();
        let rebias = R::splat_bits(isa, (127 + 112) << 23);
        let finite = magnitude.mul(rebias);
        let special = magnitude.or_bits(R::splat_bits(isa, 0x7f80_0000));
        let value = R::select(finite.lt(R::splat(isa, 65536.0)), finite, special);
        let sign = x.and_bits(R::splat_bits(isa, 0x8000)).shl_bits::<16>();
        value.or_bits(sign)
    }

    #[inline(always)]
    fn round<R: SingleRegister>(isa: R::Isa, x: R) -> R {
        let magnitude = x.abs();
        let odd = magnitude.shr_bits::<13>().and_bits(R::splat_bits(isa, 1));
        let half = R::splat_bits(isa, CUT / 2);
        let rounded = magnitude.add_bits(odd).add_bits(half);
        let rebias = R::splat_bits(isa, (112u32 << 10).wrapping_neg());
        let normal = rounded.shr_bits::<13>().add_bits(rebias);
        // Adding 1/2 leaves the subnormal's fraction in the lowest bits, rounded.
        let minus_half = R::splat_bits(isa, 0.5f32.to_bits().wrapping_neg());
        let subnormal = magnitude.add(R::splat(isa, 0.5)).add_bits(minus_half);
        let h = R::select(magnitude.lt(R::splat(isa, SMALLEST_F16)), subnormal, normal);
        let infinity = R::splat_bits(isa, 0x7c00);
        let h = R::select(magnitude.lt(R::splat(isa, 65536.0)), h, infinity);
        let h = R::select(x.is_nan(), R::splat_bits(isa, 0x7e00), h);
        h.or_bits(x.and_bits(R::splat_bits(isa, SIGN)).shr_bits::<16>())
    }

    /// Cuts off the fraction, after adding a random one, so that what is left is
    /// a float16. Among the subnormals the place of the cut is fixed, which an
    /// added constant brings about.
    #[inline(always)]
    fn round_stochastically<R: SingleRegister>(isa: R::Isa, x: R, bits: R) -> R {
        let magnitude = x.abs();
        let is_small = magnitude.lt(R::splat(isa, SMALLEST_F16));
        let fixed = R::splat(isa, SMALLEST_F16).only(is_small);
        let random = bits.and_bits(R::splat_bits(isa, CUT));
        let cut = magnitude.add(fixed).add_bits(random);
        let cut = cut.and_bits(R::splat_bits(isa, !CUT));
        let unfixed = R::splat(isa, -SMALLEST_F16).only(is_small);
        let value = cut.add(unfixed);
        let sign = x.and_bits(R::splat_bits(isa, SIGN));
        Self::round(isa, value.or_bits(sign))
    }
}
