//! Tensors
//!
//! A tensor is a parameter buffer of the caller: contiguous, its last dimension
//! fastest. Its coordinates form one or more chains, and neighbours in a chain
//! share band entries.
//!
//! Tensors declare the types of their parameters and gradients, which may differ
//! between tensors. Buffers are passed as void pointers to elements of these types:
//! float (SONEW_F32), double (SONEW_F64), or 16-bit patterns such as uint16_t or a
//! 16-bit type of the compiler (SONEW_BF16, SONEW_F16). A buffer is aligned to the size
//! of its elements.
//!
//! Master weights. A tensor with master set keeps a float32 copy of its
//! parameters in its state, because 16-bit parameters would lose updates that
//! are smaller than their rounding error. It also makes the saved state a whole
//! checkpoint. The first step copies the master weights from the parameters,
//! even if the tensor has no gradient in that step. After that, every step
//! updates the master weights, and overwrites the parameters with them, rounded
//! to nearest.

use std::ffi::c_char;

use super::arguments::{flag, named, number, string, unused};
use super::guard::call_always;
use super::options::{options, sonew_options};
use super::status::sonew_status;
use super::versioned::{self, Entries, Growing, Versioned};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::{Chains, Shard, TensorSpec, Update, MAX_DIMS};

/// The largest number of dimensions of a tensor.
pub const SONEW_MAX_DIMS: usize = 8;

const _: () = assert!(SONEW_MAX_DIMS == MAX_DIMS);

/// Which coordinates are neighbours. Chains should run along a unit's inputs;
/// along its outputs the method works much worse. The names say where neighbours lie in
/// memory, and so mean the same in languages that count dimensions from the other end.
#[repr(C)]
pub enum sonew_chains {
    /// The whole tensor is one chain in the order of memory, last dimension
    /// fastest: for weights stored [out, in].
    SONEW_CONTIGUOUS = 0,
    /// The whole tensor is one chain, first dimension fastest: for weights
    /// stored [in, out]. Neighbours lie a stride apart.
    SONEW_STRIDED = 1,
    /// As SONEW_CONTIGUOUS, broken at the end of each line along the last dimension: a
    /// chain for each row.
    SONEW_CONTIGUOUS_LINES = 2,
    /// As SONEW_STRIDED, broken at the end of each line along the first dimension: a
    /// chain for each column.
    SONEW_STRIDED_LINES = 3,
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
    /// That which follows from the tensor's other types.
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

/// One tensor. Fill it in with sonew_tensors_init(), then give it a name and
/// dimensions. Every default is zero but that of struct_size, so in C99 an initializer
/// does the same: {.struct_size = sizeof(sonew_tensor), .name = "a"}.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_tensor {
    /// Set by sonew_tensors_init(). The same for all tensors of a list.
    pub struct_size: usize,
    /// Name in UTF-8, not empty, without control characters, and different from
    /// the names of the other tensors; copied. Checkpoints identify tensors by
    /// it. Default NULL, which is refused.
    pub name: *const c_char,
    /// Number of dimensions, 0 (a scalar) to SONEW_MAX_DIMS. Default 0.
    pub ndim: usize,
    /// The dimensions, slowest first; those beyond ndim 0. A tensor of which one is 0
    /// has no elements: its buffers may be NULL, it takes part in no step, and it
    /// appears in files.
    pub dims: [usize; SONEW_MAX_DIMS],
    /// In training on several machines: the tensor is a shard, the rows from first_row on
    /// of a larger one that has whole_rows rows; a row is an index of its first dimension.
    /// Files keep it, so that those of all machines can be loaded by any number of others: see
    /// sonew_load_options.paths. Steps depend on it only with pooled correlations, which are
    /// those of the larger tensor: see sonew_partial_sums(). Default 0.
    pub first_row: usize,
    /// See first_row. Default 0: the tensor is no shard.
    pub whole_rows: usize,
    /// One of sonew_chains. Default SONEW_CONTIGUOUS.
    pub chains: i32,
    /// One of sonew_update. Default SONEW_UPDATE_SONEW.
    pub update: i32,
    /// One of sonew_dtype: the type of the parameters, and of a direction.
    /// Default SONEW_DTYPE_DEFAULT: SONEW_F32. If it or state_dtype is SONEW_F64, the
    /// arithmetic is float64, otherwise float32.
    pub dtype: i32,
    /// One of sonew_dtype: the type of the gradients. Default SONEW_DTYPE_DEFAULT:
    /// that of dtype.
    pub grad_dtype: i32,
    /// One of sonew_dtype: the type of the state planes except "master". May not
    /// be SONEW_F16, whose range is too small for squared gradients. Default
    /// SONEW_DTYPE_DEFAULT: SONEW_F64 if dtype is SONEW_F64, otherwise SONEW_F32.
    pub state_dtype: i32,
    /// 1: keep float32 master weights in the state; see above. Not allowed if dtype is
    /// SONEW_F64. Default 0.
    pub master: i32,
    /// Must be 0.
    pub reserved: [i32; 2],
    /// The tensor's own options, as a group of parameters has them: its band, rank, beta1, beta2,
    /// eps, gamma, shrink, graft_eps and weight_decay. Any number of tensors may point to one struct,
    /// which is copied. In threads, instruction_set and pool it is not looked at; in all other
    /// options it must agree with those of the optimizer, of which it is best made as a copy.
    /// Default NULL: the options of the optimizer.
    pub options: *const sonew_options,
}

// SAFETY: 14 * 8 + 8 * 4 bytes without padding.
unsafe impl Growing for sonew_tensor {
    const SIZES: &'static [usize] = &[size_of::<sonew_tensor>()];
}

// SAFETY: the first field is the size; numbers and a raw pointer.
unsafe impl Versioned for sonew_tensor {
    const HINT: &'static str = "call sonew_tensors_init() first";

    fn with_defaults(struct_size: usize) -> Self {
        sonew_tensor {
            struct_size,
            name: std::ptr::null(),
            ndim: 0,
            dims: [0; SONEW_MAX_DIMS],
            first_row: 0,
            whole_rows: 0,
            chains: sonew_chains::SONEW_CONTIGUOUS as i32,
            update: sonew_update::SONEW_UPDATE_SONEW as i32,
            dtype: sonew_dtype::SONEW_DTYPE_DEFAULT as i32,
            grad_dtype: sonew_dtype::SONEW_DTYPE_DEFAULT as i32,
            state_dtype: sonew_dtype::SONEW_DTYPE_DEFAULT as i32,
            master: 0,
            reserved: [0; 2],
            options: std::ptr::null(),
        }
    }
}

/// Fills in the defaults of a list of count tensors, which still need names and
/// dimensions. Pass sizeof *tensors for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_tensors_init(
    tensors: *mut sonew_tensor,
    count: usize,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for so many structs of this size.
    call_always(|| unsafe { versioned::init_list(tensors, count, size, "tensors") })
}

pub(crate) const CHAINS: &[(i32, Chains)] = &[
    (sonew_chains::SONEW_CONTIGUOUS as i32, Chains::Contiguous),
    (sonew_chains::SONEW_STRIDED as i32, Chains::Strided),
    (
        sonew_chains::SONEW_CONTIGUOUS_LINES as i32,
        Chains::ContiguousLines,
    ),
    (
        sonew_chains::SONEW_STRIDED_LINES as i32,
        Chains::StridedLines,
    ),
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

/// A tensor for C, whose struct has this size, with this name, and with its own options or
/// null.
pub(super) fn from_spec(
    spec: &TensorSpec,
    name: *const c_char,
    options: *const sonew_options,
    struct_size: usize,
) -> sonew_tensor {
    let mut dims = [0; SONEW_MAX_DIMS];
    dims[..spec.dims.len()].copy_from_slice(&spec.dims);
    sonew_tensor {
        struct_size,
        name,
        ndim: spec.dims.len(),
        dims,
        first_row: spec.shard.map_or(0, |shard| shard.first_row),
        whole_rows: spec.shard.map_or(0, |shard| shard.whole_rows),
        chains: number(spec.chains, CHAINS),
        update: number(spec.update, UPDATES),
        dtype: dtype_number(spec.params),
        grad_dtype: dtype_number(spec.grads),
        state_dtype: dtype_number(spec.state),
        master: spec.master.into(),
        reserved: [0; 2],
        options,
    }
}

/// The tensors of a caller.
///
/// # Safety
/// `tensors` is null or has `count` entries, each as long as it says, whose names are
/// null or end with a NUL, and whose options are null or as long as they say.
pub(super) unsafe fn tensors(
    tensors: *const sonew_tensor,
    count: usize,
) -> Result<Vec<TensorSpec>> {
    // SAFETY: the caller's promise.
    let list = unsafe { Entries::new(tensors, count, "tensors") }?;
    // SAFETY: the caller's promise.
    list.collect("the list of tensors", |i, tensor| unsafe {
        spec(i, &tensor)
    })
}

/// # Safety
/// As for [`tensors`].
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
    let own = || {
        // SAFETY: the caller's promise.
        unsafe { options(tensor.options, &of("options")()) }
    };
    let own = (!tensor.options.is_null()).then(own).transpose()?;
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
        shard: shard(i, tensor)?,
        options: own.map(|(options, _)| Box::new(options)),
    })
}

/// Which rows of a larger tensor it is.
fn shard(i: usize, tensor: &sonew_tensor) -> Result<Option<Shard>> {
    let (first_row, whole_rows) = (tensor.first_row, tensor.whole_rows);
    match (first_row, whole_rows) {
        (0, 0) => Ok(None),
        (_, 0) => Err(Error::OutOfRange {
            argument: format!("tensors[{i}].first_row"),
            value: first_row as f64,
            allowed: "0 where whole_rows is 0",
        }),
        _ => Ok(Some(Shard {
            first_row,
            whole_rows,
        })),
    }
}
