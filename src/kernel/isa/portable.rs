//! The portable instruction set: plain Rust, one lane after the other. Exact,
//! and slow where the compiler's target has no fused multiply-add.

use crate::kernel::vector::Vector;

#[derive(Clone, Copy)]
pub(crate) struct F32x16([f32; 16]);

impl F32x16 {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        F32x16(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        F32x16(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }

    #[inline(always)]
    fn zip3(self, b: Self, c: Self, f: impl Fn(f32, f32, f32) -> f32) -> Self {
        F32x16(std::array::from_fn(|i| f(self.0[i], b.0[i], c.0[i])))
    }
}

impl Vector for F32x16 {
    type Scalar = f32;
    type Mask = [bool; 16];
    type Sums = [f64; 16];
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32x16([x; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller lets us read 16 elements.
        F32x16(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller lets us write 16 elements.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        self.zip3(b, c, f32::mul_add)
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        self.zip3(b, c, |a, b, c| (-a).mul_add(b, c))
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        std::array::from_fn(|i| self.0[i] < b.0[i])
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        self.0.map(f32::is_nan)
    }
    #[inline(always)]
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        a.iter().all(|&x| x)
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        F32x16(std::array::from_fn(|i| {
            if mask[i] {
                yes.0[i]
            } else {
                no.0[i]
            }
        }))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [0.0; 16]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        // The square of a float32 is exact in float64: fused or not is the
        // same.
        std::array::from_fn(|i| {
            let x = f64::from(self.0[i]);
            x * x + sums[i]
        })
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        // SAFETY: the caller lets us write 16 elements.
        unsafe { to.cast::<[f64; 16]>().write_unaligned(sums) }
    }
}
