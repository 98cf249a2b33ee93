//! The types of stored numbers, and buffers of them.

use std::fmt;
use std::marker::PhantomData;

pub use half::{bf16, f16};

/// The type of one element of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE 754 binary32: `f32`.
    F32,
    /// IEEE 754 binary64: `f64`.
    F64,
    /// The upper half of a binary32: [`half::bf16`].
    Bf16,
    /// IEEE 754 binary16: [`half::f16`].
    F16,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];

    /// Size of one element in bytes; also its alignment.
    pub const fn size(self) -> usize {
        1 << self.power()
    }

    /// The power of two that the size is: processors take long to divide by a number.
    const fn power(self) -> u32 {
        match self {
            Dtype::F64 => 3,
            Dtype::F32 => 2,
            Dtype::Bf16 | Dtype::F16 => 1,
        }
    }

    /// How many elements so many bytes hold.
    pub const fn elements_in(self, bytes: usize) -> usize {
        bytes >> self.power()
    }

    /// Whether a size or an address in bytes is a multiple of the size of an element.
    pub const fn divides(self, bytes: usize) -> bool {
        bytes & (self.size() - 1) == 0
    }

    /// The name that safetensors files use: `F32`, `F64`, `BF16` or `F16`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Plain: bytemuck::Pod {}
}

/// A type that the elements of a buffer can have: `f32`, `f64`,
/// [`struct@bf16`] or [`struct@f16`].
pub trait Element: sealed::Plain + Default + PartialOrd + fmt::Debug + Send + Sync {
    /// The corresponding value of [`Dtype`].
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($type:ty => $dtype:ident),*) => {$(
        impl sealed::Plain for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}

element!(f32 => F32, f64 => F64, bf16 => Bf16, f16 => F16);

/// A borrowed buffer whose element type is known at run time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elements<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Wraps a buffer whose type is known at compile time.
    pub fn new<T: Element>(values: &'a [T]) -> Self {
        Elements {
            dtype: T::DTYPE,
            bytes: bytemuck::cast_slice(values),
        }
    }

    /// Interprets bytes as elements of this type.
    ///
    /// # Panics
    /// If the bytes are not aligned to the elements, or do not hold a whole
    /// number of them.
    pub fn from_bytes(dtype: Dtype, bytes: &'a [u8]) -> Self {
        check_bytes(dtype, bytes);
        Elements { dtype, bytes }
    }

    /// The type of the elements.
    pub fn dtype(self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.dtype.elements_in(self.bytes.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of the elements.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, if they are of this type.
    pub fn as_slice<T: Element>(self) -> Option<&'a [T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::cast_slice(self.bytes))
    }
}

impl<'a, T: Element> From<&'a [T]> for Elements<'a> {
    fn from(values: &'a [T]) -> Self {
        Elements::new(values)
    }
}

/// A mutably borrowed buffer whose element type is known at run time.
///
/// It holds an address instead of a slice, so that the threads of a step can share
/// it and each write another part.
pub struct ElementsMut<'a> {
    dtype: Dtype,
    start: *mut u8,
    len: usize,
    buffer: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for an exclusively borrowed slice of numbers; a shared reference
// to it allows no more than reading them.
unsafe impl Send for ElementsMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for ElementsMut<'_> {}

impl<'a> ElementsMut<'a> {
    /// Wraps a buffer whose type is known at compile time.
    pub fn new<T: Element>(values: &'a mut [T]) -> Self {
        ElementsMut::from_bytes(T::DTYPE, bytemuck::cast_slice_mut(values))
    }

    /// As [`Elements::from_bytes`].
    pub fn from_bytes(dtype: Dtype, bytes: &'a mut [u8]) -> Self {
        check_bytes(dtype, bytes);
        // SAFETY: the buffer is borrowed for `'a`, and has just been checked.
        unsafe { ElementsMut::from_raw(dtype, bytes.as_mut_ptr(), dtype.elements_in(bytes.len())) }
    }

    /// A buffer of `len` elements, which nothing is done with yet.
    ///
    /// # Safety
    /// Whenever something is, within `'a`, there are so many elements, aligned and
    /// valid for reads and writes, and nobody else uses them.
    pub unsafe fn from_raw(dtype: Dtype, start: *mut u8, len: usize) -> Self {
        ElementsMut {
            dtype,
            start,
            len,
            buffer: PhantomData,
        }
    }

    /// The same buffer, for reading.
    pub fn elements(&self) -> Elements<'_> {
        let len = self.len * self.dtype.size();
        // SAFETY: the promise made to `from_raw`, and `self` is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts(self.start, len) };
        Elements {
            dtype: self.dtype,
            bytes,
        }
    }

    /// The same buffer, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ElementsMut<'_> {
        ElementsMut { ..*self }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of the elements.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the promise made to `from_raw`, and `self` is borrowed.
        unsafe { self.part(0, self.len) }
    }

    /// The elements, if they are of this type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.elements().as_slice()
    }

    /// The elements to be written, if they are of this type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::cast_slice_mut(self.bytes_mut()))
    }

    /// The bytes of some elements.
    ///
    /// # Panics
    /// If there are none at these places.
    ///
    /// # Safety
    /// No one else uses them while the slice lives.
    #[allow(clippy::mut_from_ref)] // Who writes what is governed by `Access`.
    #[inline]
    pub(crate) unsafe fn part<'b>(&self, first: usize, len: usize) -> &'b mut [u8] {
        assert!(first <= self.len && len <= self.len - first);
        let size = self.dtype.size();
        // SAFETY: the caller's promise, and that made to `from_raw`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first * size), len * size) }
    }
}

impl fmt::Debug for ElementsMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.elements().fmt(f)
    }
}

impl PartialEq for ElementsMut<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.elements() == other.elements()
    }
}

impl<'a, T: Element> From<&'a mut [T]> for ElementsMut<'a> {
    fn from(values: &'a mut [T]) -> Self {
        ElementsMut::new(values)
    }
}

fn check_bytes(dtype: Dtype, bytes: &[u8]) {
    assert!(dtype.divides(bytes.as_ptr().addr()) && dtype.divides(bytes.len()));
}
