//! AVX-512F: a vector of float32 is one register. For float64, where nobody looks for
//! speed, AVX2 is used instead.

use std::arch::x86_64::*;

use super::avx2;
use super::token::{operations, token};
use crate::root::inverse_root;
use crate::simd::{Group, Instructions, Kernel, Register, SingleRegister};

token!("avx512f", is_x86_feature_detected("avx512f"), f32 => Group<F32, 1>);

#[derive(Clone, Copy)]
pub(crate) struct F32(__m512);

/// The upper half.
#[inline(always)]
fn high(x: F32) -> __m256 {
    // SAFETY: a register comes from a token.
    unsafe { _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b11_10_11_10>(x.0, x.0)) }
}

impl Register for F32 {
    type Scalar = f32;
    type Isa = Token;
    type Mask = __mmask16;
    type Sums = [__m512d; 2];
    type Single = F32;
    const LANES: usize = 16;

    operations! {
        fn add(self, b: Self) -> Self = F32(_mm512_add_ps(self.0, b.0));
        fn mul(self, b: Self) -> Self = F32(_mm512_mul_ps(self.0, b.0));
        fn div(self, b: Self) -> Self = F32(_mm512_div_ps(self.0, b.0));
        fn sqrt(self) -> Self = F32(_mm512_sqrt_ps(self.0));
        fn abs(self) -> Self = F32(_mm512_abs_ps(self.0));
        fn mul_add(self, b: Self, c: Self) -> Self = F32(_mm512_fmadd_ps(self.0, b.0, c.0));
        fn neg_mul_add(self, b: Self, c: Self) -> Self = F32(_mm512_fnmadd_ps(self.0, b.0, c.0));
        fn splat(_: Token, x: f32) -> Self = F32(_mm512_set1_ps(x));
        fn load(_: Token, from: &[f32]) -> Self = F32(_mm512_loadu_ps(from[..16].as_ptr()));
        fn store(self, to: &mut [f32]) = _mm512_storeu_ps(to[..16].as_mut_ptr(), self.0);
        fn stream(self, to: &mut [f32]) = {
            let to = to[..16].as_mut_ptr();
            assert!(to.cast::<__m512>().is_aligned());
            _mm512_stream_ps(to, self.0)
        };
        fn lt(self, b: Self) -> Self::Mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0);
        fn not_lt(self, b: Self) -> Self::Mask = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, b.0);
        fn is_nan(self) -> Self::Mask = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
        fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask = a & b;
        fn any(a: Self::Mask) -> bool = a != 0;
        fn select(mask: Self::Mask, yes: Self, no: Self) -> Self = {
            F32(_mm512_mask_blend_ps(mask, no.0, yes.0))
        };
        fn only(self, mask: Self::Mask) -> Self = F32(_mm512_maskz_mov_ps(mask, self.0));
        // Where either is NaN, these return the second.
        fn larger(self, b: Self) -> Self = F32(_mm512_max_ps(self.0, b.0));
        fn smaller(self, b: Self) -> Self = F32(_mm512_min_ps(self.0, b.0));
        fn inverse_root(self, isa: Token) -> Self = inverse_root(isa, self);
        fn sums_of_rows(_: Token, block: &[[f32; 16]; 16]) -> [f32; 16] = {
            avx2::sums_of_rows(block)
        };
        fn transpose(_: Token, from: (&[f32], usize), to: (&mut [f32], usize)) = {
            avx2::transpose(from, to)
        };
        fn load_sums(_: Token, from: &[f64]) -> Self::Sums = {
            let from = from[..16].as_ptr();
            [_mm512_loadu_pd(from), _mm512_loadu_pd(from.add(8))]
        };
        fn add_squares(self, sums: Self::Sums) -> Self::Sums = {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
            let high = _mm512_cvtps_pd(high(self));
            [
                _mm512_fmadd_pd(low, low, sums[0]),
                _mm512_fmadd_pd(high, high, sums[1]),
            ]
        };
        fn store_sums(sums: Self::Sums, to: &mut [f64]) = {
            let to = to[..16].as_mut_ptr();
            _mm512_storeu_pd(to, sums[0]);
            _mm512_storeu_pd(to.add(8), sums[1]);
        };
    }
}

/// Applies an intrinsic of integers to float32 registers.
macro_rules! bits {
    ($intrinsic:ident $(::<$n:ident>)? ($($x:expr),*)) => {
        F32(_mm512_castsi512_ps($intrinsic $(::<$n>)? ($(_mm512_castps_si512($x.0)),*)))
    };
}

impl SingleRegister for F32 {
    operations! {
        fn splat_bits(isa: Token, x: u32) -> Self = F32::splat(isa, f32::from_bits(x));
        fn load_bits(isa: Token, from: &[u32]) -> Self = F32::load(isa, bytemuck::cast_slice(from));
        fn load_u16(_: Token, from: &[u16]) -> Self = {
            let words = _mm256_loadu_si256(from[..16].as_ptr().cast());
            F32(_mm512_castsi512_ps(_mm512_cvtepu16_epi32(words)))
        };
        fn store_u16(self, to: &mut [u16]) = {
            let words = _mm512_cvtepi32_epi16(_mm512_castps_si512(self.0));
            _mm256_storeu_si256(to[..16].as_mut_ptr().cast(), words);
        };
        fn add_bits(self, b: Self) -> Self = bits!(_mm512_add_epi32(self, b));
        fn mul_bits(self, b: Self) -> Self = bits!(_mm512_mullo_epi32(self, b));
        fn and_bits(self, b: Self) -> Self = bits!(_mm512_and_si512(self, b));
        fn or_bits(self, b: Self) -> Self = bits!(_mm512_or_si512(self, b));
        fn xor_bits(self, b: Self) -> Self = bits!(_mm512_xor_si512(self, b));
        fn shl_bits<const N: u32>(self) -> Self = bits!(_mm512_slli_epi32::<N>(self));
        fn shr_bits<const N: u32>(self) -> Self = bits!(_mm512_srli_epi32::<N>(self));
    }
}
