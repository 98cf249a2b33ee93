//! Optimizer
//!
//! An optimizer is a handle that owns the state of a list of tensors. Parameters
//! and gradients stay in the caller's buffers.

use super::arguments::Out;
use super::guard::{call, call_always};
use super::handles::sonew_optimizer;
use super::options::{options, sonew_options};
use super::owned::{ask, ask_for, ask_for_own, disown, own, with};
use super::status::sonew_status;
use super::tensor::{sonew_tensor, tensors};
use crate::error::Result;
use crate::Optimizer;

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
    call_always(|| disown(optimizer).map(drop))
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
