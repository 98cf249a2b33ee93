//! AVX-512F: a vector of float32 is one register.

use std::arch::x86_64::*;

use super::intrinsics;
use crate::kernel::vector::{Pack, Register, SingleRegister, WordRegister};

#[derive(Clone, Copy)]
pub(crate) struct F32(__m512);
#[derive(Clone, Copy)]
pub(crate) struct F64(__m512d);
#[derive(Clone, Copy)]
pub(crate) struct U32(__m512i);

pub(crate) type Singles = Pack<F32, 1>;
pub(crate) type Doubles = Pack<F64, 2>;

/// Lanes of two registers, one after the other.
static COUNTING: [u32; 32] = {
    let mut lanes = [0; 32];
    let mut i = 0;
    while i < 32 {
        lanes[i] = i as u32;
        i += 1;
    }
    lanes
};

/// The first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// The upper half.
#[inline(always)]
unsafe fn high(x: __m512) -> __m256 {
    // SAFETY: the caller has AVX-512F.
    unsafe { _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0b11_10_11_10>(x, x)) }
}

// SAFETY, for every block below: the caller has AVX-512F, and pointers are
// good for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F32 {
    type Scalar = f32;
    type Mask = __mmask16;
    type Sums = [__m512d; 2];
    type Single = Singles;
    type Wide = Singles;
    const LANES: usize = 16;
    const UNROLLS: bool = true;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F32(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        unsafe {
            let low = _mm512_cvtpd_ps(_mm512_loadu_pd(from));
            let high = _mm512_cvtpd_ps(_mm512_loadu_pd(from.add(8)));
            let low = _mm512_castps_pd(_mm512_castps256_ps512(low));
            F32(_mm512_castpd_ps(_mm512_insertf64x4::<1>(
                low,
                _mm256_castps_pd(high),
            )))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe {
            _mm512_storeu_pd(to, _mm512_cvtps_pd(_mm512_castps512_ps256(self.0)));
            _mm512_storeu_pd(to.add(8), _mm512_cvtps_pd(high(self.0)));
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        unsafe { _mm512_stream_ps(to, self.0) }
    }
    intrinsics! {
        add(b) = _mm512_add_ps;
        mul(b) = _mm512_mul_ps;
        div(b) = _mm512_div_ps;
        sqrt() = _mm512_sqrt_ps;
        abs() = _mm512_abs_ps;
        mul_add(b, c) = _mm512_fmadd_ps;
        neg_mul_add(b, c) = _mm512_fnmadd_ps;
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> Self::Mask {
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a & b
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        a == !0
    }
    #[inline(always)]
    unsafe fn any(a: Self::Mask) -> bool {
        a != 0
    }
    #[inline(always)]
    unsafe fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a | b
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        F32(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: Self::Mask) -> Self {
        F32(unsafe { _mm512_maskz_mov_ps(mask, self.0) })
    }
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        let (a, b) = unsafe { (_mm512_castps_si512(self.0), _mm512_castps_si512(next.0)) };
        // `k` is known wherever it matters, and one of these is left.
        macro_rules! one_of {
            ($($k:literal)*) => {
                match k {
                    0 => a,
                    $($k => _mm512_alignr_epi32::<$k>(b, a),)*
                    _ => b,
                }
            };
        }
        F32(unsafe { _mm512_castsi512_ps(one_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        F32(unsafe { _mm512_maskz_loadu_ps(first(count), from) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: Self) -> Self {
        F32(unsafe { _mm512_mask_blend_ps(first(count), fill.0, self.0) })
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [unsafe { _mm512_setzero_pd() }; 2]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
            let high = _mm512_cvtps_pd(high(self.0));
            [
                _mm512_fmadd_pd(low, low, sums[0]),
                _mm512_fmadd_pd(high, high, sums[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        unsafe {
            _mm512_storeu_pd(to, sums[0]);
            _mm512_storeu_pd(to.add(8), sums[1]);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F64 {
    type Scalar = f64;
    type Mask = __mmask8;
    type Sums = __m512d;
    type Single = Singles;
    type Wide = Doubles;
    const LANES: usize = 8;
    const UNROLLS: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        F64(unsafe { _mm512_set1_pd(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F64(unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(from)) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        F64(unsafe { _mm512_loadu_pd(from) })
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, _mm512_cvtpd_ps(self.0)) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe { _mm512_storeu_pd(to, self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f64) {
        unsafe { _mm512_stream_pd(to, self.0) }
    }
    intrinsics! {
        add(b) = _mm512_add_pd;
        mul(b) = _mm512_mul_pd;
        div(b) = _mm512_div_pd;
        sqrt() = _mm512_sqrt_pd;
        abs() = _mm512_abs_pd;
        mul_add(b, c) = _mm512_fmadd_pd;
        neg_mul_add(b, c) = _mm512_fnmadd_pd;
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        unsafe { _mm512_cmp_pd_mask::<_CMP_LT_OQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> Self::Mask {
        unsafe { _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        unsafe { _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(self.0, self.0) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a & b
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        a == !0
    }
    #[inline(always)]
    unsafe fn any(a: Self::Mask) -> bool {
        a != 0
    }
    #[inline(always)]
    unsafe fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a | b
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        F64(unsafe { _mm512_mask_blend_pd(mask, no.0, yes.0) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: Self::Mask) -> Self {
        F64(unsafe { _mm512_maskz_mov_pd(mask, self.0) })
    }
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        unsafe {
            let lanes = _mm256_loadu_si256(COUNTING.as_ptr().add(k).cast());
            let lanes = _mm512_cvtepu32_epi64(lanes);
            F64(_mm512_permutex2var_pd(self.0, lanes, next.0))
        }
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        unsafe { _mm512_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe { _mm512_fmadd_pd(self.0, self.0, sums) }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        unsafe { _mm512_storeu_pd(to, sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl SingleRegister for F32 {
    type Words = U32;
    #[inline(always)]
    unsafe fn to_words(self) -> U32 {
        U32(unsafe { _mm512_castps_si512(self.0) })
    }
    #[inline(always)]
    unsafe fn from_words(words: U32) -> Self {
        F32(unsafe { _mm512_castsi512_ps(words.0) })
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl WordRegister for U32 {
    const LANES: usize = 16;
    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        U32(unsafe { _mm512_set1_epi32(x as i32) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        U32(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        U32(unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(self.0)) }
    }
    intrinsics! {
        add(b) = _mm512_add_epi32;
        mul(b) = _mm512_mullo_epi32;
        and(b) = _mm512_and_si512;
        or(b) = _mm512_or_si512;
        xor(b) = _mm512_xor_si512;
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(self) -> Self {
        U32(unsafe { _mm512_slli_epi32::<N>(self.0) })
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(self) -> Self {
        U32(unsafe { _mm512_srli_epi32::<N>(self.0) })
    }
}
