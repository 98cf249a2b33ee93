//! Element types, and buffers of them.

use std::fmt;

pub use half::{bf16, f16};
pub use sonew_kernel::Dtype;

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
pub enum Elements<'a> {
    /// `f32`.
    F32(&'a [f32]),
    /// `f64`.
    F64(&'a [f64]),
    /// [`struct@bf16`].
    Bf16(&'a [bf16]),
    /// [`struct@f16`].
    F16(&'a [f16]),
}

impl<'a> Elements<'a> {
    /// Wraps a buffer whose type is known at compile time.
    pub fn new<T: Element>(values: &'a [T]) -> Self {
        Elements::from_bytes(T::DTYPE, bytemuck::cast_slice(values))
    }

    /// Interprets bytes as elements of this type.
    ///
    /// # Panics
    /// If the bytes are not aligned to the elements, or do not hold a whole
    /// number of them.
    pub(crate) fn from_bytes(dtype: Dtype, bytes: &'a [u8]) -> Self {
        match dtype {
            Dtype::F32 => Elements::F32(bytemuck::cast_slice(bytes)),
            Dtype::F64 => Elements::F64(bytemuck::cast_slice(bytes)),
            Dtype::Bf16 => Elements::Bf16(bytemuck::cast_slice(bytes)),
            Dtype::F16 => Elements::F16(bytemuck::cast_slice(bytes)),
        }
    }

    /// The type of the elements.
    pub fn dtype(self) -> Dtype {
        match self {
            Elements::F32(_) => Dtype::F32,
            Elements::F64(_) => Dtype::F64,
            Elements::Bf16(_) => Dtype::Bf16,
            Elements::F16(_) => Dtype::F16,
        }
    }

    /// Number of elements.
    pub fn len(self) -> usize {
        self.bytes().len() / self.dtype().size()
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.bytes().is_empty()
    }

    /// The bytes of the elements.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Elements::F32(values) => bytemuck::cast_slice(values),
            Elements::F64(values) => bytemuck::cast_slice(values),
            Elements::Bf16(values) => bytemuck::cast_slice(values),
            Elements::F16(values) => bytemuck::cast_slice(values),
        }
    }

    /// The elements, if they are of this type.
    pub fn as_slice<T: Element>(self) -> Option<&'a [T]> {
        (self.dtype() == T::DTYPE).then(|| bytemuck::cast_slice(self.bytes()))
    }
}

impl<'a, T: Element> From<&'a [T]> for Elements<'a> {
    fn from(values: &'a [T]) -> Self {
        Elements::new(values)
    }
}

/// A mutably borrowed buffer whose element type is known at run time.
#[derive(Debug, PartialEq)]
pub enum ElementsMut<'a> {
    /// `f32`.
    F32(&'a mut [f32]),
    /// `f64`.
    F64(&'a mut [f64]),
    /// [`struct@bf16`].
    Bf16(&'a mut [bf16]),
    /// [`struct@f16`].
    F16(&'a mut [f16]),
}

impl<'a> ElementsMut<'a> {
    /// Wraps a buffer whose type is known at compile time.
    pub fn new<T: Element>(values: &'a mut [T]) -> Self {
        ElementsMut::from_bytes(T::DTYPE, bytemuck::cast_slice_mut(values))
    }

    /// As [`Elements::from_bytes`].
    pub(crate) fn from_bytes(dtype: Dtype, bytes: &'a mut [u8]) -> Self {
        match dtype {
            Dtype::F32 => ElementsMut::F32(bytemuck::cast_slice_mut(bytes)),
            Dtype::F64 => ElementsMut::F64(bytemuck::cast_slice_mut(bytes)),
            Dtype::Bf16 => ElementsMut::Bf16(bytemuck::cast_slice_mut(bytes)),
            Dtype::F16 => ElementsMut::F16(bytemuck::cast_slice_mut(bytes)),
        }
    }

    /// The same buffer, for reading.
    pub fn elements(&self) -> Elements<'_> {
        match self {
            ElementsMut::F32(values) => Elements::F32(values),
            ElementsMut::F64(values) => Elements::F64(values),
            ElementsMut::Bf16(values) => Elements::Bf16(values),
            ElementsMut::F16(values) => Elements::F16(values),
        }
    }

    /// The same buffer, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ElementsMut<'_> {
        ElementsMut::from_bytes(self.dtype(), self.bytes_mut())
    }

    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.elements().dtype()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elements().len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.elements().is_empty()
    }

    /// The bytes of the elements.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            ElementsMut::F32(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::F64(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::Bf16(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::F16(values) => bytemuck::cast_slice_mut(values),
        }
    }

    /// As [`ElementsMut::bytes_mut`], for as long as the buffer is borrowed.
    pub(crate) fn into_bytes(self) -> &'a mut [u8] {
        match self {
            ElementsMut::F32(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::F64(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::Bf16(values) => bytemuck::cast_slice_mut(values),
            ElementsMut::F16(values) => bytemuck::cast_slice_mut(values),
        }
    }

    /// The elements, if they are of this type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.elements().as_slice()
    }

    /// The elements to be written, if they are of this type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        (self.dtype() == T::DTYPE).then(|| bytemuck::cast_slice_mut(self.bytes_mut()))
    }
}

impl<'a, T: Element> From<&'a mut [T]> for ElementsMut<'a> {
    fn from(values: &'a mut [T]) -> Self {
        ElementsMut::new(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_itself<T: Element>(mut values: [T; 3]) {
        let copy = values;
        let elements = Elements::new(&copy);
        assert_eq!((elements.dtype(), elements.len()), (T::DTYPE, 3));
        assert_eq!(elements.bytes().len(), 3 * T::DTYPE.size());
        assert_eq!(T::DTYPE.size(), size_of::<T>());
        assert_eq!(T::DTYPE.size(), align_of::<T>());
        assert_eq!(elements.as_slice::<T>(), Some(&copy[..]));

        let mut elements = ElementsMut::new(&mut values);
        assert_eq!((elements.dtype(), elements.len()), (T::DTYPE, 3));
        elements.reborrow().as_mut_slice::<T>().unwrap()[2] = copy[0];
        assert_eq!(
            elements.as_slice::<T>().unwrap(),
            [copy[0], copy[1], copy[0]]
        );
    }

    #[test]
    fn a_buffer_of_any_type_is_seen_as_that_type_only() {
        is_itself([1.0f32, 2.0, 3.0]);
        is_itself([1.0f64, 2.0, 3.0]);
        is_itself([1.0, 2.0, 3.0].map(bf16::from_f32));
        is_itself([1.0, 2.0, 3.0].map(f16::from_f32));
        let (mut bits, more) = ([bf16::ONE; 2], [bf16::ONE; 2]);
        assert_eq!(Elements::new(&more).as_slice::<f16>(), None);
        assert_eq!(Elements::new(&more).as_slice::<f32>(), None);
        assert_eq!(ElementsMut::new(&mut bits).as_mut_slice::<f16>(), None);
    }
}
