//! Opening a checkpoint and reading its arrays. The file is hostile until it
//! has been checked.

use std::collections::HashMap;
use std::path::Path;

use super::files::SourceFile;
use super::header::{self, Contents, LENGTH_BYTES, MAX_LENGTH, PREFIX};
use super::json::ArrayInfo;
use super::{array_name, Header, ALIGNMENT};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::layout::Plane;

/// Arrays are read and summed in pieces of this size, which the processor's
/// cache can hold.
const CHUNK: usize = 1 << 20;

/// An open checkpoint. Its header has been checked entirely and agrees with
/// the length of the file; an array is checked when it is read.
#[derive(Debug)]
pub struct Checkpoint {
    header: Header,
    /// For every tensor its planes, in order, and then its parameter.
    arrays: Vec<Vec<StoredArray>>,
    file: SourceFile,
}

/// Where an array lies, and what it must sum to.
#[derive(Debug)]
struct StoredArray {
    plane: Plane,
    /// Its first byte, counted from the file's.
    offset: u64,
    bytes: u64,
    crc: u32,
}

impl Checkpoint {
    /// Opens and checks a file.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let mut file = SourceFile::open(path)?;
        let Checked {
            header,
            arrays,
            end,
        } = check(path, &read_header(&mut file)?)?;
        if end != file.length() {
            return Err(wrong_length(&file, end));
        }
        Ok(Checkpoint {
            header,
            arrays,
            file,
        })
    }

    /// What the file says besides its arrays.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Fills `dst` with an array of tensor `tensor`: a state plane, or
    /// [`PARAMETER`](super::PARAMETER). When it fails, `dst` may have been
    /// written.
    pub fn read(&mut self, tensor: usize, plane: &str, dst: &mut [u8]) -> Result<()> {
        let count = self.arrays.len();
        let arrays = self.arrays.get(tensor).ok_or(Error::UnknownTensor {
            index: tensor,
            count,
        })?;
        let saved = &self.header.tensors[tensor];
        let array = arrays
            .iter()
            .find(|array| array.plane.name == plane)
            .ok_or_else(|| Error::PlaneMissing {
                tensor: saved.spec.name.clone(),
                plane: plane.to_owned(),
            })?;
        if dst.len() as u64 != array.bytes {
            return Err(Error::WrongLength {
                tensor: saved.spec.name.clone(),
                argument: plane.to_owned(),
                length: dst.len() / array.plane.dtype.size(),
                expected: saved.spec.len(),
            });
        }

        self.file.seek(array.offset)?;
        let mut hasher = crc32fast::Hasher::new();
        for chunk in dst.chunks_mut(CHUNK) {
            self.file.read(chunk)?;
            hasher.update(chunk);
        }
        if hasher.finalize() != array.crc {
            return Err(Error::Checksum {
                path: self.file.path().to_owned(),
                part: format!("\"{}\"", array_name(saved, plane)),
            });
        }
        Ok(())
    }
}

/// What the bytes before the data say, checked as far as they can be without
/// the file.
pub(super) struct Checked {
    pub(super) header: Header,
    arrays: Vec<Vec<StoredArray>>,
    /// Where the file must end.
    end: u64,
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

/// Reads everything before the data. Its length is believed only once the
/// file has shown to be that long, and to begin as a checkpoint does.
fn read_header(file: &mut SourceFile) -> Result<Vec<u8>> {
    let refuse = |file: &SourceFile, reason: String| {
        Err(Error::NotACheckpoint {
            path: file.path().to_owned(),
            reason,
        })
    };
    let mut start = [0; LENGTH_BYTES + PREFIX.len()];
    let there = file.length().min(start.len() as u64) as usize;
    if there < LENGTH_BYTES {
        return refuse(file, format!("it has only {there} bytes"));
    }
    file.read(&mut start[..there])?;
    let (length, _) = start.split_first_chunk().expect("eight bytes and more");
    let length = u64::from_le_bytes(*length);
    if !(PREFIX.len() as u64..=MAX_LENGTH).contains(&length) {
        return refuse(
            file,
            format!("its header would have {length} bytes; it is no safetensors file, or has none of this library's metadata"),
        );
    }
    if there == start.len() && !header::has_prefix(&start) {
        return refuse(
            file,
            "its header does not begin with sonew.header_crc32".to_owned(),
        );
    }
    let end = LENGTH_BYTES as u64 + length;
    if end > file.length() {
        return Err(wrong_length(file, end));
    }

    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(end as usize).is_err() {
        return Err(Error::OutOfMemory {
            what: format!("the header of \"{}\"", file.path().display()),
            bytes: end.into(),
        });
    }
    bytes.resize(end as usize, 0);
    file.seek(0)?;
    file.read(&mut bytes)?;
    Ok(bytes)
}

fn wrong_length(file: &SourceFile, expected: u64) -> Error {
    Error::FileLength {
        path: file.path().to_owned(),
        length: file.length(),
        expected,
    }
}

/// A check that says in words what is wrong.
type Outcome<T> = std::result::Result<T, String>;

/// Checks that the arrays follow each other without holes or overlaps, each
/// as long as its shape says. Returns where the last one ends in the file.
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
        name => {
            let known = Dtype::ALL.into_iter().find(|d| d.name() == name);
            known?.size() as u64
        }
    };
    info.shape
        .iter()
        .try_fold(size, |bytes, &d| bytes.checked_mul(d as u64))
}

/// Finds the arrays that the tensors must have, and refuses any other.
fn locate(contents: Contents, data: u64) -> Outcome<(Header, Vec<Vec<StoredArray>>)> {
    let Contents {
        header,
        arrays,
        checksums,
    } = contents;
    let mut arrays: HashMap<String, ArrayInfo> = arrays.into_iter().collect();
    let mut checksums: HashMap<String, u32> = checksums.into_iter().collect();

    let mut located = Vec::with_capacity(header.tensors.len());
    for tensor in &header.tensors {
        let mut planes = Vec::new();
        for plane in header.arrays(tensor) {
            let name = array_name(tensor, &plane.name);
            let info = arrays
                .remove(&name)
                .ok_or_else(|| format!("array {name:?} is missing"))?;
            let crc = checksums
                .remove(&name)
                .ok_or_else(|| format!("array {name:?} has no checksum"))?;
            check_array(&name, &info, plane.dtype, &tensor.spec.dims, data)?;
            let [begin, end] = info.data_offsets;
            planes.push(StoredArray {
                plane,
                offset: data + begin,
                bytes: end - begin,
                crc,
            });
        }
        located.push(planes);
    }

    if let Some((name, _)) = arrays.iter().find(|(n, i)| !header::is_padding(n, i)) {
        return Err(format!("array {name:?} belongs to no tensor"));
    }
    if let Some(name) = checksums.keys().next() {
        return Err(format!("{name:?} has a checksum but is no array"));
    }
    Ok((header, located))
}

fn check_array(
    name: &str,
    info: &ArrayInfo,
    dtype: Dtype,
    dims: &[usize],
    data: u64,
) -> Outcome<()> {
    if info.dtype != dtype.name() {
        return Err(format!(
            "array {name:?} has type {}, not {dtype}",
            info.dtype
        ));
    }
    if info.shape != dims {
        return Err(format!(
            "array {name:?} has shape {:?}, its tensor {dims:?}",
            info.shape
        ));
    }
    // `check_layout` has shown that this sum does not overflow.
    if !(data + info.data_offsets[0]).is_multiple_of(ALIGNMENT as u64) {
        return Err(format!(
            "array {name:?} does not start at a multiple of {ALIGNMENT} bytes"
        ));
    }
    Ok(())
}
