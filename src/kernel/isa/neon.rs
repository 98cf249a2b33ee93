//! NEON: four registers are one vector.

use std::arch::aarch64::*;

use crate::kernel::vector::Vector;

#[derive(Clone, Copy)]
pub(crate) struct F32x16([float32x4_t; 4]);

/// Applies an intrinsic to each quarter of its operands.
macro_rules! quarters {
    ($f:ident, $($x:expr),+) => {
        unsafe { std::array::from_fn(|i| $f($($x[i]),+)) }
    };
}

// SAFETY, for every block below: every aarch64 processor that this is compiled
// for has NEON, and pointers are good for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for F32x16 {
    type Scalar = f32;
    type Mask = [uint32x4_t; 4];
    type Sums = [float64x2_t; 8];
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32x16([unsafe { vdupq_n_f32(x) }; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        F32x16(unsafe { std::array::from_fn(|i| vld1q_f32(from.add(4 * i))) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, quarter) in self.0.into_iter().enumerate() {
            unsafe { vst1q_f32(to.add(4 * i), quarter) }
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        F32x16(quarters!(vaddq_f32, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        F32x16(quarters!(vmulq_f32, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        F32x16(quarters!(vdivq_f32, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        F32x16(quarters!(vsqrtq_f32, self.0))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        F32x16(quarters!(vabsq_f32, self.0))
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        F32x16(quarters!(vfmaq_f32, c.0, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F32x16(quarters!(vfmsq_f32, c.0, self.0, b.0))
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        quarters!(vcltq_f32, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        unsafe { std::array::from_fn(|i| vmvnq_u32(vceqq_f32(self.0[i], self.0[i]))) }
    }
    #[inline(always)]
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        quarters!(vandq_u32, a, b)
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        a.into_iter()
            .all(|quarter| unsafe { vminvq_u32(quarter) } != 0)
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        F32x16(quarters!(vbslq_f32, mask, yes.0, no.0))
    }
    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // The intrinsic is not stable.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address,
                options(nostack, readonly, preserves_flags))
        }
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [unsafe { vdupq_n_f64(0.0) }; 8]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        let mut sums = sums;
        for (i, quarter) in self.0.into_iter().enumerate() {
            unsafe {
                let low = vcvt_f64_f32(vget_low_f32(quarter));
                let high = vcvt_high_f64_f32(quarter);
                sums[2 * i] = vfmaq_f64(sums[2 * i], low, low);
                sums[2 * i + 1] = vfmaq_f64(sums[2 * i + 1], high, high);
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        for (i, sum) in sums.into_iter().enumerate() {
            unsafe { vst1q_f64(to.add(2 * i), sum) }
        }
    }
}
