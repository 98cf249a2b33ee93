//! The few vector operations that the kernels are written over.
//!
//! A vector has the same number of lanes on every instruction set: narrower
//! registers are used several at a time. So the order of every sum, and with
//! it every bit of every result, is the same everywhere.
//!
//! No method carries a target feature; all are inlined into the entry points
//! of `kernel::isa`, which alone do.

/// A fixed number of lanes of one floating-point type.
///
/// Each operation rounds once, to nearest even, as IEEE 754 defines it; only
/// the payload of a NaN may differ between instruction sets, which is why the
/// kernels store NaN through [`Vector::canonical`].
///
/// # Safety
/// Methods may use instructions of their instruction set: call them only from
/// functions that carry (or are inlined into one that carries) its features.
pub(crate) trait Vector: Copy {
    /// The type of one lane.
    type Scalar: Scalar;
    /// One truth value per lane.
    type Mask: Copy;
    /// A float64 accumulator per lane.
    type Sums: Copy;
    /// Number of lanes, the same on every instruction set.
    const LANES: usize;

    unsafe fn splat(x: Self::Scalar) -> Self;
    unsafe fn load(from: *const Self::Scalar) -> Self;
    unsafe fn store(self, to: *mut Self::Scalar);

    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    unsafe fn abs(self) -> Self;
    /// `self * b + c`, rounded once.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c - self * b`, rounded once.
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;

    /// `self < b`; false where either is NaN.
    unsafe fn lt(self, b: Self) -> Self::Mask;
    unsafe fn is_nan(self) -> Self::Mask;
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    unsafe fn all(a: Self::Mask) -> bool;
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    unsafe fn no_sums() -> Self::Sums;
    /// Adds the square of each lane to its accumulator.
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums;
    /// Writes the accumulators, `LANES` of them.
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64);

    /// Asks for a cache line soon to be used. Any address will do: nothing is
    /// read that could fault.
    unsafe fn prefetch(address: *const u8);

    /// The first `count` lanes; the others are zero. `count <= LANES`.
    #[inline(always)]
    unsafe fn load_partial(from: *const Self::Scalar, count: usize) -> Self {
        let mut lanes = [Self::Scalar::ZERO; MAX_LANES];
        // SAFETY: the caller lets us read `count` elements, and the array is
        // as long as the longest vector.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Stores the first `count` lanes. `count <= LANES`.
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut Self::Scalar, count: usize) {
        let mut lanes = [Self::Scalar::ZERO; MAX_LANES];
        // SAFETY: the caller lets us write `count` elements, and the array is
        // as long as the longest vector.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }

    /// The same numbers, with every NaN the same NaN.
    #[inline(always)]
    unsafe fn canonical(self) -> Self {
        // SAFETY: the caller has this instruction set.
        unsafe { Self::select(self.is_nan(), Self::splat(Self::Scalar::NAN), self) }
    }

    /// Zero where the magnitude is below the smallest normal number. State
    /// that decays would otherwise linger among the subnormals, where some
    /// processors are a hundred times slower.
    #[inline(always)]
    unsafe fn flush(self) -> Self {
        // SAFETY: the caller has this instruction set.
        unsafe {
            let tiny = self.abs().lt(Self::splat(Self::Scalar::MIN_POSITIVE));
            Self::select(tiny, Self::splat(Self::Scalar::ZERO), self)
        }
    }
}

/// The longest vector of any scalar type.
pub(crate) const MAX_LANES: usize = 16;

/// How far ahead of the loop that first touches them buffers are asked for, in
/// bytes. Blocks interleave several streams, each too short for the
/// processor to see it coming by itself.
pub(crate) const AHEAD: usize = 4096;

/// Asks for what lies [`AHEAD`] of `at`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn prefetch<V: Vector, E>(at: *const E) {
    // SAFETY: passed on from the caller.
    unsafe { V::prefetch(at.cast::<u8>().wrapping_add(AHEAD)) }
}

/// A floating-point type that kernels compute in.
pub(crate) trait Scalar: bytemuck::Pod + PartialOrd + Send + Sync {
    const ZERO: Self;
    const ONE: Self;
    const INFINITY: Self;
    const NAN: Self;
    const MIN_POSITIVE: Self;
    /// Nearest, ties to even.
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const INFINITY: Self = f32::INFINITY;
    const NAN: Self = f32::from_bits(0x7fc0_0000);
    const MIN_POSITIVE: Self = f32::MIN_POSITIVE;
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

/// A vector that can read and write stored elements of type `E`.
pub(crate) trait Lanes<E>: Vector {
    /// Reads the first `count` elements; full vectors take the direct way.
    unsafe fn read(from: *const E, count: usize) -> Self;
    /// Writes the first `count` elements.
    unsafe fn write(self, to: *mut E, count: usize);
}

impl<V: Vector> Lanes<V::Scalar> for V {
    #[inline(always)]
    unsafe fn read(from: *const V::Scalar, count: usize) -> Self {
        // SAFETY: the caller lets us read `count` elements.
        unsafe {
            if count == V::LANES {
                V::load(from)
            } else {
                V::load_partial(from, count)
            }
        }
    }

    #[inline(always)]
    unsafe fn write(self, to: *mut V::Scalar, count: usize) {
        // SAFETY: the caller lets us write `count` elements.
        unsafe {
            if count == V::LANES {
                self.store(to)
            } else {
                self.store_partial(to, count)
            }
        }
    }
}

/// Runs a body over `n` positions, one vector at a time: `at` is the first
/// position and `count` the number of lanes in use, which is the constant
/// `LANES` in all rounds but the last.
macro_rules! for_lanes {
    ($V:ident, $n:expr, |$at:ident, $count:ident| $body:block) => {{
        let n: usize = $n;
        let full = n - n % $V::LANES;
        let mut $at = 0;
        while $at < full {
            let $count = $V::LANES;
            $body
            $at += $V::LANES;
        }
        if $at < n {
            let $count = n - $at;
            $body
        }
    }};
}
pub(crate) use for_lanes;
