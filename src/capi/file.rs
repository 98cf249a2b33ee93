//! Save and load
//!
//! A checkpoint is a safetensors file. It holds the state planes by name
//! ("fc1.weight/momentum"), the parameters if they were passed
//! ("fc1.weight/parameter"), options and step counts in the metadata, and
//! checksums of all of these. Training that continues from a checkpoint gives
//! the same bits as training that never stopped.

use std::ffi::{c_char, c_void};
use std::mem::take;
use std::path::PathBuf;

use super::arguments::{flag, named, not_null, string, unused, List, Out};
use super::buffers::{for_each_of_state, none_overlap, state, Buffer, Output};
use super::guard::{call, call_always};
use super::handles::sonew_optimizer;
use super::owned::{ask_for_own, own, with};
use super::status::sonew_status;
use super::step_arguments::written_params;
use super::versioned::{self, Growing, Versioned};
use crate::dtype::{Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::check_count;
use crate::memory::list;
use crate::optimizer::{LoadMode, LoadOptions};
use crate::Optimizer;

/// How sonew_load() and sonew_open() open a file, and where the state is kept
/// afterwards.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum sonew_load_mode {
    /// The file is read into memory, and every checksum is verified.
    SONEW_READ = 0,
    /// The file is mapped copy-on-write, which takes constant time for any
    /// size. A page is read when it is first needed and copied when it is first
    /// written; the file is never changed. Its header and sizes are checked, but
    /// not the checksums of the state; parameters that are loaded are read and
    /// verified. While the file is mapped, no program may write to it or truncate
    /// it; it may be removed, or replaced by a new file, as sonew_save() does.
    SONEW_MAP_PRIVATE = 1,
    /// The state stays in the file, which sonew_make_live() made. The file is
    /// locked until the optimizer is freed or loads another file. Its options
    /// and tensors must be the optimizer's.
    SONEW_MAP_SHARED = 2,
}

use sonew_load_mode::*;

const LOAD_MODES: [(i32, LoadMode); 3] = [
    (SONEW_READ as i32, LoadMode::Read),
    (SONEW_MAP_PRIVATE as i32, LoadMode::MapPrivate),
    (SONEW_MAP_SHARED as i32, LoadMode::MapShared),
];

/// Which differences between file and optimizer a load accepts, and how the file
/// is opened. Fill it in with sonew_load_options_init(); by default no
/// difference is accepted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_load_options {
    /// Set by sonew_load_options_init().
    pub struct_size: usize,
    /// Tensors whose name in the file differs from that in the optimizer: rename_count
    /// pairs of names in UTF-8, 2 * rename_count strings in all, of each pair first the
    /// name in the file. NULL with a count of 0. All renames happen at once, so that two
    /// tensors can swap their names. Default NULL.
    pub renames: *const *const c_char,
    /// The number of pairs in renames. Default 0.
    pub rename_count: usize,
    /// path_count further files that, together with the path of the call, hold the
    /// tensors: those that several machines have saved, each with its tensors or its rows
    /// of them (sonew_tensor.first_row). NULL with a count of 0. Each tensor is put
    /// together from the rows that the files have; whole tensors may be read from shards,
    /// and shards from whole tensors. All files must be of one step. Rows that several
    /// files have must be the same bits. Tensors that only the files have belong to other
    /// machines. Only for SONEW_READ. Default NULL.
    ///
    /// The state is the same to the bit however the rows are divided, except where a chain
    /// was cut or is cut now (with all but SONEW_CONTIGUOUS_LINES): a sub-diagonal's entry for two
    /// elements that were in different shards, or are now, is 0 until steps fill it.
    pub paths: *const *const c_char,
    /// See paths. Default 0.
    pub path_count: usize,
    /// 1: keep the optimizer's options, and its learning-rate scale and weight
    /// decay of every tensor, where the file has others. Its band may then be
    /// smaller than the file's, and its tensors may have another
    /// sonew_tensor.update, as long as the file has every plane that they need.
    /// Master weights may be missing from the file, in which case the next step
    /// copies them from the parameters, or be in the file only. Default 0.
    pub override_options: i32,
    /// 1: load the tensors that are in both the file and the optimizer, at least
    /// one, and leave the optimizer's other tensors, with their own step counts,
    /// as they are. Default 0.
    pub common_tensors_only: i32,
    /// One of sonew_load_mode. SONEW_MAP_SHARED cannot be combined with any of
    /// the other fields. Default SONEW_READ.
    pub mode: i32,
    /// 1: load the older of the two copies in a live file, the state before its last
    /// step. For processes that train together: those that were killed may lie one step
    /// apart, and go on from the same one. With SONEW_MAP_SHARED it becomes the current
    /// copy, and is synced. Default 0.
    pub older_copy: i32,
    /// 1: convert state planes that have another type in the file, as a step of
    /// the optimizer would have stored them: rounded as its options say, and zero
    /// below the smallest normal number. A number that is too large for its type
    /// is refused: SONEW_OUT_OF_RANGE. The random bits of SONEW_STOCHASTIC are
    /// those of the last step that the tensor took part in: a function of the
    /// optimizer's seed, that step count, the index of the tensor in the
    /// optimizer, that of the plane, and that of the element. Tensors that are
    /// converted are read into memory in every mode. Master weights and
    /// parameters are not converted. Default 0.
    pub convert_state: i32,
    /// Must be 0.
    pub reserved: [i32; 1],
    /// override_count names of settings of which the optimizer keeps its own where the file
    /// has others, as override_options does of all: of fields of sonew_options, as in "beta1",
    /// where "weight_decay" also stands for that of every tensor, of "lr_scale", their
    /// learning-rate scale, and of "update" and "master", the fields of sonew_tensor. NULL with
    /// a count of 0. Default NULL.
    pub overrides: *const *const c_char,
    /// See overrides. Default 0.
    pub override_count: usize,
    /// A checkpoint in memory, of size bytes, in place of a file: the path of the call is then
    /// NULL, and mode is SONEW_READ. The bytes are those that sonew_save_to_memory() or any
    /// other save has written; after the call nothing refers to them. Default NULL.
    pub data: *const c_void,
    /// See data. Default 0.
    pub size: usize,
}

// SAFETY: 9 * 8 + 6 * 4 bytes without padding.
unsafe impl Growing for sonew_load_options {
    const SIZES: &'static [usize] = &[size_of::<sonew_load_options>()];
}

// SAFETY: the first field is the size; numbers and raw pointers.
unsafe impl Versioned for sonew_load_options {
    const HINT: &'static str = "call sonew_load_options_init() first";

    fn with_defaults(struct_size: usize) -> Self {
        sonew_load_options {
            struct_size,
            renames: std::ptr::null(),
            rename_count: 0,
            paths: std::ptr::null(),
            path_count: 0,
            override_options: 0,
            common_tensors_only: 0,
            mode: SONEW_READ as i32,
            older_copy: 0,
            convert_state: 0,
            reserved: [0],
            overrides: std::ptr::null(),
            override_count: 0,
            data: std::ptr::null(),
            size: 0,
        }
    }
}

fn load_mode(mode: i32, argument: &str) -> Result<LoadMode> {
    named(mode, || argument.to_owned(), &LOAD_MODES)
}

/// The load options of a caller; NULL means the defaults.
///
/// # Safety
/// As for [`versioned::read`]; `renames` holds `2 * rename_count` strings, `paths`
/// `path_count`, `overrides` `override_count`, and `data` `size` bytes, during `'a`.
unsafe fn load_options<'a>(
    pointer: *const sonew_load_options,
) -> Result<(LoadOptions, Option<&'a [u8]>)> {
    if pointer.is_null() {
        return Ok((LoadOptions::default(), None));
    }
    // SAFETY: the caller's promise.
    let c = unsafe { versioned::read(pointer, "options") }?;
    // SAFETY: the caller's promise.
    let renames = unsafe {
        List::new(
            c.renames,
            c.rename_count.saturating_mul(2),
            "options.renames",
        )
    }?;
    let mut names = renames.collect("the list of renames", |i, name| {
        // SAFETY: the caller's promise.
        unsafe { string(name, || format!("options.renames[{i}]")) }
    })?;
    let pairs = names.chunks_exact_mut(2);
    let pairs = pairs.map(|pair| (take(&mut pair[0]), take(&mut pair[1])));
    let rename = list(pairs, "the list of renames")?;
    // SAFETY: the caller's promise.
    let paths = unsafe { List::new(c.paths, c.path_count, "options.paths") }?;
    let paths = paths.collect("the list of paths", |i, path| {
        // SAFETY: the caller's promise.
        unsafe { super::arguments::path_of(path, || format!("options.paths[{i}]")) }
    })?;
    // SAFETY: the caller's promise.
    let overrides = unsafe { List::new(c.overrides, c.override_count, "options.overrides") }?;
    let overrides = overrides.collect("the list of overrides", |i, name| {
        // SAFETY: the caller's promise.
        unsafe { string(name, || format!("options.overrides[{i}]")) }
    })?;
    if c.size > 0 {
        not_null(c.data, || "options.data".to_owned())?;
    }
    // SAFETY: not null, and the caller's promise.
    let bytes = || unsafe { std::slice::from_raw_parts(c.data.cast(), c.size) };
    let data = (!c.data.is_null()).then(bytes);
    unused(&c.reserved, || "options.reserved".to_owned())?;
    let options = LoadOptions {
        mode: load_mode(c.mode, "options.mode")?,
        convert_state: flag(c.convert_state, "options.convert_state")?,
        override_options: flag(c.override_options, "options.override_options")?,
        overrides,
        common_tensors_only: flag(c.common_tensors_only, "options.common_tensors_only")?,
        rename,
        paths,
        older_copy: flag(c.older_copy, "options.older_copy")?,
    };
    Ok((options, data))
}

/// Saves the state, the options, the step count, each tensor's step count,
/// learning-rate scale and weight decay, and the texts of the program, to a file.
/// params (one buffer for each tensor, as in sonew_step(); only read) saves the
/// parameters, too; to save the state alone, pass NULL and a count of 0.
///
/// The new file is first written under the name path with ".sonew-tmp" added (of a name
/// of more than 245 bytes, under its beginning and a checksum with that added),
/// then flushed to disk, then renamed to path. If a save fails or the process
/// dies, the previous file is still there. (Exception: if only the last
/// operation fails, which makes the new name durable, the new file is there.)
/// A temporary file that a killed process leaves behind is removed by the next
/// save to path. A second save to the same path at the same time is refused, and
/// so is one to a live file in use, also if it came into use meanwhile. path may
/// be the file that the state is mapped from privately.
///
/// A symbolic link is followed, and stays. What is not a regular file is refused,
/// and so is a file that something is mounted on by itself: it cannot be
/// replaced. The new file has the mode of the one that it replaces, and belongs
/// to the user who saves.
///
/// If path is the live file that holds the state, this does what sonew_sync()
/// does. A live file holds no parameters except as master weights: if params are
/// given, every tensor must have master weights.
///
/// Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_HEADER_LENGTH, SONEW_FILE_LOCKED, SONEW_FORKED,
/// SONEW_PLANE_MISSING, SONEW_PARTIAL_SUMS, SONEW_IO, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_save(
    optimizer: *const sonew_optimizer,
    path: *const c_char,
    params: *const *mut c_void,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string, and for `count` pointers to parameters.
        unsafe {
            let path = super::arguments::path(path)?;
            let params = List::new(params, count, "params")?;
            saved(optimizer, &params, |optimizer, params| {
                optimizer.save(path, params)
            })
        }
    })
}

/// Saves what sonew_save() saves to memory: capacity bytes from data on. Writes the size of the
/// checkpoint in bytes to *size. With a capacity of 0, data is NULL and only the size is told,
/// which stays the same until the next step, load or change of a setting or text. What is
/// written is what the file would be: sonew_load() takes it (sonew_load_options.data), and in
/// a file it is a checkpoint. Parameters may not overlap it.
///
/// Errors: SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW, SONEW_WRONG_LENGTH (capacity
/// is less than the size), SONEW_OVERLAP, SONEW_HEADER_LENGTH, SONEW_PARTIAL_SUMS,
/// SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_save_to_memory(
    optimizer: *const sonew_optimizer,
    params: *const *mut c_void,
    count: usize,
    data: *mut c_void,
    capacity: usize,
    size: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for `count` pointers to parameters and a pointer to the
        // result.
        let (params, out) =
            unsafe { (List::new(params, count, "params")?, Out::new(size, "size")?) };
        if capacity > 0 {
            not_null(data, || "data".to_owned())?;
        }
        let room = Output::new(data.cast::<u8>(), capacity, "data");
        let told = Output::new(size, 1, "size");
        room.apart_from_output(&told)?;
        let save = |optimizer: &Optimizer, saved: Option<&[Elements<'_>]>| {
            if capacity == 0 {
                return optimizer.size_in_memory(saved);
            }
            let tensors = optimizer.tensors().iter();
            for (tensor, &param) in tensors.zip(saved.unwrap_or_default()) {
                room.apart_from(&Buffer::of(tensor, "the parameter", param))?;
            }
            for_each_of_state(optimizer, |buffer| {
                room.apart_from(&buffer)?;
                told.apart_from(&buffer)
            })?;
            // SAFETY: not null, and the header asks for so many bytes, which nobody else
            // uses; nor are they read meanwhile, as has just been checked.
            let bytes = unsafe { std::slice::from_raw_parts_mut(data.cast(), capacity) };
            optimizer.save_to_memory(bytes, saved)
        };
        // SAFETY: the header asks for pointers that hold what they say.
        let bytes = unsafe { self::saved(optimizer, &params, save) }?;
        out.write(bytes);
        Ok(())
    })
}

/// Calls `body` with the optimizer and the checked parameters to be saved.
///
/// # Safety
/// As for [`sonew_save`].
pub(super) unsafe fn saved<R>(
    optimizer: *const sonew_optimizer,
    params: &List<*mut c_void>,
    save: impl FnOnce(&Optimizer, Option<&[Elements<'_>]>) -> Result<R>,
) -> Result<R> {
    with(optimizer, |owned| {
        let optimizer = &owned.optimizer;
        ask_for_own(optimizer)?;
        if !params.is_given() {
            return save(optimizer, None);
        }
        let tensors = optimizer.tensors();
        check_count("params", params.len(), tensors.len())?;
        let params = params.collect("the list of parameters", |i, param| {
            let name = || format!("params[{i}]");
            let tensor = &tensors[i];
            let buffer = Buffer::read(tensor, "the parameter", tensor.params, param, name)?;
            // SAFETY: the caller's promise.
            Ok(unsafe { buffer.raw().elements() })
        })?;
        save(optimizer, Some(&params))
    })
}

/// Fills in the defaults. Pass sizeof *options for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_load_options_init(
    options: *mut sonew_load_options,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for a struct of this size.
    call_always(|| unsafe { versioned::init(options, size, "options") })
}

/// Loads a file that sonew_save() wrote into an optimizer that was created with
/// the same options (except threads and instruction_set) and the same tensors,
/// in any order. options may be NULL, which means the defaults; with it,
/// differences can be allowed. params (one buffer for each tensor, as in
/// sonew_step(); written) loads the parameters, too, and the file must have
/// them; to load the state alone, pass NULL and a count of 0. path is NULL if options.data has
/// a checkpoint in memory. Numbers among the options are the same if float cannot tell them
/// apart: 0.9 and 0.9f are. The optimizer keeps its own.
///
/// Unless options.convert_state is 1, nothing is converted: state planes, and
/// parameters that are loaded, must have the same types in the file as in the
/// optimizer. One exception: if the
/// file has master weights of a tensor but no parameters, the parameters become
/// the master weights rounded to nearest, as after every step. A live file on
/// which no step was taken yet, at step 0, has neither: the parameters then stay
/// as they are, because the first step begins with them.
///
/// options.mode says how the file is opened and where the state is kept
/// afterwards. In every mode all reading is done before anything is changed;
/// with SONEW_READ the state is therefore in memory twice for a moment. Views of
/// the state become invalid. If the state was in a live file before, that file
/// is closed, as by sonew_free().
///
/// Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_VALUE,
/// SONEW_INVALID_STRING, SONEW_TENSOR_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
/// SONEW_OVERLAP, SONEW_IO, SONEW_NOT_A_CHECKPOINT,
/// SONEW_FILE_LENGTH, SONEW_FORMAT_VERSION, SONEW_CHECKSUM,
/// SONEW_TENSOR_MISSING, SONEW_TENSOR_DIFFERS, SONEW_DTYPE_DIFFERS,
/// SONEW_OPTION_DIFFERS, SONEW_PLANE_MISSING, SONEW_RENAME,
/// SONEW_FILE_LOCKED, SONEW_TORN, SONEW_NOT_A_LIVE_FILE, SONEW_SHARED_OPTION,
/// SONEW_NO_OLDER_COPY, SONEW_ROWS_MISSING, SONEW_STEPS_DIFFER, SONEW_FILES_DIFFER,
/// SONEW_ROWS_DIFFER, SONEW_MAPPED_ROWS, SONEW_MEMORY, SONEW_UNKNOWN_NAME (in overrides),
/// SONEW_OUT_OF_RANGE (a number too large for its type,
/// with convert_state), SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_load(
    optimizer: *mut sonew_optimizer,
    path: *const c_char,
    options: *const sonew_load_options,
    params: *const *mut c_void,
    count: usize,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { load(optimizer, path, options, params, count) })
}

/// # Safety
/// As for [`sonew_load`].
unsafe fn load(
    optimizer: *mut sonew_optimizer,
    path: *const c_char,
    options: *const sonew_load_options,
    params: *const *mut c_void,
    count: usize,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let (from, load, params) = unsafe {
        let (load, data) = load_options(options)?;
        let from = match data {
            None => From::File(super::arguments::path(path)?),
            Some(_) if !path.is_null() => return Err(Error::PathAndMemory),
            Some(bytes) => From::Memory(bytes),
        };
        (from, load, List::new(params, count, "params")?)
    };
    with(optimizer, |owned| {
        owned.texts.clear();
        let optimizer = &mut owned.optimizer;
        ask_for_own(optimizer)?;
        let own = |path: &&PathBuf| optimizer.live_file_is(path);
        if let Some(path) = from.path().into_iter().chain(&load.paths).find(own) {
            let path = path.clone();
            return Err(Error::OwnLiveFile { path });
        }
        if !params.is_given() {
            return from.load(optimizer, &load, None);
        }
        let tensors = optimizer.tensors();
        check_count("params", params.len(), tensors.len())?;
        let written = written_params(&params, tensors)?;
        let mut all = written.clone();
        state(optimizer, &mut all)?;
        none_overlap(&mut all)?;
        // SAFETY: no two buffers overlap, and the caller's promise.
        let elements = |b: &Buffer<'_>| unsafe { b.raw().elements_mut() };
        let mut params: Vec<_> = written.iter().map(elements).collect();
        from.load(optimizer, &load, Some(&mut params))
    })
}

/// Where a checkpoint is loaded from.
enum From<'a> {
    File(PathBuf),
    Memory(&'a [u8]),
}

impl From<'_> {
    fn path(&self) -> Option<&PathBuf> {
        match self {
            From::File(path) => Some(path),
            From::Memory(_) => None,
        }
    }

    fn load(
        &self,
        optimizer: &mut Optimizer,
        load: &LoadOptions,
        params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        match self {
            From::File(path) => optimizer.load(path, load, params),
            From::Memory(bytes) => optimizer.load_from_memory(bytes, load, params),
        }
    }
}

/// Creates an optimizer from a file alone, with its options, tensors, state and
/// step counts, and writes its handle to *optimizer. mode is one of
/// sonew_load_mode. From then on the optimizer gives the same bits as one that
/// sonew_create() has made of the same options and tensors, and that has loaded
/// the file with sonew_load(). threads and instruction_set are in no file and have
/// their defaults.
///
/// sonew_info() and sonew_get_tensor() tell its tensors. Parameters
/// stay in the file: sonew_file_read() reads them. For other threads, and for
/// parameters that are loaded together with the state, take options and tensors
/// from the file, and create and load the optimizer: see "Contents of a file".
///
/// Errors: SONEW_UNKNOWN_VALUE, and those of sonew_load() for a file that is no
/// checkpoint, is damaged or in use, or is no live file; SONEW_INSTRUCTION_SET;
/// SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_open(
    path: *const c_char,
    mode: i32,
    optimizer: *mut *mut sonew_optimizer,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a pointer to the result.
        let (path, out) = unsafe {
            (
                super::arguments::path(path)?,
                Out::new(optimizer, "optimizer")?,
            )
        };
        own(Optimizer::open(path, load_mode(mode, "mode")?)?, out)
    })
}
