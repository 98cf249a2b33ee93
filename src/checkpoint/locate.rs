//! Finds the bytes of every array in a file. Checks everything that the header
//! says before any byte of the data is read.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::header::{self, Contents};
use super::json::ArrayInfo;
use super::mapping::Part;
use super::record;
use super::{array_name, Header, ALIGNMENT, SECOND};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::Plane;

/// An array in a file.
#[derive(Debug, Clone)]
pub(super) struct StoredArray {
    pub(super) plane: Plane,
    pub(super) file_range: FileRange,
    /// Its checksum; a live file stores it in its record instead.
    pub(super) crc: Option<u32>,
}

/// A range of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileRange {
    /// The first byte, counted from the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl FileRange {
    /// The same range in a mapping of the whole file. The file is known to have
    /// these bytes, and to fit into the address space.
    pub(super) fn in_memory(self) -> Range<usize> {
        let start = self.offset as usize;
        start..start + self.bytes as usize
    }
}

/// Groups the parts of a mapping, one for each array, by tensor.
pub(super) fn in_tensors(
    arrays: &[Vec<StoredArray>],
    parts: &mut impl Iterator<Item = Part>,
) -> Vec<Vec<Part>> {
    let of_one = |arrays: &Vec<StoredArray>| parts.take(arrays.len()).collect();
    arrays.iter().map(of_one).collect()
}

/// The arrays of a file.
#[derive(Debug, Clone)]
pub(super) struct Arrays {
    /// For every tensor, its planes, in order, and then its parameter.
    pub(super) first: Vec<Vec<StoredArray>>,
    pub(super) live: Option<LiveArrays>,
}

/// Arrays that only a live file has.
#[derive(Debug, Clone)]
pub(super) struct LiveArrays {
    /// The second copy of the planes.
    pub(super) second: Vec<Vec<StoredArray>>,
    /// The arrays of [`record::shapes`].
    pub(super) record: [FileRange; 4],
}

/// The contents of the bytes before the data, checked as far as possible without
/// the rest of the file.
pub(super) struct Checked {
    pub(super) header: Header,
    pub(super) arrays: Arrays,
    /// The length that the file must have.
    pub(super) end: u64,
}

/// Checks the bytes before the data.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<Checked> {
    let contents = header::decode(path, bytes)?;
    let refuse = |reason| Error::NotACheckpoint {
        path: path.to_owned(),
        reason,
    };
    let data = bytes.len() as u64;
    let end = check_layout(&contents.arrays, data).map_err(refuse)?;
    let (header, arrays) = locate(contents, data).map_err(refuse)?;
    Ok(Checked {
        header,
        arrays,
        end,
    })
}

/// The result of a check, with a description of what is wrong.
type Outcome<T> = std::result::Result<T, String>;

/// Checks that the arrays follow each other without gaps or overlaps, and that
/// each has the size of its shape. Returns the end of the last one in the file.
fn check_layout(arrays: &[(String, ArrayInfo)], data: u64) -> Outcome<u64> {
    let mut in_order: Vec<_> = arrays.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut position = 0u64;
    for (name, info) in in_order {
        let [begin, end] = info.data_offsets;
        if begin != position {
            let what = if begin > position {
                "a hole"
            } else {
                "an overlap"
            };
            return Err(format!("there is {what} before array {name:?}"));
        }
        let bytes = byte_count(info)
            .ok_or_else(|| format!("the size of array {name:?} is unknown or overflows"))?;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(format!(
                "array {name:?} is to have {bytes} bytes, its offsets are {begin} and {end}"
            ));
        }
        position = end;
    }
    data.checked_add(position)
        .ok_or_else(|| "the size of its data overflows".to_owned())
}

fn byte_count(info: &ArrayInfo) -> Option<u64> {
    let size = match info.dtype.as_str() {
        "U8" => 1,
        "U64" => 8,
        name => {
            let known = Dtype::ALL.into_iter().find(|d| d.name() == name);
            known?.size() as u64
        }
    };
    info.shape
        .iter()
        .try_fold(size, |bytes, &d| bytes.checked_mul(d as u64))
}

/// Finds the arrays that the tensors must have, and refuses all others.
fn locate(contents: Contents, data: u64) -> Outcome<(Header, Arrays)> {
    let Contents {
        header,
        live,
        arrays,
        checksums,
    } = contents;
    let mut left = Left {
        arrays: arrays.into_iter().collect(),
        checksums: checksums.into_iter().collect(),
        data,
    };
    let mut first = Vec::with_capacity(header.tensors.len());
    let mut second = Vec::new();
    for tensor in &header.tensors {
        let planes = header.arrays(tensor);
        let dims = &tensor.spec.dims;
        let mut all = |suffix: &str| {
            let stored = |plane: &Plane| {
                let name = array_name(tensor, &plane.name) + suffix;
                Ok(StoredArray {
                    file_range: left.take(&name, plane.dtype.name(), dims)?,
                    crc: left.checksum(&name, live)?,
                    plane: plane.clone(),
                })
            };
            planes.iter().map(stored).collect::<Outcome<Vec<_>>>()
        };
        first.push(all("")?);
        if live {
            second.push(all(SECOND)?);
        }
    }
    let live = live.then(|| left.live(&header, second)).transpose()?;
    left.nothing()?;
    Ok((header, Arrays { first, live }))
}

/// The arrays that have not been assigned to a tensor yet.
struct Left {
    arrays: HashMap<String, ArrayInfo>,
    checksums: HashMap<String, u32>,
    data: u64,
}

impl Left {
    fn take(&mut self, name: &str, dtype: &str, shape: &[usize]) -> Outcome<FileRange> {
        let info = self.arrays.remove(name);
        let info = info.ok_or_else(|| format!("array {name:?} is missing"))?;
        if info.dtype != dtype {
            return Err(format!(
                "array {name:?} has type {}, not {dtype}",
                info.dtype
            ));
        }
        if info.shape != shape {
            return Err(format!(
                "array {name:?} has shape {:?}, its tensor {shape:?}",
                info.shape
            ));
        }
        let [begin, end] = info.data_offsets;
        // `check_layout` has shown that this sum does not overflow.
        let offset = self.data + begin;
        if !offset.is_multiple_of(ALIGNMENT as u64) {
            return Err(format!(
                "array {name:?} does not start at a multiple of {ALIGNMENT} bytes"
            ));
        }
        Ok(FileRange {
            offset,
            bytes: end - begin,
        })
    }

    fn checksum(&mut self, name: &str, live: bool) -> Outcome<Option<u32>> {
        if live {
            return Ok(None);
        }
        let crc = self.checksums.remove(name);
        crc.map(Some)
            .ok_or_else(|| format!("array {name:?} has no checksum"))
    }

    fn live(&mut self, header: &Header, second: Vec<Vec<StoredArray>>) -> Outcome<LiveArrays> {
        if header.parameters {
            return Err("a live file has no parameters".to_owned());
        }
        let planes = second.iter().map(Vec::len).sum();
        let shapes = record::shapes(header.tensors.len(), planes);
        let mut ranges = Vec::with_capacity(shapes.len());
        for (name, dtype, shape) in shapes {
            ranges.push(self.take(name, dtype, &shape)?);
        }
        Ok(LiveArrays {
            second,
            record: ranges.try_into().expect("as many as there are shapes"),
        })
    }

    /// Refuses all arrays that are left, except padding.
    fn nothing(&self) -> Outcome<()> {
        let mut arrays = self.arrays.iter();
        if let Some((name, _)) = arrays.find(|(n, i)| !header::is_padding(n, i)) {
            return Err(format!("array {name:?} belongs to no tensor"));
        }
        if let Some(name) = self.checksums.keys().next() {
            return Err(format!("{name:?} has a checksum but is no array"));
        }
        Ok(())
    }
}
