//! A checkpoint becomes another one: with state of another type, with parameters or
//! without them.

use std::path::Path;

use super::arrays::too_large;
use super::write::write_from;
use super::{Array, Checkpoint, Header, SavedTensor, PARAMETER};
use crate::dtype::{convert as convert_state, narrow, Dtype, ElementsMut, Stochastic};
use crate::error::{Error, Result};
use crate::layout::{Plane, MASTER};
use crate::memory::{ask_for_tensors, AlignedBytes};
use crate::options::Rounding;

/// What [`convert`] changes. By default nothing: the new file is one of the current
/// format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conversion {
    /// The type of the state planes of every tensor, but for master weights.
    pub state: Option<Dtype>,
    /// Whether the parameters are in the new file. If the old one has none, they are its
    /// master weights, rounded to nearest as after every step.
    pub parameters: Option<bool>,
}

/// Writes the state of a checkpoint or a live file, as it would be after a load with
/// [`LoadOptions::convert_state`](crate::LoadOptions::convert_state), to a new checkpoint,
/// as [`save`](crate::Optimizer::save) does. Takes no memory that grows with the file.
/// Both paths may be the same.
///
/// `progress` is called with the number of bytes read since it was called last;
/// [`bytes_to_convert`] says how many there will be.
///
/// # Errors
/// There is no new file then. Those of [`Checkpoint::open`] and
/// [`save`](crate::Optimizer::save); [`Error::Checksum`] for a damaged array;
/// [`Error::StateDtype`]; [`Error::OutOfRange`] for a number that is too large for its new
/// type; [`Error::PlaneMissing`] for parameters where there are neither these nor master
/// weights.
pub fn convert(
    file: &Checkpoint,
    to: impl AsRef<Path>,
    conversion: &Conversion,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let old = file.header();
    let lengths = old.tensors.iter().map(|tensor| tensor.spec.name.len());
    ask_for_tensors(lengths, old.largest_band())?;
    let new = changed(old, conversion)?;
    let planes: Vec<Vec<Plane>> = new.tensors.iter().map(|t| new.arrays(t)).collect();
    let mut arrays = Vec::new();
    let mut positions = Vec::new();
    for (tensor, planes) in planes.iter().enumerate() {
        for (position, plane) in planes.iter().enumerate() {
            positions.push(position);
            arrays.push(Array {
                tensor,
                plane: &plane.name,
                dtype: plane.dtype,
                bytes: &[],
            });
        }
    }
    write_from(to.as_ref(), &new, &arrays, |index, sink| {
        let Array {
            tensor,
            plane,
            dtype,
            ..
        } = arrays[index];
        let saved = &new.tensors[tensor];
        if plane == MASTER && !saved.master_set {
            return sink.zeros(saved.spec.len() * dtype.size());
        }
        let stochastic = Stochastic {
            seed: new.options.seed,
            step: saved.step_count,
            tensor,
        };
        let rounding = match new.options.rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic => Some((stochastic, positions[index])),
        };
        let source = source(old, plane);
        let mut written = AlignedBytes::zeroed(0, String::new)?;
        file.read_in_chunks(tensor, source, |elements, first| {
            progress(elements.bytes().len() as u64);
            if elements.dtype() == dtype {
                return sink.write(elements.bytes());
            }
            let length = elements.len() * dtype.size();
            if written.len() < length {
                written = AlignedBytes::zeroed(length, || "converting an array".to_owned())?;
            }
            let out = ElementsMut::from_bytes(dtype, &mut written[..length]);
            if source != plane {
                narrow(bytemuck::cast_slice(elements.bytes()), out);
            } else if let Some(number) = convert_state(elements, out, rounding, first) {
                return Err(too_large(saved, plane, number));
            }
            sink.write(&written[..length])
        })
    })
}

/// The number of bytes that [`convert`] reads.
pub fn bytes_to_convert(file: &Checkpoint, conversion: &Conversion) -> Result<u64> {
    let old = file.header();
    let new = changed(old, conversion)?;
    let mut bytes = 0;
    for (tensor, saved) in new.tensors.iter().enumerate() {
        for plane in new.arrays(saved) {
            if plane.name != MASTER || saved.master_set {
                let dtype = file.dtype(tensor, source(old, &plane.name))?;
                bytes += (plane.len() * dtype.size()) as u64;
            }
        }
    }
    Ok(bytes)
}

/// The array of the old file from which one of the new file is made.
fn source<'a>(old: &Header, plane: &'a str) -> &'a str {
    match plane {
        PARAMETER if !old.parameters => MASTER,
        plane => plane,
    }
}

/// The header of the new file.
fn changed(old: &Header, conversion: &Conversion) -> Result<Header> {
    let mut new = old.clone();
    new.parameters = conversion.parameters.unwrap_or(old.parameters);
    let without = |tensor: &&SavedTensor| !tensor.master_set && !tensor.master_reset;
    let without = old.tensors.iter().find(without);
    if let (true, false, Some(tensor)) = (new.parameters, old.parameters, without) {
        return Err(Error::PlaneMissing {
            tensor: tensor.spec.name.clone(),
            plane: PARAMETER.to_owned(),
            file: "file",
        });
    }
    for tensor in &mut new.tensors {
        // Discarded master weights are in use again beside the parameters of their step.
        tensor.master_set |= tensor.master_reset && new.parameters;
        tensor.master_reset = false;
        tensor.spec.state = conversion.state.unwrap_or(tensor.spec.state);
    }
    new.validate()?;
    Ok(new)
}
