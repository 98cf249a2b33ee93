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
//! for (size_t i = 0; i < contents.tensor_count; i++)
//!     sonew_file_tensor(file, i, &tensors[i], sizeof tensors[i]);
//! sonew_create(&options, tensors, contents.tensor_count, &optimizer);
//! sonew_file_free(file);
//! sonew_load(optimizer, "step-1000.safetensors", NULL, params, count);
//! ```

use std::ffi::{c_char, c_void, CString};
use std::path::Path;

use super::arguments::{path, string, Out};
use super::buffers::Buffer;
use super::guard::{call, call_always};
use super::handles::sonew_file;
use super::names::{c_string, Names};
use super::options::{from_options, sonew_options};
use super::plan::sonew_planes;
use super::registry::Registry;
use super::status::sonew_status;
use super::tensor::sonew_tensor;
use super::tensor_settings::{from_settings, sonew_settings};
use super::versioned::{self, Growing};
use crate::checkpoint::{self, ask_for_texts, Checkpoint, SavedTensor};
use crate::error::{Error, Result};
use crate::layout::{array_dims, Plane};
use crate::memory::{ask_for_tensors, list, try_list, OF_FILES, OF_TENSORS};
use crate::optimizer::TensorSettings;

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
    /// The keys of its texts, sorted; they live as long as the handle. See sonew_file_text().
    pub text_keys: *const *const c_char,
    /// How many texts it has.
    pub text_count: usize,
}

// SAFETY: 5 * 8 + 4 * 4 bytes without padding.
unsafe impl Growing for sonew_contents {
    const SIZES: &'static [usize] = &[size_of::<sonew_contents>()];
}

/// The value that a handle stands for.
struct Owned {
    file: Checkpoint<'static>,
    tensors: Vec<Names>,
    texts: Texts,
}

/// The texts of a file, as C strings.
struct Texts {
    keys: Vec<CString>,
    /// Pointers to the keys.
    list: Vec<*const c_char>,
    texts: Vec<CString>,
}

// SAFETY: the pointers are to the strings beside them, which nobody changes.
unsafe impl Send for Texts {}

impl Texts {
    fn new(texts: &checkpoint::Texts) -> Result<Texts> {
        let c_strings = |texts: &mut dyn ExactSizeIterator<Item = &String>| {
            try_list(texts.map(|text| c_string(text)), OF_FILES)
        };
        let keys = c_strings(&mut texts.keys())?;
        Ok(Texts {
            list: list(keys.iter().map(|key| key.as_ptr()), OF_FILES)?,
            texts: c_strings(&mut texts.values())?,
            keys,
        })
    }

    fn get(&self, key: &str) -> Option<&CString> {
        let at = self
            .keys
            .binary_search_by(|other| other.to_bytes().cmp(key.as_bytes()));
        at.ok().map(|at| &self.texts[at])
    }
}

static FILES: Registry<Owned> = Registry::new();

fn with<R>(file: *const sonew_file, body: impl FnOnce(&Owned) -> Result<R>) -> Result<R> {
    FILES.with(file.addr(), "file", |owned| body(owned))
}

impl Owned {
    fn open(path: &Path) -> Result<Owned> {
        let file = Checkpoint::open(path)?;
        let header = file.header();
        let lengths = header.tensors.iter().map(|tensor| tensor.spec.name.len());
        ask_for_tensors(lengths, header.largest_band())?;
        let names = |tensor: &SavedTensor| Names::new(&tensor.spec, &header.arrays(tensor));
        let tensors = try_list(header.tensors.iter().map(names), OF_TENSORS)?;
        ask_for_texts(&header.texts)?;
        let texts = Texts::new(&header.texts)?;
        Ok(Owned {
            file,
            tensors,
            texts,
        })
    }

    fn tensor(&self, index: usize) -> Result<(&SavedTensor, &Names)> {
        let saved = &self.file.header().tensors;
        let unknown = Error::UnknownTensor {
            index,
            count: saved.len(),
        };
        let saved = saved.get(index).ok_or(unknown)?;
        Ok((saved, &self.tensors[index]))
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
/// SONEW_OUT_OF_MEMORY. Since 0.2.
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
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_info(
    file: *const sonew_file,
    contents: *mut sonew_contents,
    size: usize,
) -> sonew_status {
    let value = || {
        with(file, |Owned { file, texts, .. }| {
            Ok(sonew_contents {
                step_count: file.header().step,
                file_bytes: file.file_bytes(),
                tensor_count: file.header().tensors.len(),
                format: file.format() as i32,
                parameters: file.header().parameters.into(),
                live: file.is_live().into(),
                unsynced: file.is_unsynced().into(),
                text_keys: texts.list.as_ptr(),
                text_count: texts.list.len(),
            })
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(contents, size, "contents", value) }
}

/// Writes the options of the optimizer that wrote the file to *options, as
/// sonew_options_init() writes the defaults. threads and instruction_set are in no
/// file and have their defaults. Pass sizeof *options for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_options(
    file: *const sonew_file,
    options: *mut sonew_options,
    size: usize,
) -> sonew_status {
    let value = || {
        with(file, |owned| {
            Ok(from_options(&owned.file.header().options, size))
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(options, size, "options", value) }
}

/// Writes a tensor of the file to *tensor, as sonew_create() takes it, with every type
/// named. index is from 0, in the order of the optimizer that wrote the file. The name
/// lives as long as the handle. Pass sizeof *tensor for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_tensor(
    file: *const sonew_file,
    index: usize,
    tensor: *mut sonew_tensor,
    size: usize,
) -> sonew_status {
    let value = || {
        with(file, |owned| {
            let (saved, names) = owned.tensor(index)?;
            Ok(names.tensor(&saved.spec, size))
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(tensor, size, "tensor", value) }
}

/// Writes the settings that a tensor of the file has to *settings. Pass sizeof *settings
/// for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_settings(
    file: *const sonew_file,
    index: usize,
    settings: *mut sonew_settings,
    size: usize,
) -> sonew_status {
    let value = || {
        with(file, |owned| {
            let (saved, _) = owned.tensor(index)?;
            let settings = TensorSettings {
                lr_scale: saved.lr_scale,
                weight_decay: saved.weight_decay,
                step_count: saved.step_count,
                scalars: saved.scalars,
            };
            Ok(from_settings(&settings, size))
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(settings, size, "settings", value) }
}

/// Writes the names, types and lengths of the arrays that the file has of a tensor to *arrays: its
/// state planes ("master" is zero where no master weights are set yet); then, if the file
/// has the parameters, "parameter". Pass sizeof *arrays for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_arrays(
    file: *const sonew_file,
    index: usize,
    arrays: *mut sonew_planes,
    size: usize,
) -> sonew_status {
    let value = || with(file, |owned| Ok(owned.tensor(index)?.1.planes()));
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(arrays, size, "arrays", value) }
}

/// Copies an array of a tensor, one of those of sonew_file_arrays(), to data, and
/// compares its checksum, if the file has one. data has one element of the array's
/// type for each element of the tensor, in the tensor's own order (of "pooled", as many as
/// sonew_file_arrays() tells), and is aligned to its elements. Of a live file the array is
/// that of the last step.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_INVALID_STRING, SONEW_PLANE_MISSING,
/// SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_CHECKSUM, SONEW_IO,
/// SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_read(
    file: *const sonew_file,
    index: usize,
    array: *const c_char,
    data: *mut c_void,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string.
        let name = unsafe { string(array, || "array".to_owned()) }?;
        with(file, |Owned { file, .. }| {
            let dtype = file.dtype(index, &name)?;
            let header = file.header();
            let spec = &header.tensors[index].spec;
            let array = Plane {
                dims: array_dims(&header.options, spec, &name).into_owned(),
                ..Plane::of(spec, &name, dtype)
            };
            let buffer = Buffer::write_plane(spec, &array, data, || "data".to_owned())?;
            // SAFETY: the header asks for a buffer of the tensor's length.
            let to = unsafe { buffer.raw().elements_mut() };
            file.read_array(index, &name, to)
        })
    })
}

/// Writes the text of a key, one of sonew_contents.text_keys, to *text, or NULL if the file has
/// none. It lives as long as the handle. See "Texts of the program".
///
/// Errors: SONEW_INVALID_STRING. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_file_text(
    file: *const sonew_file,
    key: *const c_char,
    text: *mut *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a pointer to the result.
        let (key, out) = unsafe { (string(key, || "key".to_owned())?, Out::new(text, "text")?) };
        with(file, |owned| {
            let text = owned.texts.get(&key);
            out.write(text.map_or(std::ptr::null(), |text| text.as_ptr()));
            Ok(())
        })
    })
}

/// Closes a file. NULL is allowed and does nothing. The names and texts that it has told
/// are gone then. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_file_free(file: *mut sonew_file) -> sonew_status {
    if file.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| FILES.remove(file.addr(), "file").map(drop))
}
