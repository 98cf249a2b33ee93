//! The few vector operations that the kernels are written over.
//!
//! A vector is a [`Pack`] of one register or more, whatever suits the
//! instruction set, which says what one [`Register`] can do. Sums are taken
//! over [`LANES`] lanes, whatever a vector has: coordinates that are so far
//! apart are added up one after the other. So the order of every sum, and with
//! it every bit of every result, is the same everywhere.
//!
//! No method carries a target feature; all are inlined into the entry points
//! of `kernel::isa`, which alone do. Nor is any of it in a closure: the
//! compiler need not inline those.

// Numbers of lines, registers and neighbours say more than iterators over them.
#![allow(clippy::needless_range_loop)]

/// Lanes over which sums are taken: those of a vector, or of two. Memory that
/// vectors are packed in is laid out in as many elements.
pub(crate) const LANES: usize = 16;

/// A floating-point type that kernels compute in.
pub(crate) trait Scalar: bytemuck::Pod + PartialOrd + Send + Sync {
    const ZERO: Self;
    const ONE: Self;
    const NAN: Self;
    /// Nearest, ties to even.
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f32::from_bits(0x7fc0_0000);
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NAN: Self = f64::from_bits(0x7ff8_0000_0000_0000);
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// One register of an instruction set, several lanes of a floating-point type.
///
/// Each operation rounds once, to nearest even, as IEEE 754 defines it; only
/// the payload of a NaN may differ between instruction sets, which is why the
/// kernels store NaN through [`Vector::canonical`].
///
/// # Safety
/// Methods may use instructions of their instruction set: call them only from
/// functions that carry (or are inlined into one that carries) its features.
/// Pointers are good for the register's lanes, and need no alignment unless
/// their method says so.
pub(crate) trait Register: Copy {
    /// The type of one lane.
    type Scalar: Scalar;
    /// One truth value per lane.
    type Mask: Copy;
    /// A float64 accumulator per lane.
    type Sums: Copy;
    /// The same instruction set's vector of float32.
    type Single: SingleVector;
    /// Its vector of the most lanes.
    type Wide: Vector<Scalar = Self::Scalar>;
    /// Lanes of the register.
    const LANES: usize;
    /// Whether narrow bands are worth kernels of their own. Not where nobody
    /// looks for speed.
    const UNROLLS: bool;

    unsafe fn splat(x: Self::Scalar) -> Self;
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_f64(from: *const f64) -> Self;
    unsafe fn store_f32(self, to: *mut f32);
    unsafe fn store_f64(self, to: *mut f64);
    /// Stores past the caches, where the instruction set can; `to` is aligned
    /// to 64 bytes where the whole vector starts.
    unsafe fn stream(self, to: *mut Self::Scalar);

    /// Asks for memory that will be read, where the instruction set can; it
    /// need not be there.
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

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
    /// `!(self < b)`; true where either is NaN.
    unsafe fn not_lt(self, b: Self) -> Self::Mask;
    unsafe fn is_nan(self) -> Self::Mask;
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    unsafe fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    unsafe fn all(a: Self::Mask) -> bool;
    unsafe fn any(a: Self::Mask) -> bool;
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Zero where the mask is false.
    unsafe fn only(self, mask: Self::Mask) -> Self;
    /// The lanes from `k` on of this and then the next register; `k` is less
    /// than [`Register::LANES`].
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        let mut both = [Self::Scalar::ZERO; 2 * LANES];
        // SAFETY: the array is as long as two registers, and the caller has
        // this instruction set.
        unsafe {
            self.store(both.as_mut_ptr());
            next.store(both.as_mut_ptr().add(Self::LANES));
            Self::load(both.as_ptr().add(k))
        }
    }

    /// Loads lanes of the register's own type.
    #[inline(always)]
    unsafe fn load(from: *const Self::Scalar) -> Self {
        // SAFETY: passed on from the caller.
        unsafe {
            if size_of::<Self::Scalar>() == 4 {
                Self::load_f32(from.cast())
            } else {
                Self::load_f64(from.cast())
            }
        }
    }

    /// Stores lanes of the register's own type.
    #[inline(always)]
    unsafe fn store(self, to: *mut Self::Scalar) {
        // SAFETY: passed on from the caller.
        unsafe {
            if size_of::<Self::Scalar>() == 4 {
                self.store_f32(to.cast())
            } else {
                self.store_f64(to.cast())
            }
        }
    }

    /// The first `count` lanes from memory, and zeros.
    #[inline(always)]
    unsafe fn load_first(from: *const Self::Scalar, count: usize) -> Self {
        let mut lanes = [Self::Scalar::ZERO; LANES];
        // SAFETY: the array is as long as a register, and the caller has this
        // instruction set.
        unsafe {
            copy_first(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Stores the first `count` lanes.
    #[inline(always)]
    unsafe fn store_first(self, to: *mut Self::Scalar, count: usize) {
        let mut lanes = [Self::Scalar::ZERO; LANES];
        // SAFETY: as above.
        unsafe {
            self.store(lanes.as_mut_ptr());
            copy_first(lanes.as_ptr(), to, count);
        }
    }

    /// The first `count` lanes, and `fill` in the others.
    #[inline(always)]
    unsafe fn first(self, count: usize, fill: Self) -> Self {
        let mut lanes = [Self::Scalar::ZERO; LANES];
        // SAFETY: as above.
        unsafe {
            fill.store(lanes.as_mut_ptr());
            self.store_first(lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    unsafe fn no_sums() -> Self::Sums;
    /// Adds the square of each lane to its accumulator.
    unsafe fn add_squares(self, sums: Self::Sums) -> Self::Sums;
    /// Writes the accumulators.
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64);
}

/// A register of float32, whose lanes can also be looked at as words.
pub(crate) trait SingleRegister: Register<Scalar = f32> {
    type Words: WordRegister;
    unsafe fn to_words(self) -> Self::Words;
    unsafe fn from_words(words: Self::Words) -> Self;
}

/// A register of 32-bit words, as many as the float32 register has lanes.
///
/// # Safety
/// As for [`Register`].
pub(crate) trait WordRegister: Copy {
    const LANES: usize;
    unsafe fn splat(x: u32) -> Self;
    unsafe fn load(from: *const u32) -> Self;
    /// Loads 16-bit words, extended with zeros.
    unsafe fn load_u16(from: *const u16) -> Self;
    /// Stores the low 16 bits of each word.
    unsafe fn store_u16(self, to: *mut u16);
    unsafe fn add(self, b: Self) -> Self;
    /// The low 32 bits of the product.
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn and(self, b: Self) -> Self;
    unsafe fn or(self, b: Self) -> Self;
    unsafe fn xor(self, b: Self) -> Self;
    unsafe fn shl<const N: u32>(self) -> Self;
    unsafe fn shr<const N: u32>(self) -> Self;
}

/// Registers one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Pack<R, const N: usize>([R; N]);

/// A vector: what the kernels are written over. See [`Register`] for what its
/// operations are, and for safety.
pub(crate) trait Vector: Copy {
    type Scalar: Scalar;
    type Mask: Copy;
    type Sums: Copy;
    /// The same instruction set's vector of float32, of as many lanes or a part
    /// of them.
    type Single: SingleVector;
    /// Its vector of [`LANES`] lanes.
    type Wide: Vector<Scalar = Self::Scalar>;
    const UNROLLS: bool;
    /// Registers of a vector.
    const REGISTERS: usize;
    /// Its lanes: [`LANES`], or half as many.
    const LANES: usize;

    unsafe fn prefetch(from: *const u8);
    unsafe fn splat(x: Self::Scalar) -> Self;
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_f64(from: *const f64) -> Self;
    unsafe fn store_f32(self, to: *mut f32);
    unsafe fn store_f64(self, to: *mut f64);
    unsafe fn load(from: *const Self::Scalar) -> Self;
    unsafe fn store(self, to: *mut Self::Scalar);
    /// The first `count` lanes from memory, and zeros.
    unsafe fn load_first(from: *const Self::Scalar, count: usize) -> Self;
    /// Stores the first `count` lanes.
    unsafe fn store_first(self, to: *mut Self::Scalar, count: usize);
    unsafe fn stream(self, to: *mut Self::Scalar);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    unsafe fn sqrt(self) -> Self;
    unsafe fn abs(self) -> Self;
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn lt(self, b: Self) -> Self::Mask;
    /// `!(self < b)`; true where either is NaN.
    unsafe fn not_lt(self, b: Self) -> Self::Mask;
    unsafe fn is_nan(self) -> Self::Mask;
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    unsafe fn all(a: Self::Mask) -> bool;
    unsafe fn any(a: Self::Mask) -> bool;
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// Zero where the mask is false.
    unsafe fn only(self, mask: Self::Mask) -> Self;
    /// The lanes from `k` on of this and then the next vector; `k` is at most
    /// the number of lanes.
    unsafe fn shift(self, next: Self, k: usize) -> Self;
    unsafe fn no_sums() -> Self::Sums;
    /// Adds the square of each lane to its accumulator; the vector's first lane
    /// is the `at`-th of all.
    unsafe fn add_squares(self, sums: &mut Self::Sums, at: usize);
    /// Writes the accumulators, [`LANES`] of them.
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64);

    /// The same numbers, with every NaN the same NaN.
    #[inline(always)]
    unsafe fn canonical(self) -> Self {
        // SAFETY: the caller has this instruction set.
        unsafe { Self::select(self.is_nan(), Self::splat(Self::Scalar::NAN), self) }
    }

    /// Zero where the magnitude is below `least`.
    #[inline(always)]
    unsafe fn flush(self, least: Self) -> Self {
        // SAFETY: the caller has this instruction set.
        unsafe { self.only(self.abs().not_lt(least)) }
    }

    /// The first `count` lanes, and `fill` in the others.
    unsafe fn first(self, count: usize, fill: Self::Scalar) -> Self;
}

/// # Safety
/// Both are good for `count` elements.
#[cold]
#[inline(never)]
unsafe fn copy_first<T: Copy>(from: *const T, to: *mut T, count: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, count) }
}

/// A vector of float32, whose lanes can also be looked at as words.
pub(crate) trait SingleVector: Vector<Scalar = f32> {
    type Words: Words;
    unsafe fn to_words(self) -> Self::Words;
    unsafe fn from_words(words: Self::Words) -> Self;
}

/// A vector of words; see [`WordRegister`].
pub(crate) trait Words: Copy {
    unsafe fn splat(x: u32) -> Self;
    /// `0, 1, 2 ..`.
    unsafe fn counting() -> Self;
    unsafe fn load_u16(from: *const u16) -> Self;
    unsafe fn store_u16(self, to: *mut u16);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn and(self, b: Self) -> Self;
    unsafe fn or(self, b: Self) -> Self;
    unsafe fn xor(self, b: Self) -> Self;
    unsafe fn shl<const N: u32>(self) -> Self;
    unsafe fn shr<const N: u32>(self) -> Self;
}

/// Defines operations of a pack: each register does its own.
macro_rules! each {
    ($(fn $name:ident(self $(, $other:ident)*);)*) => {$(
        #[inline(always)]
        unsafe fn $name(mut self $(, $other: Self)*) -> Self {
            for i in 0..N {
                // SAFETY: passed on from the caller.
                self.0[i] = unsafe { self.0[i].$name($($other.0[i]),*) };
            }
            self
        }
    )*};
}

/// How many of a pack's first `count` lanes are in its `i`-th register.
#[inline(always)]
fn part<R: Register>(count: usize, i: usize) -> usize {
    count.saturating_sub(i * R::LANES).min(R::LANES)
}

/// The `i`-th of two packs' registers.
#[inline(always)]
fn one_of<R: Copy, const N: usize>(first: &[R; N], second: &[R; N], i: usize) -> R {
    if i < N {
        first[i]
    } else {
        second[i - N]
    }
}

// SAFETY, of every block below: passed on from the caller; a pack's registers
// lie one after the other in memory, `R::LANES` elements apart.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<R: Register, const N: usize> Vector for Pack<R, N> {
    type Scalar = R::Scalar;
    type Mask = [R::Mask; N];
    /// Of two vectors, where one has half of all lanes.
    type Sums = [[R::Sums; N]; 2];
    type Single = R::Single;
    type Wide = R::Wide;
    const UNROLLS: bool = R::UNROLLS;
    const REGISTERS: usize = N;
    const LANES: usize = N * R::LANES;

    each! {
        fn add(self, b);
        fn mul(self, b);
        fn div(self, b);
        fn sqrt(self);
        fn abs(self);
        fn mul_add(self, b, c);
        fn neg_mul_add(self, b, c);
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { R::prefetch(from) }
    }
    #[inline(always)]
    unsafe fn splat(x: R::Scalar) -> Self {
        const { assert!(Self::LANES == LANES || 2 * Self::LANES == LANES) };
        Pack([unsafe { R::splat(x) }; N])
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        unsafe {
            let mut pack = Self::splat(R::Scalar::ZERO);
            for i in 0..N {
                pack.0[i] = R::load_f32(from.add(i * R::LANES));
            }
            pack
        }
    }
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        unsafe {
            let mut pack = Self::splat(R::Scalar::ZERO);
            for i in 0..N {
                pack.0[i] = R::load_f64(from.add(i * R::LANES));
            }
            pack
        }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        for i in 0..N {
            unsafe { self.0[i].store_f32(to.add(i * R::LANES)) }
        }
    }
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        for i in 0..N {
            unsafe { self.0[i].store_f64(to.add(i * R::LANES)) }
        }
    }
    #[inline(always)]
    unsafe fn load(from: *const R::Scalar) -> Self {
        unsafe {
            let mut pack = Self::splat(R::Scalar::ZERO);
            for i in 0..N {
                pack.0[i] = R::load(from.add(i * R::LANES));
            }
            pack
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut R::Scalar) {
        for i in 0..N {
            unsafe { self.0[i].store(to.add(i * R::LANES)) }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut R::Scalar) {
        for i in 0..N {
            unsafe { self.0[i].stream(to.add(i * R::LANES)) }
        }
    }
    #[inline(always)]
    unsafe fn lt(self, b: Self) -> Self::Mask {
        unsafe {
            let mut mask = [self.0[0].lt(b.0[0]); N];
            for i in 1..N {
                mask[i] = self.0[i].lt(b.0[i]);
            }
            mask
        }
    }
    #[inline(always)]
    unsafe fn not_lt(self, b: Self) -> Self::Mask {
        unsafe {
            let mut mask = [self.0[0].not_lt(b.0[0]); N];
            for i in 1..N {
                mask[i] = self.0[i].not_lt(b.0[i]);
            }
            mask
        }
    }
    #[inline(always)]
    unsafe fn is_nan(self) -> Self::Mask {
        unsafe {
            let mut mask = [self.0[0].is_nan(); N];
            for i in 1..N {
                mask[i] = self.0[i].is_nan();
            }
            mask
        }
    }
    #[inline(always)]
    unsafe fn and(mut a: Self::Mask, b: Self::Mask) -> Self::Mask {
        for i in 0..N {
            a[i] = unsafe { R::and(a[i], b[i]) };
        }
        a
    }
    #[inline(always)]
    unsafe fn all(a: Self::Mask) -> bool {
        let mut all = true;
        for mask in a {
            all &= unsafe { R::all(mask) };
        }
        all
    }
    #[inline(always)]
    unsafe fn any(a: Self::Mask) -> bool {
        let mut any = a[0];
        for i in 1..N {
            any = unsafe { R::or(any, a[i]) };
        }
        unsafe { R::any(any) }
    }
    #[inline(always)]
    unsafe fn select(mask: Self::Mask, yes: Self, mut no: Self) -> Self {
        for i in 0..N {
            no.0[i] = unsafe { R::select(mask[i], yes.0[i], no.0[i]) };
        }
        no
    }
    #[inline(always)]
    unsafe fn only(mut self, mask: Self::Mask) -> Self {
        for i in 0..N {
            self.0[i] = unsafe { self.0[i].only(mask[i]) };
        }
        self
    }
    #[inline(always)]
    unsafe fn shift(self, next: Self, k: usize) -> Self {
        let (registers, lanes) = (k / R::LANES, k % R::LANES);
        let mut pack = next;
        for i in 0..N {
            let first = one_of(&self.0, &next.0, i + registers);
            pack.0[i] = match lanes {
                0 => first,
                _ => unsafe { first.shift(one_of(&self.0, &next.0, i + registers + 1), lanes) },
            };
        }
        pack
    }
    #[inline(always)]
    unsafe fn load_first(from: *const R::Scalar, count: usize) -> Self {
        unsafe {
            let mut pack = Self::splat(R::Scalar::ZERO);
            for i in 0..N {
                let from = from.wrapping_add(i * R::LANES);
                pack.0[i] = R::load_first(from, part::<R>(count, i));
            }
            pack
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut R::Scalar, count: usize) {
        for i in 0..N {
            let to = to.wrapping_add(i * R::LANES);
            unsafe { self.0[i].store_first(to, part::<R>(count, i)) }
        }
    }
    #[inline(always)]
    unsafe fn first(mut self, count: usize, fill: R::Scalar) -> Self {
        unsafe {
            let fill = R::splat(fill);
            for i in 0..N {
                self.0[i] = self.0[i].first(part::<R>(count, i), fill);
            }
        }
        self
    }
    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        [[unsafe { R::no_sums() }; N]; 2]
    }
    #[inline(always)]
    unsafe fn add_squares(self, sums: &mut Self::Sums, at: usize) {
        let half = match Self::LANES {
            LANES => &mut sums[0],
            lanes => &mut sums[at / lanes % 2],
        };
        for i in 0..N {
            half[i] = unsafe { self.0[i].add_squares(half[i]) };
        }
    }
    #[inline(always)]
    unsafe fn store_sums(sums: Self::Sums, to: *mut f64) {
        for (i, sums) in sums.into_iter().flatten().enumerate() {
            if i * R::LANES < LANES {
                unsafe { R::store_sums(sums, to.add(i * R::LANES)) }
            }
        }
    }
}

// SAFETY, of every block below: passed on from the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<R: SingleRegister, const N: usize> SingleVector for Pack<R, N> {
    type Words = Pack<R::Words, N>;

    #[inline(always)]
    unsafe fn to_words(self) -> Self::Words {
        unsafe {
            let mut words = Pack([self.0[0].to_words(); N]);
            for i in 1..N {
                words.0[i] = self.0[i].to_words();
            }
            words
        }
    }
    #[inline(always)]
    unsafe fn from_words(words: Self::Words) -> Self {
        unsafe {
            let mut pack = Self::splat(0.0);
            for i in 0..N {
                pack.0[i] = R::from_words(words.0[i]);
            }
            pack
        }
    }
}

// SAFETY, of every block below: passed on from the caller; a pack's registers
// lie one after the other in memory.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<W: WordRegister, const N: usize> Words for Pack<W, N> {
    each! {
        fn add(self, b);
        fn mul(self, b);
        fn and(self, b);
        fn or(self, b);
        fn xor(self, b);
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> Self {
        Pack([unsafe { W::splat(x) }; N])
    }
    #[inline(always)]
    unsafe fn counting() -> Self {
        const COUNTING: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        unsafe {
            let mut words = Self::splat(0);
            for i in 0..N {
                words.0[i] = W::load(COUNTING.as_ptr().add(i * W::LANES));
            }
            words
        }
    }
    #[inline(always)]
    unsafe fn load_u16(from: *const u16) -> Self {
        unsafe {
            let mut words = Self::splat(0);
            for i in 0..N {
                words.0[i] = W::load_u16(from.add(i * W::LANES));
            }
            words
        }
    }
    #[inline(always)]
    unsafe fn store_u16(self, to: *mut u16) {
        for i in 0..N {
            unsafe { self.0[i].store_u16(to.add(i * W::LANES)) }
        }
    }
    #[inline(always)]
    unsafe fn shl<const S: u32>(mut self) -> Self {
        for i in 0..N {
            self.0[i] = unsafe { self.0[i].shl::<S>() };
        }
        self
    }
    #[inline(always)]
    unsafe fn shr<const S: u32>(mut self) -> Self {
        for i in 0..N {
            self.0[i] = unsafe { self.0[i].shr::<S>() };
        }
        self
    }
}
