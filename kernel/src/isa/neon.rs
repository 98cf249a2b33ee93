//! NEON: a vector of float32 is four registers.

use std::arch::aarch64::*;

use super::{intrinsics, token};
use crate::simd::{Group, Instructions, Kernel, Register, Scalar, SingleRegister};

token!("neon", is_aarch64_feature_detected("neon"), Group<F32, 4>, Group<F64, 8>);

#[derive(Clone, Copy)]
pub(crate) struct F32(float32x4_t);
#[derive(Clone, Copy)]
pub(crate) struct F64(float64x2_t);

// SAFETY, for every block below: a token or a register, which comes from one,
// proves that the processor has NEON; slices are as long as a register.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F32 {
    type Scalar = f32;
    type Isa = Token;
    type Mask = uint32x4_t;
    type Sums = [float64x2_t; 2];
    type Single = F32;
    const LANES: usize = 4;

    intrinsics! {
        add(b) = vaddq_f32;
        mul(b) = vmulq_f32;
        div(b) = vdivq_f32;
        sqrt() = vsqrtq_f32;
        abs() = vabsq_f32;
    }

    #[inline(always)]
    fn splat(_: Token, x: f32) -> Self {
        F32(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    fn load(_: Token, from: &[f32]) -> Self {
        F32(unsafe { vld1q_f32(from[..4].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { vst1q_f32(to[..4].as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn stream(self, to: &mut [f32]) {
        self.store(to);
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        F32(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F32(unsafe { vfmsq_f32(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn lt(self, b: Self) -> uint32x4_t {
        unsafe { vcltq_f32(self.0, b.0) }
    }
    #[inline(always)]
    fn not_lt(self, b: Self) -> uint32x4_t {
        unsafe { vmvnq_u32(vcltq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    fn is_nan(self) -> uint32x4_t {
        unsafe { vmvnq_u32(vceqq_f32(self.0, self.0)) }
    }
    #[inline(always)]
    fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
        unsafe { vandq_u32(a, b) }
    }
    #[inline(always)]
    fn any(a: uint32x4_t) -> bool {
        unsafe { vmaxvq_u32(a) != 0 }
    }
    #[inline(always)]
    fn select(mask: uint32x4_t, yes: Self, no: Self) -> Self {
        F32(unsafe { vbslq_f32(mask, yes.0, no.0) })
    }
    #[inline(always)]
    fn only(self, mask: uint32x4_t) -> Self {
        F32(unsafe { vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(self.0))) })
    }
    #[inline(always)]
    fn load_sums(_: Token, from: &[f64]) -> Self::Sums {
        let from = from[..4].as_ptr();
        unsafe { [vld1q_f64(from), vld1q_f64(from.add(2))] }
    }
    #[inline(always)]
    fn add_squares(self, sums: Self::Sums) -> Self::Sums {
        unsafe {
            let low = vcvt_f64_f32(vget_low_f32(self.0));
            let high = vcvt_high_f64_f32(self.0);
            [vfmaq_f64(sums[0], low, low), vfmaq_f64(sums[1], high, high)]
        }
    }
    #[inline(always)]
    fn store_sums(sums: Self::Sums, to: &mut [f64]) {
        let to = to[..4].as_mut_ptr();
        unsafe {
            vst1q_f64(to, sums[0]);
            vst1q_f64(to.add(2), sums[1]);
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Register for F64 {
    type Scalar = f64;
    type Isa = Token;
    type Mask = uint64x2_t;
    type Sums = float64x2_t;
    type Single = F32;
    const LANES: usize = 2;

    intrinsics! {
        add(b) = vaddq_f64;
        mul(b) = vmulq_f64;
        div(b) = vdivq_f64;
        sqrt() = vsqrtq_f64;
        abs() = vabsq_f64;
    }

    #[inline(always)]
    fn splat(_: Token, x: f64) -> Self {
        F64(unsafe { vdupq_n_f64(x) })
    }
    #[inline(always)]
    fn load(_: Token, from: &[f64]) -> Self {
        F64(unsafe { vld1q_f64(from[..2].as_ptr()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [f64]) {
        unsafe { vst1q_f64(to[..2].as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn stream(self, to: &mut [f64]) {
        self.store(to);
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        F64(unsafe { vfmaq_f64(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        F64(unsafe { vfmsq_f64(c.0, self.0, b.0) })
    }
    #[inline(always)]
    fn lt(self, b: Self) -> uint64x2_t {
        unsafe { vcltq_f64(self.0, b.0) }
    }
    #[inline(always)]
    fn not_lt(self, b: Self) -> uint64x2_t {
        unsafe { vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(vcltq_f64(self.0, b.0)))) }
    }
    #[inline(always)]
    fn is_nan(self) -> uint64x2_t {
        unsafe {
            let same = vreinterpretq_u32_u64(vceqq_f64(self.0, self.0));
            vreinterpretq_u64_u32(vmvnq_u32(same))
        }
    }
    #[inline(always)]
    fn and(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        unsafe { vandq_u64(a, b) }
    }
    #[inline(always)]
    fn any(a: uint64x2_t) -> bool {
        unsafe { vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0 }
    }
    #[inline(always)]
    fn select(mask: uint64x2_t, yes: Self, no: Self) -> Self {
        F64(unsafe { vbslq_f64(mask, yes.0, no.0) })
    }
    #[inline(always)]
    fn only(self, mask: uint64x2_t) -> Self {
        F64(unsafe { vreinterpretq_f64_u64(vandq_u64(mask, vreinterpretq_u64_f64(self.0))) })
    }
    #[inline(always)]
    fn load_sums(_: Token, from: &[f64]) -> float64x2_t {
        unsafe { vld1q_f64(from[..2].as_ptr()) }
    }
    #[inline(always)]
    fn add_squares(self, sums: float64x2_t) -> float64x2_t {
        unsafe { vfmaq_f64(sums, self.0, self.0) }
    }
    #[inline(always)]
    fn store_sums(sums: float64x2_t, to: &mut [f64]) {
        unsafe { vst1q_f64(to[..2].as_mut_ptr(), sums) }
    }
}

/// Applies an intrinsic of integers to float32 registers.
macro_rules! bits {
    ($intrinsic:ident($($x:expr),*)) => {
        F32(vreinterpretq_f32_u32($intrinsic($(vreinterpretq_u32_f32($x.0)),*)))
    };
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl SingleRegister for F32 {
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
            F32(vreinterpretq_f32_u32(vmovl_u16(vld1_u16(
                from[..4].as_ptr(),
            ))))
        }
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u16]) {
        unsafe {
            vst1_u16(
                to[..4].as_mut_ptr(),
                vmovn_u32(vreinterpretq_u32_f32(self.0)),
            )
        }
    }
    #[inline(always)]
    fn add_bits(self, b: Self) -> Self {
        unsafe { bits!(vaddq_u32(self, b)) }
    }
    #[inline(always)]
    fn mul_bits(self, b: Self) -> Self {
        unsafe { bits!(vmulq_u32(self, b)) }
    }
    #[inline(always)]
    fn and_bits(self, b: Self) -> Self {
        unsafe { bits!(vandq_u32(self, b)) }
    }
    #[inline(always)]
    fn or_bits(self, b: Self) -> Self {
        unsafe { bits!(vorrq_u32(self, b)) }
    }
    #[inline(always)]
    fn xor_bits(self, b: Self) -> Self {
        unsafe { bits!(veorq_u32(self, b)) }
    }
    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        unsafe {
            let words = vreinterpretq_u32_f32(self.0);
            F32(vreinterpretq_f32_u32(vshlq_u32(
                words,
                vdupq_n_s32(N as i32),
            )))
        }
    }
    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        unsafe {
            let words = vreinterpretq_u32_f32(self.0);
            F32(vreinterpretq_f32_u32(vshlq_u32(
                words,
                vdupq_n_s32(-(N as i32)),
            )))
        }
    }
}
