//! Live files, and saving in the background
//!
//! A live file holds the optimizer's state while it works: steps read and write
//! the file through a shared mapping, and it may be larger than memory. It holds
//! the state twice. Each step reads one copy and writes the other, and a single
//! store at the end of the step makes the written copy the current one. Views of
//! the state must therefore be requested again after each step.
//!
//! A process that dies at any moment, SIGKILL included, leaves a file that
//! opens at a completed step, the last one or the one before. If every tensor
//! has master weights, that file is a whole checkpoint. (Before the first step
//! it has no master weights, and sonew_load() leaves the parameters as they are.)
//!
//! A power failure, or a crash of the machine, can destroy more. What survives
//! it:
//!
//! - of a saved file, everything, as soon as sonew_save() or
//!   sonew_save_finish() has returned; before that, the file that it replaces.
//!   This holds whether the state is in memory, mapped privately or in a live
//!   file: the last completed save always survives;
//! - of a live file, the step that sonew_sync() or sonew_free() wrote to disk,
//!   as long as at most one step was begun since; settings and resets of master
//!   weights that were made since may be lost. After more steps the file may
//!   be lost: it then opens with SONEW_TORN, and never with a state that mixes
//!   two steps. To be safe, save to another path from time to time;
//! - of state that is in memory or mapped privately, only what was saved.
//!
//! A copy of a live file that was made while the file was in use counts as after
//! a power failure. A copy of one that is not in use is as good as the file; the
//! first time that it is opened, its checksums are verified in every mode.

use std::ffi::{c_char, c_void};

use super::arguments::{path, List, Out};
use super::file::saved;
use super::guard::{call, call_always};
use super::handles::{sonew_optimizer, sonew_saving};
use super::owned::{ask_for_own, with};
use super::registry::Registry;
use super::status::sonew_status;
use crate::optimizer::Saving;

static SAVINGS: Registry<Saving> = Registry::new();

/// Moves the optimizer's state into a new live file. The optimizer then works on
/// that file until it is freed or loads another file. To continue with the file
/// later, open it with sonew_open() and SONEW_MAP_SHARED, or create an optimizer
/// with the same options and tensors, and load the file in that mode.
///
/// The new file replaces the one at path, as sonew_save() does. All its space,
/// twice that of the state, is allocated now, so that a full disk is reported as
/// a status. (A file system that allocates at every write, as btrfs does for
/// files with snapshots, may still run out of space later, and the process then
/// gets a SIGBUS: keep live files on ext4, xfs or tmpfs.) The file is locked
/// while the optimizer works on it: another process, or another optimizer, gets
/// SONEW_FILE_LOCKED. A file system without locks is refused. A forked child must
/// not use it: everything is refused there except sonew_free() and functions that
/// only read. The child shares the lock until it ends or calls sonew_free().
///
/// Learning-rate scales and weight decay are written to the file when they are
/// set. If path is the live file that already holds the state, this does what
/// sonew_sync() does. Views of the state become invalid.
///
/// Errors: SONEW_FILE_LOCKED, SONEW_FORKED, SONEW_OUT_OF_RANGE (a step count of
/// the optimizer or of a tensor is 2^47 or more), SONEW_HEADER_LENGTH, SONEW_SHARD (one with
/// pooled correlations), SONEW_LIVE_TEXT (the optimizer has texts), SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_make_live(
    optimizer: *mut sonew_optimizer,
    path: *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let path = unsafe { self::path(path) }?;
        with(optimizer, |owned| {
            ask_for_own(&owned.optimizer)?;
            owned.optimizer.make_live(path)
        })
    })
}

/// Writes a live file's last step to disk, with checksums of its state, and
/// returns when that is done. sonew_free() does the same.
///
/// Errors: SONEW_NOT_LIVE; SONEW_FORKED; SONEW_IO: the state is unchanged, but
/// may not be on disk, or the file was removed, so that nobody can open it any
/// more. What the sync before has written is still there. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_sync(optimizer: *const sonew_optimizer) -> sonew_status {
    call(|| with(optimizer, |owned| owned.optimizer.sync()))
}

/// Begins a save in the background: copies what sonew_save() would save, and
/// returns while a new thread writes the copy to the file. Meanwhile the
/// optimizer may step, be changed or be freed, and the parameters may change; the
/// process may change its working directory.
/// Writes a handle for sonew_save_finish() to *saving.
///
/// Until the copy is written, it takes as much memory as the state and the
/// parameters. The thread is created even if options.threads is 1.
///
/// params and count are as in sonew_save(): one buffer for each tensor, or NULL and 0
/// for the state alone.
///
/// Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
/// SONEW_PARTIAL_SUMS, SONEW_OUT_OF_MEMORY, SONEW_THREADS, and for a live file those of
/// sonew_save(). Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_save_begin(
    optimizer: *const sonew_optimizer,
    path: *const c_char,
    params: *const *mut c_void,
    count: usize,
    saving: *mut *mut sonew_saving,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string, for `count` pointers, and for a
        // pointer to the result.
        let (out, path, params) = unsafe {
            (
                Out::new(saving, "saving")?,
                self::path(path)?,
                List::new(params, count, "params")?,
            )
        };
        // SAFETY: as above.
        let begun = unsafe {
            saved(optimizer, &params, |optimizer, params| {
                optimizer.save_begin(path, params)
            })
        }?;
        let handle = SAVINGS.insert(Box::new(begun));
        out.write(std::ptr::without_provenance_mut(handle));
        Ok(())
    })
}

/// Waits for a background save and its thread to end, and returns the status of
/// the save. Whatever that is, the handle is then invalid, except after
/// SONEW_BUSY. Every save must be finished with this function: it holds memory
/// until then. NULL is allowed and does nothing.
///
/// Errors: those of sonew_save(); SONEW_FORKED in a child of the process that
/// began it. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_save_finish(saving: *mut sonew_saving) -> sonew_status {
    if saving.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| SAVINGS.remove(saving.addr(), "saving")?.finish())
}

/// Checks a whole file: its header, its sizes and every checksum. Changes
/// nothing.
///
/// Errors: SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION,
/// SONEW_CHECKSUM, SONEW_IO. For a live file also SONEW_TORN, SONEW_FILE_LOCKED,
/// and SONEW_UNSYNCED if the process died before it synced the file: such a file
/// can be loaded, but has no checksums of its last step. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_verify(path: *const c_char) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let path = unsafe { self::path(path) }?;
        crate::checkpoint::verify(path)
    })
}
