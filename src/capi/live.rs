//! Live files, and saving in the background
//!
//! A live file holds the state itself: the optimizer works straight on it, and
//! it may be larger than memory. It holds the state twice; each step reads one
//! copy and writes the other, and one store at its end makes that the current
//! one. Views of the state must be asked for again after each step.
//!
//! A process that dies in any moment, SIGKILL included, leaves a file that
//! opens at a completed step, the last one or the one before. With master
//! weights in every tensor that is a whole checkpoint.
//!
//! A machine that goes down is another matter. What survives a power failure:
//!
//! - of a saved file, everything, as soon as sonew_save() or
//!   sonew_save_finish() has returned; before that, the file that it replaces.
//!   This is the same whether the state is in memory, mapped privately or in a
//!   live file: the last save always survives;
//! - of a live file, what sonew_sync() or sonew_free() brought to disk, as long
//!   as at most one step was taken after it. Later, the file may be lost: it
//!   then opens with SONEW_TORN, never with state that no step left. To be
//!   safe, save to another path from time to time;
//! - of state that is mapped privately or in memory, nothing that was not saved.

use std::ffi::{c_char, c_void};

use super::arguments::{path, List, Out};
use super::file::saved;
use super::guard::call;
use super::optimizer::{sonew_optimizer, with};
use super::registry::Registry;
use super::status::sonew_status;
use crate::optimizer::Saving;

/// A save under way. Begun by sonew_save_begin(), ended by sonew_save_finish().
pub struct sonew_saving {
    _opaque: [u8; 0],
}

static SAVINGS: Registry<Saving> = Registry::new();

/// Moves the optimizer's state into a new live file, and works on it from then
/// on, until it is freed or loads another file. To go on with that file later,
/// create an optimizer with the same options and tensors, and load the file
/// with SONEW_MAP_SHARED.
///
/// The file takes the place of what stands under path, as a saved one does.
/// All its space, twice that of the state, is allocated now, so that a full
/// disk is a status. (Where a file system allocates at every write, as btrfs
/// does for files with snapshots, it still may run out later, and the process
/// gets a SIGBUS: live files belong on ext4, xfs or tmpfs.) It is locked as
/// long as the optimizer works on it: another process, and another optimizer,
/// gets SONEW_FILE_LOCKED. A forked child must not use it: all but
/// sonew_free() and looking is refused there. It shares the lock until it
/// ends or calls sonew_free().
///
/// Learning-rate scales and weight decay are in the file as soon as they are
/// set. Where path is the live file that the state is in, this is sonew_sync().
/// Views of the state end.
///
/// Errors: SONEW_FILE_LOCKED, SONEW_FORKED, SONEW_OUT_OF_RANGE (a step count of
/// 2^47 or more), SONEW_HEADER_LENGTH, SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_make_live(
    optimizer: *mut sonew_optimizer,
    path: *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let path = unsafe { self::path(path) }?;
        with(optimizer, |owned| owned.optimizer.make_live(path))
    })
}

/// Brings a live file's last step to disk, with checksums of its state, and
/// returns when that is done. sonew_free() does the same.
///
/// Errors: SONEW_NOT_LIVE; SONEW_FORKED; SONEW_IO: the state is what it was,
/// but may not be on the disk. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_sync(optimizer: *const sonew_optimizer) -> sonew_status {
    call(|| with(optimizer, |owned| owned.optimizer.sync()))
}

/// Begins a save in the background: takes a copy of what sonew_save_any() would
/// save, and returns while a thread of its own writes it. The optimizer may
/// step, change and be freed in the meantime, the parameters may change. Puts a
/// handle into *saving, for sonew_save_finish().
///
/// The copy takes as much memory again as the state and the parameters, until
/// it is written. The thread is created also where options.threads is 1.
///
/// params and count are as in sonew_save_any(): one buffer for each tensor, of
/// its type; or NULL and 0, for the state alone.
///
/// Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
/// SONEW_OUT_OF_MEMORY, SONEW_THREADS, and for a live file those of
/// sonew_save(). Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_save_begin(
    optimizer: *const sonew_optimizer,
    path: *const c_char,
    params: *const *mut c_void,
    count: usize,
    saving: *mut *mut sonew_saving,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string, for so many pointers, and for a
        // place for the result.
        let (out, path, params) = unsafe {
            (
                Out::new(saving, "saving")?,
                self::path(path)?,
                List::new(params, count, "params")?,
            )
        };
        // SAFETY: as above.
        let begun = unsafe {
            saved(optimizer, &params, None, |optimizer, params| {
                optimizer.save_begin(path, params)
            })
        }?;
        let handle = SAVINGS.insert(Box::new(begun));
        out.write(std::ptr::without_provenance_mut(handle));
        Ok(())
    })
}

/// Waits until a save has ended, and its thread with it, and returns what came
/// of it. The handle ends whatever that is, but for SONEW_BUSY. Every save must
/// be finished: it holds memory until then. NULL is allowed and does nothing.
///
/// Errors: those of sonew_save(); SONEW_FORKED in a child of the process that
/// began it. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_save_finish(saving: *mut sonew_saving) -> sonew_status {
    if saving.is_null() {
        return sonew_status::SONEW_OK;
    }
    call(|| SAVINGS.remove(saving.addr(), "saving")?.finish())
}

/// Checks a file from end to end: its header, its sizes, every checksum.
/// Changes nothing.
///
/// Errors: SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION,
/// SONEW_CHECKSUM, SONEW_IO; for a live file SONEW_UNSYNCED where its process
/// died before it was synced: it can be loaded, but has no checksums of its
/// last step; SONEW_TORN, SONEW_FILE_LOCKED. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_verify(path: *const c_char) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let path = unsafe { self::path(path) }?;
        crate::checkpoint::verify(path)
    })
}
