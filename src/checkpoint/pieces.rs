//! Tensors that are put together from pieces: rows that lie in several files, or some of
//! the rows of one file.

use std::fmt::{self, Debug};
use std::ops::Range;
use std::path::Path;

use super::arrays::{too_large, ArrayReader, Wanted};
use super::{Checkpoint, SavedTensor};
use crate::dtype::{convert, Dtype, Elements, ElementsMut, Stochastic};
use crate::error::{shown, Error, Result};
use crate::layout::{sub_diagonal, TensorSpec, POOLED};
use crate::memory::AlignedBytes;

/// Pieces are read and compared in chunks of this size, which fits into the processor's
/// cache.
const CHUNK: usize = 1 << 18;

/// A tensor of one of several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) file: usize,
    /// Its position in [`Header::tensors`](super::Header::tensors).
    pub(crate) tensor: usize,
}

/// What files have of one tensor.
#[derive(Clone, Copy)]
pub(crate) struct Pieces<'a> {
    pub(crate) files: &'a [Checkpoint<'a>],
    /// At least one.
    pub(crate) sources: &'a [Source],
}

/// An array of a tensor as it is to be put together.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The tensor, with the rows that are wanted.
    pub(crate) spec: &'a TensorSpec,
    /// The state plane, or [`PARAMETER`](super::PARAMETER).
    pub(crate) plane: &'a str,
    /// The type that its elements are to have; see [`Wanted::dtype`].
    pub(crate) dtype: Dtype,
    /// Stochastic rounding of what is converted, and the position of its plane.
    pub(crate) rounding: Option<(Stochastic, usize)>,
}

/// Text that messages show without quotes.
#[derive(PartialEq)]
pub(super) struct Word(pub(super) String);

impl Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses files of different steps.
pub(crate) fn same_step(files: &[Checkpoint]) -> Result<()> {
    let Some(first) = files.first() else {
        return Ok(());
    };
    let step = first.header.step;
    match files.iter().find(|file| file.header.step != step) {
        None => Ok(()),
        Some(second) => Err(Error::StepsDiffer {
            first: first.path().into(),
            first_step: step,
            second: second.path().into(),
            second_step: second.header.step,
        }),
    }
}

/// Refuses files that differ in `what`, whose value is `of` each file.
pub(crate) fn same_in_all<T: PartialEq + Debug>(
    files: &[Checkpoint],
    what: &str,
    of: impl Fn(&Checkpoint) -> T,
) -> Result<()> {
    files.iter().try_for_each(|second| {
        let pair = [&files[0], second];
        same(
            pair.map(Checkpoint::path),
            || what.to_owned(),
            pair.map(&of),
        )
    })
}

/// Refuses two files in which something differs.
pub(super) fn same<T: PartialEq + Debug>(
    paths: [&Path; 2],
    what: impl FnOnce() -> String,
    [first, second]: [T; 2],
) -> Result<()> {
    if first == second {
        return Ok(());
    }
    Err(Error::FilesDiffer {
        what: what(),
        first: paths[0].into(),
        first_value: shown(&first),
        second: paths[1].into(),
        second_value: shown(&second),
    })
}

impl<'a> Pieces<'a> {
    /// Drops pieces without rows, unless all are: a step leaves their settings as they
    /// were.
    pub(crate) fn without_empty(files: &[Checkpoint], sources: Vec<Source>) -> Vec<Source> {
        let has_rows = |source: &Source| !spec(files, *source).is_empty();
        match sources.iter().any(has_rows) {
            true => sources.into_iter().filter(has_rows).collect(),
            false => sources,
        }
    }

    /// What the first file that has rows says of the tensor.
    pub(crate) fn saved(self) -> &'a SavedTensor {
        saved(self.files, self.sources[0])
    }

    /// Whether one file has the wanted rows and no others.
    pub(crate) fn is_one_of(self, rows: &Range<usize>) -> bool {
        self.sources.len() == 1 && self.saved().spec.rows() == *rows
    }

    /// Refuses pieces of which something differs that belongs to the whole tensor.
    pub(crate) fn same_in_all<T: PartialEq + Debug>(
        self,
        what: &str,
        of: impl Fn(&SavedTensor) -> T,
    ) -> Result<()> {
        let first = self.sources[0];
        self.sources.iter().try_for_each(|&second| {
            let pair = [first, second];
            same(
                pair.map(|source| self.files[source.file].path()),
                || format!("{what} of tensor \"{}\"", self.saved().spec.name),
                pair.map(|source| of(saved(self.files, source))),
            )
        })
    }

    /// Refuses pieces after which training would not go on in the same way.
    pub(crate) fn same_steps(self) -> Result<()> {
        self.same_in_all("the step count", |saved| saved.step_count)?;
        self.same_in_all("norm_ratio", |saved| saved.scalars.norm_ratio)?;
        self.same_in_all("bias_corrections", |saved| saved.scalars.bias_corrections)?;
        // The largest entries differ where parts were stepped without stages. That of the first
        // file is taken: it is for one step only, which finds the next.
        self.same_in_all("master", |saved| {
            let word = match (saved.master_set, saved.master_reset) {
                (true, _) => "set",
                (_, true) => "discarded",
                _ => "empty",
            };
            Word(word.to_owned())
        })
    }

    /// Refuses pieces with different learning-rate scales or weight decays.
    pub(crate) fn same_settings(self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let (lr_scale, weight_decay) = ("lr_scale", "weight_decay");
        if !ignored(lr_scale) {
            self.same_in_all(lr_scale, |saved| saved.lr_scale)?;
        }
        if !ignored(weight_decay) {
            self.same_in_all(weight_decay, |saved| saved.weight_decay)?;
        }
        Ok(())
    }

    /// Refuses pieces that leave rows of a tensor out.
    pub(crate) fn cover(self, tensor: &TensorSpec) -> Result<()> {
        let rows = tensor.rows();
        let mut at = rows.start;
        while at < rows.end {
            let pieces = || {
                self.sources
                    .iter()
                    .map(|&source| spec(self.files, source).rows())
            };
            match pieces().find(|piece| piece.contains(&at)) {
                Some(piece) => at = piece.end,
                None => {
                    let next = pieces()
                        .map(|piece| piece.start)
                        .filter(|&start| start > at);
                    let end = next.min().map_or(rows.end, |next| next.min(rows.end));
                    return Err(Error::RowsMissing {
                        tensor: tensor.name.clone(),
                        rows: at..end,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads rows from the first element to the last, and gives them to `sink` in chunks,
    /// with the index of their first element among the wanted. Entries of sub-diagonals
    /// that a cut loses are 0. At the end all arrays are compared with their checksums;
    /// what several files have must be the same. The pieces must [`cover`](Self::cover)
    /// the rows.
    pub(super) fn read(
        self,
        target: Target<'_>,
        mut sink: impl FnMut(&[u8], usize) -> Result<()>,
    ) -> Result<()> {
        if target.plane == POOLED {
            return self.read_pooled(target, sink);
        }
        let (rows, row_len) = (target.spec.rows(), target.spec.row_len());
        let name = &target.spec.name;
        let mut pieces = Vec::new();
        for &source in self.sources {
            let piece = Piece::new(self.files, source, target)?;
            if piece.rows.start.max(rows.start) < piece.rows.end.min(rows.end) {
                pieces.push(piece);
            }
        }
        let wanted = rows.len() * row_len;
        let longest = wanted.min(CHUNK / size_of::<f64>());
        let room = |bytes: usize| AlignedBytes::zeroed(bytes, || "reading pieces".to_owned());
        let arrays = pieces.iter().map(|piece| piece.reader.bytes());
        let mut raw = room(arrays.max().unwrap_or(0).min(CHUNK))?;
        let mut taken = room(longest * target.dtype.size())?;
        let mut other = room(if pieces.len() > 1 { taken.len() } else { 0 })?;
        let mut differs = None;
        'rows: for rows in runs(&rows, &pieces) {
            let all = rows.start * row_len..rows.end * row_len;
            for at in all.clone().step_by(longest.max(1)) {
                let part = at..all.end.min(at + longest);
                let taken = &mut taken[..part.len() * target.dtype.size()];
                let mut having = pieces.iter_mut().filter(|p| p.rows.contains(&rows.start));
                let first = having.next().ok_or_else(|| Error::Internal {
                    message: format!("no file has row {} of \"{name}\"", rows.start),
                })?;
                first.read(target, part.clone(), &mut raw, taken)?;
                for second in having {
                    let other = &mut other[..taken.len()];
                    second.read(target, part.clone(), &mut raw, other)?;
                    if let Some(element) = difference(taken, other, target.dtype.size()) {
                        let row = (at + element) / row_len;
                        differs = Some((first.source, second.source, row));
                        break 'rows;
                    }
                }
                sink(taken, at - target.spec.rows().start * row_len)?;
            }
        }
        // A damaged file is the better reason for a difference.
        for piece in pieces {
            piece.reader.finish(&mut raw)?;
        }
        match differs {
            None => Ok(()),
            Some((first, second, row)) => Err(Error::RowsDiffer {
                tensor: name.clone(),
                plane: target.plane.to_owned(),
                row,
                first: self.files[first.file].path().into(),
                second: self.files[second.file].path().into(),
            }),
        }
    }
}

impl Pieces<'_> {
    /// Reads pooled sums, which have no rows of the tensor and are the same in all pieces.
    fn read_pooled(
        self,
        target: Target<'_>,
        mut sink: impl FnMut(&[u8], usize) -> Result<()>,
    ) -> Result<()> {
        let (saved, source) = (self.saved(), self.sources[0]);
        let sum = |source: Source| self.files[source.file].checksum(source.tensor, target.plane);
        for &other in &self.sources[1..] {
            if sum(source)? != sum(other)? {
                return Err(Error::SumsDiffer {
                    tensor: saved.spec.name.clone(),
                    first: self.files[source.file].path().into(),
                    second: self.files[other.file].path().into(),
                });
            }
        }
        let mut converted = AlignedBytes::zeroed(0, String::new)?;
        let file = &self.files[source.file];
        file.read_in_chunks(source.tensor, target.plane, |elements, first| {
            let len = elements.len() * target.dtype.size();
            if converted.len() < len {
                converted = AlignedBytes::zeroed(len, || "reading pieces".to_owned())?;
            }
            let out = &mut converted[..len];
            store(saved, target, elements, first, out)?;
            sink(out, first)
        })
    }
}

/// Cuts rows where a piece begins or ends, so that the same pieces have all rows of a run.
fn runs(rows: &Range<usize>, pieces: &[Piece<'_>]) -> Vec<Range<usize>> {
    let edges = pieces.iter().flat_map(|p| [p.rows.start, p.rows.end]);
    let inside = edges.filter(|edge| rows.start < *edge && *edge < rows.end);
    let mut edges: Vec<usize> = inside.chain([rows.start, rows.end]).collect();
    edges.sort_unstable();
    edges.dedup();
    edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

/// The first element of this size that is not the same.
fn difference(one: &[u8], other: &[u8], size: usize) -> Option<usize> {
    let byte = one.iter().zip(other).position(|(a, b)| a != b)?;
    Some(byte / size)
}

/// An array of one file.
struct Piece<'a> {
    source: Source,
    saved: &'a SavedTensor,
    rows: Range<usize>,
    reader: ArrayReader<'a>,
    /// The elements, counted in the whole tensor, that a cut loses.
    lost: Vec<Range<usize>>,
}

impl<'a> Piece<'a> {
    fn new(files: &'a [Checkpoint], source: Source, target: Target<'_>) -> Result<Self> {
        let saved = saved(files, source);
        let rows = saved.spec.rows();
        let lost = sub_diagonal(target.plane).map(|k| target.spec.lost(k, &rows));
        Ok(Piece {
            source,
            saved,
            reader: files[source.file].reader(source.tensor, target.plane)?,
            rows,
            lost: lost.unwrap_or_default(),
        })
    }

    /// Reads these elements, which are counted in the whole tensor, as they are to be in
    /// the target.
    fn read(
        &mut self,
        target: Target<'_>,
        part: Range<usize>,
        raw: &mut [u8],
        out: &mut [u8],
    ) -> Result<()> {
        let row_len = target.spec.row_len();
        self.reader
            .skip_to(part.start - self.rows.start * row_len, raw)?;
        let raw = &mut raw[..part.len() * self.reader.dtype().size()];
        let read = self.reader.next(raw)?;
        let elements = read.map(|(elements, _)| elements);
        let elements = elements.filter(|read| read.len() == part.len());
        let elements = elements.ok_or_else(|| Error::Internal {
            message: format!("an array of \"{}\" has ended", target.spec.name),
        })?;
        let first = part.start - target.spec.rows().start * row_len;
        store(self.saved, target, elements, first, out)?;
        let size = target.dtype.size();
        for lost in &self.lost {
            let (start, end) = (lost.start.max(part.start), lost.end.min(part.end));
            if start < end {
                out[(start - part.start) * size..(end - part.start) * size].fill(0);
            }
        }
        Ok(())
    }
}

/// Stores elements in the type of the target; `first` is the index of the first of
/// them there.
fn store(
    saved: &SavedTensor,
    target: Target<'_>,
    elements: Elements<'_>,
    first: usize,
    out: &mut [u8],
) -> Result<()> {
    if elements.dtype() == target.dtype {
        out.copy_from_slice(elements.bytes());
        return Ok(());
    }
    let out = ElementsMut::from_bytes(target.dtype, out);
    match convert(elements, out, target.rounding, first) {
        None => Ok(()),
        Some(number) => Err(too_large(saved, target.plane, number)),
    }
}

/// Fills buffers with arrays, on up to `threads` threads where arrays are taken as they
/// are in a file. If this fails, the buffers may have been written.
pub(crate) fn read(
    files: &[Checkpoint],
    wanted: Vec<(&[Source], Target<'_>, &mut [u8])>,
    threads: usize,
) -> Result<()> {
    let mut whole: Vec<Vec<Wanted<'_>>> = files.iter().map(|_| Vec::new()).collect();
    for (sources, target, dst) in wanted {
        let pieces = Pieces { files, sources };
        if pieces.is_one_of(&target.spec.rows()) {
            let Source { file, tensor } = sources[0];
            whole[file].push(Wanted {
                tensor,
                plane: target.plane,
                dtype: target.dtype,
                rounding: target.rounding,
                dst,
            });
            continue;
        }
        pieces.read(target, |bytes, first| {
            let start = first * target.dtype.size();
            dst[start..start + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
    }
    let mut pairs = files.iter().zip(whole);
    pairs.try_for_each(|(file, wanted)| file.read(wanted, threads))
}

fn saved<'a>(files: &'a [Checkpoint<'a>], source: Source) -> &'a SavedTensor {
    &files[source.file].header.tensors[source.tensor]
}

fn spec<'a>(files: &'a [Checkpoint<'a>], source: Source) -> &'a TensorSpec {
    &saved(files, source).spec
}
