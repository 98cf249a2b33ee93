//! The checks of the buffers that are lent for a step.

use sonew_kernel::{Target, TensorBuffers};

use crate::dtype::{Dtype, Elements};
use crate::error::{Error, Result};
use crate::layout::{check_scalars, Plane, TensorSpec};
use crate::options::not_negative;

/// Refuses a buffer that has not this type, or not so many elements.
#[inline]
pub(crate) fn fits(
    tensor: &TensorSpec,
    argument: &str,
    elements: Elements<'_>,
    dtype: Dtype,
    len: usize,
) -> Result<()> {
    let (its_dtype, its_len) = (elements.dtype(), elements.len());
    match its_dtype == dtype && its_len == len {
        true => Ok(()),
        false => Err(misfit(tensor, argument, (its_dtype, its_len), (dtype, len))),
    }
}

#[cold]
fn misfit(
    tensor: &TensorSpec,
    argument: &str,
    (dtype, length): (Dtype, usize),
    (expected, len): (Dtype, usize),
) -> Error {
    let (tensor, argument) = (tensor.name.clone(), argument.to_owned());
    if dtype != expected {
        return Error::WrongDtype {
            tensor,
            argument,
            dtype,
            expected,
        };
    }
    Error::WrongLength {
        tensor,
        argument,
        length,
        expected: len,
    }
}

/// Refuses buffers that do not fit their tensor.
pub(super) fn check(
    tensor: &TensorSpec,
    planes: &[Plane],
    lr: f64,
    buffers: &TensorBuffers<'_>,
) -> Result<()> {
    if buffers.is_absent() {
        return Ok(());
    }
    let target = &buffers.target;
    let name = match target {
        Target::Parameters(_) => "the parameter",
        Target::Direction(_) => "the direction",
    };
    let len = tensor.len();
    fits(
        tensor,
        name,
        target.elements().elements(),
        tensor.params,
        len,
    )?;
    if let Some(gradient) = buffers.gradient {
        fits(tensor, "the gradient", gradient, tensor.grads, len)?;
    }
    if buffers.planes.len() != planes.len() {
        return Err(Error::PlaneCount {
            tensor: tensor.name.clone(),
            count: buffers.planes.len(),
            expected: planes.len(),
        });
    }
    for (plane, elements) in planes.iter().zip(&buffers.planes) {
        fits(
            tensor,
            &plane.name,
            elements.elements(),
            plane.dtype,
            plane.len(),
        )?;
    }
    let not_negative =
        |what, value| not_negative(format_args!("{what} of tensor \"{}\"", tensor.name), value);
    buffers.check_before();
    not_negative("lr_scale", buffers.lr_scale)?;
    not_negative("weight_decay", buffers.weight_decay)?;
    check_scalars(tensor, &buffers.scalars)?;
    let rate = lr * buffers.lr_scale;
    not_negative("lr times lr_scale", rate)?;
    let decay = rate * buffers.weight_decay;
    not_negative("lr times lr_scale times weight_decay", decay)
}
