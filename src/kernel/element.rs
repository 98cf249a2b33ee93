//! Elements as they lie in memory become lanes, and lanes elements.

use std::mem::MaybeUninit;

use super::sixteen::Sixteen;
use super::vector::{Vector, Words, LANES};
use crate::dtype::Dtype;

/// Where stochastic rounding takes its random bits from: the same for the same
/// seed, step, tensor, plane and element, whoever computes it.
#[derive(Clone, Copy)]
pub(crate) struct Noise {
    key: [u32; 2],
}

impl Noise {
    /// The bits of one plane of a tensor in one step. Elements are told apart
    /// by the low 32 bits of their index.
    pub(crate) fn new(seed: u64, step: u64, tensor: usize, plane: usize) -> Self {
        let key = [step, tensor as u64, plane as u64]
            .into_iter()
            .fold(seed, |key, x| mix(key ^ mix(x)));
        Noise {
            key: [key as u32, (key >> 32) as u32],
        }
    }

    /// 32 random bits for each of the elements from `index` on.
    ///
    /// A counter goes through the two-round integer hash "lowbias32" of C.
    /// Wellons' hash prospector, keyed before each round.
    ///
    /// # Safety
    /// The processor has the instructions of `W`.
    #[inline(always)]
    unsafe fn bits<W: Words>(self, index: usize) -> W {
        // SAFETY: passed on from the caller.
        unsafe {
            let x = W::counting().add(W::splat(index as u32));
            let x = x.xor(W::splat(self.key[0]));
            let x = x.xor(x.shr::<16>()).mul(W::splat(0x7feb_352d));
            let x = x.add(W::splat(self.key[1]));
            let x = x.xor(x.shr::<15>()).mul(W::splat(0x846c_a68b));
            x.xor(x.shr::<16>())
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A type of stored elements.
pub(crate) trait Stored: Copy {
    const DTYPE: Dtype;
    /// Whether numbers are rounded to fewer bits; every NaN becomes the same
    /// then. Otherwise NaN is stored as it is.
    const ROUNDS: bool;

    /// # Safety
    /// `from` is good for a vector of elements, and the processor has the
    /// instructions of `V`.
    unsafe fn load<V: Vector>(from: *const u8) -> V;

    /// Rounds, stores, and returns what is stored. See [`write`].
    ///
    /// # Safety
    /// `to` is good for a vector of elements, and the processor has the
    /// instructions of `V`.
    unsafe fn store<V: Vector>(x: V, to: *mut u8, index: usize, noise: Option<Noise>) -> V;
}

/// [`Dtype::F32`].
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// [`Dtype::F64`].
#[derive(Clone, Copy)]
pub(crate) struct F64;
/// [`Dtype::Bf16`].
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
/// [`Dtype::F16`].
#[derive(Clone, Copy)]
pub(crate) struct F16;

// SAFETY, of every block in the four: passed on from the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Stored for F32 {
    const DTYPE: Dtype = Dtype::F32;
    const ROUNDS: bool = false;
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        unsafe { V::load_f32(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, to: *mut u8, _: usize, _: Option<Noise>) -> V {
        unsafe {
            x.store_f32(to.cast());
            if size_of::<V::Scalar>() == size_of::<f32>() {
                return x;
            }
            V::load_f32(to.cast())
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Stored for F64 {
    const DTYPE: Dtype = Dtype::F64;
    const ROUNDS: bool = false;
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        unsafe { V::load_f64(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, to: *mut u8, _: usize, _: Option<Noise>) -> V {
        unsafe { x.store_f64(to.cast()) };
        x
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Stored for Bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    const ROUNDS: bool = true;
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        unsafe { load_sixteen::<V, Self>(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, to: *mut u8, index: usize, noise: Option<Noise>) -> V {
        unsafe { store_sixteen::<V, Self>(x, to, index, noise) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Stored for F16 {
    const DTYPE: Dtype = Dtype::F16;
    const ROUNDS: bool = true;
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const u8) -> V {
        unsafe { load_sixteen::<V, Self>(from) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(x: V, to: *mut u8, index: usize, noise: Option<Noise>) -> V {
        unsafe { store_sixteen::<V, Self>(x, to, index, noise) }
    }
}

/// Numbers of 16 bits become float32 in as many vectors as that takes.
///
/// # Safety
/// As for [`Stored::load`].
#[inline(always)]
unsafe fn load_sixteen<V: Vector, T: Sixteen>(from: *const u8) -> V {
    let from: *const u16 = from.cast();
    let mut lanes = [0f32; LANES];
    // SAFETY: the caller's promise; the array has room for a vector.
    unsafe {
        for i in (0..V::LANES).step_by(V::Single::LANES) {
            let x: V::Single = T::read(Words::load_u16(from.add(i)));
            x.store_f32(lanes.as_mut_ptr().add(i));
        }
        V::load_f32(lanes.as_ptr())
    }
}

/// By way of float32, too.
///
/// # Safety
/// As for [`Stored::store`].
#[inline(always)]
unsafe fn store_sixteen<V: Vector, T: Sixteen>(
    x: V,
    to: *mut u8,
    index: usize,
    noise: Option<Noise>,
) -> V {
    let to: *mut u16 = to.cast();
    let mut lanes = [0f32; LANES];
    // SAFETY: the caller's promise; the array has room for a vector.
    unsafe {
        x.store_f32(lanes.as_mut_ptr());
        for i in (0..V::LANES).step_by(V::Single::LANES) {
            let x = V::Single::load_f32(lanes.as_ptr().add(i));
            let words = match noise {
                None => T::round(x),
                Some(noise) => T::round_by_chance(x, noise.bits(index + i)),
            };
            words.store_u16(to.add(i));
            let x: V::Single = T::read(words);
            x.store_f32(lanes.as_mut_ptr().add(i));
        }
        V::load_f32(lanes.as_ptr())
    }
}

/// Any type, told at run time: a branch that always goes the same way.
#[derive(Clone, Copy)]
pub(crate) struct Any(pub(crate) Dtype);

// SAFETY, of every block below: passed on from the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Any {
    /// See [`Stored::load`].
    #[inline(always)]
    unsafe fn load<V: Vector>(self, from: *const u8) -> V {
        unsafe {
            match self.0 {
                Dtype::F32 => F32::load(from),
                Dtype::F64 => F64::load(from),
                Dtype::Bf16 => Bf16::load(from),
                Dtype::F16 => F16::load(from),
            }
        }
    }

    /// See [`Stored::store`].
    #[inline(always)]
    unsafe fn store<V: Vector>(self, x: V, to: *mut u8, index: usize, noise: Option<Noise>) {
        unsafe {
            match self.0 {
                Dtype::F32 => F32::store(x, to, index, noise),
                Dtype::F64 => F64::store(x, to, index, noise),
                Dtype::Bf16 => Bf16::store(x, to, index, noise),
                Dtype::F16 => F16::store(x, to, index, noise),
            };
        }
    }
}

/// Room for the elements of a whole vector, of any type.
#[repr(C, align(64))]
struct Spare(MaybeUninit<[u8; 8 * LANES]>);

impl Spare {
    /// Not filled: that would be done for whole vectors, too.
    #[inline(always)]
    fn new() -> Self {
        Spare(MaybeUninit::uninit())
    }

    #[inline(always)]
    fn first(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    /// Copies a part of a vector here, and zeros behind it.
    ///
    /// # Safety
    /// `from` is good for so many bytes, not more than a vector's.
    #[cold]
    #[inline(never)]
    unsafe fn take(&mut self, from: *const u8, bytes: usize) -> *const u8 {
        let all = self.0.write([0; 8 * LANES]);
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), bytes) };
        all.as_ptr()
    }

    /// Copies a part of a vector back.
    ///
    /// # Safety
    /// So many bytes have been written here, and `to` is good for them.
    #[cold]
    #[inline(never)]
    unsafe fn give(&mut self, to: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(self.first(), to, bytes) };
    }
}

/// Whether stored elements are of the arithmetic's type.
#[inline(always)]
fn is_own<V: Vector, S: Stored>() -> bool {
    !S::ROUNDS && S::DTYPE.size() == size_of::<V::Scalar>()
}

/// Reads `count` elements; the other lanes are zero.
///
/// # Safety
/// `from` is good for `count <= V::LANES` elements, and the processor has the
/// instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn read<V: Vector, S: Stored>(from: *const u8, count: usize) -> V {
    // SAFETY: the caller's promise; a part of a vector is read from a copy.
    unsafe {
        if count < V::LANES && is_own::<V, S>() {
            return V::load_first(from.cast(), count);
        }
        let mut spare = Spare::new();
        S::load(match count == V::LANES {
            true => from,
            false => spare.take(from, count * S::DTYPE.size()),
        })
    }
}

/// As [`read`], of any type.
///
/// # Safety
/// As for [`read`].
#[inline(always)]
pub(crate) unsafe fn read_any<V: Vector>(any: Any, from: *const u8, count: usize) -> V {
    // SAFETY: as for `read`.
    unsafe {
        let mut spare = Spare::new();
        any.load(match count == V::LANES {
            true => from,
            false => spare.take(from, count * any.0.size()),
        })
    }
}

/// Rounds lanes to elements, writes the first `count` of them, and returns
/// what was written.
///
/// Rounding is to nearest even; with `noise`, to 16 bits, up or down by chance
/// in proportion to how near each is. From float64, 16 bits are reached by way
/// of float32. `index` is the first element's in its plane.
///
/// # Safety
/// `to` is good for `count <= V::LANES` elements, and the processor has the
/// instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn write<V: Vector, S: Stored>(
    x: V,
    to: *mut u8,
    index: usize,
    count: usize,
    noise: Option<Noise>,
) -> V {
    // SAFETY: the caller's promise; a part of a vector is copied.
    unsafe {
        if count < V::LANES && is_own::<V, S>() {
            x.store_first(to.cast(), count);
            return x;
        }
        let mut spare = Spare::new();
        let place = if count == V::LANES { to } else { spare.first() };
        let stored = S::store(x, place, index, noise);
        if count < V::LANES {
            spare.give(to, count * S::DTYPE.size());
        }
        stored
    }
}

/// As [`write`], of any type.
///
/// # Safety
/// As for [`write`].
#[inline(always)]
pub(crate) unsafe fn write_any<V: Vector>(
    x: V,
    any: Any,
    to: *mut u8,
    index: usize,
    count: usize,
    noise: Option<Noise>,
) {
    // SAFETY: as for `write`.
    unsafe {
        let mut spare = Spare::new();
        let place = if count == V::LANES { to } else { spare.first() };
        any.store(x, place, index, noise);
        if count < V::LANES {
            spare.give(to, count * any.0.size());
        }
    }
}
