//! Tensors
//!
//! A tensor is a parameter buffer of the caller: contiguous, its last dimension
//! fastest. Its coordinates form one or more chains, and neighbours in a chain
//! share band entries.

use std::ffi::c_char;

use super::arguments::{flag, named, number, string, unused, List};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::{Chains, TensorSpec, Update, MAX_DIMS};

/// The largest number of dimensions of a tensor.
pub const SONEW_MAX_DIMS: usize = 8;

const _: () = assert!(SONEW_MAX_DIMS == MAX_DIMS);

/// Which coordinates are neighbours. Chains should run along a unit's inputs;
/// along its outputs the method works much worse.
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

/// How a tensor is updated.
#[repr(C)]
pub enum sonew_update {
    /// The SONew direction, grafted as the options say.
    SONEW_UPDATE_SONEW = 0,
    /// Plain Adam, m^ / (sqrt(H^) + graft_eps), H^ without damping: for biases
    /// and normalization layers. Has only the planes "momentum" and "diagonal".
    SONEW_UPDATE_ADAM = 1,
}

/// The type of a buffer's elements.
#[repr(C)]
pub enum sonew_dtype {
    /// The default of the field.
    SONEW_DTYPE_DEFAULT = 0,
    /// IEEE 754 binary32: float.
    SONEW_F32 = 1,
    /// IEEE 754 binary64: double.
    SONEW_F64 = 2,
    /// bfloat16: the upper half of a binary32.
    SONEW_BF16 = 3,
    /// IEEE 754 binary16.
    SONEW_F16 = 4,
}

/// One tensor. Set every byte to zero first, as a designated initializer does:
/// zero is the default of every field that is not set.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_tensor {
    /// Name in UTF-8, not empty, without control characters, and different from
    /// the names of the other tensors; copied. Checkpoints identify tensors by
    /// it.
    pub name: *const c_char,
    /// Number of dimensions, 0 (a scalar) to SONEW_MAX_DIMS.
    pub ndim: usize,
    /// The dimensions, slowest first; those beyond ndim 0. A tensor of which one is 0
    /// has no elements: its buffers may be NULL, it takes part in no step, and it
    /// appears in files.
    pub dims: [usize; SONEW_MAX_DIMS],
    /// One of sonew_chains. Default (0) SONEW_ROW_MAJOR.
    pub chains: i32,
    /// One of sonew_update. Default (0) SONEW_UPDATE_SONEW.
    pub update: i32,
    /// One of sonew_dtype: the type of the parameters, and of a direction.
    /// Default (0) SONEW_F32. If it or state_dtype is SONEW_F64, the arithmetic
    /// is float64, otherwise float32.
    pub dtype: i32,
    /// One of sonew_dtype: the type of the gradients. Default (0): that of dtype.
    pub grad_dtype: i32,
    /// One of sonew_dtype: the type of the state planes except "master". May not
    /// be SONEW_F16, whose range is too small for squared gradients. Default (0)
    /// SONEW_F64 if dtype is SONEW_F64, otherwise SONEW_F32.
    pub state_dtype: i32,
    /// 1: keep float32 master weights in the state; see sonew_step_any(). Not
    /// allowed if dtype is SONEW_F64. Default 0.
    pub master: i32,
    /// Must be 0.
    pub reserved: [i32; 2],
}

pub(crate) const CHAINS: &[(i32, Chains)] = &[
    (sonew_chains::SONEW_ROW_MAJOR as i32, Chains::RowMajor),
    (sonew_chains::SONEW_COLUMN_MAJOR as i32, Chains::ColumnMajor),
    (sonew_chains::SONEW_ROWS as i32, Chains::Rows),
    (sonew_chains::SONEW_COLUMNS as i32, Chains::Columns),
];

pub(crate) const UPDATES: &[(i32, Update)] = &[
    (sonew_update::SONEW_UPDATE_SONEW as i32, Update::Sonew),
    (sonew_update::SONEW_UPDATE_ADAM as i32, Update::Adam),
];

const DTYPES: &[(i32, Dtype)] = &[
    (sonew_dtype::SONEW_F32 as i32, Dtype::F32),
    (sonew_dtype::SONEW_F64 as i32, Dtype::F64),
    (sonew_dtype::SONEW_BF16 as i32, Dtype::Bf16),
    (sonew_dtype::SONEW_F16 as i32, Dtype::F16),
];

/// The number that stands for a type.
pub(super) fn dtype_number(dtype: Dtype) -> i32 {
    number(dtype, DTYPES)
}

/// The type that a number stands for.
fn dtype(value: i32, default: Dtype, argument: impl FnOnce() -> String) -> Result<Dtype> {
    let mut values = vec![(sonew_dtype::SONEW_DTYPE_DEFAULT as i32, default)];
    values.extend(DTYPES);
    named(value, argument, &values)
}

/// A tensor for C, with this name.
pub(super) fn from_spec(spec: &TensorSpec, name: *const c_char) -> sonew_tensor {
    let mut dims = [0; SONEW_MAX_DIMS];
    dims[..spec.dims.len()].copy_from_slice(&spec.dims);
    sonew_tensor {
        name,
        ndim: spec.dims.len(),
        dims,
        chains: number(spec.chains, CHAINS),
        update: number(spec.update, UPDATES),
        dtype: dtype_number(spec.params),
        grad_dtype: dtype_number(spec.grads),
        state_dtype: dtype_number(spec.state),
        master: spec.master.into(),
        reserved: [0; 2],
    }
}

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
    let params = dtype(tensor.dtype, Dtype::F32, of("dtype"))?;
    let state = match params {
        Dtype::F64 => Dtype::F64,
        _ => Dtype::F32,
    };
    Ok(TensorSpec {
        name,
        dims: dims.to_vec(),
        chains: named(tensor.chains, of("chains"), CHAINS)?,
        update: named(tensor.update, of("update"), UPDATES)?,
        params,
        grads: dtype(tensor.grad_dtype, params, of("grad_dtype"))?,
        state: dtype(tensor.state_dtype, state, of("state_dtype"))?,
        master: flag(tensor.master, &of("master")())?,
        shard: None,
    })
}
