//! Element types, and buffers of them.

use std::fmt;

pub use half::{bf16, f16};

/// The type of one element of a buffer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Dtype {
    /// IEEE 754 binary32: `f32`.
    F32,
    /// IEEE 754 binary64: `f64`.
    F64,
    /// The upper half of a binary32: [`struct@bf16`].
    #[serde(rename = "BF16")]
    Bf16,
    /// IEEE 754 binary16: [`struct@f16`].
    F16,
}

impl Dtype {
    /// All of them.
    pub(crate) const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];

    /// Size of one element in bytes; also its alignment.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
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

    /// The smallest normal number: state below it becomes zero.
    pub(crate) const fn least_normal(self) -> f64 {
        match self {
            Dtype::F64 => f64::MIN_POSITIVE,
            _ => f32::MIN_POSITIVE as f64,
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

/// A type that buffers can have: `f32`, `f64`, [`struct@bf16`] or
/// [`struct@f16`].
pub trait Element: sealed::Plain + Default + PartialOrd + fmt::Debug + Send + Sync {
    /// Its name at run time.
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
    /// A buffer whose type is known now.
    pub fn new<T: Element>(values: &'a [T]) -> Self {
        Elements::from_bytes(T::DTYPE, bytemuck::cast_slice(values))
    }

    /// The bytes of a buffer that is aligned to its elements and holds whole
    /// ones.
    ///
    /// # Panics
    /// If it is not, or does not.
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

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.bytes().is_empty()
    }

    /// The elements as they lie in memory.
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

/// A buffer to be written, whose element type is known at run time.
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
    /// A buffer whose type is known now.
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

    /// The same buffer, to be read.
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

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elements().is_empty()
    }

    /// The elements as they lie in memory.
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
