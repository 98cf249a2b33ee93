//! Element types, and buffers of them.

use bytemuck::{cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;

pub use sonew_kernel::{bf16, f16, Dtype, Element, Elements, ElementsMut};
pub(crate) use sonew_kernel::{convert, Stochastic};

/// Rounds float32 master weights to parameters, to nearest. A NaN keeps its payload, unlike in a
/// step.
pub(crate) fn narrow(master: &[f32], mut params: ElementsMut<'_>) {
    let dtype = params.dtype();
    let bytes = params.bytes_mut();
    match dtype {
        Dtype::F32 => bytes.copy_from_slice(cast_slice(master)),
        Dtype::Bf16 => cast_slice_mut::<u8, bf16>(bytes).convert_from_f32_slice(master),
        Dtype::F16 => cast_slice_mut::<u8, f16>(bytes).convert_from_f32_slice(master),
        Dtype::F64 => unreachable!("such a tensor was refused"),
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
