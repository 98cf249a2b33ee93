//! Optimizer
//!
//! An optimizer is a handle that owns the state of a list of tensors. Parameters
//! and gradients stay in the caller's buffers.

use std::collections::HashMap;
use std::ffi::{c_char, CString};
use std::ptr;
use std::sync::Arc;

use super::arguments::Out;
use super::guard::{call, call_always};
use super::info::Told;
use super::options::{from_options, options, sonew_options};
use super::plan::sonew_planes;
use super::registry::Registry;
use super::stages::{self, ENDED};
use super::status::sonew_status;
use super::step::{SpareStepArguments, StepArguments};
use super::tensor::{dtype_number, from_spec, sonew_tensor, tensors};
use crate::error::{Error, Result};
use crate::layout::{largest_band, Plane, TensorSpec};
use crate::memory::{ask_for_tensors, list, reserve, try_list, OF_TENSORS};
use crate::options::Options;
use crate::Optimizer;

/// An optimizer. Created by sonew_create(), freed by sonew_free().
pub struct sonew_optimizer {
    _opaque: [u8; 0],
}

/// The value that a handle stands for.
pub(super) struct Owned {
    pub optimizer: Optimizer,
    /// The names that views point to, as C strings.
    pub names: Vec<Names>,
    /// What can be asked while another thread uses the optimizer.
    pub told: Arc<Told>,
    /// The step in stages that is under way, if one is, and its buffers.
    pub staged: Option<(stages::Handle, StepArguments)>,
    pub spare: SpareStepArguments,
    /// Texts that were asked for, as C strings.
    pub texts: HashMap<String, CString>,
}

impl Owned {
    /// Refuses a handle that is not that of the step in stages under way.
    pub(super) fn staged(&self, stages: usize) -> Result<()> {
        let (handle, _) = self.staged.as_ref().ok_or(ENDED)?;
        handle.check(stages)
    }

    /// Notes that no step in stages is under way any more.
    pub(super) fn end_stages(&mut self) {
        if let Some((_, passed)) = self.staged.take() {
            self.spare.keep(passed);
        }
    }
}

/// The names of a tensor and of its arrays, as C strings, and the types of the arrays.
pub(super) struct Names {
    pub tensor: CString,
    arrays: Vec<CString>,
    /// Pointers to those of the arrays.
    pub list: Vec<*const c_char>,
    /// The types of the arrays.
    dtypes: Vec<i32>,
    /// Their numbers of elements.
    lens: Vec<usize>,
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

    pub(super) fn planes(&self) -> sonew_planes {
        sonew_planes {
            names: self.list.as_ptr(),
            dtypes: self.dtypes.as_ptr(),
            count: self.arrays.len(),
            lens: self.lens.as_ptr(),
        }
    }
}

static OPTIMIZERS: Registry<Owned> = Registry::new();
/// Of the same handles.
static TOLD: Registry<Arc<Told>> = Registry::new();

/// Calls `body` with the optimizer of a handle.
pub(super) fn with<R>(
    optimizer: *const sonew_optimizer,
    body: impl FnOnce(&mut Owned) -> Result<R>,
) -> Result<R> {
    OPTIMIZERS.with(optimizer.addr(), "optimizer", |owned| {
        let result = body(owned);
        owned.told.tell(&owned.optimizer);
        result
    })
}

/// What there is to be told of an optimizer, also while another thread uses it.
pub(super) fn told(optimizer: *const sonew_optimizer) -> Result<Arc<Told>> {
    OPTIMIZERS.check(optimizer.addr(), "optimizer")?;
    TOLD.copy(optimizer.addr(), "optimizer")
}

/// Calls `body` with the optimizer of a handle, which it leaves as it is.
pub(super) fn ask<R>(
    optimizer: *const sonew_optimizer,
    body: impl FnOnce(&Owned) -> Result<R>,
) -> Result<R> {
    OPTIMIZERS.with(optimizer.addr(), "optimizer", |owned| body(owned))
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

fn names(optimizer: &Optimizer) -> Result<Vec<Names>> {
    let tensors = optimizer.tensors().iter().enumerate();
    let names = tensors.map(|(i, tensor)| Names::new(tensor, optimizer.planes(i)?));
    try_list(names, OF_TENSORS)
}

/// Returns an error if there is no memory for the lists of tensors and planes
/// that a call makes.
pub(super) fn ask_for(tensors: &[TensorSpec], options: &Options) -> Result<()> {
    let band = largest_band(options, tensors);
    ask_for_tensors(tensors.iter().map(|tensor| tensor.name.len()), band)
}

/// [`ask_for`] the tensors of an optimizer.
pub(super) fn ask_for_own(optimizer: &Optimizer) -> Result<()> {
    ask_for(optimizer.tensors(), optimizer.options())
}

/// Creates an optimizer for count tensors, with all state zero, and writes its
/// handle to *optimizer. options may be NULL, which means the defaults. What is
/// passed is copied and may be freed after the call.
///
/// Memory (sonew_info() tells the total): for each parameter, band + 2
/// numbers of state (2 with pooling or SONEW_UPDATE_ADAM) in the tensor's state_dtype, one
/// more with SONEW_GRAFT_NORMALIZED_RMSPROP, and 4 bytes with master weights; with a
/// graft and without lagged_norms, one more number for the direction; with pooling, the
/// plane "pooled"; and scratch memory for each thread that a step of this many parameters
/// uses, which with SONEW_POOLING_ALL can be more than the state. No thread is created before a
/// step needs one.
///
/// Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
/// SONEW_BAD_HANDLE for the pool, SONEW_OUT_OF_RANGE, SONEW_INVALID_STRING,
/// SONEW_NO_TENSORS, SONEW_TENSOR_OPTION, SONEW_TENSOR_NAME, SONEW_DUPLICATE_NAME,
/// SONEW_TOO_MANY_DIMENSIONS, SONEW_SIZE_OVERFLOW, SONEW_SHARD, SONEW_STATE_DTYPE,
/// SONEW_MASTER_DTYPE, SONEW_INSTRUCTION_SET, SONEW_HEADER_LENGTH (the tensors
/// are so many, or their names so long, that they could not be saved),
/// SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_create(
    options: *const sonew_options,
    tensors: *const sonew_tensor,
    count: usize,
    optimizer: *mut *mut sonew_optimizer,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { create(options, tensors, count, optimizer) })
}

/// # Safety
/// As for [`sonew_create`].
unsafe fn create(
    c_options: *const sonew_options,
    c_tensors: *const sonew_tensor,
    count: usize,
    out: *mut *mut sonew_optimizer,
) -> Result<()> {
    // SAFETY: the caller's promise, for all three.
    let (out, (options, pool), tensors) = unsafe {
        (
            Out::new(out, "optimizer")?,
            options(c_options, "options")?,
            tensors(c_tensors, count)?,
        )
    };
    ask_for(&tensors, &options)?;
    own(Optimizer::in_pool(options, &tensors, pool.as_ref())?, out)
}

/// Writes the handle of a new optimizer.
pub(super) fn own(optimizer: Optimizer, out: Out<*mut sonew_optimizer>) -> Result<()> {
    let owned = Owned {
        names: names(&optimizer)?,
        told: Told::of(&optimizer),
        staged: None,
        spare: SpareStepArguments::default(),
        texts: HashMap::new(),
        optimizer,
    };
    let told = Box::new(owned.told.clone());
    let handle = OPTIMIZERS.insert(Box::new(owned));
    TOLD.insert_beside(handle, told);
    out.write(std::ptr::without_provenance_mut(handle));
    Ok(())
}

/// Frees an optimizer and its state, and its threads if no other optimizer or
/// plan has used them. NULL is allowed and does nothing. Views of the state
/// become invalid. A live file is written to disk, as by sonew_sync(), and
/// unlocked; to know whether that worked, call sonew_sync() first. A handle
/// that was freed before gets SONEW_BAD_HANDLE. One that another thread is
/// using gets SONEW_BUSY and is not freed. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_free(optimizer: *mut sonew_optimizer) -> sonew_status {
    if optimizer.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| {
        let owned = OPTIMIZERS.remove(optimizer.addr(), "optimizer")?;
        TOLD.remove_copied(optimizer.addr());
        drop(owned);
        Ok(())
    })
}

/// Makes the optimizer what it was when it was created: all state zero, step counts 0, the
/// first settings of tensors, no texts. Views of the state become invalid. A live file that
/// held the state is closed, as by sonew_free().
///
/// Errors: SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_reset(optimizer: *mut sonew_optimizer) -> sonew_status {
    call(|| {
        with(optimizer, |owned| {
            ask_for_own(&owned.optimizer)?;
            owned.optimizer.reset()?;
            owned.texts.clear();
            Ok(())
        })
    })
}

/// Creates a copy of an optimizer, with its options, tensors, settings, texts and state, and
/// writes its handle to *copy. The state of the copy is in memory, also if that of the
/// original is in a file; both use one pool. From then on both give the same bits for the same
/// steps. Master weights that sonew_reset_master() has discarded are not copied.
///
/// Errors: SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_clone(
    optimizer: *const sonew_optimizer,
    copy: *mut *mut sonew_optimizer,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result.
        let out = unsafe { Out::new(copy, "copy") }?;
        let copied = ask(optimizer, |owned| {
            ask_for_own(&owned.optimizer)?;
            owned.optimizer.try_clone()
        })?;
        own(copied, out)
    })
}
