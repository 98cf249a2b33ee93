//! Plain Rust: a register is a few numbers side by side.
//!
//! Slow where the processor has no fused multiply-add, which is the price of
//! the same bits everywhere.

use crate::kernel::vector::{Pack, Register, SingleRegister, WordRegister};

const WIDTH: usize = 4;

#[derive(Clone, Copy)]
pub(crate) struct Lanes<T>([T; WIDTH]);

pub(crate) type Singles = Pack<Lanes<f32>, 4>;
pub(crate) type Doubles = Pack<Lanes<f64>, 4>;

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
    ($f:expr, $a:expr, $b:expr, $c:expr) => {{
        let (a, b, c) = ($a, $b, $c);
        Lanes(std::array::from_fn(|i| $f(a[i], b[i], c[i])))
    }};
}

/// `a b + c`, rounded once. Not inlined: where the processor lacks it, each lane
/// is a call.
#[inline(never)]
fn fused_f32(a: [f32; WIDTH], b: [f32; WIDTH], c: [f32; WIDTH]) -> [f32; WIDTH] {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}

/// As [`fused_f32`].
#[inline(never)]
fn fused_f64(a: [f64; WIDTH], b: [f64; WIDTH], c: [f64; WIDTH]) -> [f64; WIDTH] {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}

/// Both floating-point types; `$square` is `x * x + sum` in float64.
macro_rules! float {
    ($T:ident, $Wide:ident, $fused:ident, $square:expr) => {
        // SAFETY, for every block below: pointers are good for the lanes named.
        #[allow(clippy::undocumented_unsafe_blocks, clippy::unnecessary_cast)]
        impl Register for Lanes<$T> {
            type Scalar = $T;
            type Mask = [bool; WIDTH];
            type Sums = [f64; WIDTH];
            type Single = Singles;
            type Wide = $Wide;
            const LANES: usize = WIDTH;
            const UNROLLS: bool = false;

            #[inline(always)]
            unsafe fn splat(x: $T) -> Self {
                Lanes([x; WIDTH])
            }
            #[inline(always)]
            unsafe fn load_f32(from: *const f32) -> Self {
                let x = unsafe { from.cast::<[f32; WIDTH]>().read_unaligned() };
                Lanes(x.map(|x| x as $T))
            }
            #[inline(always)]
            unsafe fn load_f64(from: *const f64) -> Self {
                let x = unsafe { from.cast::<[f64; WIDTH]>().read_unaligned() };
                Lanes(x.map(|x| x as $T))
            }
            #[inline(always)]
            unsafe fn store_f32(self, to: *mut f32) {
                let x = self.0.map(|x| x as f32);
                unsafe { to.cast::<[f32; WIDTH]>().write_unaligned(x) }
            }
            #[inline(always)]
            unsafe fn store_f64(self, to: *mut f64) {
                let x = self.0.map(|x| x as f64);
                unsafe { to.cast::<[f64; WIDTH]>().write_unaligned(x) }
            }
            #[inline(always)]
            unsafe fn stream(self, to: *mut $T) {
                unsafe { to.cast::<[$T; WIDTH]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            unsafe fn add(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a + b, self.0, b.0)
            }
            #[inline(always)]
            unsafe fn mul(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a * b, self.0, b.0)
            }
            #[inline(always)]
            unsafe fn div(self, b: Self) -> Self {
                lanes!(|a: $T, b: $T| a / b, self.0, b.0)
            }
            #[inline(always)]
            unsafe fn sqrt(self) -> Self {
                lanes!($T::sqrt, self.0)
            }
            #[inline(always)]
            unsafe fn abs(self) -> Self {
                lanes!($T::abs, self.0)
            }
            #[inline(always)]
            unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                Lanes($fused(self.0, b.0, c.0))
            }
            #[inline(always)]
            unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
                Lanes($fused(self.0.map(|a| -a), b.0, c.0))
            }
            #[inline(always)]
            unsafe fn lt(self, b: Self) -> Self::Mask {
                std::array::from_fn(|i| self.0[i] < b.0[i])
            }
            #[inline(always)]
            #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN is not less.
            unsafe fn not_lt(self, b: Self) -> Self::Mask {
                std::array::from_fn(|i| !(self.0[i] < b.0[i]))
            }
            #[inline(always)]
            unsafe fn is_nan(self) -> Self::Mask {
                self.0.map($T::is_nan)
            }
            #[inline(always)]
            unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
                std::array::from_fn(|i| a[i] & b[i])
            }
            #[inline(always)]
            unsafe fn all(a: Self::Mask) -> bool {
                a == [true; WIDTH]
            }
            #[inline(always)]
            unsafe fn any(a: Self::Mask) -> bool {
                a != [false; WIDTH]
            }
            #[inline(always)]
            unsafe fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask {
                std::array::from_fn(|i| a[i] | b[i])
            }
            #[inline(always)]
            unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
                let choose = |i: usize| if mask[i] { yes.0[i] } else { no.0[i] };
                Lanes(std::array::from_fn(choose))
            }
            #[inline(always)]
            unsafe fn only(self, mask: Self::Mask) -> Self {
                lanes!(|x, keep| if keep { x } else { 0.0 }, self.0, mask)
            }
            #[inline(always)]
            unsafe fn no_sums() -> Self::Sums {
                [0.0; WIDTH]
            }
            #[inline(always)]
            unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums {
                std::array::from_fn(|i| $square(self.0[i] as f64, sums[i]))
            }
            #[inline(always)]
            unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
                unsafe { to.cast::<[f64; WIDTH]>().write_unaligned(sums) }
            }
        }
    };
}

// The square of a float32 is exact in float64: fused or not is the same.
float!(f32, Singles, fused_f32, |x: f64, sum| x * x + sum);
float!(f64, Doubles, fused_f64, |x, sum| f64::mul_add(x, x, sum));

impl SingleRegister for Lanes<f32> {
    type Words = Lanes<u32>;
    #[inline(always)]
    unsafe fn to_words(self) -> Lanes<u32> {
        lanes!(f32::to_bits, self.0)
    }
    #[inline(always)]
    unsafe fn from_words(words: Lanes<u32>) -> Self {
        lanes!(f32::from_bits, words.0)
    }
}

// SAFETY, for every block below: pointers are good for the lanes named.
#[allow(clippy::undocumented_unsafe_blocks)]
impl WordRegister for Lanes<u32> {
    const LANES: usize = WIDTH;

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        Lanes([x; WIDTH])
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        Lanes(unsafe { from.cast::<[u32; WIDTH]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        let x = unsafe { from.cast::<[u16; WIDTH]>().read_unaligned() };
        Lanes(x.map(u32::from))
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16) {
        let x = self.0.map(|x| x as u16);
        unsafe { to.cast::<[u16; WIDTH]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        lanes!(u32::wrapping_add, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        lanes!(u32::wrapping_mul, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn and(self, b: Self) -> Self {
        lanes!(|a, b| a & b, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn or(self, b: Self) -> Self {
        lanes!(|a, b| a | b, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn xor(self, b: Self) -> Self {
        lanes!(|a, b| a ^ b, self.0, b.0)
    }
    #[inline(always)]
    unsafe fn shl<const N: u32>(self) -> Self {
        lanes!(|a| a << N, self.0)
    }
    #[inline(always)]
    unsafe fn shr<const N: u32>(self) -> Self {
        lanes!(|a| a >> N, self.0)
    }
}
