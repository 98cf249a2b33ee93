//! Contents of a file
//!
//! What a checkpoint or a live file holds, without an optimizer: options,
//! tensors, and the state planes and parameters themselves.
//!
//! An optimizer for the tensors of a file that differs from that of the file,
//! in its threads for example, or in the type of its state, is made of these
//! parts:
//!
//! ```c
//! sonew_file *file = NULL;
//! sonew_contents contents;
//! sonew_options options;
//! if (sonew_file_open("step-1000.safetensors", &file) != SONEW_OK) return 1;
//! sonew_file_info(file, &contents, sizeof contents);
//! sonew_file_options(file, &options, sizeof options);
//! options.threads = 4;
//! sonew_tensor *tensors = calloc(contents.tensor_count, sizeof *tensors);
//! for (size_t i = 0; i < contents.tensor_count; i++) {
//!     sonew_saved_tensor saved;
//!     sonew_file_tensor(file, i, &saved, sizeof saved);
//!     tensors[i] = saved.tensor;
//! }
//! sonew_create(&options, tensors, contents.tensor_count, &optimizer);
//! sonew_file_free(file);
//! sonew_load(optimizer, "step-1000.safetensors", NULL, params, count);
//! ```

use std::ffi::{c_char, c_void, CString};
use std::path::Path;

use super::arguments::{not_null, path, string, Out};
use super::buffers::Buffer;
use super::guard::{call, call_always};
use super::optimizer::c_string;
use super::options::{from_options, sonew_options};
use super::registry::Registry;
use super::status::sonew_status;
use super::tensor::{from_spec, sonew_tensor};
use super::versioned::{self, Growing};
use crate::checkpoint::{Checkpoint, SavedTensor};
use crate::error::{Error, Result};
use crate::memory::{ask_for_tensors, list, try_list, OF_TENSORS};

/// An open file. Created by sonew_file_open(), freed by sonew_file_free().
pub struct sonew_file {
    _opaque: [u8; 0],
}

/// What a file is, and what it holds besides its options and tensors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_contents {
    /// The step count of the state.
    pub step_count: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Number of tensors.
    pub tensor_count: usize,
    /// The version of its format; see docs/state-files.md.
    pub format: i32,
    /// 1: it has the parameters of every tensor, as "parameter". 0: it has none.
    pub parameters: i32,
    /// 1: it is a live file. 0: a checkpoint.
    pub live: i32,
    /// 1: it is a live file that was not synced after its last step, because the
    /// process that worked on it died. It can be loaded.
    pub unsynced: i32,
}

// SAFETY: 3 * 8 + 4 * 4 bytes without padding.
unsafe impl Growing for sonew_contents {
    const SIZES: &'static [usize] = &[size_of::<sonew_contents>()];
}

/// A tensor of a file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_saved_tensor {
    /// The tensor as sonew_create() takes it, with every type named. The name
    /// lives as long as the handle of the file.
    pub tensor: sonew_tensor,
    /// The factor by which its learning rate is multiplied.
    pub lr_scale: f64,
    /// Its decoupled weight decay.
    pub weight_decay: f64,
    /// The number of the steps that it took part in.
    pub step_count: u64,
    /// The names of its arrays: its state planes, in order, and "parameter" if the
    /// file has the parameters. They live as long as the handle of the file.
    /// "parameter" has the type tensor.dtype, "master" is SONEW_F32, the others
    /// have tensor.state_dtype.
    pub arrays: *const *const c_char,
    /// The number of these names.
    pub array_count: usize,
    /// 1: it has master weights, and they have been copied from the parameters. 0:
    /// it has none, or the next step copies them.
    pub master_set: i32,
    /// Is 0.
    pub reserved: i32,
}

// SAFETY: a sonew_tensor, 5 * 8 + 2 * 4 bytes, without padding.
unsafe impl Growing for sonew_saved_tensor {
    const SIZES: &'static [usize] = &[size_of::<sonew_saved_tensor>()];
}

/// The value that a handle stands for.
struct Owned {
    file: Checkpoint,
    tensors: Vec<Names>,
}

/// The names of a tensor and of its arrays, as C strings.
struct Names {
    tensor: CString,
    arrays: Vec<CString>,
    /// Pointers to them.
    list: Vec<*const c_char>,
}

// SAFETY: the pointers are to the strings beside them, which nobody changes.
unsafe impl Send for Names {}

static FILES: Registry<Owned> = Registry::new();

fn with<R>(file: *const sonew_file, body: impl FnOnce(&Owned) -> Result<R>) -> Result<R> {
    FILES.with(file.addr(), "file", |owned| body(owned))
}

impl Owned {
    fn open(path: &Path) -> Result<Owned> {
        let file = Checkpoint::open(path)?;
        let header = file.header();
        let lengths = header.tensors.iter().map(|tensor| tensor.spec.name.len());
        ask_for_tensors(lengths, header.options.band)?;
        let names = |tensor: &SavedTensor| {
            let arrays = header.arrays(tensor).into_iter();
            let arrays = try_list(arrays.map(|array| c_string(&array.name)), OF_TENSORS)?;
            Ok(Names {
                tensor: c_string(&tensor.spec.name)?,
                list: list(arrays.iter().map(|name| name.as_ptr()), OF_TENSORS)?,
                arrays,
            })
        };
        let tensors = try_list(header.tensors.iter().map(names), OF_TENSORS)?;
        Ok(Owned { file, tensors })
    }

    fn tensor(&self, tensor: usize) -> Result<(&SavedTensor, &Names)> {
        let saved = self.file.header().tensors.get(tensor);
        let unknown = Error::UnknownTensor {
            index: tensor,
            count: self.tensors.len(),
        };
        Ok((saved.ok_or(unknown)?, &self.tensors[tensor]))
    }
}

/// Opens a checkpoint or a live file for reading, and writes a handle to *file.
/// Its header and sizes are checked, as by sonew_load(); sonew_file_read() checks
/// what it reads, and sonew_verify() everything.
///
/// As long as the handle exists, the file stays open, and no optimizer can work on
/// it if it is a live file. A live file in use is refused.
///
/// Errors: SONEW_IO, SONEW_NOT_A_CHECKPOINT, SONEW_FILE_LENGTH,
/// SONEW_FORMAT_VERSION, SONEW_CHECKSUM, SONEW_FILE_LOCKED, SONEW_TORN,
/// SONEW_OUT_OF_MEMORY. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_open(
    path: *const c_char,
    file: *mut *mut sonew_file,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a pointer to the result.
        let (path, out) = unsafe { (self::path(path)?, Out::new(file, "file")?) };
        let handle = FILES.insert(Box::new(Owned::open(&path)?));
        out.write(std::ptr::without_provenance_mut(handle));
        Ok(())
    })
}

/// Writes what the file is to *contents. Pass sizeof *contents for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_info(
    file: *const sonew_file,
    contents: *mut sonew_contents,
    size: usize,
) -> sonew_status {
    call_always(|| {
        not_null(contents, || "contents".to_owned())?;
        let value = with(file, |Owned { file, .. }| {
            Ok(sonew_contents {
                step_count: file.header().step,
                file_bytes: file.file_bytes(),
                tensor_count: file.header().tensors.len(),
                format: file.format() as i32,
                parameters: file.header().parameters.into(),
                live: file.is_live().into(),
                unsynced: file.is_unsynced().into(),
            })
        })?;
        // SAFETY: the header asks for a struct of this size.
        unsafe { versioned::write(value, contents, size, "contents") }
    })
}

/// Writes the options of the optimizer that wrote the file to *options, as
/// sonew_options_init() writes the defaults. threads and instruction_set are in no
/// file and have their defaults. Pass sizeof *options for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_options(
    file: *const sonew_file,
    options: *mut sonew_options,
    size: usize,
) -> sonew_status {
    call_always(|| {
        not_null(options, || "options".to_owned())?;
        let value = with(file, |owned| {
            Ok(from_options(&owned.file.header().options, size))
        })?;
        // SAFETY: the header asks for a struct of this size.
        unsafe { versioned::write(value, options, size, "options") }
    })
}

/// Writes a tensor of the file to *saved. tensor is an index from 0, in the order
/// of the optimizer that wrote the file. Pass sizeof *saved for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_tensor(
    file: *const sonew_file,
    tensor: usize,
    saved: *mut sonew_saved_tensor,
    size: usize,
) -> sonew_status {
    call_always(|| {
        not_null(saved, || "saved".to_owned())?;
        let value = with(file, |owned| {
            let (saved, names) = owned.tensor(tensor)?;
            Ok(sonew_saved_tensor {
                tensor: from_spec(&saved.spec, names.tensor.as_ptr()),
                lr_scale: saved.lr_scale,
                weight_decay: saved.weight_decay,
                step_count: saved.step_count,
                arrays: names.list.as_ptr(),
                array_count: names.arrays.len(),
                master_set: saved.master_set.into(),
                reserved: 0,
            })
        })?;
        // SAFETY: the header asks for a struct of this size.
        unsafe { versioned::write(value, saved, size, "saved") }
    })
}

/// Copies an array of a tensor, one of sonew_saved_tensor.arrays, to data, and
/// compares its checksum, if the file has one. data has one element of the array's
/// type for each element of the tensor, in the tensor's own order, and is aligned
/// to its elements. Of a live file the array is that of the last step.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_INVALID_STRING, SONEW_PLANE_MISSING,
/// SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_CHECKSUM, SONEW_IO,
/// SONEW_OUT_OF_MEMORY. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_read(
    file: *const sonew_file,
    tensor: usize,
    array: *const c_char,
    data: *mut c_void,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let name = unsafe { string(array, || "array".to_owned()) }?;
        with(file, |Owned { file, .. }| {
            let dtype = file.dtype(tensor, &name)?;
            let spec = &file.header().tensors[tensor].spec;
            let buffer = Buffer::write(spec, &name, dtype, data, || "data".to_owned())?;
            // SAFETY: the header asks for a buffer of the tensor's length.
            let to = unsafe { buffer.raw().elements_mut() };
            file.read_array(tensor, &name, to)
        })
    })
}

/// Closes a file. NULL is allowed and does nothing. What sonew_file_tensor() has
/// pointed to is gone then. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_file_free(file: *mut sonew_file) -> sonew_status {
    if file.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| FILES.remove(file.addr(), "file").map(drop))
}
