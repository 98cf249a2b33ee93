//! Files that together hold tensors become one file.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::files::NewFile;
use super::pieces::{same, same_in_all, same_step, Pieces, Source, Target, Word};
use super::texts;
use super::write::written;
use super::{Array, Checkpoint, Header, SavedTensor};
use crate::error::{Error, Result};
use crate::layout::{Plane, TensorSpec, MASTER};
use crate::memory::ask_for_tensors;
use crate::options::InstructionSet;

/// Writes the state of several files, which have some of the tensors each or some of
/// their rows, to a new checkpoint of whole tensors, as [`save`](crate::Optimizer::save)
/// does. Tensors have the order in which the files name them. The file is the one that a
/// single process would have saved, but for entries of sub-diagonals between rows that
/// lie in different files, which are 0: see [`TensorSpec::shard`]. It has the
/// [texts](Header::texts) that are the same in all files. Takes no memory that
/// grows with the files. The new path may be that of one of them.
///
/// `progress` is called with the number of bytes written since it was called last;
/// [`bytes_to_merge`] says how many there will be.
///
/// # Errors
/// There is no new file then. Those of [`save`](crate::Optimizer::save);
/// [`Error::StepsDiffer`], [`Error::FilesDiffer`], [`Error::RowsMissing`],
/// [`Error::RowsDiffer`] and [`Error::SumsDiffer`] for files that do not fit together; [`Error::Checksum`] for a
/// damaged array.
pub fn merge(
    files: &[Checkpoint],
    to: impl AsRef<Path>,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (header, sources) = merged(files)?;
    assemble(to.as_ref(), &header, files, &sources, progress)?
        .commit()
        .map(drop)
}

/// The number of bytes that [`merge`] writes.
///
/// # Errors
/// Those of [`merge`] that the headers of the files show.
pub fn bytes_to_merge(files: &[Checkpoint]) -> Result<u64> {
    Ok(bytes_of(&merged(files)?.0))
}

/// The bytes of the arrays of a file.
fn bytes_of(header: &Header) -> u64 {
    header.tensors.iter().map(|t| tensor_bytes(header, t)).sum()
}

/// The bytes of the arrays of a tensor in a file.
pub(super) fn tensor_bytes(header: &Header, tensor: &SavedTensor) -> u64 {
    let arrays = header.arrays(tensor);
    let sizes = arrays.iter().map(|plane| plane.len() * plane.dtype.size());
    sizes.map(|size| size as u64).sum()
}

/// The header of a file of other tensors.
pub(super) fn of_tensors(old: &Header, tensors: Vec<SavedTensor>) -> Header {
    Header {
        options: old.options.clone(),
        tensors,
        step: old.step,
        parameters: old.parameters,
        texts: old.texts.clone(),
    }
}

/// Refuses a number of files that is not from 1 to the most.
pub(super) fn check_count(count: usize, most: usize, allowed: &'static str) -> Result<()> {
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(Error::OutOfRange {
        argument: "the number of files".to_owned(),
        value: count as f64,
        allowed,
    })
}

/// The header of the new file, and where its tensors are.
fn merged(files: &[Checkpoint]) -> Result<(Header, Vec<Vec<Source>>)> {
    check_count(files.len(), usize::MAX, "at least 1")?;
    let first = &files[0];
    let tensors = || files.iter().flat_map(|file| &file.header.tensors);
    let lengths = tensors().map(|tensor| tensor.spec.name.len());
    ask_for_tensors(lengths, first.header.largest_band())?;
    same_step(files)?;
    same_options(files)?;
    same_in_all(files, "whether parameters are there", |file| {
        file.header.parameters
    })?;
    let mut found: Vec<Vec<Source>> = Vec::new();
    let mut by_name = HashMap::new();
    for (file, opened) in files.iter().enumerate() {
        for (tensor, saved) in opened.header.tensors.iter().enumerate() {
            let at = *by_name.entry(&saved.spec.name).or_insert(found.len());
            if at == found.len() {
                found.push(Vec::new());
            }
            found[at].push(Source { file, tensor });
        }
    }
    let mut whole = Vec::new();
    let mut sources = Vec::new();
    for found in found {
        same_tensor(Pieces {
            files,
            sources: &found,
        })?;
        let found = Pieces::without_empty(files, found);
        let pieces = Pieces {
            files,
            sources: &found,
        };
        pieces.same_steps()?;
        pieces.same_settings(|_| false)?;
        let mut saved = taken_over(pieces.saved());
        saved.spec = saved.spec.of_rows(0..saved.spec.whole_rows());
        whole.push(saved);
        sources.push(found);
    }
    let header = Header {
        texts: texts::common(files.iter().map(|file| &file.header)),
        ..of_tensors(&first.header, whole)
    };
    // Before the rows are looked at, which the whole tensor may have too many of.
    header.validate()?;
    for (saved, sources) in header.tensors.iter().zip(&sources) {
        Pieces { files, sources }.cover(&saved.spec)?;
    }
    Ok((header, sources))
}

/// A tensor of a file as it is in a new checkpoint. Master weights that were discarded, in
/// a live file, are not set there.
pub(super) fn taken_over(saved: &SavedTensor) -> SavedTensor {
    SavedTensor {
        master_reset: false,
        ..saved.clone()
    }
}

/// Refuses files with different options.
fn same_options(files: &[Checkpoint]) -> Result<()> {
    let first = &files[0].header.options;
    let Some(other) = files.iter().find(|file| file.header.options != *first) else {
        return Ok(());
    };
    let named = |file: &Checkpoint| match serde_json::to_value(&file.header.options) {
        Ok(Value::Object(options)) => options,
        _ => serde_json::Map::new(),
    };
    let pair = [&files[0], other];
    let options = pair.map(named);
    let mut names = options.iter().flat_map(serde_json::Map::keys);
    names.try_for_each(|name| {
        let words = options.each_ref().map(|options| match options.get(name) {
            Some(Value::String(word)) => Word(word.clone()),
            Some(value) => Word(value.to_string()),
            // What has its default may be left out.
            None => Word("the default".to_owned()),
        });
        same(
            pair.map(Checkpoint::path),
            || format!("option {name}"),
            words,
        )
    })
}

/// Refuses pieces that are not of one tensor.
fn same_tensor(pieces: Pieces<'_>) -> Result<()> {
    // Every field is named, so that a new one cannot be forgotten here.
    let TensorSpec {
        name: _,
        dims: _,
        chains: _,
        update: _,
        params: _,
        grads: _,
        state: _,
        master: _,
        shard: _,
        options: _,
    } = pieces.saved().spec;
    pieces.same_in_all("dims", |saved| saved.spec.whole_dims())?;
    pieces.same_in_all("chains", |saved| saved.spec.chains)?;
    pieces.same_in_all("update", |saved| saved.spec.update)?;
    pieces.same_in_all("params", |saved| saved.spec.params)?;
    pieces.same_in_all("grads", |saved| saved.spec.grads)?;
    pieces.same_in_all("state", |saved| saved.spec.state)?;
    pieces.same_in_all("master weights", |saved| saved.spec.master)?;
    pieces.same_in_all("options", |saved| {
        let mut own = saved.spec.options.clone();
        if let Some(own) = &mut own {
            (own.threads, own.instruction_set) = (0, InstructionSet::Auto);
        }
        own
    })
}

/// Writes a checkpoint whose tensors are put together from these pieces, and which does
/// not yet replace the older one.
pub(super) fn assemble(
    to: &Path,
    header: &Header,
    files: &[Checkpoint],
    sources: &[Vec<Source>],
    progress: &mut dyn FnMut(u64),
) -> Result<NewFile> {
    let planes: Vec<Vec<Plane>> = header.tensors.iter().map(|t| header.arrays(t)).collect();
    let of_tensor = |(tensor, planes): (usize, &'_ Vec<Plane>)| -> Vec<(usize, usize)> {
        (0..planes.len()).map(|plane| (tensor, plane)).collect()
    };
    let positions: Vec<_> = planes.iter().enumerate().flat_map(of_tensor).collect();
    let array = |&(tensor, plane): &(usize, usize)| Array {
        tensor,
        plane: &planes[tensor][plane].name,
        dtype: planes[tensor][plane].dtype,
        bytes: &[],
    };
    let arrays: Vec<Array<'_>> = positions.iter().map(array).collect();
    written(to, header, &arrays, |index, sink| {
        let array = arrays[index];
        let saved = &header.tensors[array.tensor];
        if array.plane == MASTER && !saved.master_set {
            return sink.zeros(saved.spec.len() * array.dtype.size());
        }
        let pieces = Pieces {
            files,
            sources: &sources[array.tensor],
        };
        let target = Target {
            spec: &saved.spec,
            plane: array.plane,
            dtype: array.dtype,
            rounding: None,
        };
        pieces.read(target, |bytes, _| {
            progress(bytes.len() as u64);
            sink.write(bytes)
        })
    })
}
