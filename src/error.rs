//! Every way in which a call can be refused.
//!
//! One variant per failure; each message names the argument, the tensor and
//! the value. A call that returns an error has changed nothing.

use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::dtype::Dtype;

/// The result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of file that keeps no parameters, in [`Error::PlaneMissing`].
pub(crate) const LIVE_FILE: &str = "live file";

const ONLY_MASTER: &str = ", except as master weights, which this tensor does not keep: save to \
                           another path, or without parameters";

/// A value as messages show it: a name of an enumeration as all languages and files have
/// it, in lower case with underscores, and not as Rust spells it.
pub(crate) fn shown(value: &dyn Debug) -> String {
    let text = format!("{value:?}");
    let is_name = text.starts_with(char::is_uppercase) && text.chars().all(char::is_alphanumeric);
    if !is_name {
        return text;
    }
    let mut name = String::new();
    for letter in text.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// Why a call was refused or skipped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A gradient holds a NaN, an infinity, or a value whose square
    /// overflows. The step was skipped: parameters, state and step count are
    /// as before.
    #[error(
        "tensor \"{tensor}\": the gradient is not finite, or its square overflows; \
         the step was skipped"
    )]
    NonFiniteGradient {
        /// Name of the first such tensor in the optimizer's order.
        tensor: String,
    },

    /// A required pointer is null.
    #[error("{argument} is null")]
    NullPointer {
        /// The argument, as the header spells it.
        argument: String,
    },

    /// A handle of the C API is not live.
    #[error("{argument} is not a live handle: it was freed, never created, or is of another kind")]
    BadHandle {
        /// The argument.
        argument: &'static str,
    },

    /// A struct of the C API has a size that no version of it had.
    #[error("{argument} is {size}, expected {expected}: {hint}")]
    StructSize {
        /// Where the size was given.
        argument: String,
        /// What the caller passed.
        size: usize,
        /// The size in this version of the library.
        expected: usize,
        /// How to set it right.
        hint: &'static str,
    },

    /// A struct of the C API comes from a newer header and uses a field that
    /// this version does not know.
    #[error(
        "{argument} has a field that this version does not know, at byte {offset}: it must be zero"
    )]
    UnknownField {
        /// The struct.
        argument: String,
        /// The first byte that is not zero.
        offset: usize,
    },

    /// A step in stages is under way, and the call needs the optimizer, or the
    /// plan, between two steps.
    #[error("a step in stages is under way: finish it first, or abort it")]
    InStages,

    /// There is no step in stages to continue, or to abort.
    #[error("no step in stages is under way")]
    NoStages,

    /// A step in stages cannot be aborted any more.
    #[error(
        "the state has been updated with the gradients of this step: it can only be finished, \
         or the optimizer freed"
    )]
    StateWritten,

    /// A string argument is not UTF-8.
    #[error("{argument} is not valid UTF-8")]
    InvalidString {
        /// The argument's name.
        argument: String,
    },

    /// An enumeration has a value that this version does not know.
    #[error("{argument} is {value}, must be {allowed}")]
    UnknownValue {
        /// The argument's name.
        argument: String,
        /// What the caller passed.
        value: i64,
        /// The values that it can have, in words.
        allowed: String,
    },

    /// A number lies outside its documented range.
    #[error("{argument} is {}, must be {allowed}", number(*value))]
    OutOfRange {
        /// The argument's name, with its tensor where it belongs to one.
        argument: String,
        /// What the caller passed.
        value: f64,
        /// The documented range, in words.
        allowed: &'static str,
    },

    /// The list of tensors is empty.
    #[error("the list of tensors is empty")]
    NoTensors,

    /// A tensor has no name, or one with a control character.
    #[error("tensor {index} is named {name:?}: a name needs at least one character and no control characters")]
    TensorName {
        /// Position in the list.
        index: usize,
        /// The name.
        name: String,
    },

    /// Two tensors share a name.
    #[error("two tensors are named \"{name}\"")]
    DuplicateName {
        /// The name.
        name: String,
    },

    /// A tensor has more than 8 dimensions.
    #[error("tensor \"{tensor}\" has {ndim} dimensions, at most 8 are supported")]
    TooManyDimensions {
        /// The tensor.
        tensor: String,
        /// Its number of dimensions.
        ndim: usize,
    },

    /// The number of elements or bytes overflows.
    #[error("tensor \"{tensor}\": the size of {dims:?} overflows")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        dims: Vec<usize>,
    },

    /// A buffer of the caller would reach beyond the last address.
    #[error(
        "tensor \"{tensor}\": {argument}, {bytes} bytes at {address:#x}, extends past the end of \
         the address space"
    )]
    PastLastAddress {
        /// The tensor.
        tensor: String,
        /// The buffer.
        argument: String,
        /// Its address.
        address: usize,
        /// Its size.
        bytes: usize,
    },

    /// A tensor has an option of its own that is one for all tensors.
    #[error(
        "tensor \"{tensor}\": its own options differ from the optimizer's in {option}, which is \
         the same for all tensors"
    )]
    TensorOption {
        /// The tensor.
        tensor: String,
        /// The option.
        option: &'static str,
    },

    /// A tensor asks for float16 state, whose range is too small for squared
    /// gradients.
    #[error("tensor \"{tensor}\": the state cannot be F16, whose range is too small for squared gradients; use BF16")]
    StateDtype {
        /// The tensor.
        tensor: String,
    },

    /// A tensor with float64 parameters asks for master weights, which are
    /// float32.
    #[error("tensor \"{tensor}\": master weights are F32 and would lose digits of F64 parameters")]
    MasterDtype {
        /// The tensor.
        tensor: String,
    },

    /// Correlations that the chains of a shard share with those of others are to be those of
    /// the step itself, within which nobody adds up sums.
    #[error(
        "tensor \"{tensor}\" is a shard with pooled correlations, which have to be those of the \
         step before: lagged_norms may not be false"
    )]
    PooledShard {
        /// The tensor.
        tensor: String,
    },

    /// A tensor whose chains share their correlations is cut through the chains.
    #[error(
        "tensor \"{tensor}\" is a shard that is cut through its chains, whose correlations cannot \
         be pooled: make rows its chains (contiguous lines), or each part a tensor of its own"
    )]
    PooledCut {
        /// The tensor.
        tensor: String,
    },

    /// The pooled sums of a shard's last step have not been added up over all shards.
    #[error(
        "tensor \"{tensor}\" is a shard whose pooled sums of the last step are partial: add them \
         up over all shards, and set them, before the next step or a save"
    )]
    PartialSums {
        /// The tensor.
        tensor: String,
    },

    /// A shard with pooled sums was to be in a live file, in which only steps write.
    #[error(
        "tensor \"{tensor}\" is a shard with pooled correlations, whose sums are set between \
         steps: its state cannot be in a live file"
    )]
    LiveShard {
        /// The tensor.
        tensor: String,
    },

    /// All correlations of chains that are too long for that are to be pooled.
    #[error(
        "tensor \"{tensor}\" has chains of {length} coordinates; all correlations can be pooled \
         of chains of at most {most}"
    )]
    PooledLength {
        /// The tensor.
        tensor: String,
        /// Coordinates of its chains.
        length: usize,
        /// The most that they may have.
        most: usize,
    },

    /// A shard has rows that the whole tensor does not have.
    #[error(
        "tensor \"{tensor}\": {rows} rows from row {first_row} on are not within the \
         {whole_rows} rows of the whole tensor"
    )]
    ShardRows {
        /// The tensor.
        tensor: String,
        /// Its first row.
        first_row: usize,
        /// Its number of rows.
        rows: usize,
        /// The rows of the whole tensor.
        whole_rows: usize,
    },

    /// Numbers by block are asked for of a shard that is cut elsewhere than between blocks.
    #[error(
        "tensor \"{tensor}\": {rows} rows from row {first_row} on of {whole_rows} are no whole \
         blocks, which are {block_rows} rows each"
    )]
    BlockCut {
        /// The tensor.
        tensor: String,
        /// Its first row.
        first_row: usize,
        /// Its number of rows.
        rows: usize,
        /// The rows of the whole tensor.
        whole_rows: usize,
        /// The rows of a block, see
        /// [`TensorSpec::block_rows`](crate::layout::TensorSpec::block_rows).
        block_rows: usize,
    },

    /// The numbers of blocks do not fit into the caller's list.
    #[error("there is room for {length} numbers of blocks, they have {expected}")]
    BlockNumbers {
        /// What the caller passed.
        length: usize,
        /// Two for each block of all tensors.
        expected: usize,
    },

    /// A tensor of no dimensions is said to be a shard: it has no rows.
    #[error("tensor \"{tensor}\" has no dimensions, and can be no shard")]
    ScalarShard {
        /// The tensor.
        tensor: String,
    },

    /// A call passes another number of tensors than the optimizer or plan has.
    #[error("{argument} has {count} tensors, expected {expected}")]
    TensorCount {
        /// The argument's name.
        argument: &'static str,
        /// What the caller passed.
        count: usize,
        /// What the optimizer or plan was created with.
        expected: usize,
    },

    /// A buffer has another number of elements than its tensor.
    #[error("tensor \"{tensor}\": {argument} has {length} elements, expected {expected}")]
    WrongLength {
        /// The tensor.
        tensor: String,
        /// The buffer.
        argument: String,
        /// What the caller passed.
        length: usize,
        /// What the tensor's dimensions require.
        expected: usize,
    },

    /// One buffer for all tensors has another number of elements than they together.
    #[error("one buffer of all tensors has {length} elements, they have {expected} together")]
    FlatLength {
        /// What the caller passed.
        length: usize,
        /// The sum over all tensors.
        expected: usize,
    },

    /// A tensor would reach past the end of one buffer for all tensors.
    #[error(
        "tensor \"{tensor}\": {elements} elements from offset {offset} on reach past the end of a \
         buffer of {length}"
    )]
    FlatOffset {
        /// The tensor.
        tensor: String,
        /// Its offset.
        offset: usize,
        /// Its number of elements.
        elements: usize,
        /// The number of elements of the buffer.
        length: usize,
    },

    /// Tensors of several types cannot lie in one buffer of elements.
    #[error(
        "{argument} of tensor \"{first}\" has type {first_dtype}, that of tensor \"{second}\" has \
         {second_dtype}: one buffer has one type"
    )]
    FlatDtype {
        /// Parameters or gradients.
        argument: &'static str,
        /// The first tensor.
        first: String,
        /// Its type.
        first_dtype: Dtype,
        /// Another tensor.
        second: String,
        /// Its type.
        second_dtype: Dtype,
    },

    /// A buffer has another element type than its tensor was declared with.
    #[error("tensor \"{tensor}\": {argument} has type {dtype}, expected {expected}")]
    WrongDtype {
        /// The tensor.
        tensor: String,
        /// The buffer.
        argument: String,
        /// What the caller passed.
        dtype: Dtype,
        /// What the tensor was declared with.
        expected: Dtype,
    },

    /// A stateless step was passed another number of state planes than the
    /// options require.
    #[error("tensor \"{tensor}\": {count} state planes were passed, expected {expected}")]
    PlaneCount {
        /// The tensor.
        tensor: String,
        /// What the caller passed.
        count: usize,
        /// What the options require.
        expected: usize,
    },

    /// No tensor has this index.
    #[error("there is no tensor {index}, the number of tensors is {count}")]
    UnknownTensor {
        /// The index.
        index: usize,
        /// The number of tensors.
        count: usize,
    },

    /// The tensor has no state plane with this index.
    #[error("tensor \"{tensor}\" has no state plane {plane}, it has {count}")]
    UnknownPlane {
        /// The tensor.
        tensor: String,
        /// The index.
        plane: usize,
        /// The number of planes.
        count: usize,
    },

    /// There is no tensor, plane, struct or field with this name.
    #[error("{owner} has no {kind} named \"{name}\"")]
    UnknownName {
        /// Where it was looked for.
        owner: String,
        /// Its kind, as in "tensor".
        kind: &'static str,
        /// The name.
        name: String,
    },

    /// Both parameters and a buffer for the direction were passed.
    #[error("tensor \"{tensor}\": params and direction are both given, a step writes one of them")]
    AmbiguousTarget {
        /// The tensor.
        tensor: String,
    },

    /// Neither parameters nor a buffer for the direction were passed.
    #[error(
        "buffers[{index}].params, the parameter of tensor \"{tensor}\", and \
         buffers[{index}].direction are both null: a step writes one of them"
    )]
    NoTarget {
        /// The position of the tensor.
        index: usize,
        /// The tensor.
        tensor: String,
    },

    /// A buffer is not aligned to its element size.
    #[error("tensor \"{tensor}\": {argument} at {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// The buffer.
        argument: String,
        /// Its address.
        address: usize,
        /// The alignment that it needs.
        alignment: usize,
    },

    /// A buffer that is written overlaps another buffer of the same call.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// One buffer, with its tensor.
        first: String,
        /// The other.
        second: String,
    },

    /// An allocation failed.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory {
        /// What the memory is for.
        what: String,
        /// How many bytes were asked for.
        bytes: u128,
    },

    /// The instruction set that was asked for is not available.
    #[error("{argument} is \"{name}\": this processor and this build have {available}")]
    InstructionSet {
        /// Who asked: the option or the environment variable.
        argument: &'static str,
        /// What was asked for.
        name: String,
        /// The names of those that are available.
        available: String,
    },

    /// A pool's threads may not run on a processor.
    #[error("processors[{index}] is {processor}: {reason}")]
    Processor {
        /// Its place in the list.
        index: usize,
        /// Its number.
        processor: usize,
        /// Why not.
        reason: &'static str,
    },

    /// Threads could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many threads were asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },

    /// Another thread is using this handle right now.
    #[error("{argument} is in use by another thread")]
    Busy {
        /// The argument.
        argument: &'static str,
    },

    /// A file operation failed.
    #[error("cannot {operation} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The file is not a checkpoint of this library.
    #[error("\"{}\" is not a sonew checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The file is shorter or longer than its header says.
    #[error("\"{}\" has {length} bytes, its header asks for {expected}", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Its size.
        length: u64,
        /// The size that it should have.
        expected: u64,
    },

    /// The file was written by a newer version of the library.
    #[error("\"{}\" has format version {version}, this library reads up to {supported}", path.display())]
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// The newest that this library reads.
        supported: u64,
    },

    /// A checksum does not match: the file was damaged after it was written.
    #[error("\"{}\" is damaged: the checksum of {part} does not match", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The array, as in `"fc1.weight/momentum"`, or "the header".
        part: String,
    },

    /// A live file is in use, by another process or another optimizer; or
    /// another save to the same path is under way.
    #[error("\"{}\" is in use by another optimizer, process or save, or by this optimizer", path.display())]
    FileLocked {
        /// The file.
        path: PathBuf,
    },

    /// A load of the live file that the optimizer of a C program is working on. (In
    /// Rust it is [`Error::FileLocked`].)
    #[error(
        "\"{}\" is the live file that holds this optimizer's state: there is nothing to load",
        path.display()
    )]
    OwnLiveFile {
        /// The file.
        path: PathBuf,
    },

    /// A forked process tries to use a live file of its parent, or to finish its
    /// parent's save.
    #[error("\"{}\" belongs to the process that this one was forked from", path.display())]
    Forked {
        /// The file.
        path: PathBuf,
    },

    /// The optimizer's state is not in a live file.
    #[error("the optimizer's state is not in a live file")]
    NotLive,

    /// The file is a checkpoint, but not a live file.
    #[error("\"{}\" is not a live file: load it in another mode, and make it one", path.display())]
    NotALiveFile {
        /// The file.
        path: PathBuf,
    },

    /// The machine crashed or lost power while a live file was in use, or it is a
    /// copy of a live file in use, and it is not as it was at its last sync.
    #[error(
        "\"{}\" was being written when the machine went down, or when it was copied, and may \
         mix two steps: load the last save instead", path.display()
    )]
    Torn {
        /// The file.
        path: PathBuf,
    },

    /// The older copy in a live file was asked for, and is not whole.
    #[error("the older copy in \"{}\" is not whole: a step has begun to write it, there was none, or the machine went down since", path.display())]
    NoOlderCopy {
        /// The file.
        path: PathBuf,
    },

    /// A live file was not synced after its last step, so that it has no
    /// checksums to verify.
    #[error("\"{}\" was not synced after its last step: it has no checksums of that step", path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
    },

    /// A load option that changes what is loaded was set for a shared mapping,
    /// which uses the file as it is.
    #[error("{option} cannot be combined with a shared mapping, which uses the file as it is")]
    SharedOption {
        /// The option.
        option: &'static str,
    },

    /// A text's key is empty, or has a control character.
    #[error(
        "a text has the key {key:?}: a key needs at least one character and no control characters"
    )]
    TextKey {
        /// The key.
        key: String,
    },

    /// A text has a NUL, which C could not be told.
    #[error("the text \"{key}\" has a NUL")]
    TextNul {
        /// Its key.
        key: String,
    },

    /// There are more texts than a file can have.
    #[error("{count} texts are more than a file can have: 1000")]
    TooManyTexts {
        /// How many there are.
        count: usize,
    },

    /// A text, which only saved files can have, was set for state in a live file, or state
    /// with texts is to be in one.
    #[error(
        "the text \"{key}\" cannot be in a live file, whose header never changes: remove it, or \
         keep the state in memory and save it"
    )]
    LiveText {
        /// Its key.
        key: String,
    },

    /// Memory is too small for a checkpoint.
    #[error("the checkpoint has {needed} bytes, there is room for {size}")]
    TooSmall {
        /// The bytes that there are.
        size: usize,
        /// Those of the checkpoint.
        needed: u64,
    },

    /// A load from memory was passed a path, too.
    #[error("path and options.data are both given: a load is from one of them")]
    PathAndMemory,

    /// A checkpoint in memory was to be mapped.
    #[error("a checkpoint in memory cannot be mapped: read it")]
    MappedMemory,

    /// The tensors are too many, or their names too long, for the header of
    /// a safetensors file.
    #[error("\"{}\" needs a header of {length} bytes, a safetensors file can have {limit}", path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The bytes that the header would take.
        length: u64,
        /// The limit of the format.
        limit: u64,
    },

    /// The tensors are so many, or their names so long, that no file of them could be
    /// saved.
    #[error(
        "the {tensors} tensors could not be saved: their names and sizes take more than \
         {limit} bytes, the longest header of a safetensors file"
    )]
    TooManyTensors {
        /// How many tensors there are.
        tensors: usize,
        /// The limit of the format.
        limit: u64,
    },

    /// A tensor is in the file but not in the optimizer, or the other way round.
    #[error("tensor \"{tensor}\" is in the {present} but not in the {missing}")]
    TensorMissing {
        /// The tensor.
        tensor: String,
        /// The side that has it.
        present: &'static str,
        /// The side that does not.
        missing: &'static str,
    },

    /// A tensor has other dimensions or chains, another update, or other options of its own,
    /// in the file.
    #[error(
        "tensor \"{tensor}\": {what} is {file} in the file, {optimizer} in the optimizer{}",
        if what.starts_with("dims") || *what == "chains" { String::new() } else { how_to_keep(what) }
    )]
    TensorDiffers {
        /// The tensor.
        tensor: String,
        /// What differs.
        what: &'static str,
        /// Its value in the file.
        file: String,
        /// Its value in the optimizer.
        optimizer: String,
    },

    /// A state plane or the parameters of a tensor have another element type
    /// in the file, and [`LoadOptions::convert_state`](crate::LoadOptions) does not ask for
    /// that to be converted.
    #[error(
        "tensor \"{tensor}\": {argument} has type {file} in the file, {optimizer} in the optimizer"
    )]
    DtypeDiffers {
        /// The tensor.
        tensor: String,
        /// The state plane, or "parameter".
        argument: String,
        /// Its type in the file.
        file: Dtype,
        /// Its type in the optimizer.
        optimizer: Dtype,
    },

    /// An option has another value in the file than in the optimizer.
    #[error(
        "option {option} is {file} in the file, {optimizer} in the optimizer{}",
        how_to_keep(option)
    )]
    OptionDiffers {
        /// The option.
        option: &'static str,
        /// Its value in the file.
        file: String,
        /// Its value in the optimizer.
        optimizer: String,
    },

    /// The file lacks a state plane that the optimizer needs, or has no room for
    /// parameters.
    #[error("tensor \"{tensor}\": the {file} has no {plane}{}", if *file == LIVE_FILE { ONLY_MASTER } else { "" })]
    PlaneMissing {
        /// The tensor.
        tensor: String,
        /// The plane, or "parameter".
        plane: String,
        /// "file"; "live file" where parameters are saved to the live file that holds
        /// the state.
        file: &'static str,
    },

    /// Rows of a tensor are in none of the files that are loaded or merged.
    #[error(
        "tensor \"{tensor}\": rows {} are in none of the files",
        interval(rows)
    )]
    RowsMissing {
        /// The tensor.
        tensor: String,
        /// The first rows that are missing, counted in the whole tensor.
        rows: Range<usize>,
    },

    /// Files that are loaded or merged together are of different steps.
    #[error("\"{}\" is of step {first_step}, \"{}\" of step {second_step}", first.display(), second.display())]
    StepsDiffer {
        /// One file.
        first: Box<Path>,
        /// Its step count.
        first_step: u64,
        /// Another file.
        second: Box<Path>,
        /// Its step count.
        second_step: u64,
    },

    /// Files that are loaded or merged together differ in something of a tensor, or in an
    /// option.
    #[error("{what} is {first_value} in \"{}\", {second_value} in \"{}\"", first.display(), second.display())]
    FilesDiffer {
        /// What differs, with its tensor where it belongs to one.
        what: String,
        /// One file.
        first: Box<Path>,
        /// Its value there.
        first_value: String,
        /// Another file.
        second: Box<Path>,
        /// Its value there.
        second_value: String,
    },

    /// Several files have the same rows of a tensor, with different numbers.
    #[error("tensor \"{tensor}\": row {row} of {plane} is not the same in \"{}\" and in \"{}\"", first.display(), second.display())]
    RowsDiffer {
        /// The tensor.
        tensor: String,
        /// The state plane, or "parameter".
        plane: String,
        /// The first row that differs, counted in the whole tensor.
        row: usize,
        /// One file.
        first: Box<Path>,
        /// The other.
        second: Box<Path>,
    },

    /// Files that have parts of a tensor differ in its pooled sums, which belong to all parts.
    #[error(
        "tensor \"{tensor}\": its pooled sums are not the same in \"{}\" and in \"{}\": those of \
         the last step have to be added up over all shards before these are saved",
        first.display(), second.display()
    )]
    SumsDiffer {
        /// The tensor.
        tensor: String,
        /// One file.
        first: Box<Path>,
        /// The other.
        second: Box<Path>,
    },

    /// Several files were to be mapped as the state of one optimizer.
    #[error("paths cannot be combined with a mapping, which is of one file: read the files")]
    MappedPaths,

    /// A file was to be mapped that has other rows of a tensor than the optimizer.
    #[error(
        "tensor \"{tensor}\": a file that is mapped must have the rows of the optimizer; these are \
         {} in the file, {} in the optimizer: read the file", interval(file), interval(optimizer)
    )]
    MappedRows {
        /// The tensor.
        tensor: String,
        /// The rows in the file, counted in the whole tensor.
        file: Range<usize>,
        /// Those of the optimizer.
        optimizer: Range<usize>,
    },

    /// A rename has a name that no tensor has, or two renames conflict.
    #[error("cannot rename \"{from}\" to \"{to}\": {reason}")]
    Rename {
        /// Name in the file.
        from: String,
        /// Name in the optimizer.
        to: String,
        /// What is wrong.
        reason: &'static str,
    },

    /// An attribute of an XLA custom call is missing or has a wrong type or
    /// value.
    #[error("attribute \"{name}\" {problem}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    /// An XLA custom call has more or fewer operands or results than its
    /// tensors need.
    #[error("the custom call has {count} {what}, expected {expected}")]
    OperandCount {
        /// `"operands"` or `"results"`.
        what: &'static str,
        /// How many it has.
        count: usize,
        /// How many its attributes and tensors require.
        expected: usize,
    },

    /// An operand or a result of an XLA custom call has an element type or
    /// dimensions that it must not have.
    #[error("{argument} {problem}")]
    Operand {
        /// The operand or result, with its tensor where it belongs to one.
        argument: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A bug in this library: a panic was caught before it reached the
    /// caller.
    #[error("internal error, please report it: {message}")]
    Internal {
        /// The panic's message.
        message: String,
    },
}

/// What a refused load could do about a difference.
fn how_to_keep(name: &str) -> String {
    // Of these it depends on the planes that the file has: of a band, the smaller one can be
    // kept.
    let condition = match name {
        "band" | "graft" | "pooling" | "rank" | "update" => {
            ", if the file has every plane that it needs"
        }
        _ => "",
    };
    format!(
        "; to keep that of the optimizer{condition}, name \"{name}\" in the overrides of the load"
    )
}

/// Rows, as in `[3, 7)`.
fn interval(rows: &Range<usize>) -> String {
    format!("[{}, {})", rows.start, rows.end)
}

/// Formats a number for messages: very large and very small ones in powers of
/// ten.
fn number(value: f64) -> String {
    let size = value.abs();
    if size.is_finite() && size > 0.0 && !(1e-6..1e16).contains(&size) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}
