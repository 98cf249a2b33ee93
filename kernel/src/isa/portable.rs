//! Plain Rust: a register is a few numbers side by side.
//!
//! Slow where the processor has no fused multiply-add, which is the price of
//! the same bits everywhere. Nobody looks for speed here, so operations are not
//! inlined: that would be most of the library.

use crate::simd::{Group, Instructions, Kernel, Register, Scalar, SingleRegister, LANES};

/// Every processor has plain Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token;

impl Instructions for Token {
    type F32 = Group<Lanes<f32>, 1>;
    type F64 = Group<Lanes<f64>, 1>;

    // Its loops need much of the stack, which the faster ones that share a caller
    // with them do not.
    #[inline(never)]
    fn run<T: Scalar, K: Kernel<T>>(self, kernel: K) -> K::Output {
        T::run(self, kernel)
    }
}

/// A register is a whole vector: one call does all of an operation.
const WIDTH: usize = LANES;

#[derive(Clone, Copy)]
pub(crate) struct Lanes<T>([T; WIDTH]);

/// Applies a function to the lanes of its operands.
macro_rules! lanes {
    ($f:expr, $a:expr) => {{
        let a = $a;
        Lanes(std::array::from_fn(|i| $f(a[i])))
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        Lanes(std::array::from_fn(|i| $f(a[i], b[i])))
    }};
}

/// A register of a floating-point type. `$square` is `x * x + sum` in float64.
macro_rules! float {
    ($T:ident, $fused:ident, $square:expr) => {
        /// `a b + c`, rounded once.
        #[inline(never)]
        fn $fused(a: [$T; WIDTH], b: [$T; WIDTH], c: [$T; WIDTH]) -> [$T; WIDTH] {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        }

        impl Register for Lanes<$T> {
            type Scalar = $T;
            type Isa = Token;
            type Mask = [bool; WIDTH];
            type Sums = [f64; WIDTH];
            type Single = Lanes<f32>;
            const LANES: usize = WIDTH;

            #[inline(never)]
            fn splat(_: Token, x: $T) -> Self {
                Lanes([x; WIDTH])
            }
            #[inline(never)]
            fn load(_: Token, from: &[$T]) -> Self {
                Lanes(std::array::from_fn(|i| from[i]))
            }
            #[inline(never)]
            fn store(self, to: &mut [$T]) {
                to[..WIDTH].copy_from_slice(&self.0);
            }
            #[inline(never)]
            fn stream(self, to: &mut [$T]) {
                self.store(to);
            }
            #[inline(never)]
            fn add(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a + b, self.0, b.0)
            }
            #[inline(never)]
            fn mul(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a * b, self.0, b.0)
            }
            #[inline(never)]
            fn div(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a / b, self.0, b.0)
            }
            #[inline(never)]
            fn sqrt(self) -> Self {
                lanes!($T::sqrt, self.0)
            }
            #[inline(never)]
            fn abs(self) -> Self {
                lanes!($T::abs, self.0)
            }
            #[inline(never)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                Lanes($fused(self.0, b.0, c.0))
            }
            #[inline(never)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                Lanes($fused(self.0.map(|a| -a), b.0, c.0))
            }
            #[inline(never)]
            fn lt(self, b: Self) -> Self::Mask {
                std::array::from_fn(|i| self.0[i] < b.0[i])
            }
            #[inline(never)]
            #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN is not less.
            fn not_lt(self, b: Self) -> Self::Mask {
                std::array::from_fn(|i| !(self.0[i] < b.0[i]))
            }
            #[inline(never)]
            fn is_nan(self) -> Self::Mask {
                self.0.map($T::is_nan)
            }
            #[inline(never)]
            fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
                std::array::from_fn(|i| a[i] & b[i])
            }
            #[inline(never)]
            fn any(a: Self::Mask) -> bool {
                a != [false; WIDTH]
            }
            #[inline(never)]
            fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
                let choose = |i: usize| if mask[i] { yes.0[i] } else { no.0[i] };
                Lanes(std::array::from_fn(choose))
            }
            #[inline(never)]
            fn only(self, mask: Self::Mask) -> Self {
                lanes!(|x, keep| if keep { x } else { 0.0 }, self.0, mask)
            }
            #[inline(never)]
            fn load_sums(_: Token, from: &[f64]) -> Self::Sums {
                std::array::from_fn(|i| from[i])
            }
            #[inline(never)]
            fn add_squares(self, sums: Self::Sums) -> Self::Sums {
                std::array::from_fn(|i| $square(f64::from(self.0[i]), sums[i]))
            }
            #[inline(never)]
            fn store_sums(sums: Self::Sums, to: &mut [f64]) {
                to[..WIDTH].copy_from_slice(&sums);
            }
        }
    };
}

// The square of a float32 is exact in float64: fused or not is the same.
float!(f32, fused_f32, |x: f64, sum| x * x + sum);
float!(f64, fused_f64, |x, sum| f64::mul_add(x, x, sum));

/// Applies a function to the bits of the lanes.
macro_rules! bits {
    ($f:expr, $a:expr) => {
        lanes!(|a: f32| f32::from_bits($f(a.to_bits())), $a.0)
    };
    ($f:expr, $a:expr, $b:expr) => {
        lanes!(
            |a: f32, b: f32| f32::from_bits($f(a.to_bits(), b.to_bits())),
            $a.0,
            $b.0
        )
    };
}

impl SingleRegister for Lanes<f32> {
    #[inline(never)]
    fn splat_bits(_: Token, x: u32) -> Self {
        Lanes([f32::from_bits(x); WIDTH])
    }
    #[inline(never)]
    fn load_bits(_: Token, from: &[u32]) -> Self {
        Lanes(std::array::from_fn(|i| f32::from_bits(from[i])))
    }
    #[inline(never)]
    fn load_u16(_: Token, from: &[u16]) -> Self {
        Lanes(std::array::from_fn(|i| f32::from_bits(from[i].into())))
    }
    #[inline(never)]
    fn store_u16(self, to: &mut [u16]) {
        to[..WIDTH].copy_from_slice(&self.0.map(|x| x.to_bits() as u16));
    }
    #[inline(never)]
    fn add_bits(self, b: Self) -> Self {
        bits!(u32::wrapping_add, self, b)
    }
    #[inline(never)]
    fn mul_bits(self, b: Self) -> Self {
        bits!(u32::wrapping_mul, self, b)
    }
    #[inline(never)]
    fn and_bits(self, b: Self) -> Self {
        bits!(|a, b| a & b, self, b)
    }
    #[inline(never)]
    fn or_bits(self, b: Self) -> Self {
        bits!(|a, b| a | b, self, b)
    }
    #[inline(never)]
    fn xor_bits(self, b: Self) -> Self {
        bits!(|a, b| a ^ b, self, b)
    }
    #[inline(never)]
    fn shl_bits<const N: u32>(self) -> Self {
        bits!(|a| a << N, self)
    }
    #[inline(never)]
    fn shr_bits<const N: u32>(self) -> Self {
        bits!(|a| a >> N, self)
    }
}
