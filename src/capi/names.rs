//! The names of tensors and of their arrays as C strings, which outlive the call that asks
//! for them.

use std::ffi::{c_char, CString};
use std::ptr;

use super::options::{from_options, sonew_options};
use super::tensor::{dtype_number, from_spec, sonew_tensor};
use crate::error::{Error, Result};
use crate::layout::{Plane, TensorSpec};
use crate::memory::{list, reserve, try_list, OF_TENSORS};

/// The names of a tensor and of its arrays, as C strings, and the types of the arrays.
pub(super) struct Names {
    pub tensor: CString,
    pub arrays: Vec<CString>,
    /// Pointers to those of the arrays.
    pub list: Vec<*const c_char>,
    /// The types of the arrays.
    pub dtypes: Vec<i32>,
    /// Their numbers of elements.
    pub lens: Vec<usize>,
    /// The tensor's own options, if it has some.
    options: Option<Box<sonew_options>>,
}

// SAFETY: the pointers are to the strings beside them, which nobody changes.
unsafe impl Send for Names {}

impl Names {
    pub(super) fn new(tensor: &TensorSpec, arrays: &[Plane]) -> Result<Names> {
        let names = try_list(arrays.iter().map(|array| c_string(&array.name)), OF_TENSORS)?;
        Ok(Names {
            tensor: c_string(&tensor.name)?,
            list: list(names.iter().map(|name| name.as_ptr()), OF_TENSORS)?,
            dtypes: list(
                arrays.iter().map(|array| dtype_number(array.dtype)),
                OF_TENSORS,
            )?,
            lens: list(arrays.iter().map(Plane::len), OF_TENSORS)?,
            arrays: names,
            options: tensor.options.as_deref().map(|options| {
                let size = size_of::<sonew_options>();
                Box::new(from_options(options, size))
            }),
        })
    }

    /// The tensor for C, whose struct has this size.
    pub(super) fn tensor(&self, spec: &TensorSpec, struct_size: usize) -> sonew_tensor {
        let options = self.options.as_deref().map_or(ptr::null(), ptr::from_ref);
        from_spec(spec, self.tensor.as_ptr(), options, struct_size)
    }
}

/// A string for C. Names and texts cannot contain a NUL.
pub(super) fn c_string(text: &str) -> Result<CString> {
    let mut bytes = Vec::new();
    reserve(&mut bytes, text.len() + 1, || OF_TENSORS.to_owned())?;
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    CString::from_vec_with_nul(bytes).map_err(|_| Error::Internal {
        message: format!("{text:?} has a NUL"),
    })
}
