//! AVX2 with FMA: a vector of float32 is one register, of half the lanes over
//! which sums are taken. With two, all that a loop needs would not find room in
//! sixteen registers.

use std::arch::x86_64::*;

use super::intrinsics;
use crate::kernel::vector::{Pack, Register, SingleRegister, WordRegister};

#[derive(Clone, Copy)]
pub(crate) struct F32(__m256);
#[derive(Clone, Copy)]
pub(crate) struct F64(__m256d);
#[derive(Clone, Copy)]
pub(crate) struct U32(__m256i);

pub(crate) type Singles = Pack<F32, 1>;
pub(crate) type Doubles = Pack<F64, 2>;

/// All bits of the first `count` of eight words.
#[inline(always)]
unsafe fn first_words(count: usize) -> __m256i {
    static BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: from `8 - count` on there are eight; the caller has AVX2.
    unsafe { _mm256_loadu_si256(BITS.as_ptr().add(8 - count.min(8)).cast()) }
}

/// All bits of the first `count` of four double words.
#[inline(always)]
unsafe fn first_doubles(count: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_cvtepi32_epi64(_mm256_castsi256_si128(first_words(count))) }
}

// SAFETY, for every block below: the caller has AVX2 and FMA, and pointers are
// good for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F32 {
    type Scalar = f32;
    type Mask = __m256;
    type Sums = [__m256d; 2];
    type Single = Singles;
    type Wide = Pack<F32, 2>;
    const LANES: usize = 8;
    const UNROLLS: bool = true;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    intrinsics! {
        add(b) = _mm256_add_ps;
        mul(b) = _mm256_mul_ps;
        div(b) = _mm256_div_ps;
        sqrt() = _mm256_sqrt_ps;
        mul_add(b, c) = _mm256_fmadd_ps;
        neg_mul_add(b, c) = _mm256_fnmadd_ps;
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F32(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        unsafe {
            let low = _mm256_cvtpd_ps(_mm256_loadu_pd(from));
            let high = _mm256_cvtpd_ps(_mm256_loadu_pd(from.add(4)));
            F32(_mm256_set_m128(high, low))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe {
            _mm256_storeu_pd(to, _mm256_cvtps_pd(_mm256_castps256_ps128(self.0)));
            let high = _mm256_extractf128_ps::<1>(self.0);
            _mm256_storeu_pd(to.add(4), _mm256_cvtps_pd(high));
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        unsafe { _mm256_stream_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        F32(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn all(a: __m256) -> bool {
        unsafe { _mm256_movemask_ps(a) == 0xff }
    }
    #[inline(always)]
    unsafe fn any(a: __m256) -> bool {
        unsafe { _mm256_movemask_ps(a) != 0 }
    }
    #[inline(always)]
    unsafe fn or(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_or_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn select(mask: __m256, yes: Self, no: Self) -> Self {
        F32(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: __m256) -> Self {
        F32(unsafe { _mm256_and_ps(mask, self.0) })
    }
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        unsafe {
            let low = _mm256_castps_si256(self.0);
            let high = _mm256_castps_si256(next.0);
            let middle = _mm256_permute2x128_si256::<0x21>(low, high);
            F32(_mm256_castsi256_ps(match k {
                1 => _mm256_alignr_epi8::<4>(middle, low),
                2 => _mm256_alignr_epi8::<8>(middle, low),
                3 => _mm256_alignr_epi8::<12>(middle, low),
                4 => middle,
                5 => _mm256_alignr_epi8::<4>(high, middle),
                6 => _mm256_alignr_epi8::<8>(high, middle),
                7 => _mm256_alignr_epi8::<12>(high, middle),
                _ => low,
            }))
        }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        F32(unsafe { _mm256_maskload_ps(from, first_words(count)) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm256_maskstore_ps(to, first_words(count), self.0) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: Self) -> Self {
        let first = unsafe { _mm256_castsi256_ps(first_words(count)) };
        F32(unsafe { _mm256_blendv_ps(fill.0, self.0, first) })
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [unsafe { _mm256_setzero_pd() }; 2]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
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
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        unsafe {
            _mm256_storeu_pd(to, sums[0]);
            _mm256_storeu_pd(to.add(4), sums[1]);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F64 {
    type Scalar = f64;
    type Mask = __m256d;
    type Sums = __m256d;
    type Single = Singles;
    type Wide = Pack<F64, 4>;
    const LANES: usize = 4;
    const UNROLLS: bool = false;

    intrinsics! {
        add(b) = _mm256_add_pd;
        mul(b) = _mm256_mul_pd;
        div(b) = _mm256_div_pd;
        sqrt() = _mm256_sqrt_pd;
        mul_add(b, c) = _mm256_fmadd_pd;
        neg_mul_add(b, c) = _mm256_fnmadd_pd;
    }

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        F64(unsafe { _mm256_set1_pd(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F64(unsafe { _mm256_cvtps_pd(_mm_loadu_ps(from)) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        F64(unsafe { _mm256_loadu_pd(from) })
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { _mm_storeu_ps(to, _mm256_cvtpd_ps(self.0)) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe { _mm256_storeu_pd(to, self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f64) {
        unsafe { _mm256_stream_pd(to, self.0) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        F64(unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), self.0) })
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> __m256d {
        unsafe { _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_and_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn all(a: __m256d) -> bool {
        unsafe { _mm256_movemask_pd(a) == 0xf }
    }
    #[inline(always)]
    unsafe fn any(a: __m256d) -> bool {
        unsafe { _mm256_movemask_pd(a) != 0 }
    }
    #[inline(always)]
    unsafe fn or(a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_or_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn select(mask: __m256d, yes: Self, no: Self) -> Self {
        F64(unsafe { _mm256_blendv_pd(no.0, yes.0, mask) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: __m256d) -> Self {
        F64(unsafe { _mm256_and_pd(mask, self.0) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f64, count: usize) -> Self {
        F64(unsafe { _mm256_maskload_pd(from, first_doubles(count)) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f64, count: usize) {
        unsafe { _mm256_maskstore_pd(to, first_doubles(count), self.0) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: Self) -> Self {
        let first = unsafe { _mm256_castsi256_pd(first_doubles(count)) };
        F64(unsafe { _mm256_blendv_pd(fill.0, self.0, first) })
    }
    #[inline(always)]
    unsafe fn no_sums() -> __m256d {
        unsafe { _mm256_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: __m256d) -> __m256d {
        unsafe { _mm256_fmadd_pd(self.0, self.0, sums) }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: __m256d, to: *mut f64) {
        unsafe { _mm256_storeu_pd(to, sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl SingleRegister for F32 {
    type Words = U32;
    #[inline(always)]
    unsafe fn to_words(self) -> U32 {
        U32(unsafe { _mm256_castps_si256(self.0) })
    }
    #[inline(always)]
    unsafe fn from_words(words: U32) -> Self {
        F32(unsafe { _mm256_castsi256_ps(words.0) })
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl WordRegister for U32 {
    const LANES: usize = 8;
    intrinsics! {
        add(b) = _mm256_add_epi32;
        mul(b) = _mm256_mullo_epi32;
        and(b) = _mm256_and_si256;
        or(b) = _mm256_or_si256;
        xor(b) = _mm256_xor_si256;
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        U32(unsafe { _mm256_set1_epi32(x as i32) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        U32(unsafe { _mm256_loadu_si256(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        U32(unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16) {
        // The low halves of the words come together in each half of the
        // register, which saturation must not see the high ones of.
        unsafe {
            let low = _mm256_and_si256(self.0, _mm256_set1_epi32(0xffff));
            let packed = _mm256_packus_epi32(low, low);
            let together = _mm256_permute4x64_epi64::<0b10_00>(packed);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(together));
        }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(self) -> Self {
        U32(unsafe { _mm256_sll_epi32(self.0, _mm_cvtsi32_si128(N as i32)) })
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(self) -> Self {
        U32(unsafe { _mm256_srl_epi32(self.0, _mm_cvtsi32_si128(N as i32)) })
    }
}
