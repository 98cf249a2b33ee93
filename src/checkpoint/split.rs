//! A file becomes several, which have some of its tensors each, or some of their rows.

use std::ops::Range;
use std::path::Path;

use super::files::NewFile;
use super::merge::{assemble, check_count, of_tensors, taken_over, tensor_bytes};
use super::pieces::Source;
use super::{Checkpoint, Header, SavedTensor};
use crate::error::Result;
use crate::memory::ask_for_tensors;

/// What [`split`] divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitBy {
    /// Every tensor, by rows: each file gets as many as the others, or one more. Scalars
    /// are in every file.
    Rows,
    /// The list of tensors: each file gets some that follow each other in it, so that the
    /// largest file is as small as possible. There must be at least as many tensors as files.
    Tensors,
}

/// Writes the state of a checkpoint or a live file to several new checkpoints, one for
/// each path, as [`save`](crate::Optimizer::save) does. All are written before the first
/// replaces an older file. Rows that were neighbours in a chain and lie in different files
/// lose their entries of sub-diagonals: see [`TensorSpec::shard`](crate::layout::TensorSpec::shard).
/// Takes no memory that grows with the file.
///
/// `progress` is called with the number of bytes checked or written since it was called
/// last: in all twice those of the file's arrays, and some more where scalars are in every
/// file.
///
/// # Errors
/// There is no new file then, except if one of the last operations fails, which give the
/// complete files their names. [`OutOfRange`](crate::Error::OutOfRange) for no path, or
/// more paths than tensors where these are divided; those of [`merge`](super::merge).
pub fn split(
    file: Checkpoint,
    by: SplitBy,
    to: &[impl AsRef<Path>],
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let lengths = file.header.tensors.iter().map(|t| t.spec.name.len());
    ask_for_tensors(lengths, file.header.largest_band())?;
    let parts = match by {
        SplitBy::Rows => by_rows(&file.header, to.len())?,
        SplitBy::Tensors => by_tensors(&file.header, to.len())?,
    };
    // Each new file then needs only some of the arrays, or of their rows.
    let files = [file.verified(progress)?];
    let mut all: Vec<NewFile> = Vec::new();
    for ((header, first), to) in parts.into_iter().zip(to) {
        let source = |tensor| vec![Source { file: 0, tensor }];
        let sources: Vec<_> = (first..first + header.tensors.len()).map(source).collect();
        all.push(assemble(to.as_ref(), &header, &files, &sources, progress)?);
    }
    all.into_iter().try_for_each(|file| file.commit().map(drop))
}

/// The header of each file, and the position in the old one of its first tensor.
type Parts = Vec<(Header, usize)>;

fn by_rows(old: &Header, count: usize) -> Result<Parts> {
    check_count(count, usize::MAX, "at least 1")?;
    let part = |index: usize| {
        let tensor = |saved: &SavedTensor| {
            let mut saved = taken_over(saved);
            let rows = saved.spec.rows();
            let (each, more) = (rows.len() / count, rows.len() % count);
            let start = |index: usize| rows.start + index * each + index.min(more);
            saved.spec = saved.spec.of_rows(start(index)..start(index + 1));
            saved
        };
        let tensors = old.tensors.iter().map(tensor).collect();
        (of_tensors(old, tensors), 0)
    };
    Ok((0..count).map(part).collect())
}

fn by_tensors(old: &Header, count: usize) -> Result<Parts> {
    let tensors = old.tensors.len();
    check_count(
        count,
        tensors,
        "at least 1, and at most the number of tensors",
    )?;
    let bytes = old.tensors.iter().map(|tensor| tensor_bytes(old, tensor));
    let bytes: Vec<u64> = bytes.collect();
    let part = |run: Range<usize>| {
        let start = run.start;
        let tensors = old.tensors[run].iter().map(taken_over).collect();
        (of_tensors(old, tensors), start)
    };
    Ok(runs(&bytes, count).into_iter().map(part).collect())
}

/// Cuts a list into so many runs, none empty, of which the largest is as small as
/// possible.
fn runs(bytes: &[u64], count: usize) -> Vec<Range<usize>> {
    let (mut least, mut most) = (0, bytes.iter().sum::<u64>());
    while least < most {
        let middle = least + (most - least) / 2;
        match cut(bytes, count, middle) {
            Some(_) => most = middle,
            None => least = middle + 1,
        }
    }
    cut(bytes, count, least).unwrap_or_default()
}

/// The same with runs of at most `limit` bytes, if that is possible.
fn cut(bytes: &[u64], count: usize, limit: u64) -> Option<Vec<Range<usize>>> {
    let mut runs = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (at, &size) in bytes.iter().enumerate() {
        // Those that are left must be enough for the runs that are left.
        let is_needed = bytes.len() - at < count - runs.len();
        if at > start && (is_needed || sum + size > limit) {
            runs.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += size;
        if sum > limit || runs.len() == count {
            return None;
        }
    }
    runs.push(start..bytes.len());
    (runs.len() == count).then_some(runs)
}

impl Checkpoint<'_> {
    /// The same file after every array was checked, so that parts of arrays can be read
    /// without the rest.
    fn verified(mut self, progress: &mut dyn FnMut(u64)) -> Result<Self> {
        for array in self.arrays() {
            self.check(array.tensor, array.plane, progress)?;
        }
        let arrays = self.arrays.first.iter_mut().flatten();
        arrays.for_each(|array| array.crc = None);
        Ok(self)
    }
}
