//! NEON: a vector of float32 is four registers.

use std::arch::aarch64::*;

use super::token::{operations, token};
use crate::root::inverse_root;
use crate::simd::{Group, Instructions, Kernel, Register, SingleRegister};

token!("neon", is_aarch64_feature_detected("neon"), f32 => Group<F32, 4>, f64 => Group<F64, 8>);

#[derive(Clone, Copy)]
pub(crate) struct F32(float32x4_t);
#[derive(Clone, Copy)]
pub(crate) struct F64(float64x2_t);

impl Register for F32 {
    type Scalar = f32;
    type Isa = Token;
    type Mask = uint32x4_t;
    type Sums = [float64x2_t; 2];
    type Single = F32;
    const LANES: usize = 4;

    operations! {
        fn add(self, b: Self) -> Self = F32(vaddq_f32(self.0, b.0));
        fn mul(self, b: Self) -> Self = F32(vmulq_f32(self.0, b.0));
        fn div(self, b: Self) -> Self = F32(vdivq_f32(self.0, b.0));
        fn sqrt(self) -> Self = F32(vsqrtq_f32(self.0));
        fn abs(self) -> Self = F32(vabsq_f32(self.0));
        fn splat(_: Token, x: f32) -> Self = F32(vdupq_n_f32(x));
        fn load(_: Token, from: &[f32]) -> Self = F32(vld1q_f32(from[..4].as_ptr()));
        fn store(self, to: &mut [f32]) = vst1q_f32(to[..4].as_mut_ptr(), self.0);
        fn stream(self, to: &mut [f32]) = {
            self.store(to);
        };
        fn mul_add(self, b: Self, c: Self) -> Self = F32(vfmaq_f32(c.0, self.0, b.0));
        fn neg_mul_add(self, b: Self, c: Self) -> Self = F32(vfmsq_f32(c.0, self.0, b.0));
        fn lt(self, b: Self) -> uint32x4_t = vcltq_f32(self.0, b.0);
        fn not_lt(self, b: Self) -> uint32x4_t = vmvnq_u32(vcltq_f32(self.0, b.0));
        fn is_nan(self) -> uint32x4_t = vmvnq_u32(vceqq_f32(self.0, self.0));
        fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        fn any(a: uint32x4_t) -> bool = vmaxvq_u32(a) != 0;
        fn select(mask: uint32x4_t, yes: Self, no: Self) -> Self = F32(vbslq_f32(mask, yes.0, no.0));
        fn only(self, mask: uint32x4_t) -> Self = {
            F32(vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(self.0))))
        };
        fn inverse_root(self, isa: Token) -> Self = inverse_root(isa, self);
        fn load_sums(_: Token, from: &[f64]) -> Self::Sums = {
            let from = from[..4].as_ptr();
            [vld1q_f64(from), vld1q_f64(from.add(2))]
        };
        fn add_squares(self, sums: Self::Sums) -> Self::Sums = {
            let low = vcvt_f64_f32(vget_low_f32(self.0));
            let high = vcvt_high_f64_f32(self.0);
            [vfmaq_f64(sums[0], low, low), vfmaq_f64(sums[1], high, high)]
        };
        fn store_sums(sums: Self::Sums, to: &mut [f64]) = {
            let to = to[..4].as_mut_ptr();
            vst1q_f64(to, sums[0]);
            vst1q_f64(to.add(2), sums[1]);
        };
    }
}

impl Register for F64 {
    type Scalar = f64;
    type Isa = Token;
    type Mask = uint64x2_t;
    type Sums = float64x2_t;
    type Single = F32;
    const LANES: usize = 2;

    operations! {
        fn add(self, b: Self) -> Self = F64(vaddq_f64(self.0, b.0));
        fn mul(self, b: Self) -> Self = F64(vmulq_f64(self.0, b.0));
        fn div(self, b: Self) -> Self = F64(vdivq_f64(self.0, b.0));
        fn sqrt(self) -> Self = F64(vsqrtq_f64(self.0));
        fn abs(self) -> Self = F64(vabsq_f64(self.0));
        fn splat(_: Token, x: f64) -> Self = F64(vdupq_n_f64(x));
        fn load(_: Token, from: &[f64]) -> Self = F64(vld1q_f64(from[..2].as_ptr()));
        fn store(self, to: &mut [f64]) = vst1q_f64(to[..2].as_mut_ptr(), self.0);
        fn stream(self, to: &mut [f64]) = {
            self.store(to);
        };
        fn mul_add(self, b: Self, c: Self) -> Self = F64(vfmaq_f64(c.0, self.0, b.0));
        fn neg_mul_add(self, b: Self, c: Self) -> Self = F64(vfmsq_f64(c.0, self.0, b.0));
        fn lt(self, b: Self) -> uint64x2_t = vcltq_f64(self.0, b.0);
        fn not_lt(self, b: Self) -> uint64x2_t = {
            let less = vreinterpretq_u32_u64(vcltq_f64(self.0, b.0));
            vreinterpretq_u64_u32(vmvnq_u32(less))
        };
        fn is_nan(self) -> uint64x2_t = {
            let same = vreinterpretq_u32_u64(vceqq_f64(self.0, self.0));
            vreinterpretq_u64_u32(vmvnq_u32(same))
        };
        fn and(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t = vandq_u64(a, b);
        fn any(a: uint64x2_t) -> bool = vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0;
        fn select(mask: uint64x2_t, yes: Self, no: Self) -> Self = F64(vbslq_f64(mask, yes.0, no.0));
        fn only(self, mask: uint64x2_t) -> Self = {
            F64(vreinterpretq_f64_u64(vandq_u64(mask, vreinterpretq_u64_f64(self.0))))
        };
        fn load_sums(_: Token, from: &[f64]) -> float64x2_t = vld1q_f64(from[..2].as_ptr());
        fn add_squares(self, sums: float64x2_t) -> float64x2_t = vfmaq_f64(sums, self.0, self.0);
        fn store_sums(sums: float64x2_t, to: &mut [f64]) = vst1q_f64(to[..2].as_mut_ptr(), sums);
    }
}

/// Applies an intrinsic of integers to float32 registers.
macro_rules! bits {
    ($intrinsic:ident($($x:expr),*)) => {
        F32(vreinterpretq_f32_u32($intrinsic($(vreinterpretq_u32_f32($x.0)),*)))
    };
}

impl SingleRegister for F32 {
    operations! {
        fn splat_bits(isa: Token, x: u32) -> Self = F32::splat(isa, f32::from_bits(x));
        fn load_bits(isa: Token, from: &[u32]) -> Self = F32::load(isa, bytemuck::cast_slice(from));
        fn load_u16(_: Token, from: &[u16]) -> Self = {
            F32(vreinterpretq_f32_u32(vmovl_u16(vld1_u16(
                from[..4].as_ptr(),
            ))))
        };
        fn store_u16(self, to: &mut [u16]) = {
            vst1_u16(
                to[..4].as_mut_ptr(),
                vmovn_u32(vreinterpretq_u32_f32(self.0)),
            )
        };
        fn add_bits(self, b: Self) -> Self = bits!(vaddq_u32(self, b));
        fn mul_bits(self, b: Self) -> Self = bits!(vmulq_u32(self, b));
        fn and_bits(self, b: Self) -> Self = bits!(vandq_u32(self, b));
        fn or_bits(self, b: Self) -> Self = bits!(vorrq_u32(self, b));
        fn xor_bits(self, b: Self) -> Self = bits!(veorq_u32(self, b));
        fn shl_bits<const N: u32>(self) -> Self = {
            let words = vreinterpretq_u32_f32(self.0);
            F32(vreinterpretq_f32_u32(vshlq_u32(
                words,
                vdupq_n_s32(N as i32),
            )))
        };
        fn shr_bits<const N: u32>(self) -> Self = {
            let words = vreinterpretq_u32_f32(self.0);
            F32(vreinterpretq_f32_u32(vshlq_u32(
                words,
                vdupq_n_s32(-(N as i32)),
            )))
        };
    }
}
