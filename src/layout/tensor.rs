//! What the caller says of a tensor, and which state planes it gets.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::options::{Graft, Options};

/// The largest number of dimensions of a tensor.
pub const MAX_DIMS: usize = 8;

/// One parameter tensor, stored contiguously with its last dimension fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Unique among the optimizer's tensors; state planes are saved under
    /// `name/plane`. Not empty, no control characters.
    pub name: String,
    /// Sizes of up to 8 dimensions, none zero. Empty for a scalar.
    pub dims: Vec<usize>,
    /// Which coordinates are neighbours.
    pub chains: Chains,
    /// Which update the tensor takes.
    pub update: Update,
}

impl TensorSpec {
    /// A tensor with row-major chains and the SONew update.
    pub fn new(name: impl Into<String>, dims: &[usize]) -> Self {
        TensorSpec {
            name: name.into(),
            dims: dims.to_vec(),
            chains: Chains::RowMajor,
            update: Update::Sonew,
        }
    }

    /// The same tensor with other chains.
    pub fn with_chains(mut self, chains: Chains) -> Self {
        self.chains = chains;
        self
    }

    /// The same tensor with another update.
    pub fn with_update(mut self, update: Update) -> Self {
        self.update = update;
        self
    }

    /// Number of elements. The tensor must be valid.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Never true for a valid tensor: no dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which coordinates of a tensor are neighbours in a chain, and so share band
/// entries. Chains should run along a unit's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chains {
    /// The whole tensor is one chain, last dimension fastest: the order of
    /// memory. Right for weights stored `[out, in]`.
    RowMajor,
    /// The whole tensor is one chain, first dimension fastest. Right for
    /// weights stored `[in, out]`.
    ColumnMajor,
    /// One chain per row, along the last dimension.
    Rows,
    /// One chain per column, along the first dimension.
    Columns,
}

/// Which update a tensor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The SONew direction, grafted as the options say.
    Sonew,
    /// Plain Adam, `u = m^ / (sqrt(H^_jj) + graft_eps)` without damping: for
    /// biases and norms, or as a baseline.
    Adam,
}

impl Update {
    /// The band that the tensor's statistics keep.
    pub(crate) fn band(self, options: &Options) -> usize {
        match self {
            Update::Sonew => options.band,
            Update::Adam => 0,
        }
    }

    /// The graft that the tensor's direction takes. Plain Adam takes none.
    pub(crate) fn graft(self, options: &Options) -> Graft {
        match self {
            Update::Sonew => options.graft,
            Update::Adam => Graft::None,
        }
    }
}

/// Positions of planes in the list that [`planes`] gives.
pub(crate) mod plane {
    pub(crate) const MOMENTUM: usize = 0;
    pub(crate) const DIAGONAL: usize = 1;
    /// Sub-diagonal `k`, from 1.
    pub(crate) const fn band(k: usize) -> usize {
        DIAGONAL + k
    }
    /// Normalized RMSProp, where it is kept.
    pub(crate) const fn rms(band: usize) -> usize {
        DIAGONAL + band + 1
    }
}

/// Names of the state planes of a tensor with this update, in order:
/// `momentum`, `diagonal`, `band.1` to `band.b`, and `rms` with normalized
/// RMSProp grafting. Each plane has the tensor's shape.
pub fn planes(options: &Options, update: Update) -> Vec<String> {
    let mut names = vec!["momentum".to_owned(), "diagonal".to_owned()];
    names.extend((1..=update.band(options)).map(|k| format!("band.{k}")));
    if update.graft(options) == Graft::NormalizedRmsprop {
        names.push("rms".to_owned());
    }
    names
}

/// Refuses a list that has not one entry for each of `expected` tensors.
pub(crate) fn check_count(argument: &'static str, count: usize, expected: usize) -> Result<()> {
    if count == expected {
        return Ok(());
    }
    Err(Error::TensorCount {
        argument,
        count,
        expected,
    })
}

/// Refuses the first tensor that cannot be optimized.
pub(crate) fn validate(tensors: &[TensorSpec]) -> Result<()> {
    if tensors.is_empty() {
        return Err(Error::NoTensors);
    }
    let mut names = HashSet::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        let name = tensor.name.as_str();
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Error::TensorName {
                index,
                name: name.to_owned(),
            });
        }
        if !names.insert(name) {
            return Err(Error::DuplicateName {
                name: name.to_owned(),
            });
        }
        validate_dims(tensor)?;
    }
    Ok(())
}

fn validate_dims(tensor: &TensorSpec) -> Result<()> {
    let name = || tensor.name.clone();
    if tensor.dims.len() > MAX_DIMS {
        return Err(Error::TooManyDimensions {
            tensor: name(),
            ndim: tensor.dims.len(),
        });
    }
    if let Some(dimension) = tensor.dims.iter().position(|&d| d == 0) {
        return Err(Error::ZeroDimension {
            tensor: name(),
            dimension,
        });
    }
    // No buffer of 8-byte elements can be longer than this.
    let limit = isize::MAX as usize / 8;
    let mut len = 1usize;
    for &d in &tensor.dims {
        len = len
            .checked_mul(d)
            .filter(|&n| n <= limit)
            .ok_or_else(|| Error::SizeOverflow {
                tensor: name(),
                dims: tensor.dims.clone(),
            })?;
    }
    Ok(())
}
