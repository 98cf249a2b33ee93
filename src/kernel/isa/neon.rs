//! NEON: a vector of float32 is four registers.

use std::arch::aarch64::*;

use super::intrinsics;
use crate::kernel::vector::{Pack, Register, SingleRegister, WordRegister};

#[derive(Clone, Copy)]
pub(crate) struct F32(float32x4_t);
#[derive(Clone, Copy)]
pub(crate) struct F64(float64x2_t);
#[derive(Clone, Copy)]
pub(crate) struct U32(uint32x4_t);

pub(crate) type Singles = Pack<F32, 4>;
pub(crate) type Doubles = Pack<F64, 8>;

// SAFETY, for every block below: the caller has NEON, and pointers are good
// for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F32 {
    type Scalar = f32;
    type Mask = uint32x4_t;
    type Sums = [float64x2_t; 2];
    type Single = Singles;
    type Wide = Singles;
    const LANES: usize = 4;
    const UNROLLS: bool = true;

    intrinsics! {
        add(b) = vaddq_f32;
        mul(b) = vmulq_f32;
        div(b) = vdivq_f32;
        sqrt() = vsqrtq_f32;
        abs() = vabsq_f32;
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F32(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        unsafe {
            let low = vcvt_f32_f64(vld1q_f64(from));
            F32(vcvt_high_f32_f64(low, vld1q_f64(from.add(2))))
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe {
            vst1q_f64(to, vcvt_f64_f32(vget_low_f32(self.0)));
            vst1q_f64(to.add(2), vcvt_high_f64_f32(self.0));
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        unsafe { self.store_f32(to) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        F32(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F32(unsafe { vfmsq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> uint32x4_t {
        unsafe { vcltq_f32(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> uint32x4_t {
        unsafe { vmvnq_u32(vcltq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> uint32x4_t {
        unsafe { vmvnq_u32(vceqq_f32(self.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vandq_u32(a, b) }
    }
    #[inline(always)]
    unsafe fn all(a: uint32x4_t) -> bool {
        unsafe { vminvq_u32(a) != 0 }
    }
    #[inline(always)]
    unsafe fn any(a: uint32x4_t) -> bool {
        unsafe { vmaxvq_u32(a) != 0 }
    }
    #[inline(always)]
    unsafe fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vorrq_u32(a, b) }
    }
    #[inline(always)]
    unsafe fn select(mask: uint32x4_t, yes: Self, no: Self) -> Self {
        F32(unsafe { vbslq_f32(mask, yes.0, no.0) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: uint32x4_t) -> Self {
        F32(unsafe { vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(self.0))) })
    }
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        F32(unsafe {
            match k {
                1 => vextq_f32::<1>(self.0, next.0),
                2 => vextq_f32::<2>(self.0, next.0),
                3 => vextq_f32::<3>(self.0, next.0),
                _ => self.0,
            }
        })
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [unsafe { vdupq_n_f64(0.0) }; 2]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe {
            let low = vcvt_f64_f32(vget_low_f32(self.0));
            let high = vcvt_high_f64_f32(self.0);
            [vfmaq_f64(sums[0], low, low), vfmaq_f64(sums[1], high, high)]
        }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        unsafe {
            vst1q_f64(to, sums[0]);
            vst1q_f64(to.add(2), sums[1]);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F64 {
    type Scalar = f64;
    type Mask = uint64x2_t;
    type Sums = float64x2_t;
    type Single = Singles;
    type Wide = Doubles;
    const LANES: usize = 2;
    const UNROLLS: bool = false;

    intrinsics! {
        add(b) = vaddq_f64;
        mul(b) = vmulq_f64;
        div(b) = vdivq_f64;
        sqrt() = vsqrtq_f64;
        abs() = vabsq_f64;
    }

    #[inline(always)]
    unsafe fn splat(x: f64) -> Self {
        F64(unsafe { vdupq_n_f64(x) })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        F64(unsafe { vcvt_f64_f32(vld1_f32(from)) })
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        F64(unsafe { vld1q_f64(from) })
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        unsafe { vst1_f32(to, vcvt_f32_f64(self.0)) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        unsafe { vst1q_f64(to, self.0) }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f64) {
        unsafe { self.store_f64(to) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        F64(unsafe { vfmaq_f64(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F64(unsafe { vfmsq_f64(c.0, self.0, b.0) })
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> uint64x2_t {
        unsafe { vcltq_f64(self.0, b.0) }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> uint64x2_t {
        unsafe { vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vcltq_f64(self.0, b.0)))) }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> uint64x2_t {
        unsafe {
            let same = vreinterpretq_u32_u64(vceqq_f64(self.0, self.0));
            vreinterpretq_u64_u32(vmvnq_u32(same))
        }
    }
    #[inline(always)]
    unsafe fn and(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        unsafe { vandq_u64(a, b) }
    }
    #[inline(always)]
    unsafe fn all(a: uint64x2_t) -> bool {
        unsafe { vminvq_u32(vreinterpretq_u32_u64(a)) != 0 }
    }
    #[inline(always)]
    unsafe fn any(a: uint64x2_t) -> bool {
        unsafe { vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0 }
    }
    #[inline(always)]
    unsafe fn or(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        unsafe { vorrq_u64(a, b) }
    }
    #[inline(always)]
    unsafe fn select(mask: uint64x2_t, yes: Self, no: Self) -> Self {
        F64(unsafe { vbslq_f64(mask, yes.0, no.0) })
    }
    #[inline(always)]
    unsafe fn only(self, mask: uint64x2_t) -> Self {
        F64(unsafe { vreinterpretq_f64_u64(vandq_u64(mask, vreinterpretq_u64_f64(self.0))) })
    }
    #[inline(always)]
    unsafe fn no_sums() -> float64x2_t {
        unsafe { vdupq_n_f64(0.0) }
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: float64x2_t) -> float64x2_t {
        unsafe { vfmaq_f64(sums, self.0, self.0) }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: float64x2_t, to: *mut f64) {
        unsafe { vst1q_f64(to, sums) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl SingleRegister for F32 {
    type Words = U32;
    #[inline(always)]
    unsafe fn to_words(self) -> U32 {
        U32(unsafe { vreinterpretq_u32_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn from_words(words: U32) -> Self {
        F32(unsafe { vreinterpretq_f32_u32(words.0) })
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl WordRegister for U32 {
    const LANES: usize = 4;
    intrinsics! {
        add(b) = vaddq_u32;
        mul(b) = vmulq_u32;
        and(b) = vandq_u32;
        or(b) = vorrq_u32;
        xor(b) = veorq_u32;
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        U32(unsafe { vdupq_n_u32(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        U32(unsafe { vld1q_u32(from) })
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        U32(unsafe { vmovl_u16(vld1_u16(from)) })
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16) {
        unsafe { vst1_u16(to, vmovn_u32(self.0)) }
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(self) -> Self {
        U32(unsafe { vshlq_u32(self.0, vdupq_n_s32(N as i32)) })
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(self) -> Self {
        U32(unsafe { vshlq_u32(self.0, vdupq_n_s32(-(N as i32))) })
    }
}
