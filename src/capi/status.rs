//! Status
//!
//! Every function that can fail returns a status. The numbers are fixed: later
//! versions add numbers, but never change or reuse one.

use std::ffi::{c_char, CStr};

use super::last_error;
use crate::error::Error;

/// The outcome of a call. Every status but SONEW_OK means that nothing was
/// changed and no output was written.
///
/// Besides the errors that a function lists, it may return SONEW_NULL_POINTER,
/// SONEW_BAD_HANDLE and SONEW_BUSY for its arguments, and SONEW_INTERNAL; and
/// SONEW_IN_STAGES if it steps, saves, loads, syncs or changes a setting while
/// a step in stages is under way.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum sonew_status {
    /// Done.
    SONEW_OK = 0,
    /// A gradient has a NaN, an infinity, or a number whose square overflows;
    /// the message names its tensor. The step was skipped. This is not a mistake
    /// of the caller: with loss scaling, lower the scale and continue.
    SONEW_NON_FINITE_GRADIENT = 1,

    /// A pointer is NULL that must not be.
    SONEW_NULL_POINTER = 100,
    /// A handle was freed before, never created, or is of another kind.
    SONEW_BAD_HANDLE = 101,
    /// Another thread is using the handle at this moment.
    SONEW_BUSY = 102,
    /// struct_size is not the size of any version of the struct: it was not
    /// filled in by the library.
    SONEW_STRUCT_SIZE = 103,
    /// The caller's header is newer than the library, and a field that this
    /// library does not know is not zero.
    SONEW_UNKNOWN_FIELD = 104,
    /// A string is not UTF-8.
    SONEW_INVALID_STRING = 105,
    /// A field has a number that its enumeration does not have.
    SONEW_UNKNOWN_VALUE = 106,
    /// A number is outside its documented range.
    SONEW_OUT_OF_RANGE = 107,
    /// A step in stages is under way: finish it first, or abort it.
    SONEW_IN_STAGES = 108,
    /// A step in stages cannot be aborted any more: the state has been updated
    /// with its gradients.
    SONEW_STATE_WRITTEN = 110,

    /// The list of tensors is empty.
    SONEW_NO_TENSORS = 200,
    /// A tensor's name is empty or has a control character.
    SONEW_TENSOR_NAME = 201,
    /// Two tensors have the same name.
    SONEW_DUPLICATE_NAME = 202,
    /// A tensor has more than SONEW_MAX_DIMS dimensions.
    SONEW_TOO_MANY_DIMENSIONS = 203,
    /// A tensor's size does not fit into the address space.
    SONEW_SIZE_OVERFLOW = 205,
    /// A call passes another number of tensors than the handle has.
    SONEW_TENSOR_COUNT = 206,
    /// A buffer does not have the length of its tensor, or of all tensors together, or has no
    /// room for a checkpoint.
    SONEW_WRONG_LENGTH = 207,
    /// A call passes another number of state planes than a tensor has.
    SONEW_PLANE_COUNT = 208,
    /// There is no tensor with this index.
    SONEW_UNKNOWN_TENSOR = 209,
    /// The tensor has no state plane with this index.
    SONEW_UNKNOWN_PLANE = 210,
    /// There is no struct, no field, or nothing for a load to override, with this name.
    SONEW_UNKNOWN_NAME = 211,
    /// A tensor asks for SONEW_F16 state, whose range is too small for squared
    /// gradients.
    SONEW_STATE_DTYPE = 212,
    /// A tensor with SONEW_F64 parameters asks for master weights, which are
    /// SONEW_F32.
    SONEW_MASTER_DTYPE = 213,
    /// A shard has rows that the whole tensor does not have, or is a scalar; or it has pooled
    /// correlations and is cut through its chains, not lagged, or to be in a live file.
    SONEW_SHARD = 215,
    /// The options of a tensor differ from those of the optimizer in one that is the same
    /// for all tensors.
    SONEW_TENSOR_OPTION = 216,
    /// The key of a text is empty or has a control character, the text has a NUL, or there
    /// are more than 1000.
    SONEW_TEXT = 217,
    /// Numbers by block are asked for of a shard that is not cut between blocks:
    /// sonew_block_rows().
    SONEW_BLOCK_CUT = 218,
    /// The pooled sums of a shard's last step have not been added up over all shards:
    /// sonew_partial_sums().
    SONEW_PARTIAL_SUMS = 219,
    /// A buffer is not aligned to its element type.
    SONEW_MISALIGNED = 220,
    /// A buffer that is written overlaps another buffer of the call, or the
    /// state.
    SONEW_OVERLAP = 221,
    /// Both parameters and a direction were passed for a tensor.
    SONEW_AMBIGUOUS_TARGET = 222,
    /// The operands, results or attributes of an XLA custom call are not those
    /// that its handler expects. No function returns this status.
    SONEW_CUSTOM_CALL = 230,

    /// There is not enough memory.
    SONEW_OUT_OF_MEMORY = 300,
    /// The system could not create a thread: that of a save in the background, or the
    /// one with which sonew_pool_create() tries processors. A step that gets fewer
    /// threads than it may use goes on with those.
    SONEW_THREADS = 301,
    /// The processor, or the library as it was built, lacks the instruction
    /// set that was asked for.
    SONEW_INSTRUCTION_SET = 302,
    /// The threads of a pool may not run on a processor.
    SONEW_PROCESSOR = 303,

    /// A file operation failed; the message has the system's reason.
    SONEW_IO = 400,
    /// The file is not a checkpoint of this library, or is too damaged to be
    /// recognized as one.
    SONEW_NOT_A_CHECKPOINT = 401,
    /// The file is shorter or longer than its header says.
    SONEW_FILE_LENGTH = 402,
    /// The file is from a newer version of the library.
    SONEW_FORMAT_VERSION = 403,
    /// A checksum does not match; the message names the array.
    SONEW_CHECKSUM = 404,
    /// There are more tensors, or longer names, than the header of a file can
    /// list.
    SONEW_HEADER_LENGTH = 405,
    /// A tensor is in the file but not in the optimizer, or the other way round.
    SONEW_TENSOR_MISSING = 410,
    /// A tensor has other dimensions or chains, another update, or other options of its own, in
    /// the file.
    SONEW_TENSOR_DIFFERS = 411,
    /// An option has another value in the file.
    SONEW_OPTION_DIFFERS = 412,
    /// The file lacks a state plane, or the parameters.
    SONEW_PLANE_MISSING = 413,
    /// A rename has a name that no tensor has, or two renames conflict.
    SONEW_RENAME = 414,
    /// A state plane, or the parameters of a tensor, have another element type
    /// in the file; or tensors in one buffer differ in it. In sonew.hpp also a buffer
    /// whose elements have another type than the tensor declares.
    SONEW_DTYPE_DIFFERS = 415,
    /// Rows of a tensor are in none of the files.
    SONEW_ROWS_MISSING = 416,
    /// The files of a set are of different steps.
    SONEW_STEPS_DIFFER = 417,
    /// The files of a set differ in a setting of a tensor, in an option, or in pooled sums.
    SONEW_FILES_DIFFER = 418,
    /// Several files of a set have the same rows of a tensor, with different numbers.
    SONEW_ROWS_DIFFER = 419,

    /// A live file is in use by another process or optimizer, or another save
    /// to the same path is under way.
    SONEW_FILE_LOCKED = 420,
    /// A forked child tries to use a live file of its parent, or to finish its
    /// parent's save.
    SONEW_FORKED = 421,
    /// The optimizer's state is not in a live file.
    SONEW_NOT_LIVE = 422,
    /// The file is a checkpoint but not a live file.
    SONEW_NOT_A_LIVE_FILE = 423,
    /// The machine crashed or lost power while the live file was in use, or it is a
    /// copy of a live file in use, and it is not as it was at its last sync: load
    /// the last save instead.
    SONEW_TORN = 424,
    /// A live file was not synced after its last step, so that it has no
    /// checksums to verify.
    SONEW_UNSYNCED = 425,
    /// A load option cannot be combined with SONEW_MAP_SHARED.
    SONEW_SHARED_OPTION = 426,
    /// The older copy in a live file was asked for (sonew_load_options.older_copy), and is
    /// not whole: a step has begun to write it, there was none, or the machine went down
    /// since.
    SONEW_NO_OLDER_COPY = 427,
    /// Several files were to be mapped, or one with other rows of a tensor than the
    /// optimizer has: read them instead.
    SONEW_MAPPED_ROWS = 428,
    /// A text was set for state in a live file, which has none, or state with texts was to
    /// be moved into one.
    SONEW_LIVE_TEXT = 429,
    /// A checkpoint in memory was to be mapped, or was passed together with a path.
    SONEW_MEMORY = 430,

    /// A bug in this library; please report the message. Only after this error
    /// may something have changed: the handle that was in use is refused from
    /// now on, and can only be freed.
    SONEW_INTERNAL = 900,
}

use sonew_status::*;

// The size of a C enum on every supported platform.
const _: () = assert!(size_of::<sonew_status>() == 4);

impl From<&Error> for sonew_status {
    fn from(error: &Error) -> Self {
        match error {
            Error::NonFiniteGradient { .. } => SONEW_NON_FINITE_GRADIENT,
            Error::NullPointer { .. } | Error::NoTarget { .. } => SONEW_NULL_POINTER,
            Error::BadHandle { .. } => SONEW_BAD_HANDLE,
            Error::Busy { .. } => SONEW_BUSY,
            Error::StructSize { .. } => SONEW_STRUCT_SIZE,
            Error::UnknownField { .. } => SONEW_UNKNOWN_FIELD,
            Error::InvalidString { .. } => SONEW_INVALID_STRING,
            Error::UnknownValue { .. } => SONEW_UNKNOWN_VALUE,
            Error::OutOfRange { .. } | Error::FlatOffset { .. } => SONEW_OUT_OF_RANGE,
            Error::InStages => SONEW_IN_STAGES,
            Error::StateWritten => SONEW_STATE_WRITTEN,
            Error::NoTensors => SONEW_NO_TENSORS,
            Error::TensorName { .. } => SONEW_TENSOR_NAME,
            Error::DuplicateName { .. } => SONEW_DUPLICATE_NAME,
            Error::TooManyDimensions { .. } => SONEW_TOO_MANY_DIMENSIONS,
            Error::SizeOverflow { .. } | Error::PastLastAddress { .. } => SONEW_SIZE_OVERFLOW,
            Error::PooledLength { .. } => SONEW_OUT_OF_RANGE,
            Error::TensorCount { .. } => SONEW_TENSOR_COUNT,
            Error::WrongLength { .. }
            | Error::FlatLength { .. }
            | Error::BlockNumbers { .. }
            | Error::TooSmall { .. } => SONEW_WRONG_LENGTH,
            Error::PlaneCount { .. } => SONEW_PLANE_COUNT,
            Error::UnknownTensor { .. } => SONEW_UNKNOWN_TENSOR,
            Error::UnknownPlane { .. } => SONEW_UNKNOWN_PLANE,
            Error::UnknownName { .. } => SONEW_UNKNOWN_NAME,
            Error::StateDtype { .. } => SONEW_STATE_DTYPE,
            Error::MasterDtype { .. } => SONEW_MASTER_DTYPE,
            Error::ShardRows { .. }
            | Error::ScalarShard { .. }
            | Error::PooledShard { .. }
            | Error::PooledCut { .. }
            | Error::LiveShard { .. } => SONEW_SHARD,
            Error::PartialSums { .. } => SONEW_PARTIAL_SUMS,
            Error::BlockCut { .. } => SONEW_BLOCK_CUT,
            Error::Misaligned { .. } => SONEW_MISALIGNED,
            Error::Overlap { .. } => SONEW_OVERLAP,
            Error::AmbiguousTarget { .. } => SONEW_AMBIGUOUS_TARGET,
            Error::Attribute { .. } | Error::OperandCount { .. } | Error::Operand { .. } => {
                SONEW_CUSTOM_CALL
            }
            Error::OutOfMemory { .. } => SONEW_OUT_OF_MEMORY,
            Error::Threads { .. } => SONEW_THREADS,
            Error::InstructionSet { .. } => SONEW_INSTRUCTION_SET,
            Error::Processor { .. } => SONEW_PROCESSOR,
            Error::Io { .. } => SONEW_IO,
            Error::NotACheckpoint { .. } => SONEW_NOT_A_CHECKPOINT,
            Error::FileLength { .. } => SONEW_FILE_LENGTH,
            Error::FormatVersion { .. } => SONEW_FORMAT_VERSION,
            Error::Checksum { .. } => SONEW_CHECKSUM,
            Error::HeaderLength { .. } | Error::TooManyTensors { .. } => SONEW_HEADER_LENGTH,
            Error::TensorMissing { .. } => SONEW_TENSOR_MISSING,
            Error::TensorDiffers { .. } => SONEW_TENSOR_DIFFERS,
            Error::OptionDiffers { .. } => SONEW_OPTION_DIFFERS,
            Error::TensorOption { .. } => SONEW_TENSOR_OPTION,
            Error::PlaneMissing { .. } => SONEW_PLANE_MISSING,
            Error::Rename { .. } => SONEW_RENAME,
            Error::DtypeDiffers { .. } | Error::FlatDtype { .. } => SONEW_DTYPE_DIFFERS,
            Error::TextKey { .. } | Error::TextNul { .. } | Error::TooManyTexts { .. } => {
                SONEW_TEXT
            }
            Error::LiveText { .. } => SONEW_LIVE_TEXT,
            Error::MappedMemory | Error::PathAndMemory => SONEW_MEMORY,
            Error::RowsMissing { .. } => SONEW_ROWS_MISSING,
            Error::StepsDiffer { .. } => SONEW_STEPS_DIFFER,
            Error::FilesDiffer { .. } | Error::SumsDiffer { .. } => SONEW_FILES_DIFFER,
            Error::RowsDiffer { .. } => SONEW_ROWS_DIFFER,
            Error::FileLocked { .. } | Error::OwnLiveFile { .. } => SONEW_FILE_LOCKED,
            Error::Forked { .. } => SONEW_FORKED,
            Error::NotLive => SONEW_NOT_LIVE,
            Error::NotALiveFile { .. } => SONEW_NOT_A_LIVE_FILE,
            Error::Torn { .. } => SONEW_TORN,
            Error::Unsynced { .. } => SONEW_UNSYNCED,
            Error::SharedOption { .. } => SONEW_SHARED_OPTION,
            Error::NoOlderCopy { .. } => SONEW_NO_OLDER_COPY,
            Error::MappedPaths | Error::MappedRows { .. } => SONEW_MAPPED_ROWS,
            // C's calls cannot make the first two of these mistakes.
            Error::NoStages | Error::WrongDtype { .. } | Error::Internal { .. } => SONEW_INTERNAL,
        }
    }
}

impl Error {
    /// The name of its status in the C API, such as `SONEW_OUT_OF_RANGE`.
    pub fn status_name(&self) -> &'static str {
        let status = sonew_status::from(self);
        let known = NAMES.iter().find(|(known, _)| *known == status);
        known.map_or("", |(_, name)| name.to_str().unwrap_or_default())
    }
}

/// The name of every status. A test compares the list with the header.
const NAMES: &[(sonew_status, &CStr)] = &[
    (SONEW_OK, c"SONEW_OK"),
    (SONEW_NON_FINITE_GRADIENT, c"SONEW_NON_FINITE_GRADIENT"),
    (SONEW_NULL_POINTER, c"SONEW_NULL_POINTER"),
    (SONEW_BAD_HANDLE, c"SONEW_BAD_HANDLE"),
    (SONEW_BUSY, c"SONEW_BUSY"),
    (SONEW_STRUCT_SIZE, c"SONEW_STRUCT_SIZE"),
    (SONEW_UNKNOWN_FIELD, c"SONEW_UNKNOWN_FIELD"),
    (SONEW_INVALID_STRING, c"SONEW_INVALID_STRING"),
    (SONEW_UNKNOWN_VALUE, c"SONEW_UNKNOWN_VALUE"),
    (SONEW_OUT_OF_RANGE, c"SONEW_OUT_OF_RANGE"),
    (SONEW_IN_STAGES, c"SONEW_IN_STAGES"),
    (SONEW_STATE_WRITTEN, c"SONEW_STATE_WRITTEN"),
    (SONEW_NO_TENSORS, c"SONEW_NO_TENSORS"),
    (SONEW_TENSOR_NAME, c"SONEW_TENSOR_NAME"),
    (SONEW_DUPLICATE_NAME, c"SONEW_DUPLICATE_NAME"),
    (SONEW_TOO_MANY_DIMENSIONS, c"SONEW_TOO_MANY_DIMENSIONS"),
    (SONEW_SIZE_OVERFLOW, c"SONEW_SIZE_OVERFLOW"),
    (SONEW_TENSOR_COUNT, c"SONEW_TENSOR_COUNT"),
    (SONEW_WRONG_LENGTH, c"SONEW_WRONG_LENGTH"),
    (SONEW_PLANE_COUNT, c"SONEW_PLANE_COUNT"),
    (SONEW_UNKNOWN_TENSOR, c"SONEW_UNKNOWN_TENSOR"),
    (SONEW_UNKNOWN_PLANE, c"SONEW_UNKNOWN_PLANE"),
    (SONEW_UNKNOWN_NAME, c"SONEW_UNKNOWN_NAME"),
    (SONEW_STATE_DTYPE, c"SONEW_STATE_DTYPE"),
    (SONEW_MASTER_DTYPE, c"SONEW_MASTER_DTYPE"),
    (SONEW_SHARD, c"SONEW_SHARD"),
    (SONEW_BLOCK_CUT, c"SONEW_BLOCK_CUT"),
    (SONEW_PARTIAL_SUMS, c"SONEW_PARTIAL_SUMS"),
    (SONEW_TENSOR_OPTION, c"SONEW_TENSOR_OPTION"),
    (SONEW_TEXT, c"SONEW_TEXT"),
    (SONEW_MISALIGNED, c"SONEW_MISALIGNED"),
    (SONEW_OVERLAP, c"SONEW_OVERLAP"),
    (SONEW_AMBIGUOUS_TARGET, c"SONEW_AMBIGUOUS_TARGET"),
    (SONEW_CUSTOM_CALL, c"SONEW_CUSTOM_CALL"),
    (SONEW_OUT_OF_MEMORY, c"SONEW_OUT_OF_MEMORY"),
    (SONEW_THREADS, c"SONEW_THREADS"),
    (SONEW_INSTRUCTION_SET, c"SONEW_INSTRUCTION_SET"),
    (SONEW_PROCESSOR, c"SONEW_PROCESSOR"),
    (SONEW_IO, c"SONEW_IO"),
    (SONEW_NOT_A_CHECKPOINT, c"SONEW_NOT_A_CHECKPOINT"),
    (SONEW_FILE_LENGTH, c"SONEW_FILE_LENGTH"),
    (SONEW_FORMAT_VERSION, c"SONEW_FORMAT_VERSION"),
    (SONEW_CHECKSUM, c"SONEW_CHECKSUM"),
    (SONEW_HEADER_LENGTH, c"SONEW_HEADER_LENGTH"),
    (SONEW_TENSOR_MISSING, c"SONEW_TENSOR_MISSING"),
    (SONEW_TENSOR_DIFFERS, c"SONEW_TENSOR_DIFFERS"),
    (SONEW_OPTION_DIFFERS, c"SONEW_OPTION_DIFFERS"),
    (SONEW_PLANE_MISSING, c"SONEW_PLANE_MISSING"),
    (SONEW_RENAME, c"SONEW_RENAME"),
    (SONEW_DTYPE_DIFFERS, c"SONEW_DTYPE_DIFFERS"),
    (SONEW_ROWS_MISSING, c"SONEW_ROWS_MISSING"),
    (SONEW_STEPS_DIFFER, c"SONEW_STEPS_DIFFER"),
    (SONEW_FILES_DIFFER, c"SONEW_FILES_DIFFER"),
    (SONEW_ROWS_DIFFER, c"SONEW_ROWS_DIFFER"),
    (SONEW_FILE_LOCKED, c"SONEW_FILE_LOCKED"),
    (SONEW_FORKED, c"SONEW_FORKED"),
    (SONEW_NOT_LIVE, c"SONEW_NOT_LIVE"),
    (SONEW_NOT_A_LIVE_FILE, c"SONEW_NOT_A_LIVE_FILE"),
    (SONEW_TORN, c"SONEW_TORN"),
    (SONEW_UNSYNCED, c"SONEW_UNSYNCED"),
    (SONEW_SHARED_OPTION, c"SONEW_SHARED_OPTION"),
    (SONEW_NO_OLDER_COPY, c"SONEW_NO_OLDER_COPY"),
    (SONEW_MAPPED_ROWS, c"SONEW_MAPPED_ROWS"),
    (SONEW_LIVE_TEXT, c"SONEW_LIVE_TEXT"),
    (SONEW_MEMORY, c"SONEW_MEMORY"),
    (SONEW_INTERNAL, c"SONEW_INTERNAL"),
];

/// Returns the name of a status, such as "SONEW_OUT_OF_RANGE", or "unknown
/// status" for any other number. Never NULL; the string is constant. May be
/// called at any time. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_status_name(status: i32) -> *const c_char {
    let known = NAMES.iter().find(|(known, _)| *known as i32 == status);
    known.map_or(c"unknown status", |(_, name)| *name).as_ptr()
}

/// Returns the message of this thread's last failed call, which says which
/// argument, which tensor and which value was wrong. It is in English, in UTF-8,
/// at most 1023 bytes long; long names and paths lose their middle. Never NULL; ""
/// if no call has failed. The thread's next failed call overwrites the text. Since
/// 0.2.
#[no_mangle]
pub extern "C" fn sonew_last_error() -> *const c_char {
    last_error::get()
}
