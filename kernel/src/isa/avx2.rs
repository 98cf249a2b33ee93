//! AVX2 with FMA: a vector of float32 is two registers.

use std::arch::x86_64::*;

use super::{intrinsics, token};
use crate::simd::{Group, Instructions, Kernel, Register, Scalar, SingleRegister};

token!("avx2,fma", is_x86_feature_detected("avx2", "fma"), Group<F32, 2>, Group<F64, 4>);

#[derive(Clone, Copy)]
pub(crate) struct F32(__m256);
#[derive(Clone, Copy)]
pub(crate) struct F64(__m256d);

// SAFETY, for every block below: a token or a register, which comes from one,
// proves that the processor has AVX2 and FMA; slices are as long as a register.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F32 {
    type Scalar = f32;
    type Isa = Token;
    type Mask = __m256;
    type Sums = [__m256d; 2];
    type Single = F32;
    const LANES: usize = 8;

    intrinsics! {
        add(b) = _mm256_add_ps;
        mul(b) = _mm256_mul_ps;
        div(b) = _mm256_div_ps;
        sqrt() = _mm256_sqrt_ps;
        mul_add(b, c) = _mm256_fmadd_ps;
        neg_mul_add(b, c) = _mm256_fnmadd_ps;
    }

    #[inline(always)]
    fn splat(_: Token, x: f32) -> Self {
        F32(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    fn load(_: Token, from: &[f32]) -> Self {
        F32(unsafe { _mm256_loadu_ps(from[..8].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm256_storeu_ps(to[..8].as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn stream(self, to: &mut [f32]) {
        let to = to[..8].as_mut_ptr();
        assert!(to.cast::<__m256>().is_aligned());
        unsafe { _mm256_stream_ps(to, self.0) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        F32(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn not_lt(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn is_nan(self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    fn and(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn any(a: __m256) -> bool {
        unsafe { _mm256_movemask_ps(a) != 0 }
    }
    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        F32(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
    #[inline(always)]
    fn only(self, mask: __m256) -> Self {
        F32(unsafe { _mm256_and_ps(mask, self.0) })
    }
    #[inline(always)]
    fn load_sums(_: Token, from: &[f64]) -> Self::Sums {
        let from = from[..8].as_ptr();
        unsafe { [_mm256_loadu_pd(from), _mm256_loadu_pd(from.add(4))] }
    }
    #[inline(always)]
    fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(self.0));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0));
            [
                _mm256_fmadd_pd(low, low, sums[0]),
                _mm256_fmadd_pd(high, high, sums[1]),
            ]
        }
    }
    #[inline(always)]
    fn store_sums(sums: Self::Sums, to: &mut [f64]) {
        let to = to[..8].as_mut_ptr();
        unsafe {
            _mm256_storeu_pd(to, sums[0]);
            _mm256_storeu_pd(to.add(4), sums[1]);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F64 {
    type Scalar = f64;
    type Isa = Token;
    type Mask = __m256d;
    type Sums = __m256d;
    type Single = F32;
    const LANES: usize = 4;

    intrinsics! {
        add(b) = _mm256_add_pd;
        mul(b) = _mm256_mul_pd;
        div(b) = _mm256_div_pd;
        sqrt() = _mm256_sqrt_pd;
        mul_add(b, c) = _mm256_fmadd_pd;
        neg_mul_add(b, c) = _mm256_fnmadd_pd;
    }

    #[inline(always)]
    fn splat(_: Token, x: f64) -> Self {
        F64(unsafe { _mm256_set1_pd(x) })
    }
    #[inline(always)]
    fn load(_: Token, from: &[f64]) -> Self {
        F64(unsafe { _mm256_loadu_pd(from[..4].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        unsafe { _mm256_storeu_pd(to[..4].as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn stream(self, to: &mut [f64]) {
        let to = to[..4].as_mut_ptr();
        assert!(to.cast::<__m256d>().is_aligned());
        unsafe { _mm256_stream_pd(to, self.0) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        F64(unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), self.0) })
    }
    #[inline(always)]
    fn lt(self, b: Self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn not_lt(self, b: Self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    fn is_nan(self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    fn and(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_and_pd(a, b) }
    }
    #[inline(always)]
    fn any(a: __m256d) -> bool {
        unsafe { _mm256_movemask_pd(a) != 0 }
    }
    #[inline(always)]
    fn select(mask: __m256d, yes: Self, no: Self) -> Self {
        F64(unsafe { _mm256_blendv_pd(no.0, yes.0, mask) })
    }
    #[inline(always)]
    fn only(self, mask: __m256d) -> Self {
        F64(unsafe { _mm256_and_pd(mask, self.0) })
    }
    #[inline(always)]
    fn load_sums(_: Token, from: &[f64]) -> __m256d {
        unsafe { _mm256_loadu_pd(from[..4].as_ptr()) }
    }
    #[inline(always)]
    fn add_squares(self, sums: __m256d) -> __m256d {
        unsafe { _mm256_fmadd_pd(self.0, self.0, sums) }
    }
    #[inline(always)]
    fn store_sums(sums: __m256d, to: &mut [f64]) {
        unsafe { _mm256_storeu_pd(to[..4].as_mut_ptr(), sums) }
    }
}

/// Applies an intrinsic of integers to float32 registers.
macro_rules! bits {
    ($intrinsic:ident($($x:expr),*)) => {
        F32(_mm256_castsi256_ps($intrinsic($(_mm256_castps_si256($x.0)),*)))
    };
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl SingleRegister for F32 {
    intrinsics! {
        and_bits(b) = _mm256_and_ps;
        or_bits(b) = _mm256_or_ps;
        xor_bits(b) = _mm256_xor_ps;
    }

    #[inline(always)]
    fn splat_bits(isa: Token, x: u32) -> Self {
        F32::splat(isa, f32::from_bits(x))
    }
    #[inline(always)]
    fn load_bits(isa: Token, from: &[u32]) -> Self {
        F32::load(isa, bytemuck::cast_slice(from))
    }
    #[inline(always)]
    fn load_u16(_: Token, from: &[u16]) -> Self {
        unsafe {
            let words = _mm_loadu_si128(from[..8].as_ptr().cast());
            F32(_mm256_castsi256_ps(_mm256_cvtepu16_epi32(words)))
        }
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u16]) {
        // The low halves of the words come together in each half of the
        // register. Saturation must not see the high halves.
        unsafe {
            let words = _mm256_castps_si256(self.0);
            let low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
            let packed = _mm256_packus_epi32(low, low);
            let together = _mm256_permute4x64_epi64::<0b10_00>(packed);
            _mm_storeu_si128(
                to[..8].as_mut_ptr().cast(),
                _mm256_castsi256_si128(together),
            );
        }
    }
    #[inline(always)]
    fn add_bits(self, b: Self) -> Self {
        unsafe { bits!(_mm256_add_epi32(self, b)) }
    }
    #[inline(always)]
    fn mul_bits(self, b: Self) -> Self {
        unsafe { bits!(_mm256_mullo_epi32(self, b)) }
    }
    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        unsafe {
            let words = _mm256_castps_si256(self.0);
            let by = _mm_cvtsi32_si128(N as i32);
            F32(_mm256_castsi256_ps(_mm256_sll_epi32(words, by)))
        }
    }
    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        unsafe {
            let words = _mm256_castps_si256(self.0);
            let by = _mm_cvtsi32_si128(N as i32);
            F32(_mm256_castsi256_ps(_mm256_srl_epi32(words, by)))
        }
    }
}
