//! The state file.
//!
//! A checkpoint is a valid [safetensors] file: the length of the header (8
//! bytes, little-endian), the header (JSON, padded with spaces), the data.
//!
//! **Arrays.** A state plane is saved under `tensor/plane`, as in
//! `fc1.weight/momentum`, `fc1.weight/band.1`; a parameter under
//! `fc1.weight/parameter`. Every one starts at a multiple of 64 bytes of the
//! file. The format allows no holes, so that the gaps are arrays themselves:
//! `sonew.padding/0`, of type `U8`. No two names can be equal, whatever the
//! tensors are called: what follows the last slash is a plane, which no two
//! arrays of one tensor share, or a number, which no plane is.
//!
//! **Metadata**, all strings, as the format demands:
//!
//! | key                  | value                                              |
//! |----------------------|----------------------------------------------------|
//! | `sonew.header_crc32` | checksum of the header, see below                  |
//! | `sonew.format`       | version of this format: `2`                        |
//! | `sonew.version`      | version of the library that wrote the file         |
//! | `sonew.step`         | steps that the state has seen                      |
//! | `sonew.options`      | JSON: hyperparameters; threads and instruction set are no part of them |
//! | `sonew.tensors`      | JSON: list of name, dims, chains, update, lr_scale, weight_decay, element types, master |
//! | `sonew.checksums`    | JSON: array name to checksum, padding left out     |
//!
//! The element types are those of `params`, `grads` and `state`, named as the
//! arrays' own; `master` says whether master weights are kept: `none`, `set`, or
//! `empty` before the parameters have been copied to them.
//!
//! Format 1 has no element types, which are all `F32`, no master weights, and
//! among the options neither rounding, which is to nearest, nor a seed.
//!
//! Other keys are ignored. A change that an older reader must not overlook
//! (an option, another kind of array) raises the format version.
//!
//! **Checksums** are CRC-32 as in zlib, eight lower-case hexadecimal digits.
//! That of the header covers the length, the JSON and the spaces, with its
//! own digits taken as zeros. Its key comes first in the file, which puts the
//! digits at bytes 47 to 54 of every checkpoint. In Python:
//!
//! ```text
//! head = file.read(8); head += file.read(int.from_bytes(head, "little"))
//! zlib.crc32(head[:47] + b"00000000" + head[55:]) == int(head[47:55], 16)
//! ```
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
            not_negative(&format!("lr_scale of \"{}\"", spec.name), *lr_scale)?;
            not_negative(&format!("weight_decay of \"{}\"", spec.name), *weight_decay)?;
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
