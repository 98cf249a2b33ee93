//! Which tensors are refused, and which options and numbers of theirs.

use std::collections::HashSet;

use super::tensor::{Shard, TensorSpec, MAX_DIMS};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::OF_TENSORS;
use crate::options::{in_range, Options, Pooling, MAX_POOLED_LENGTH};
use crate::reserve::without;

use sonew_kernel::Scalars;

/// Refuses a list whose number of entries is not `expected`, the number of
/// tensors.
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
pub(crate) fn validate<'a>(
    tensors: impl IntoIterator<Item = &'a TensorSpec, IntoIter: ExactSizeIterator>,
) -> Result<()> {
    let tensors = tensors.into_iter();
    if tensors.len() == 0 {
        return Err(Error::NoTensors);
    }
    let mut names = HashSet::new();
    without(|| names.try_reserve(tensors.len())).map_err(|_| Error::OutOfMemory {
        what: OF_TENSORS.to_owned(),
        bytes: tensors.len() as u128 * size_of::<&str>() as u128,
    })?;
    for (index, tensor) in tensors.enumerate() {
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
        validate_dims(tensor, &tensor.dims)?;
        validate_shard(tensor)?;
        validate_dtypes(tensor)?;
    }
    Ok(())
}

/// Refuses options that a tensor cannot have: for itself, or as a shard.
pub(crate) fn validate_options<'a>(
    all: &Options,
    tensors: impl IntoIterator<Item = &'a TensorSpec>,
) -> Result<()> {
    for tensor in tensors {
        if tensor.is_part() && tensor.update.is_pooled(all) {
            let name = tensor.name.clone();
            if !tensor.runs_along() || tensor.dims.len() < 2 {
                return Err(Error::PooledCut { tensor: name });
            }
            if !all.is_lagged() {
                return Err(Error::PooledShard { tensor: name });
            }
        }
        let length = tensor.chain_len();
        let is_all = tensor.update.is_pooled(all) && all.pooling == Pooling::All;
        if is_all && length > MAX_POOLED_LENGTH {
            return Err(Error::PooledLength {
                tensor: tensor.name.clone(),
                length,
                most: MAX_POOLED_LENGTH,
            });
        }
        let Some(own) = tensor.options.as_deref() else {
            continue;
        };
        own.validate().map_err(|error| match error {
            Error::OutOfRange {
                argument,
                value,
                allowed,
            } => Error::OutOfRange {
                argument: format!("{argument} of tensor \"{}\"", tensor.name),
                value,
                allowed,
            },
            other => other,
        })?;
        if let Some(option) = own.differs_for_all(all) {
            let tensor = tensor.name.clone();
            return Err(Error::TensorOption { tensor, option });
        }
    }
    Ok(())
}

fn validate_dtypes(tensor: &TensorSpec) -> Result<()> {
    let name = tensor.name.clone();
    if tensor.state == Dtype::F16 {
        return Err(Error::StateDtype { tensor: name });
    }
    if tensor.master && tensor.params == Dtype::F64 {
        return Err(Error::MasterDtype { tensor: name });
    }
    Ok(())
}

fn validate_shard(tensor: &TensorSpec) -> Result<()> {
    let Some(Shard {
        first_row,
        whole_rows,
    }) = tensor.shard
    else {
        return Ok(());
    };
    let name = || tensor.name.clone();
    let rows = *tensor
        .dims
        .first()
        .ok_or_else(|| Error::ScalarShard { tensor: name() })?;
    let end = first_row.checked_add(rows);
    if end.is_none_or(|end| end > whole_rows) {
        return Err(Error::ShardRows {
            tensor: name(),
            first_row,
            rows,
            whole_rows,
        });
    }
    validate_dims(tensor, &tensor.whole_dims())
}

/// Refuses dimensions that are too many, or too large, for the tensor or the whole one.
fn validate_dims(tensor: &TensorSpec, dims: &[usize]) -> Result<()> {
    let name = || tensor.name.clone();
    if dims.len() > MAX_DIMS {
        return Err(Error::TooManyDimensions {
            tensor: name(),
            ndim: dims.len(),
        });
    }
    // No buffer of 8-byte elements can be longer than this.
    let limit = isize::MAX as usize / 8;
    let mut len = 1usize;
    for &d in dims {
        // Where there are no elements, the dimensions around them are limited, too.
        len = len
            .checked_mul(d.max(1))
            .filter(|&n| n <= limit)
            .ok_or_else(|| Error::SizeOverflow {
                tensor: name(),
                dims: dims.to_vec(),
            })?;
    }
    Ok(())
}

/// Refuses numbers that no step leaves.
pub(crate) fn check_scalars(tensor: &TensorSpec, scalars: &Scalars) -> Result<()> {
    let &Scalars {
        norm_ratio,
        bias_corrections,
        largest,
    } = scalars;
    for (name, number) in [("norm_ratio", norm_ratio), ("largest", largest)] {
        let argument = format_args!("{name} of tensor \"{}\"", tensor.name);
        let is_allowed = number >= 0.0 && number.is_finite();
        in_range(argument, number, is_allowed, "finite and not negative")?;
    }
    for correction in bias_corrections {
        let argument = format_args!("bias_corrections of tensor \"{}\"", tensor.name);
        let is_one = (0.0..=1.0).contains(&correction);
        in_range(argument, correction, is_one, "in [0, 1]")?;
    }
    Ok(())
}
