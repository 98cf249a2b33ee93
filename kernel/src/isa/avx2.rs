//! AVX2 with FMA: a vector of float32 is two registers.

// The number of a register says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::token::{operations, token};
use crate::root::inverse_root;
use crate::simd::{Group, Instructions, Kernel, Register, SingleRegister, LANES};

token!("avx2,fma", is_x86_feature_detected("avx2", "fma"), f32 => Group<F32, 2>, f64 => Group<F64, 4>);

#[derive(Clone, Copy)]
pub(crate) struct F32(__m256);
#[derive(Clone, Copy)]
pub(crate) struct F64(__m256d);

/// Rows become columns, in blocks of 8 x 8 (see [`Register::transpose`]).
#[inline(always)]
pub(super) fn transpose((from, from_pitch): (&[f32], usize), (to, to_pitch): (&mut [f32], usize)) {
    assert!(from.len() >= (LANES - 1) * from_pitch + LANES);
    assert!(to.len() >= (LANES - 1) * to_pitch + LANES);
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    /// The block of rows from one on, and columns from another on.
    macro_rules! block {
        ($row:literal, $column:literal) => {{
            let mut rows = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                rows[i] = _mm256_loadu_ps(from.add(($row + i) * from_pitch + $column));
            }
            // Pairs, then fours, then halves come together.
            let mut pairs = [rows[0]; 8];
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            let mut fours = [rows[0]; 8];
            for i in 0..2 {
                let (a, b) = (pairs[4 * i], pairs[4 * i + 2]);
                fours[4 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
                fours[4 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
                let (a, b) = (pairs[4 * i + 1], pairs[4 * i + 3]);
                fours[4 * i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
                fours[4 * i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
            }
            let mut columns = [rows[0]; 8];
            for i in 0..4 {
                columns[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
                columns[4 + i] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
            }
            for i in 0..8 {
                _mm256_storeu_ps(to.add(($column + i) * to_pitch + $row), columns[i]);
            }
        }};
    }
    // SAFETY: the callers have tokens, and eight numbers are behind each place, since there
    // are as many rows.
    unsafe {
        block!(0, 0);
        block!(0, 8);
        block!(8, 0);
        block!(8, 8);
    }
}

/// The sums of the rows of a block (see [`Register::sums_of_rows`]).
#[inline(always)]
pub(super) fn sums_of_rows(block: &[[f32; LANES]; LANES]) -> [f32; LANES] {
    /// Of each of two registers, the sums of its lower and its upper half.
    macro_rules! halves {
        ($a:expr, $b:expr) => {{
            let (a, b) = ($a, $b);
            let lower = _mm256_permute2f128_ps::<0x20>(a, b);
            _mm256_add_ps(lower, _mm256_permute2f128_ps::<0x31>(a, b))
        }};
    }
    let mut sums = [0.0; LANES];
    // SAFETY: the callers have tokens, and eight numbers are behind each place.
    unsafe {
        for half in [0, 8] {
            let mut rows = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                let row = &block[half + i];
                let upper = _mm256_loadu_ps(row[8..].as_ptr());
                rows[i] = _mm256_add_ps(_mm256_loadu_ps(row.as_ptr()), upper);
            }
            // Of eight numbers of a row four remain, then two, then one.
            let mut fours = [rows[0]; 4];
            for i in 0..4 {
                fours[i] = halves!(rows[2 * i], rows[2 * i + 1]);
            }
            let mut pairs = [rows[0]; 2];
            for i in 0..2 {
                let (a, b) = (fours[2 * i], fours[2 * i + 1]);
                let lower = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
                pairs[i] = _mm256_add_ps(lower, _mm256_shuffle_ps::<0b11_10_11_10>(a, b));
            }
            let [a, b] = pairs;
            let lower = _mm256_shuffle_ps::<0b10_00_10_00>(a, b);
            let all = _mm256_add_ps(lower, _mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            // Even rows are in the lower half, odd ones in the upper.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let to = sums[half..].as_mut_ptr();
            _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(all, order));
        }
    }
    sums
}

impl Register for F32 {
    type Scalar = f32;
    type Isa = Token;
    type Mask = __m256;
    type Sums = [__m256d; 2];
    type Single = F32;
    const LANES: usize = 8;

    operations! {
        fn add(self, b: Self) -> Self = F32(_mm256_add_ps(self.0, b.0));
        fn mul(self, b: Self) -> Self = F32(_mm256_mul_ps(self.0, b.0));
        fn div(self, b: Self) -> Self = F32(_mm256_div_ps(self.0, b.0));
        fn sqrt(self) -> Self = F32(_mm256_sqrt_ps(self.0));
        fn mul_add(self, b: Self, c: Self) -> Self = F32(_mm256_fmadd_ps(self.0, b.0, c.0));
        fn neg_mul_add(self, b: Self, c: Self) -> Self = F32(_mm256_fnmadd_ps(self.0, b.0, c.0));
        fn splat(_: Token, x: f32) -> Self = F32(_mm256_set1_ps(x));
        fn load(_: Token, from: &[f32]) -> Self = F32(_mm256_loadu_ps(from[..8].as_ptr()));
        fn store(self, to: &mut [f32]) = _mm256_storeu_ps(to[..8].as_mut_ptr(), self.0);
        fn stream(self, to: &mut [f32]) = {
            let to = to[..8].as_mut_ptr();
            assert!(to.cast::<__m256>().is_aligned());
            _mm256_stream_ps(to, self.0)
        };
        fn abs(self) -> Self = F32(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0));
        fn lt(self, b: Self) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0);
        fn not_lt(self, b: Self) -> __m256 = _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, b.0);
        fn is_nan(self) -> __m256 = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
        fn and(a: __m256, b: __m256) -> __m256 = _mm256_and_ps(a, b);
        fn any(a: __m256) -> bool = _mm256_movemask_ps(a) != 0;
        fn select(mask: __m256, yes: Self, no: Self) -> Self = F32(_mm256_blendv_ps(no.0, yes.0, mask));
        fn only(self, mask: __m256) -> Self = F32(_mm256_and_ps(mask, self.0));
        // Where either is NaN, these return the second.
        fn larger(self, b: Self) -> Self = F32(_mm256_max_ps(self.0, b.0));
        fn smaller(self, b: Self) -> Self = F32(_mm256_min_ps(self.0, b.0));
        fn inverse_root(self, isa: Token) -> Self = inverse_root(isa, self);
        fn sums_of_rows(_: Token, block: &[[f32; LANES]; LANES]) -> [f32; LANES] = {
            sums_of_rows(block)
        };
        fn transpose(_: Token, from: (&[f32], usize), to: (&mut [f32], usize)) = transpose(from, to);
        fn load_sums(_: Token, from: &[f64]) -> Self::Sums = {
            let from = from[..8].as_ptr();
            [_mm256_loadu_pd(from), _mm256_loadu_pd(from.add(4))]
        };
        fn add_squares(self, sums: Self::Sums) -> Self::Sums = {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(self.0));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0));
            [
                _mm256_fmadd_pd(low, low, sums[0]),
                _mm256_fmadd_pd(high, high, sums[1]),
            ]
        };
        fn store_sums(sums: Self::Sums, to: &mut [f64]) = {
            let to = to[..8].as_mut_ptr();
            _mm256_storeu_pd(to, sums[0]);
            _mm256_storeu_pd(to.add(4), sums[1]);
        };
    }
}

impl Register for F64 {
    type Scalar = f64;
    type Isa = Token;
    type Mask = __m256d;
    type Sums = __m256d;
    type Single = F32;
    const LANES: usize = 4;

    operations! {
        fn add(self, b: Self) -> Self = F64(_mm256_add_pd(self.0, b.0));
        fn mul(self, b: Self) -> Self = F64(_mm256_mul_pd(self.0, b.0));
        fn div(self, b: Self) -> Self = F64(_mm256_div_pd(self.0, b.0));
        fn sqrt(self) -> Self = F64(_mm256_sqrt_pd(self.0));
        fn mul_add(self, b: Self, c: Self) -> Self = F64(_mm256_fmadd_pd(self.0, b.0, c.0));
        fn neg_mul_add(self, b: Self, c: Self) -> Self = F64(_mm256_fnmadd_pd(self.0, b.0, c.0));
        fn splat(_: Token, x: f64) -> Self = F64(_mm256_set1_pd(x));
        fn load(_: Token, from: &[f64]) -> Self = F64(_mm256_loadu_pd(from[..4].as_ptr()));
        fn store(self, to: &mut [f64]) = _mm256_storeu_pd(to[..4].as_mut_ptr(), self.0);
        fn stream(self, to: &mut [f64]) = {
            let to = to[..4].as_mut_ptr();
            assert!(to.cast::<__m256d>().is_aligned());
            _mm256_stream_pd(to, self.0)
        };
        fn abs(self) -> Self = F64(_mm256_andnot_pd(_mm256_set1_pd(-0.0), self.0));
        fn lt(self, b: Self) -> __m256d = _mm256_cmp_pd::<_CMP_LT_OQ>(self.0, b.0);
        fn not_lt(self, b: Self) -> __m256d = _mm256_cmp_pd::<_CMP_NLT_UQ>(self.0, b.0);
        fn is_nan(self) -> __m256d = _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0);
        fn and(a: __m256d, b: __m256d) -> __m256d = _mm256_and_pd(a, b);
        fn any(a: __m256d) -> bool = _mm256_movemask_pd(a) != 0;
        fn select(mask: __m256d, yes: Self, no: Self) -> Self = F64(_mm256_blendv_pd(no.0, yes.0, mask));
        fn only(self, mask: __m256d) -> Self = F64(_mm256_and_pd(mask, self.0));
        fn load_sums(_: Token, from: &[f64]) -> __m256d = _mm256_loadu_pd(from[..4].as_ptr());
        fn add_squares(self, sums: __m256d) -> __m256d = _mm256_fmadd_pd(self.0, self.0, sums);
        fn store_sums(sums: __m256d, to: &mut [f64]) = _mm256_storeu_pd(to[..4].as_mut_ptr(), sums);
    }
}

/// Applies an intrinsic of integers to float32 registers.
macro_rules! bits {
    ($intrinsic:ident($($x:expr),*)) => {
        F32(_mm256_castsi256_ps($intrinsic($(_mm256_castps_si256($x.0)),*)))
    };
}

impl SingleRegister for F32 {
    operations! {
        fn and_bits(self, b: Self) -> Self = F32(_mm256_and_ps(self.0, b.0));
        fn or_bits(self, b: Self) -> Self = F32(_mm256_or_ps(self.0, b.0));
        fn xor_bits(self, b: Self) -> Self = F32(_mm256_xor_ps(self.0, b.0));
        fn splat_bits(isa: Token, x: u32) -> Self = F32::splat(isa, f32::from_bits(x));
        fn load_bits(isa: Token, from: &[u32]) -> Self = F32::load(isa, bytemuck::cast_slice(from));
        fn load_u16(_: Token, from: &[u16]) -> Self = {
            let words = _mm_loadu_si128(from[..8].as_ptr().cast());
            F32(_mm256_castsi256_ps(_mm256_cvtepu16_epi32(words)))
        };
        fn store_u16(self, to: &mut [u16]) = {
            let words = _mm256_castps_si256(self.0);
            let packed = _mm_packus_epi32(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to[..8].as_mut_ptr().cast(), packed);
        };
        fn store_u16_pair(self, second: Self, to: &mut [u16]) = {
            // The words come together in each half of the register, first and second in turn.
            let (first, second) = (_mm256_castps_si256(self.0), _mm256_castps_si256(second.0));
            let packed = _mm256_packus_epi32(first, second);
            let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(to[..16].as_mut_ptr().cast(), in_order);
        };
        fn add_bits(self, b: Self) -> Self = bits!(_mm256_add_epi32(self, b));
        fn mul_bits(self, b: Self) -> Self = bits!(_mm256_mullo_epi32(self, b));
        fn shl_bits<const N: u32>(self) -> Self = {
            let words = _mm256_castps_si256(self.0);
            let by = _mm_cvtsi32_si128(N as i32);
            F32(_mm256_castsi256_ps(_mm256_sll_epi32(words, by)))
        };
        fn shr_bits<const N: u32>(self) -> Self = {
            let words = _mm256_castps_si256(self.0);
            let by = _mm_cvtsi32_si128(N as i32);
            F32(_mm256_castsi256_ps(_mm256_srl_epi32(words, by)))
        };
    }
}
