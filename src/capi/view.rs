//! Views of the state
//!
//! The state of a tensor is a list of planes: "momentum", "diagonal",
//! "band.1", "band.2" and so on, as many as options.band says, "rms" with
//! SONEW_GRAFT_NORMALIZED_RMSPROP, and "master" with master weights; a tensor
//! that takes the Adam update has of these the first two and the last. "master"
//! is SONEW_F32, the others have the tensor's state_dtype. A plane has one number for each parameter, in the tensor's own
//! order: that of coordinate j is where coordinate j is. In "band.k" that is
//! H[j+k][j], j+k counted along the chain; the last k coordinates of a chain
//! have 0.

use std::ffi::{c_char, c_void};

use super::arguments::{not_null, string, Out};
use super::guard::call;
use super::optimizer::{query, sonew_optimizer, with, Owned};
use super::status::sonew_status;
use super::tensor::{dtype_number, SONEW_MAX_DIMS};
use super::versioned::{self, Growing};
use crate::error::{Error, Result};

/// A state plane where it lies, not copied. Everything that it points to is to
/// be read only, by calls of the same thread or between calls; data is as
/// after the last step, and without bias correction. It lives until the next
/// call that steps, loads into or frees the optimizer: ask again after each.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_view {
    /// The first element, aligned to 64 bytes.
    pub data: *const c_void,
    /// Number of elements.
    pub len: usize,
    /// The tensor's name.
    pub tensor: *const c_char,
    /// The plane's name.
    pub plane: *const c_char,
    /// Number of dimensions.
    pub ndim: usize,
    /// The tensor's dimensions, slowest first; 0 beyond ndim.
    pub dims: [usize; SONEW_MAX_DIMS],
    /// One of sonew_dtype: the type of data's elements.
    pub dtype: i32,
    /// 0.
    pub reserved: i32,
}

// SAFETY: 13 * 8 + 2 * 4 bytes without padding.
unsafe impl Growing for sonew_view {
    const SIZES: &'static [usize] = &[size_of::<sonew_view>()];
}

/// The number of state planes of a tensor, in *count.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plane_count(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    count: *mut usize,
) -> sonew_status {
    let value = |o: &Owned| Ok(o.optimizer.planes(tensor)?.len());
    // SAFETY: the header asks for a place for the result.
    unsafe { query(optimizer, count, "count", value) }
}

/// The index of a tensor's state plane of this name, in *plane.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_find_plane(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    name: *const c_char,
    plane: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a place for the result.
        let (name, out) = unsafe {
            (
                string(name, || "name".to_owned())?,
                Out::new(plane, "plane")?,
            )
        };
        let found = with(optimizer, |owned| {
            let planes = owned.optimizer.planes(tensor)?;
            let found = planes.iter().position(|plane| plane.name == name);
            found.ok_or_else(|| Error::UnknownName {
                owner: format!("tensor \"{}\"", owned.optimizer.tensors()[tensor].name),
                kind: "state plane",
                name,
            })
        })?;
        out.write(found);
        Ok(())
    })
}

/// A view of a tensor's state plane, in *view. Pass sizeof *view for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE, SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plane_view(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    plane: usize,
    view: *mut sonew_view,
    size: usize,
) -> sonew_status {
    call(|| {
        not_null(view, || "view".to_owned())?;
        let value = with(optimizer, |owned| view_of(owned, tensor, plane))?;
        // SAFETY: the header asks for a struct of this size.
        unsafe { versioned::write(value, view, size, "view") }
    })
}

fn view_of(owned: &Owned, tensor: usize, plane: usize) -> Result<sonew_view> {
    let elements = owned.optimizer.plane(tensor, plane)?;
    let spec = &owned.optimizer.tensors()[tensor];
    let names = &owned.names[tensor];
    let mut dims = [0; SONEW_MAX_DIMS];
    dims[..spec.dims.len()].copy_from_slice(&spec.dims);
    Ok(sonew_view {
        data: elements.bytes().as_ptr().cast(),
        len: elements.len(),
        tensor: names.tensor.as_ptr(),
        plane: names.planes[plane].as_ptr(),
        ndim: spec.dims.len(),
        dims,
        dtype: dtype_number(elements.dtype()),
        reserved: 0,
    })
}
