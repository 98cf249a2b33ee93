//! Finds the bytes of every array in a file. Checks everything that the header
//! says before any byte of the data is read.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::header::{self, Decoded, LENGTH_BYTES};
use super::json::{self, Entry, Outcome, Stop};
use super::mapping::Part;
use super::record;
use super::{array_name, Header, SavedTensor, ALIGNMENT, FIRST_FORMAT_OF_ANY_ORDER, SECOND, WORD};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::{reserve, OF_TENSORS};

/// An array in a file.
#[derive(Debug, Clone)]
pub(super) struct StoredArray {
    /// The state plane, or the parameter.
    pub(super) name: Arc<str>,
    pub(super) dtype: Dtype,
    /// Its dimensions, if they are not those of the tensor.
    pub(super) dims: Option<Vec<usize>>,
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

/// Of an array that was not found yet. None has no bytes.
const MISSING: FileRange = FileRange {
    offset: 0,
    bytes: 0,
};

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
    pub(super) record: Vec<FileRange>,
    /// Words of a tensor's settings in it.
    pub(super) settings_words: usize,
}

/// The contents of the bytes before the data, checked as far as possible without
/// the rest of the file.
pub(super) struct Checked {
    pub(super) header: Header,
    pub(super) format: u64,
    pub(super) arrays: Arrays,
    /// The length that the file must have.
    pub(super) end: u64,
}

/// Checks the bytes before the data.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<Checked> {
    let decoded = header::decode(path, bytes)?;
    let refuse = |reason| Error::NotACheckpoint {
        path: path.to_owned(),
        reason,
    };
    let mut search = Search::new(&decoded, bytes.len() as u64)?;
    let json = &bytes[LENGTH_BYTES..];
    let end = search.find_all(json, &decoded).map_err(refuse)?;
    search.add_checksums(&decoded).map_err(refuse)?;
    let Search {
        first,
        second,
        record,
        ..
    } = search;
    let live = decoded.live.then_some(LiveArrays {
        second,
        record,
        settings_words: decoded.settings_words,
    });
    Ok(Checked {
        header: decoded.header,
        format: decoded.format,
        arrays: Arrays { first, live },
        end,
    })
}

/// Finds the arrays that the tensors must have, and refuses all others. Keeps
/// little of each array, because a header may be hostile.
struct Search<'h> {
    tensors: &'h [SavedTensor],
    /// Names of the tensors and their positions, sorted.
    by_name: Vec<(&'h str, u32)>,
    first: Vec<Vec<StoredArray>>,
    second: Vec<Vec<StoredArray>>,
    /// Names, types and shapes of the record of a live file.
    shapes: Vec<record::Shape>,
    record: Vec<FileRange>,
    /// Where the data begin in the file.
    data: u64,
    /// What every array's offset in the file must be a multiple of, besides its
    /// element's size.
    alignment: u64,
}

impl<'h> Search<'h> {
    fn new(decoded: &'h Decoded<'_>, data: u64) -> Result<Search<'h>> {
        let Decoded {
            header,
            format,
            live,
            settings_words,
            arrays: limit,
            ..
        } = decoded;
        let tensors = &header.tensors[..];
        let mut by_name = Vec::new();
        reserve(&mut by_name, tensors.len(), || OF_TENSORS.to_owned())?;
        by_name.extend(tensors.iter().map(|tensor| &*tensor.spec.name).zip(0..));
        by_name.sort_unstable();
        let mut names = Names::default();
        let mut first = Vec::new();
        reserve(&mut first, tensors.len(), || OF_TENSORS.to_owned())?;
        let mut count = 0;
        for tensor in tensors {
            // The rest is missing, which is found out without room for it.
            let room = count <= *limit;
            let planes = header
                .arrays(tensor)
                .into_iter()
                .take(if room { usize::MAX } else { 0 });
            let arrays: Vec<_> = planes
                .map(|plane| StoredArray {
                    dims: (plane.dims != tensor.spec.dims).then_some(plane.dims),
                    name: names.shared(plane.name),
                    dtype: plane.dtype,
                    file_range: MISSING,
                    crc: None,
                })
                .collect();
            count += arrays.len();
            first.push(arrays);
        }
        let shapes = match live {
            true => record::shapes(*format, *settings_words, tensors.len(), count),
            false => Vec::new(),
        };
        Ok(Search {
            tensors,
            by_name,
            second: if *live { first.clone() } else { Vec::new() },
            first,
            record: vec![MISSING; shapes.len()],
            shapes,
            data,
            alignment: match *format < FIRST_FORMAT_OF_ANY_ORDER {
                true => ALIGNMENT as u64,
                false => 1,
            },
        })
    }

    /// Finds every array, and checks that they follow each other without gaps or
    /// overlaps. Returns the end of the last one in the file.
    ///
    /// They do, in whatever order, if every offset is the end of as many arrays as
    /// begin there, except for the first and the last one. This is checked by sums
    /// of hashes with a random key.
    fn find_all(&mut self, json: &[u8], decoded: &Decoded<'_>) -> Outcome<u64> {
        let state = RandomState::new();
        let hash = |offset: u64| state.hash_one(offset);
        let (mut begins, mut ends, mut last) = (0u64, 0u64, 0);
        // The first one that does not follow the one before it in the header.
        let (mut position, mut first) = (0, None);
        let mut array = |name: Cow<'_, str>, entry: Entry<'_>| {
            let [begin, end] = entry.data_offsets;
            let bytes = byte_count(&entry)
                .ok_or_else(|| format!("the size of array {name:?} is unknown or overflows"))?;
            if end.checked_sub(begin) != Some(bytes) {
                return Err(format!(
                    "array {name:?} is to have {bytes} bytes, its offsets are {begin} and {end}"
                ));
            }
            begins = begins.wrapping_add(hash(begin));
            ends = ends.wrapping_add(hash(end));
            last = end.max(last);
            if begin != position && first.is_none() {
                first = Some((begin > position, name.clone().into_owned()));
            }
            position = end;
            self.found(&name, &entry)
        };
        json::read_header(json, None, &mut array).map_err(reason)?;
        if begins.wrapping_add(hash(last)) != ends.wrapping_add(hash(0)) {
            let (hole, name) = first.unwrap_or_default();
            let what = if hole { "a hole" } else { "an overlap" };
            return Err(format!("there is {what} before array {name:?}"));
        }
        self.nothing_missing(decoded)?;
        self.data
            .checked_add(last)
            .ok_or_else(|| "the size of its data overflows".to_owned())
    }

    fn found(&mut self, name: &str, entry: &Entry<'_>) -> Outcome<()> {
        let Some((place, dtype, shape)) = self.place(name) else {
            if header::is_padding(name, &entry.dtype) {
                return Ok(());
            }
            return Err(format!("array {name:?} belongs to no tensor"));
        };
        if entry.dtype != dtype {
            return Err(format!(
                "array {name:?} has type {}, not {dtype}",
                entry.dtype
            ));
        }
        if entry.shape[..] != *shape {
            return Err(format!(
                "array {name:?} has shape {:?}, its tensor {shape:?}",
                &entry.shape[..]
            ));
        }
        let [begin, end] = entry.data_offsets;
        let offset = self.data.checked_add(begin);
        let offset = offset.ok_or_else(|| "the size of its data overflows".to_owned())?;
        let alignment = self.alignment.max(element(dtype).unwrap_or(1));
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "array {name:?} does not start at a multiple of {alignment} bytes"
            ));
        }
        let range = FileRange {
            offset,
            bytes: end - begin,
        };
        let slot = match place {
            Place::Record(index) => &mut self.record[index],
            Place::Plane(copy, tensor, plane) => {
                let planes = match copy {
                    0 => &mut self.first,
                    _ => &mut self.second,
                };
                &mut planes[tensor][plane].file_range
            }
        };
        if *slot != MISSING {
            return Err(format!("its header is malformed: duplicate key {name:?}"));
        }
        *slot = range;
        Ok(())
    }

    /// Where an array of this name belongs, and the type and shape that it must
    /// have.
    fn place<'a>(&'a self, name: &str) -> Option<(Place, &'a str, &'a [usize])> {
        if let Some((tensor, plane)) = name.rsplit_once('/') {
            let named = self
                .by_name
                .binary_search_by_key(&tensor, |&(name, _)| name);
            if let Ok(at) = named {
                let tensor = self.by_name[at].1 as usize;
                let (copy, plane) = match plane.strip_suffix(SECOND) {
                    Some(plane) if !self.second.is_empty() => (1, plane),
                    _ => (0, plane),
                };
                let planes = &self.first[tensor];
                let index = planes.iter().position(|array| *array.name == *plane)?;
                let own = planes[index].dims.as_deref();
                let dims = own.unwrap_or(&self.tensors[tensor].spec.dims);
                let dtype = planes[index].dtype.name();
                return Some((Place::Plane(copy, tensor, index), dtype, dims));
            }
        }
        let index = self.shapes.iter().position(|shape| shape.name == name)?;
        let shape = &self.shapes[index];
        Some((Place::Record(index), shape.dtype, &shape.dims))
    }

    fn nothing_missing(&self, decoded: &Decoded<'_>) -> Outcome<()> {
        let missing = |name: &str| Err(format!("array {name:?} is missing"));
        for (copy, suffix) in [(&self.first, ""), (&self.second, SECOND)] {
            for (tensor, arrays) in self.tensors.iter().zip(copy) {
                if arrays.is_empty() {
                    return missing(&array_name(tensor, "momentum"));
                }
                if let Some(array) = arrays.iter().find(|a| a.file_range == MISSING) {
                    return missing(&(array_name(tensor, &array.name) + suffix));
                }
            }
        }
        if let Some(index) = self.record.iter().position(|range| *range == MISSING) {
            return missing(self.shapes[index].name);
        }
        if decoded.live && decoded.header.parameters {
            return Err("a live file has no parameters".to_owned());
        }
        Ok(())
    }

    /// Takes the checksums of a checkpoint from its header.
    fn add_checksums(&mut self, decoded: &Decoded<'_>) -> Outcome<()> {
        let mut entry = |name: String, text: String| {
            let crc = header::parse_hex(&text);
            let crc = crc.ok_or_else(|| format!("the checksum of {name:?} is {text:?}"))?;
            match self.place(&name) {
                Some((Place::Plane(0, tensor, plane), ..)) if !decoded.live => {
                    let slot = &mut self.first[tensor][plane].crc;
                    if slot.replace(crc).is_some() {
                        return Err(format!("sonew.checksums has a duplicate key {name:?}"));
                    }
                    Ok(())
                }
                _ => Err(format!("{name:?} has a checksum but is no array")),
            }
        };
        json::read_object(decoded.checksums, &mut entry).map_err(|stop| match stop {
            Stop::Malformed(error) => format!("sonew.checksums is malformed: {error}"),
            Stop::Refused(reason) => reason,
        })?;
        for (tensor, arrays) in self.tensors.iter().zip(&self.first) {
            if let Some(array) = arrays.iter().find(|a| a.crc.is_none() && !decoded.live) {
                let name = array_name(tensor, &array.name);
                return Err(format!("array {name:?} has no checksum"));
            }
        }
        Ok(())
    }
}

/// Where an array belongs.
enum Place {
    Record(usize),
    /// Copy, tensor, plane.
    Plane(usize, usize, usize),
}

/// The names of planes, which tensors share.
#[derive(Default)]
struct Names(Vec<Arc<str>>);

impl Names {
    fn shared(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| ***known == *name) {
            return known.clone();
        }
        self.0.push(name.into());
        self.0[self.0.len() - 1].clone()
    }
}

fn reason(stop: Stop) -> String {
    match stop {
        Stop::Malformed(error) => format!("its header is malformed: {error}"),
        Stop::Refused(reason) => reason,
    }
}

fn byte_count(entry: &Entry<'_>) -> Option<u64> {
    let size = element(&entry.dtype)?;
    let dims = entry.shape.iter();
    dims.map(|&d| d as u64).try_fold(size, u64::checked_mul)
}

/// The size of an element.
fn element(dtype: &str) -> Option<u64> {
    match dtype {
        "U8" => Some(1),
        "U64" => Some(WORD as u64),
        name => {
            let known = Dtype::ALL.into_iter().find(|d| d.name() == name);
            known.map(|dtype| dtype.size() as u64)
        }
    }
}
