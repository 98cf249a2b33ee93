//! The vector operations that the kernels are written over.
//!
//! A [`Vector`] has [`LANES`] lanes on every instruction set: a [`Group`] of as
//! many registers as that takes. So kernels see one width, and the order of
//! every sum is the same everywhere.
//!
//! Vectors come into being from a token of their instruction set, which exists
//! only where the processor has it (see [`isa`](super::isa)). So whoever holds a
//! vector may compute with it, and all of this is safe to call. Everything is
//! inlined into the one function of an instruction set that carries its target
//! features; none of it is in a closure, which the compiler need not inline.

// The index of a register says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use std::ops::{Add, Div, Mul};

/// Lanes of a vector, and so the lanes over which sums are taken.
pub const LANES: usize = 16;

/// A floating-point type, as registers hold it. Kernels need more of it, see
/// [`Scalar`](crate::isa::Scalar).
pub(crate) trait Number: bytemuck::Pod + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    const INFINITY: Self;
    const NAN: Self;

    /// Nearest, ties to even.
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! number {
    ($type:ident) => {
        impl Number for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const INFINITY: Self = $type::INFINITY;
            // The quiet NaN without a payload, the same on every processor.
            const NAN: Self =
                $type::from_bits($type::INFINITY.to_bits() | 1 << ($type::MANTISSA_DIGITS - 2));

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $type
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }
        }
    };
}

number!(f32);
number!(f64);

/// Whether it is float32. There are no specializations for float64.
pub(crate) const fn is_single<T>() -> bool {
    size_of::<T>() == size_of::<f32>()
}

/// A number as the vectors round it, and as it is where their type does not hold it.
pub(crate) fn rounded<T: Number>(x: f64) -> f64 {
    let rounded = T::from_f64(x).to_f64();
    match rounded.is_finite() {
        true => rounded,
        false => x,
    }
}

/// An instruction set for one type of arithmetic, as the token that proves that the
/// processor has it.
pub(crate) trait Instructions<T>: Copy {
    /// Runs a kernel inside a function that carries the target features.
    fn run<K: Kernel<T>>(self, kernel: K) -> K::Output;
}

/// A loop over slices, with what it borrows.
pub(crate) trait Kernel<T> {
    type Output;
    /// Whether it is a specialization for speed. Plain Rust has the general loops only, so
    /// that it is not compiled for that.
    const FOR_SPEED: bool = false;

    /// Implementations are `#[inline(always)]`, so that the loop is compiled
    /// with the target features of its caller.
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> Self::Output;
}

/// A register of an instruction set.
///
/// Each operation rounds once, to nearest even, as IEEE 754 defines it. Only
/// the payload of a NaN may differ between instruction sets, which is why NaN
/// is stored as the canonical one. Slices are at least as long as a register.
pub(crate) trait Register: Copy {
    type Scalar: Number;
    type Isa: Copy;
    /// One truth value per lane.
    type Mask: Copy;
    /// A float64 accumulator per lane.
    type Sums: Copy;
    /// The same instruction set's register of float32.
    type Single: SingleRegister<Isa = Self::Isa>;
    const LANES: usize;
    /// Whether what is made of several operations is inlined into the loops.
    const INLINES: bool = true;

    fn splat(isa: Self::Isa, x: Self::Scalar) -> Self;
    fn load(isa: Self::Isa, from: &[Self::Scalar]) -> Self;
    fn store(self, to: &mut [Self::Scalar]);
    /// Stores past the caches, where the instruction set can; `to` starts at a
    /// multiple of the register's size then.
    fn stream(self, to: &mut [Self::Scalar]);

    fn add(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c - self * b`, rounded once.
    fn neg_mul_add(self, b: Self, c: Self) -> Self;

    /// `self < b`; false where either is NaN.
    fn lt(self, b: Self) -> Self::Mask;
    /// `!(self < b)`; true where either is NaN.
    fn not_lt(self, b: Self) -> Self::Mask;
    fn is_nan(self) -> Self::Mask;
    /// Both; of masks of the same instruction set.
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn any(a: Self::Mask) -> bool;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Zero where the mask is false.
    fn only(self, mask: Self::Mask) -> Self;

    /// The larger one; `b` where either is NaN.
    #[inline(always)]
    fn larger(self, b: Self) -> Self {
        Self::select(b.lt(self), self, b)
    }
    /// The smaller one; `b` where either is NaN.
    #[inline(always)]
    fn smaller(self, b: Self) -> Self {
        Self::select(self.lt(b), self, b)
    }

    /// `1 / sqrt(self)` of normal positive numbers. In float32 that takes no division, and
    /// is not rounded correctly.
    #[inline(always)]
    fn inverse_root(self, isa: Self::Isa) -> Self {
        Self::splat(isa, Self::Scalar::ONE).div(self.sqrt())
    }

    /// The sum of each row: its second half is added to the first, then the second quarter,
    /// and so on.
    #[inline(always)]
    fn sums_of_rows(
        isa: Self::Isa,
        block: &[[Self::Scalar; LANES]; LANES],
    ) -> [Self::Scalar; LANES] {
        let mut columns = *block;
        Self::transpose(
            isa,
            (block.as_flattened(), LANES),
            (columns.as_flattened_mut(), LANES),
        );
        let block = &mut columns;
        let mut n = LANES;
        while n > 1 {
            n /= 2;
            for row in 0..n {
                for at in (0..LANES).step_by(Self::LANES) {
                    let other = Self::load(isa, &block[row + n][at..]);
                    let sum = Self::load(isa, &block[row][at..]).add(other);
                    sum.store(&mut block[row][at..]);
                }
            }
        }
        block[0]
    }

    /// Rows of a block of [`LANES`] x [`LANES`] become columns: where they are read and
    /// written, a row is so many numbers behind the one before.
    #[inline(always)]
    fn transpose(
        _: Self::Isa,
        (from, from_pitch): (&[Self::Scalar], usize),
        (to, to_pitch): (&mut [Self::Scalar], usize),
    ) {
        for row in 0..LANES {
            for column in 0..LANES {
                to[column * to_pitch + row] = from[row * from_pitch + column];
            }
        }
    }

    fn load_sums(isa: Self::Isa, from: &[f64]) -> Self::Sums;
    /// Adds the square of each lane to its accumulator.
    fn add_squares(self, sums: Self::Sums) -> Self::Sums;
    fn store_sums(sums: Self::Sums, to: &mut [f64]);
}

/// A register of float32, whose lanes can also be looked at as 32-bit words.
pub(crate) trait SingleRegister: Register<Scalar = f32> {
    fn splat_bits(isa: Self::Isa, x: u32) -> Self;
    fn load_bits(isa: Self::Isa, from: &[u32]) -> Self;
    /// 16-bit words, extended with zeros.
    fn load_u16(isa: Self::Isa, from: &[u16]) -> Self;
    /// Words below `2^16`.
    fn store_u16(self, to: &mut [u16]);
    /// Those of two registers, one behind the other.
    #[inline(always)]
    fn store_u16_pair(self, second: Self, to: &mut [u16]) {
        self.store_u16(to);
        second.store_u16(&mut to[Self::LANES..]);
    }
    fn add_bits(self, b: Self) -> Self;
    /// The low 32 bits of the product.
    fn mul_bits(self, b: Self) -> Self;
    fn and_bits(self, b: Self) -> Self;
    fn or_bits(self, b: Self) -> Self;
    fn xor_bits(self, b: Self) -> Self;
    fn shl_bits<const N: u32>(self) -> Self;
    fn shr_bits<const N: u32>(self) -> Self;
}

/// `LANES` numbers: what kernels compute with. See [`Register`] for what the
/// operations are.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    type Scalar: Number;
    type Isa: Copy;
    type Mask: Copy;
    type Sums: Copy;
    type Register: Register<Scalar = Self::Scalar, Isa = Self::Isa>;
    type Single: SingleRegister<Isa = Self::Isa>;
    const INLINES: bool;

    fn splat(isa: Self::Isa, x: Self::Scalar) -> Self;
    fn load(isa: Self::Isa, from: &[Self::Scalar; LANES]) -> Self;
    fn store(self, to: &mut [Self::Scalar; LANES]);
    fn stream(self, to: &mut [Self::Scalar; LANES]);
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    fn lt(self, b: Self) -> Self::Mask;
    fn not_lt(self, b: Self) -> Self::Mask;
    fn is_nan(self) -> Self::Mask;
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn any(a: Self::Mask) -> bool;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    fn only(self, mask: Self::Mask) -> Self;
    fn larger(self, b: Self) -> Self;
    fn smaller(self, b: Self) -> Self;
    /// Whether no lane is infinite or NaN.
    fn is_finite(self, isa: Self::Isa) -> bool;
    fn inverse_root(self, isa: Self::Isa) -> Self;
    fn sums_of_rows(isa: Self::Isa, block: &[[Self::Scalar; LANES]; LANES]) -> Self;
    fn transpose(isa: Self::Isa, from: (&[Self::Scalar], usize), to: (&mut [Self::Scalar], usize));
    fn load_sums(isa: Self::Isa, from: &[f64; LANES]) -> Self::Sums;
    fn add_squares(self, sums: &mut Self::Sums);
    fn store_sums(sums: Self::Sums, to: &mut [f64; LANES]);
    /// The largest numbers of one register and of all of this vector's: whoever does not tell
    /// lanes apart needs no more of them.
    fn largest(self, so_far: Self::Register) -> Self::Register;
    /// The sums of one register and of all of this vector's.
    fn sum(self, so_far: Self::Register) -> Self::Register;

    /// A number in every lane, rounded to the type of the arithmetic.
    #[inline(always)]
    fn number(isa: Self::Isa, x: f64) -> Self {
        Self::splat(isa, Self::Scalar::from_f64(x))
    }

    /// The same numbers, with the canonical NaN for every NaN.
    #[inline(always)]
    fn canonical(self, isa: Self::Isa) -> Self {
        Self::select(self.is_nan(), Self::splat(isa, Self::Scalar::NAN), self)
    }

    /// Zero where the magnitude is below `least`.
    #[inline(always)]
    fn flush(self, least: Self) -> Self {
        self.only(self.abs().not_lt(least))
    }

    /// `self / b`, and zero where `b` is not positive: without an eps, a
    /// coordinate that never had a gradient would be 0 / 0.
    #[inline(always)]
    fn quotient(self, b: Self, zero: Self) -> Self {
        (self / b).only(zero.lt(b))
    }
}

/// Registers one after the other: a vector.
#[derive(Clone, Copy)]
pub(crate) struct Group<R, const N: usize>([R; N]);

/// Implements an operator by a register's method.
macro_rules! operator {
    ($operator:ident, $method:ident) => {
        impl<R: Register, const N: usize> $operator for Group<R, N> {
            type Output = Self;
            #[inline(always)]
            fn $method(mut self, b: Self) -> Self {
                for i in 0..N {
                    self.0[i] = self.0[i].$method(b.0[i]);
                }
                self
            }
        }
    };
}

operator!(Add, add);
operator!(Mul, mul);
operator!(Div, div);

/// Methods whose result is a vector: each register does its own.
macro_rules! each {
    ($(fn $name:ident(self $(, $other:ident)*);)*) => {$(
        #[inline(always)]
        fn $name(mut self $(, $other: Self)*) -> Self {
            for i in 0..N {
                self.0[i] = self.0[i].$name($($other.0[i]),*);
            }
            self
        }
    )*};
}

/// Methods whose result is a mask.
macro_rules! masks {
    ($(fn $name:ident(self $(, $other:ident)*);)*) => {$(
        #[inline(always)]
        fn $name(self $(, $other: Self)*) -> Self::Mask {
            let mut mask = [self.0[0].$name($($other.0[0]),*); N];
            for i in 1..N {
                mask[i] = self.0[i].$name($($other.0[i]),*);
            }
            mask
        }
    )*};
}

impl<R: Register, const N: usize> Vector for Group<R, N> {
    type Scalar = R::Scalar;
    type Isa = R::Isa;
    type Mask = [R::Mask; N];
    type Sums = [R::Sums; N];
    type Register = R;
    type Single = R::Single;
    const INLINES: bool = R::INLINES;

    each! {
        fn sqrt(self);
        fn abs(self);
        fn mul_add(self, b, c);
        fn neg_mul_add(self, b, c);
        fn larger(self, b);
        fn smaller(self, b);
    }
    masks! {
        fn lt(self, b);
        fn not_lt(self, b);
        fn is_nan(self);
    }

    #[inline(always)]
    fn splat(isa: R::Isa, x: R::Scalar) -> Self {
        const { assert!(N * R::LANES == LANES) };
        Group([R::splat(isa, x); N])
    }
    #[inline(always)]
    fn load(isa: R::Isa, from: &[R::Scalar; LANES]) -> Self {
        let mut group = Self::splat(isa, R::Scalar::ZERO);
        for i in 0..N {
            group.0[i] = R::load(isa, &from[i * R::LANES..]);
        }
        group
    }
    #[inline(always)]
    fn store(self, to: &mut [R::Scalar; LANES]) {
        for i in 0..N {
            self.0[i].store(&mut to[i * R::LANES..]);
        }
    }
    #[inline(always)]
    fn stream(self, to: &mut [R::Scalar; LANES]) {
        for i in 0..N {
            self.0[i].stream(&mut to[i * R::LANES..]);
        }
    }
    #[inline(always)]
    fn and(mut a: Self::Mask, b: Self::Mask) -> Self::Mask {
        for i in 0..N {
            a[i] = R::and(a[i], b[i]);
        }
        a
    }
    #[inline(always)]
    fn any(a: Self::Mask) -> bool {
        let mut any = false;
        for i in 0..N {
            any |= R::any(a[i]);
        }
        any
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, mut no: Self) -> Self {
        for i in 0..N {
            no.0[i] = R::select(mask[i], yes.0[i], no.0[i]);
        }
        no
    }
    #[inline(always)]
    fn only(mut self, mask: Self::Mask) -> Self {
        for i in 0..N {
            self.0[i] = self.0[i].only(mask[i]);
        }
        self
    }
    #[inline(always)]
    fn is_finite(self, isa: R::Isa) -> bool {
        // Zero times them is zero, and NaN otherwise.
        let zero = R::splat(isa, R::Scalar::ZERO);
        let mut sum = self.0[0].mul(zero);
        for i in 1..N {
            sum = sum.add(self.0[i].mul(zero));
        }
        !R::any(sum.is_nan())
    }
    #[inline(always)]
    fn inverse_root(mut self, isa: R::Isa) -> Self {
        for i in 0..N {
            self.0[i] = self.0[i].inverse_root(isa);
        }
        self
    }
    #[inline(always)]
    fn sums_of_rows(isa: R::Isa, block: &[[R::Scalar; LANES]; LANES]) -> Self {
        Self::load(isa, &R::sums_of_rows(isa, block))
    }
    #[inline(always)]
    fn transpose(isa: R::Isa, from: (&[R::Scalar], usize), to: (&mut [R::Scalar], usize)) {
        R::transpose(isa, from, to);
    }
    #[inline(always)]
    fn load_sums(isa: R::Isa, from: &[f64; LANES]) -> Self::Sums {
        let mut sums = [R::load_sums(isa, from); N];
        for i in 1..N {
            sums[i] = R::load_sums(isa, &from[i * R::LANES..]);
        }
        sums
    }
    #[inline(always)]
    fn add_squares(self, sums: &mut Self::Sums) {
        for i in 0..N {
            sums[i] = self.0[i].add_squares(sums[i]);
        }
    }
    #[inline(always)]
    fn store_sums(sums: Self::Sums, to: &mut [f64; LANES]) {
        for i in 0..N {
            R::store_sums(sums[i], &mut to[i * R::LANES..]);
        }
    }
    #[inline(always)]
    fn largest(self, mut so_far: R) -> R {
        for i in 0..N {
            so_far = self.0[i].larger(so_far);
        }
        so_far
    }
    #[inline(always)]
    fn sum(self, so_far: R) -> R {
        let mut sum = self.0[0];
        for i in 1..N {
            sum = sum.add(self.0[i]);
        }
        so_far.add(sum)
    }
}
