//! State files: checkpoints, and live files, which hold the state of a running
//! optimizer.
//!
//! Both are valid [safetensors] files. `docs/state-files.md` describes the
//! format and what survives which failure. In short:
//!
//! - the header's checksum does not depend on the order of keys and arrays, so that
//!   other programs may read the file and save it again;
//! - every array starts at a multiple of 64 bytes of the file. The format allows
//!   no gaps, so that the padding consists of arrays: `sonew.padding/0`;
//! - a state plane is named `tensor/plane`, a parameter `tensor/parameter`. No
//!   two names can be equal, whatever the names of the tensors are: the text
//!   after the last slash is either a plane, different for all arrays of one
//!   tensor, or a number, and no plane's name is a number;
//! - a live file has every plane twice, the second time as `tensor/plane.b`, and
//!   a small record that says which copy is current. Its JSON does not change
//!   after the file was created.
//!
//! The format version is raised by every change that an older reader must not
//! ignore, such as a new option or a new kind of array. Unknown metadata are
//! ignored.
//!
//! [safetensors]: https://github.com/huggingface/safetensors

mod arrays;
mod convert;
mod files;
mod header;
mod json;
mod live;
mod locate;
mod mapping;
mod merge;
mod pieces;
mod read;
mod record;
mod size;
mod split;
mod texts;
mod write;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use files::{machine, test_double};

use crate::dtype::Dtype;
use crate::error::Result;
use crate::layout::{self, check_scalars, Plane, Scalars, TensorSpec};
use crate::options::{not_negative, Options};

pub use convert::{bytes_to_convert, convert, Conversion};
pub(crate) use files::Access;
pub(crate) use live::{Copies, Live};
pub(crate) use mapping::Part;
pub use merge::{bytes_to_merge, merge};
pub(crate) use pieces::{read as read_pieces, same_in_all, same_step, Pieces, Source, Target};
pub use read::{verify, Checkpoint, StoredPlane};
pub(crate) use size::check_size;
pub use split::{split, SplitBy};
pub(crate) use texts::{ask_for_texts, check_text, check_texts};
pub use texts::{Texts, MAX_TEXTS};
pub(crate) use write::{create_live, size_in_memory, write, write_to_memory};

/// For the fuzzer: the bytes before the data, with the right checksum in a header that
/// was edited.
#[cfg(fuzzing)]
pub fn seal(json: &[u8]) -> Vec<u8> {
    header::seal(json)
}

#[cfg(target_endian = "big")]
compile_error!("checkpoints hold little-endian numbers, and buffers are written as they are");

/// The format version that this library writes, and the newest that it reads.
pub const FORMAT: u64 = 4;

/// The format version of live files before format 4. Formats 1 and 2 are of
/// checkpoints; 1 has no element types, master weights, rounding and seed.
const LIVE_FORMAT: u64 = 3;

/// From this format version on, the keys of a header may be in any order, and
/// arrays need only be aligned to their elements.
const FIRST_FORMAT_OF_ANY_ORDER: u64 = 4;

/// Stands for the path of a checkpoint that is in memory.
const MEMORY: &str = "memory";

/// The name under which a tensor's parameters are saved, beside its planes.
pub const PARAMETER: &str = "parameter";

/// Suffix of a plane's name in the second copy of a live file.
const SECOND: &str = ".b";

/// Size in bytes of a word of a live file's record.
const WORD: usize = 8;

/// Every array starts at a multiple of this many bytes of the file.
const ALIGNMENT: usize = 64;

/// Names of the arrays that fill the gaps begin with this.
const PADDING: &str = "sonew.padding/";

/// Everything in a checkpoint except its arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Hyperparameters. `threads` and `instruction_set` are not saved; in a
    /// header that was read they have their defaults.
    pub options: Options,
    /// The tensors in the optimizer's order.
    pub tensors: Vec<SavedTensor>,
    /// The step count of the state.
    pub step: u64,
    /// Whether the parameters of every tensor are in the file.
    pub parameters: bool,
    /// The program's own: see [`Optimizer::set_text`](crate::Optimizer::set_text).
    pub texts: Texts,
}

/// The description of one tensor in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTensor {
    /// Name, dimensions, chains, update and element types.
    pub spec: TensorSpec,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether the tensor has master weights and they have been copied from the
    /// parameters.
    pub master_set: bool,
    /// Whether they were discarded since, in a live file: it has those of its last
    /// step. The next step copies them from the parameters again, unless these are
    /// loaded from them.
    pub master_reset: bool,
    /// The steps that it took part in.
    pub step_count: u64,
    /// What its last step left to the next, besides the planes.
    pub scalars: Scalars,
}

/// What a live file stores of a tensor besides its planes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) lr_scale: f64,
    pub(crate) weight_decay: f64,
    pub(crate) master: Master,
    pub(crate) step_count: u64,
    pub(crate) scalars: Scalars,
}

/// What a tensor's plane of master weights holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Master {
    /// Nothing yet.
    Empty = 0,
    Set = 1,
    /// The master weights of the last step, which were discarded: the next step
    /// copies them from the parameters.
    Reset = 2,
}

/// One array to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array<'a> {
    /// Position of its tensor in [`Header::tensors`].
    pub tensor: usize,
    /// Name of the state plane, or [`PARAMETER`].
    pub plane: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// The bytes of its elements.
    pub bytes: &'a [u8],
}

impl Header {
    /// Refuses values that no optimizer can have. Such a header is neither
    /// written nor accepted.
    fn validate(&self) -> Result<()> {
        self.options.validate()?;
        check_texts(&self.texts)?;
        layout::validate(self.tensors.iter().map(|tensor| &tensor.spec))?;
        let specs = self.tensors.iter().map(|tensor| &tensor.spec);
        layout::validate_options(&self.options, specs)?;
        for SavedTensor {
            spec,
            lr_scale,
            weight_decay,
            scalars,
            ..
        } in &self.tensors
        {
            not_negative(
                format_args!("lr_scale of tensor \"{}\"", spec.name),
                *lr_scale,
            )?;
            not_negative(
                format_args!("weight_decay of tensor \"{}\"", spec.name),
                *weight_decay,
            )?;
            check_scalars(spec, scalars)?;
        }
        Ok(())
    }

    /// The largest band of its tensors.
    pub(crate) fn largest_band(&self) -> usize {
        let specs = self.tensors.iter().map(|tensor| &tensor.spec);
        layout::largest_band(&self.options, specs)
    }

    /// The arrays that the file holds for one tensor.
    pub(crate) fn arrays(&self, tensor: &SavedTensor) -> Vec<Plane> {
        let mut arrays = layout::planes(&self.options, &tensor.spec);
        if self.parameters {
            arrays.push(Plane::of(&tensor.spec, PARAMETER, tensor.spec.params));
        }
        arrays
    }
}

/// The name of an array in the file.
fn array_name(tensor: &SavedTensor, plane: &str) -> String {
    format!("{}/{plane}", tensor.spec.name)
}
