//! Opens a checkpoint and reads its arrays. Nothing in the file is trusted
//! before it has been checked.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{map_private, Access, SourceFile};
use super::header::{self, LENGTH_BYTES, MAX_LENGTH, PREFIX};
use super::live::{Copies, Live};
use super::locate::{check, in_tensors, Arrays, Checked, FileRange, StoredArray};
use super::mapping::Part;
use super::record::{self, CURRENT, SEAL, SYNCED, WRITTEN};
use super::{array_name, Header, Master};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::{ask, zeroed_list};
use crate::signals::Blocked;

/// Arrays are read, and their checksums computed, in chunks of this size, which
/// fits into the processor's cache.
const CHUNK: usize = 1 << 18;

/// Size of the pieces that arrays are cut into for several threads.
const PIECE: usize = 16 << 20;

/// An open checkpoint or live file. Its header has been checked and agrees with
/// the length of the file; an array is checked when it is read. While a live
/// file is open here, it does not change, because its lock prevents optimizers
/// from working on it.
#[derive(Debug)]
pub struct Checkpoint {
    header: Header,
    /// The arrays, those of the current copy first.
    arrays: Arrays,
    /// Which copy is current.
    copy: usize,
    /// Whether it is a live file that has been written since its last sync, so
    /// that its planes have no checksums.
    unsynced: bool,
    file: SourceFile,
}

/// An array of a [`Checkpoint`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StoredPlane<'a> {
    /// Position of its tensor in [`Header::tensors`].
    pub tensor: usize,
    /// Name of the state plane, or `parameter`.
    pub plane: &'a str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// The offset of its first byte in the file.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// The checksum of its bytes; `None` in a live file that was not synced
    /// after its last step.
    pub crc32: Option<u32>,
}

/// Checks a whole file: header, sizes, and every checksum.
///
/// # Errors
/// Those of [`Checkpoint::open`]; [`Error::Checksum`] for the first array that
/// is damaged; [`Error::Unsynced`] for a live file that has no checksums of its
/// last steps.
pub fn verify(path: impl AsRef<Path>) -> Result<()> {
    Checkpoint::open(path)?.verify()
}

impl Checkpoint {
    /// Opens a file for reading, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotACheckpoint`], [`Error::FileLength`],
    /// [`Error::FormatVersion`], [`Error::Checksum`] of the header; for a live
    /// file also [`Error::FileLocked`] and [`Error::Torn`].
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Self::open_as(path.as_ref(), Access::Read)
    }

    /// Opens a live file to work on it, and checks it.
    pub(crate) fn open_live(path: &Path) -> Result<Checkpoint> {
        Self::open_as(path, Access::Live)
    }

    fn open_as(path: &Path, access: Access) -> Result<Checkpoint> {
        let file = SourceFile::open(path, access)?;
        let Checked {
            header,
            arrays,
            end,
        } = check(path, &read_header(&file)?)?;
        if end != file.length() {
            return Err(wrong_length(&file, end));
        }
        let live = arrays.live.is_some();
        if live {
            file.lock(access)?;
        } else if access == Access::Live {
            return Err(Error::NotALiveFile {
                path: path.to_owned(),
            });
        }
        let mut checkpoint = Checkpoint {
            header,
            arrays,
            copy: 0,
            unsynced: false,
            file,
        };
        if live {
            checkpoint.settle()?;
        }
        Ok(checkpoint)
    }

    /// Everything in the file except its arrays.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether it is a live file.
    pub fn is_live(&self) -> bool {
        self.arrays.live.is_some()
    }

    /// Whether it is a live file that was not synced after its last step: the
    /// process that worked on it died.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Its length in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file.length()
    }

    /// Its arrays, in order. Those of a live file are of the current copy.
    pub fn arrays(&self) -> impl Iterator<Item = StoredPlane<'_>> {
        let tensors = self.arrays.first.iter().enumerate();
        tensors.flat_map(|(tensor, arrays)| {
            arrays.iter().map(move |array| StoredPlane {
                tensor,
                plane: &array.plane.name,
                dtype: array.plane.dtype,
                offset: array.file_range.offset,
                bytes: array.file_range.bytes,
                crc32: array.crc,
            })
        })
    }

    /// Reads one array and compares its checksum, if it has one.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::Io`], [`Error::UnknownTensor`],
    /// [`Error::PlaneMissing`].
    pub fn check(&self, tensor: usize, plane: &str) -> Result<()> {
        let array = self.find(tensor, plane)?;
        let FileRange { offset, bytes } = array.file_range;
        let length = CHUNK.min(bytes as usize);
        let mut buffer = zeroed_list(length, || "checking a file".to_owned())?;
        let mut hasher = crc32fast::Hasher::new();
        let mut done = 0;
        while done < bytes {
            let piece = (bytes - done).min(CHUNK as u64) as usize;
            self.file.read_at(offset + done, &mut buffer[..piece])?;
            hasher.update(&buffer[..piece]);
            done += piece as u64;
        }
        self.compare(tensor, array, hasher.finalize())
    }

    /// Checks every array.
    ///
    /// # Errors
    /// Those of [`verify`].
    pub fn verify(&self) -> Result<()> {
        if self.is_unsynced() {
            return Err(Error::Unsynced {
                path: self.file.path().to_owned(),
            });
        }
        self.verify_arrays()
    }

    fn verify_arrays(&self) -> Result<()> {
        let mut arrays = self.arrays();
        arrays.try_for_each(|array| self.check(array.tensor, array.plane))
    }

    /// Fills buffers with arrays, on up to `threads` threads. If this fails, the
    /// buffers may have been written.
    pub(crate) fn read(&self, wanted: Vec<Wanted<'_>>, threads: usize) -> Result<()> {
        let mut arrays = Vec::with_capacity(wanted.len());
        let mut pieces = Vec::new();
        for Wanted { tensor, plane, dst } in wanted {
            let array = self.find(tensor, plane)?;
            if dst.len() as u64 != array.file_range.bytes {
                let spec = &self.header.tensors[tensor].spec;
                return Err(Error::WrongLength {
                    tensor: spec.name.clone(),
                    argument: plane.to_owned(),
                    length: dst.len() / array.plane.dtype.size(),
                    expected: spec.len(),
                });
            }
            let mut offset = array.file_range.offset;
            for bytes in dst.chunks_mut(PIECE) {
                let length = bytes.len() as u64;
                pieces.push(Piece::new(arrays.len(), offset, bytes));
                offset += length;
            }
            arrays.push((tensor, array));
        }
        read_pieces(&self.file, &mut pieces, threads)?;

        let mut sums = vec![crc32fast::Hasher::new(); arrays.len()];
        for piece in &pieces {
            sums[piece.array].combine(&piece.sum);
        }
        let mut pairs = arrays.into_iter().zip(sums);
        pairs.try_for_each(|((tensor, array), sum)| self.compare(tensor, array, sum.finalize()))
    }

    fn find(&self, tensor: usize, plane: &str) -> Result<&StoredArray> {
        let count = self.arrays.first.len();
        let arrays = self.arrays.first.get(tensor).ok_or(Error::UnknownTensor {
            index: tensor,
            count,
        })?;
        let found = arrays.iter().find(|array| array.plane.name == plane);
        found.ok_or_else(|| Error::PlaneMissing {
            tensor: self.header.tensors[tensor].spec.name.clone(),
            plane: plane.to_owned(),
            file: "file",
        })
    }

    fn compare(&self, tensor: usize, array: &StoredArray, crc: u32) -> Result<()> {
        if array.crc.is_none_or(|expected| expected == crc) {
            return Ok(());
        }
        let name = array_name(&self.header.tensors[tensor], &array.plane.name);
        Err(self.damaged(format!("\"{name}\"")))
    }

    fn damaged(&self, part: String) -> Error {
        Error::Checksum {
            path: self.file.path().to_owned(),
            part,
        }
    }

    /// Maps the file copy-on-write. Returns for every tensor its planes, in
    /// order, and then its parameter.
    pub(crate) fn map_private(self) -> Result<Vec<Vec<Part>>> {
        let file_ranges = self
            .arrays
            .first
            .iter()
            .flatten()
            .map(|array| array.file_range);
        let ranges: Vec<_> = file_ranges.map(FileRange::in_memory).collect();
        let overlap = Error::Internal {
            message: format!("arrays overlap: {}", self.file.path().display()),
        };
        let mapping = Arc::new(map_private(self.file)?);
        let parts = mapping.cut(&ranges).ok_or(overlap)?;
        Ok(in_tensors(&self.arrays.first, &mut parts.into_iter()))
    }

    /// Maps a live file to work on it. Returns its planes, too.
    pub(crate) fn into_live(self) -> Result<(Live, Copies)> {
        let length = self.file.length();
        let (file, path) = self.file.into_parts();
        let at = (self.header.step, self.copy);
        Live::new(file, &path, length, &self.arrays, at, self.unsynced)
    }

    /// Reads the record of a live file: the current step and copy, the settings
    /// of tensors, and the checksums.
    fn settle(&mut self) -> Result<()> {
        let live = self.arrays.live.as_mut().expect("called for live files");
        let mut words: Vec<Vec<u8>> = Vec::with_capacity(live.record.len());
        for range in live.record {
            // The record is within the file, so it is not longer than that.
            let what = || "the record of a live file".to_owned();
            let mut bytes = zeroed_list(range.bytes as usize, what)?;
            self.file.read_at(range.offset, &mut bytes)?;
            words.push(bytes);
        }
        let found = Found::of(&words).ok_or_else(|| Error::Checksum {
            path: self.file.path().to_owned(),
            part: format!("\"{}\"", record::COMMIT),
        })?;
        let (step, copy) = match found {
            Found::Synced(at) | Found::Unsynced(at) | Found::Suspect(Some(at)) => at,
            Found::Suspect(None) => return Err(self.torn()),
        };
        if copy == 1 {
            std::mem::swap(&mut self.arrays.first, &mut live.second);
        }
        self.copy = copy;
        self.unsynced = matches!(found, Found::Unsynced(_));
        self.header.step = step;
        self.settle_tensors(&words[1 + copy])?;
        if !self.unsynced {
            let planes = self.arrays.first.iter_mut().flatten();
            for (index, array) in planes.enumerate() {
                // The seal, which was checked, covers these checksums.
                array.crc = Some(record::word(&words[3], index) as u32);
            }
        }
        if let Found::Suspect(_) = found {
            self.verify_arrays().map_err(|error| match error {
                Error::Checksum { .. } => self.torn(),
                error => error,
            })?;
        }
        Ok(())
    }

    /// Takes the current settings of the tensors from the record.
    fn settle_tensors(&mut self, words: &[u8]) -> Result<()> {
        let refuse = |reason| Error::NotACheckpoint {
            path: self.file.path().to_owned(),
            reason,
        };
        for (tensor, saved) in self.header.tensors.iter_mut().enumerate() {
            let settings = record::settings(words, tensor).ok_or_else(|| {
                refuse(format!("the settings of {:?} are unknown", saved.spec.name))
            })?;
            saved.lr_scale = settings.lr_scale;
            saved.weight_decay = settings.weight_decay;
            saved.master_set = settings.master == Master::Set;
        }
        self.header
            .validate()
            .map_err(|error| refuse(error.to_string()))
    }

    fn torn(&self) -> Error {
        Error::Torn {
            path: self.file.path().to_owned(),
        }
    }
}

/// An array that is to be read, and its destination.
pub(crate) struct Wanted<'a> {
    pub(crate) tensor: usize,
    /// The state plane, or [`PARAMETER`](super::PARAMETER).
    pub(crate) plane: &'a str,
    /// Has the size of the array.
    pub(crate) dst: &'a mut [u8],
}

/// A part of an array that is read by one thread.
struct Piece<'a> {
    /// The index of the array.
    array: usize,
    offset: u64,
    dst: &'a mut [u8],
    sum: crc32fast::Hasher,
}

impl<'a> Piece<'a> {
    fn new(array: usize, offset: u64, dst: &'a mut [u8]) -> Self {
        Piece {
            array,
            offset,
            dst,
            sum: crc32fast::Hasher::new(),
        }
    }

    fn read(&mut self, file: &SourceFile) -> Result<()> {
        let mut offset = self.offset;
        for chunk in self.dst.chunks_mut(CHUNK) {
            file.read_at(offset, chunk)?;
            self.sum.update(chunk);
            offset += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Reads pieces on threads that end before this returns. If there are few pieces,
/// only the caller's thread reads.
fn read_pieces(file: &SourceFile, pieces: &mut [Piece<'_>], threads: usize) -> Result<()> {
    let large = pieces.iter().filter(|piece| piece.dst.len() == PIECE);
    let threads = threads.min(large.count()).max(1);
    let left = Mutex::new(pieces.iter_mut());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).try_for_each(|piece| piece.read(file));
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let start = |_| {
            // The name distinguishes the library's own panics from the host's.
            // If the system gives no thread, the others do its work.
            let thread = std::thread::Builder::new().name("sonew-load".to_owned());
            let _blocked = Blocked::now();
            thread.spawn_scoped(scope, work).ok()
        };
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mine = work();
        let others = others.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        others.fold(mine, Result::and)
    })
}

/// The current step and copy, according to the record of a live file.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// The file is as it was synced.
    Synced((u64, usize)),
    /// The file was written since its last sync, in the current boot of the
    /// machine.
    Unsynced((u64, usize)),
    /// The file was written since its last sync, in an earlier boot of the
    /// machine, so that pages may be missing. The synced step and copy may still
    /// be intact.
    Suspect(Option<(u64, usize)>),
}

impl Found {
    /// `None` for words that this library cannot have written.
    fn of(words: &[Vec<u8>]) -> Option<Found> {
        let (commit, checksums) = (&words[0], &words[3]);
        let word = |index| record::word(commit, index);
        let synced = record::unpack(word(SYNCED)).filter(|&(_, copy)| {
            let seal = record::seal(word(SYNCED), &words[1 + copy], checksums);
            seal == word(SEAL)
        });
        let run = word(WRITTEN);
        if run == 0 {
            let at = synced.filter(|_| word(CURRENT) == word(SYNCED))?;
            Some(Found::Synced(at))
        } else if run == record::boot_id() {
            record::unpack(word(CURRENT)).map(Found::Unsynced)
        } else {
            Some(Found::Suspect(synced))
        }
    }
}

/// Reads everything before the data. The length of the header is used only after
/// checking that the file is that long, and that it begins as a checkpoint does.
fn read_header(file: &SourceFile) -> Result<Vec<u8>> {
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
    file.read_at(0, &mut start[..there])?;
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

    let what = || format!("the header of \"{}\"", file.path().display());
    let mut bytes = zeroed_list(end as usize, what)?;
    file.read_at(0, &mut bytes)?;
    // A parsed entry takes several times the memory of its text.
    ask(bytes.len().saturating_mul(12), what)?;
    Ok(bytes)
}

fn wrong_length(file: &SourceFile, expected: u64) -> Error {
    Error::FileLength {
        path: file.path().to_owned(),
        length: file.length(),
        expected,
    }
}
