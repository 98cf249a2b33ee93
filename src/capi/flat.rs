//! One buffer for all tensors
//!
//! Programs that keep all parameters in one allocation, and all gradients in another, make
//! the lists of pointers that sonew_step(), sonew_save() and all others take once:
//!
//! ```c
//! void *params[16];
//! const void *grads[16];
//! sonew_flat_pointers(optimizer, params_memory, grads_memory, num_parameters, NULL,
//!                     params, grads);
//! ...
//! sonew_step(optimizer, &step, params, grads, 16);
//! sonew_save(optimizer, path, params, 16);
//! ```

use std::ffi::c_void;
use std::ops::Range;

use super::arguments::{not_null, List};
use super::guard::call;
use super::handles::sonew_optimizer;
use super::owned::ask;
use super::status::sonew_status;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::TensorSpec;
use crate::Optimizer;

/// Writes where each tensor lies in a buffer of all parameters to params[i], and where its
/// gradient lies in a buffer of all gradients to grads[i], for all tensors of the optimizer.
/// Each buffer has length elements. The tensors follow one another in their order, and length
/// must be the sum of their elements; or offsets has the offset of each of them, in elements,
/// and none may reach past length. Otherwise offsets is NULL. All tensors must have one type
/// of parameters, and one of gradients. Of parameters or of gradients, buffer and list may
/// both be NULL.
///
/// The buffers are not looked at. Pointers are checked by the calls that they are passed to,
/// which refuse parameters that overlap.
///
/// Errors: SONEW_WRONG_LENGTH, SONEW_OUT_OF_RANGE for an offset, SONEW_DTYPE_DIFFERS,
/// SONEW_SIZE_OVERFLOW, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_flat_pointers(
    optimizer: *const sonew_optimizer,
    flat_params: *mut c_void,
    flat_grads: *const c_void,
    length: usize,
    offsets: *const usize,
    params: *mut *mut c_void,
    grads: *mut *const c_void,
) -> sonew_status {
    call(|| {
        let wants_params = is_wanted(params, flat_params, length, ["params", "flat_params"])?;
        let wants_grads = is_wanted(grads, flat_grads, length, ["grads", "flat_grads"])?;
        ask(optimizer, |owned| {
            let optimizer = &owned.optimizer;
            let count = optimizer.tensors().len();
            // SAFETY: the header asks for as many offsets as there are tensors, or NULL.
            let offsets = unsafe { List::new(offsets, 0, "offsets")?.with_count(count) };
            let offsets = offsets
                .is_given()
                .then(|| offsets.collect("the list of offsets", |_, offset| Ok(offset)));
            let ranges = optimizer.flat_ranges(length, offsets.transpose()?.as_deref())?;
            let of = |wanted: bool, flat, of| {
                let places = || places(optimizer, &ranges, length, flat, of);
                wanted.then(places).transpose()
            };
            let params_at = of(wants_params, flat_params.cast_const(), PARAMS)?;
            let grads_at = of(wants_grads, flat_grads, GRADS)?;
            // SAFETY: the header asks for lists of as many pointers as there are tensors.
            unsafe {
                for (i, at) in params_at.into_iter().flatten().enumerate() {
                    params.add(i).write_unaligned(at.cast_mut());
                }
                for (i, at) in grads_at.into_iter().flatten().enumerate() {
                    grads.add(i).write_unaligned(at);
                }
            }
            Ok(())
        })
    })
}

/// Whether a list is wanted of a buffer of this length: both are given, or none.
fn is_wanted<P, Q>(
    list: *const P,
    flat: *const Q,
    length: usize,
    [list_name, flat_name]: [&str; 2],
) -> Result<bool> {
    if list.is_null() && !flat.is_null() {
        not_null(list, || list_name.to_owned())?;
    }
    if !list.is_null() && length > 0 {
        not_null(flat, || flat_name.to_owned())?;
    }
    Ok(!list.is_null())
}

/// What a buffer is of, and which type its tensors say.
type Of = (&'static str, fn(&TensorSpec) -> Dtype);
const PARAMS: Of = ("the parameter", |spec| spec.params);
const GRADS: Of = ("the gradient", |spec| spec.grads);

/// The address of each range of elements in a buffer.
fn places<'a>(
    optimizer: &Optimizer,
    ranges: &'a [Range<usize>],
    length: usize,
    flat: *const c_void,
    (what, dtype_of): Of,
) -> Result<impl Iterator<Item = *const c_void> + use<'a>> {
    let specs = optimizer.tensors();
    let first = &specs[0];
    let dtype = dtype_of(first);
    if let Some(other) = specs.iter().find(|spec| dtype_of(spec) != dtype) {
        return Err(Error::FlatDtype {
            argument: what,
            first: first.name.clone(),
            first_dtype: dtype,
            second: other.name.clone(),
            second_dtype: dtype_of(other),
        });
    }
    let bytes = length.checked_mul(dtype.size());
    if bytes
        .and_then(|bytes| flat.addr().checked_add(bytes))
        .is_none()
    {
        return Err(Error::PastLastAddress {
            tensor: specs[specs.len() - 1].name.clone(),
            argument: what.to_owned(),
            address: flat.addr(),
            bytes: bytes.unwrap_or(usize::MAX),
        });
    }
    let at = move |range: &Range<usize>| flat.wrapping_byte_add(range.start * dtype.size());
    Ok(ranges.iter().map(at))
}
