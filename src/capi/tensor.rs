//! Tensors
//!
//! A tensor is a parameter buffer of the caller: contiguous, its last
//! dimension fastest. It is read as one or more chains of coordinates, and
//! neighbours in a chain share band entries.

use std::ffi::c_char;

use super::arguments::{named, string, unused, List};
use crate::error::{Error, Result};
use crate::layout::{Chains, TensorSpec, Update, MAX_DIMS};

/// The largest number of dimensions of a tensor.
pub const SONEW_MAX_DIMS: usize = 8;

const _: () = assert!(SONEW_MAX_DIMS == MAX_DIMS);

/// Which coordinates are neighbours. Chains should run along a unit's inputs;
/// along its outputs the method does much worse.
#[repr(C)]
pub enum sonew_chains {
    /// The whole tensor is one chain in the order of memory, last dimension
    /// fastest: for weights stored [out, in].
    SONEW_ROW_MAJOR = 0,
    /// The whole tensor is one chain, first dimension fastest: for weights
    /// stored [in, out].
    SONEW_COLUMN_MAJOR = 1,
    /// One chain for each row, along the last dimension.
    SONEW_ROWS = 2,
    /// One chain for each column, along the first dimension.
    SONEW_COLUMNS = 3,
}

/// Which update a tensor takes.
#[repr(C)]
pub enum sonew_update {
    /// The SONew direction, grafted as the options say.
    SONEW_UPDATE_SONEW = 0,
    /// Plain Adam, m^ / (sqrt(H^) + graft_eps): for biases and norms. Keeps
    /// the planes "momentum" and "diagonal" only.
    SONEW_UPDATE_ADAM = 1,
}

/// The type of a buffer's elements. This version has one.
#[repr(C)]
pub enum sonew_dtype {
    /// IEEE 754 binary32: float.
    SONEW_F32 = 0,
}

/// One tensor. Set every byte to zero first, as an initialiser that names
/// fields does: zero is the default of whatever is not set.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_tensor {
    /// UTF-8, not empty, without control characters, different from those of
    /// the other tensors; copied. Checkpoints find tensors by it.
    pub name: *const c_char,
    /// Number of dimensions, 0 (a scalar) to SONEW_MAX_DIMS.
    pub ndim: usize,
    /// The dimensions, slowest first; each at least 1, those beyond ndim 0.
    pub dims: [usize; SONEW_MAX_DIMS],
    /// One of sonew_chains. Default (0) SONEW_ROW_MAJOR.
    pub chains: i32,
    /// One of sonew_update. Default (0) SONEW_UPDATE_SONEW.
    pub update: i32,
    /// Must be 0.
    pub reserved: [i32; 6],
}

const CHAINS: &[(i32, Chains)] = &[
    (sonew_chains::SONEW_ROW_MAJOR as i32, Chains::RowMajor),
    (sonew_chains::SONEW_COLUMN_MAJOR as i32, Chains::ColumnMajor),
    (sonew_chains::SONEW_ROWS as i32, Chains::Rows),
    (sonew_chains::SONEW_COLUMNS as i32, Chains::Columns),
];

const UPDATES: &[(i32, Update)] = &[
    (sonew_update::SONEW_UPDATE_SONEW as i32, Update::Sonew),
    (sonew_update::SONEW_UPDATE_ADAM as i32, Update::Adam),
];

/// The tensors of a caller.
///
/// # Safety
/// `tensors` is null or has `count` entries, whose names are null or end with
/// a NUL.
pub(super) unsafe fn tensors(
    tensors: *const sonew_tensor,
    count: usize,
) -> Result<Vec<TensorSpec>> {
    // SAFETY: the caller's promise.
    let list = unsafe { List::new(tensors, count, "tensors") }?;
    // SAFETY: the caller's promise.
    list.collect("the list of tensors", |i, tensor| unsafe {
        spec(i, &tensor)
    })
}

/// # Safety
/// The name is null or ends with a NUL.
unsafe fn spec(i: usize, tensor: &sonew_tensor) -> Result<TensorSpec> {
    let of = |field: &'static str| move || format!("tensors[{i}].{field}");
    // SAFETY: the caller's promise.
    let name = unsafe { string(tensor.name, of("name")) }?;
    if tensor.ndim > SONEW_MAX_DIMS {
        return Err(Error::TooManyDimensions {
            tensor: name,
            ndim: tensor.ndim,
        });
    }
    let (dims, beyond) = tensor.dims.split_at(tensor.ndim);
    if let Some(d) = beyond.iter().position(|&d| d != 0) {
        return Err(Error::OutOfRange {
            argument: format!("tensors[{i}].dims[{}]", tensor.ndim + d),
            value: beyond[d] as f64,
            allowed: "0 from ndim on",
        });
    }
    unused(&tensor.reserved, of("reserved"))?;
    Ok(TensorSpec::new(name, dims)
        .with_chains(named(tensor.chains, of("chains"), CHAINS)?)
        .with_update(named(tensor.update, of("update"), UPDATES)?))
}
