//! AVX2 with FMA: two registers are one vector.

use std::arch::x86_64::*;

use crate::kernel::vector::Vector;

#[derive(Clone, Copy)]
pub(crate) struct F32x16([__m256; 2]);

/// Applies an intrinsic to both halves of its operands.
macro_rules! halves {
    ($f:ident, $($x:expr),+) => {
        unsafe { [$f($($x[0]),+), $f($($x[1]),+)] }
    };
}

// SAFETY, for every block below: the trait's contract is that the caller has
// AVX2 and FMA, and that pointers are good for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for F32x16 {
    type Scalar = f32;
    type Mask = [__m256; 2];
    type Sums = [__m256d; 4];
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32x16([unsafe { _mm256_set1_ps(x) }; 2])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        F32x16(unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0[0]);
            _mm256_storeu_ps(to.add(8), self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        F32x16(halves!(_mm256_add_ps, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        F32x16(halves!(_mm256_mul_ps, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        F32x16(halves!(_mm256_div_ps, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        F32x16(halves!(_mm256_sqrt_ps, self.0))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        let sign = [unsafe { _mm256_set1_ps(-0.0) }; 2];
        F32x16(halves!(_mm256_andnot_ps, sign, self.0))
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        F32x16(halves!(_mm256_fmadd_ps, self.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F32x16(halves!(_mm256_fnmadd_ps, self.0, b.0, c.0))
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        unsafe {
            [
                _mm256_cmp_ps::<_CMP_LT_OQ>(self.0[0], b.0[0]),
                _mm256_cmp_ps::<_CMP_LT_OQ>(self.0[1], b.0[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        unsafe {
            [
                _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0[0], self.0[0]),
                _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0[1], self.0[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        halves!(_mm256_and_ps, a, b)
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_and_ps(a[0], a[1])) == 0xff }
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        F32x16(halves!(_mm256_blendv_ps, no.0, yes.0, mask))
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [unsafe { _mm256_setzero_pd() }; 4]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe {
            let quarters = [
                _mm256_castps256_ps128(self.0[0]),
                _mm256_extractf128_ps::<1>(self.0[0]),
                _mm256_castps256_ps128(self.0[1]),
                _mm256_extractf128_ps::<1>(self.0[1]),
            ];
            let mut sums = sums;
            for (sum, quarter) in sums.iter_mut().zip(quarters) {
                let x = _mm256_cvtps_pd(quarter);
                *sum = _mm256_fmadd_pd(x, x, *sum);
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        for (i, sum) in sums.into_iter().enumerate() {
            unsafe { _mm256_storeu_pd(to.add(4 * i), sum) }
        }
    }
}
