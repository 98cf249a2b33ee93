//! The state file: checkpoints, and live files that a process works on.
//!
//! Both are valid [safetensors] files. What their bytes mean, and what of them
//! survives which failure, is in `docs/state-files.md`; in short:
//!
//! - the header's checksum covers all before the data, and has a fixed place;
//!   its key comes first in the file;
//! - every array starts at a multiple of 64 bytes of the file. The format allows
//!   no holes, so that the gaps are arrays themselves: `sonew.padding/0`;
//! - a state plane is `tensor/plane`, a parameter `tensor/parameter`. No two
//!   names can be equal, whatever the tensors are called: what follows the last
//!   slash is a plane, which no two arrays of one tensor share, or a number,
//!   which no plane is;
//! - a live file has every plane twice, the second time as `tensor/plane.b`, and
//!   a small record that says which copy is current. Its JSON is never
//!   written again.
//!
//! A change that an older reader must not overlook (an option, another kind of
//! array) raises the format version. Format 1 has no element types, which are
//! all `F32`, no master weights, and among the options neither rounding, which
//! is to nearest, nor a seed; format 2 is what checkpoints have, format 3 what
//! live files have. Unknown metadata are ignored.
//!
//! [safetensors]: https://github.com/huggingface/safetensors

mod files;
mod header;
mod json;
mod live;
mod locate;
mod mapping;
mod read;
mod record;
mod write;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use files::test_double;

use crate::dtype::Dtype;
use crate::error::Result;
use crate::layout::{self, Plane, TensorSpec};
use crate::options::{not_negative, Options};

pub(crate) use live::{Copies, Live};
pub(crate) use mapping::Part;
pub(crate) use read::Wanted;
pub use read::{verify, Checkpoint, StoredPlane};
pub(crate) use write::{create_live, write};

#[cfg(target_endian = "big")]
compile_error!("checkpoints hold little-endian numbers, and buffers are written as they are");

/// The newest format version that this library reads.
pub const FORMAT: u64 = 3;

/// The version of checkpoints that it writes.
const CHECKPOINT_FORMAT: u64 = 2;

/// The version of live files that it writes.
const LIVE_FORMAT: u64 = 3;

/// The name under which a tensor's parameters are saved, beside its planes.
pub const PARAMETER: &str = "parameter";

/// What is added to a plane's name in the second copy of a live file.
const SECOND: &str = ".b";

/// Bytes of a word of a live file's record.
const WORD: usize = 8;

/// Every array starts at a multiple of this many bytes of the file.
const ALIGNMENT: usize = 64;

/// Names of the arrays that fill the gaps begin with this.
const PADDING: &str = "sonew.padding/";

/// What a checkpoint says besides its arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Hyperparameters. `threads` and `instruction_set` are not saved; a
    /// header that was read has their defaults.
    pub options: Options,
    /// The tensors in the optimizer's order.
    pub tensors: Vec<SavedTensor>,
    /// Steps that the state has seen.
    pub step: u64,
    /// Whether the parameters of every tensor are in the file.
    pub parameters: bool,
}

/// What a checkpoint says of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTensor {
    /// Name, dimensions, chains, update and element types.
    pub spec: TensorSpec,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether the tensor keeps master weights and they have been taken from
    /// the parameters.
    pub master_set: bool,
}

/// What a live file keeps of a tensor beside its planes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) lr_scale: f64,
    pub(crate) weight_decay: f64,
    pub(crate) master: Master,
}

/// Whether a tensor's master weights have been taken from its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Master {
    /// There are none, and their plane, if there is one, is zero.
    Empty = 0,
    Set = 1,
    /// The plane is being written in place: there are none, and it is anything.
    Changing = 2,
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
    /// Its elements as they lie in memory.
    pub bytes: &'a [u8],
}

impl Header {
    /// Refuses a value that no optimizer could have: such a header is neither
    /// written nor accepted.
    fn validate(&self) -> Result<()> {
        self.options.validate()?;
        let specs: Vec<_> = self.tensors.iter().map(|t| t.spec.clone()).collect();
        layout::validate(&specs)?;
        for SavedTensor {
            spec,
            lr_scale,
            weight_decay,
            ..
        } in &self.tensors
        {
            not_negative(format_args!("lr_scale of \"{}\"", spec.name), *lr_scale)?;
            not_negative(
                format_args!("weight_decay of \"{}\"", spec.name),
                *weight_decay,
            )?;
        }
        Ok(())
    }

    /// The arrays that the file holds for one tensor.
    pub(crate) fn arrays(&self, tensor: &SavedTensor) -> Vec<Plane> {
        let mut arrays = layout::planes(&self.options, &tensor.spec);
        if self.parameters {
            arrays.push(Plane {
                name: PARAMETER.to_owned(),
                dtype: tensor.spec.params,
            });
        }
        arrays
    }
}

/// The name of an array in the file.
fn array_name(tensor: &SavedTensor, plane: &str) -> String {
    format!("{}/{plane}", tensor.spec.name)
}
