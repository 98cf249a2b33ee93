//! Plain Rust: a register is a few numbers side by side.
//!
//! Slow where the processor has no fused multiply-add, which is the price of
//! the same bits everywhere. Nobody looks for speed here, so operations are not
//! inlined: that would be most of the library.

use std::array::from_fn;

use super::token::operations;
use crate::root::inverse_root;
use crate::simd::{Group, Instructions, Kernel, Register, SingleRegister, LANES};

/// Every processor has plain Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token;

// Its loops need much of the stack, which the faster ones that share a caller with them
// do not.
impl Instructions<f32> for Token {
    #[inline(never)]
    fn run<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        kernel.run::<Group<Lanes<f32>, 1>>(self)
    }
}

impl Instructions<f64> for Token {
    #[inline(never)]
    fn run<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        kernel.run::<Group<Lanes<f64>, 1>>(self)
    }
}

/// A register is a whole vector: one call does all of an operation.
const WIDTH: usize = LANES;

#[derive(Clone, Copy)]
pub(crate) struct Lanes<T>([T; WIDTH]);

/// Applies a function to the lanes of its operands. What is inlined is only that these are
/// borrowed: copies of them would take much of the stack.
#[inline(never)]
fn one<A: Copy, R>(a: &[A; WIDTH], f: impl Fn(A) -> R) -> [R; WIDTH] {
    from_fn(|i| f(a[i]))
}
#[inline(never)]
fn two<A: Copy, B: Copy, R>(a: &[A; WIDTH], b: &[B; WIDTH], f: impl Fn(A, B) -> R) -> [R; WIDTH] {
    from_fn(|i| f(a[i], b[i]))
}
#[inline(never)]
fn three<A: Copy, B: Copy, C: Copy, R>(
    a: &[A; WIDTH],
    b: &[B; WIDTH],
    c: &[C; WIDTH],
    f: impl Fn(A, B, C) -> R,
) -> [R; WIDTH] {
    from_fn(|i| f(a[i], b[i], c[i]))
}

/// The first numbers of a slice, through a function.
#[inline(never)]
fn load<A: Copy, R>(from: &[A], f: impl Fn(A) -> R) -> [R; WIDTH] {
    from_fn(|i| f(from[i]))
}

#[inline(never)]
fn store<A: Copy>(from: &[A; WIDTH], to: &mut [A]) {
    to[..WIDTH].copy_from_slice(from);
}

/// A register of a floating-point type. `$square` is `x * x + sum` in float64, `$inverse_root`
/// one over the root.
macro_rules! float {
    ($T:ident, $square:expr, $inverse_root:expr) => {
        impl Register for Lanes<$T> {
            type Scalar = $T;
            type Isa = Token;
            type Mask = [bool; WIDTH];
            type Sums = [f64; WIDTH];
            type Single = Lanes<f32>;
            const LANES: usize = WIDTH;
            const INLINES: bool = false;

            operations! {
                fn splat(_: Token, x: $T) -> Self = {
                    Lanes([x; WIDTH])
                };
                fn load(_: Token, from: &[$T]) -> Self = Lanes(load(from, |x| x));
                fn store(self, to: &mut [$T]) = {
                    store(&self.0, to);
                };
                fn stream(self, to: &mut [$T]) = {
                    self.store(to);
                };
                fn add(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, |a, b| a + b));
                fn mul(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, |a, b| a * b));
                fn div(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, |a, b| a / b));
                fn sqrt(self) -> Self = Lanes(one(&self.0, $T::sqrt));
                fn abs(self) -> Self = Lanes(one(&self.0, $T::abs));
                fn mul_add(self, b: Self, c: Self) -> Self = {
                    Lanes(three(&self.0, &b.0, &c.0, $T::mul_add))
                };
                fn neg_mul_add(self, b: Self, c: Self) -> Self = {
                    Lanes(three(&self.0, &b.0, &c.0, |a, b, c| (-a).mul_add(b, c)))
                };
                fn lt(self, b: Self) -> Self::Mask = two(&self.0, &b.0, |a, b| a < b);
                #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN is not less.
                fn not_lt(self, b: Self) -> Self::Mask = two(&self.0, &b.0, |a, b| !(a < b));
                fn is_nan(self) -> Self::Mask = one(&self.0, $T::is_nan);
                fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask = two(&a, &b, |a, b| a & b);
                fn any(a: Self::Mask) -> bool = {
                    a != [false; WIDTH]
                };
                fn select(mask: Self::Mask, yes: Self, no: Self) -> Self = {
                    let choose = |mask, yes, no| if mask { yes } else { no };
                    Lanes(three(&mask, &yes.0, &no.0, choose))
                };
                fn only(self, mask: Self::Mask) -> Self = {
                    Lanes(two(&self.0, &mask, |x, keep| if keep { x } else { 0.0 }))
                };
                fn inverse_root(self, isa: Token) -> Self = $inverse_root(isa, self);
                fn load_sums(_: Token, from: &[f64]) -> Self::Sums = load(from, |x| x);
                fn add_squares(self, sums: Self::Sums) -> Self::Sums = {
                    two(&self.0, &sums, |x, sum| $square(f64::from(x), sum))
                };
                fn store_sums(sums: Self::Sums, to: &mut [f64]) = {
                    store(&sums, to);
                };
            }
        }
    };
}

// The square of a float32 is exact in float64: fused or not is the same.
float!(f32, |x: f64, sum: f64| x * x + sum, inverse_root);
float!(
    f64,
    |x: f64, sum: f64| f64::mul_add(x, x, sum),
    |_, x: Lanes<f64>| { Lanes(one(&x.0, |x| 1.0 / x.sqrt())) }
);

/// Applies a function to the bits of the lanes.
fn bits(f: impl Fn(u32, u32) -> u32) -> impl Fn(f32, f32) -> f32 {
    move |a, b| f32::from_bits(f(a.to_bits(), b.to_bits()))
}

impl SingleRegister for Lanes<f32> {
    #[inline(never)]
    fn splat_bits(_: Token, x: u32) -> Self {
        Lanes([f32::from_bits(x); WIDTH])
    }
    operations! {
        fn load_bits(_: Token, from: &[u32]) -> Self = Lanes(load(from, f32::from_bits));
        fn load_u16(_: Token, from: &[u16]) -> Self = Lanes(load(from, |x| f32::from_bits(x.into())));
        fn store_u16(self, to: &mut [u16]) = {
            store(&one(&self.0, |x| x.to_bits() as u16), to);
        };
        fn add_bits(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, bits(u32::wrapping_add)));
        fn mul_bits(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, bits(u32::wrapping_mul)));
        fn and_bits(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, bits(|a, b| a & b)));
        fn or_bits(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, bits(|a, b| a | b)));
        fn xor_bits(self, b: Self) -> Self = Lanes(two(&self.0, &b.0, bits(|a, b| a ^ b)));
        fn shl_bits<const N: u32>(self) -> Self = {
            Lanes(one(&self.0, |a| f32::from_bits(a.to_bits() << N)))
        };
        fn shr_bits<const N: u32>(self) -> Self = {
            Lanes(one(&self.0, |a| f32::from_bits(a.to_bits() >> N)))
        };
    }
}
