//! Opens a checkpoint, and finds out which state of a live file counts. Nothing in the
//! file is trusted before it has been checked.

use std::path::Path;
use std::sync::Arc;

use super::files::{map_private, Access, Boot, SourceFile};
use super::header::{not_in_a_file, LENGTH_BYTES, MAX_LENGTH};
use super::live::{Copies, Found, Live};
use super::locate::{check, in_tensors, Arrays, Checked, FileRange};
use super::mapping::Part;
use super::record::{self, Synced, CURRENT, IN_USE, OTHER, SETTINGS, SETTINGS_WORDS, SYNCED};
use super::write::create_live;
use super::{Array, Header, Master, LIVE_FORMAT};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::{ask, zeroed_list};

/// An open checkpoint or live file. Its header has been checked and agrees with
/// the length of the file; an array is checked when it is read. While a live
/// file is open here, it does not change, because its lock prevents optimizers
/// from working on it.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    pub(super) header: Header,
    format: u64,
    /// The arrays, those of the current copy first.
    pub(super) arrays: Arrays,
    /// Which copy is current.
    copy: usize,
    /// How a live file was found.
    found: Option<Found>,
    /// The older of its two copies is wanted.
    older: bool,
    pub(super) file: SourceFile<'a>,
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

impl<'f> Checkpoint<'f> {
    /// Opens a file for reading, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotACheckpoint`], [`Error::FileLength`],
    /// [`Error::FormatVersion`], [`Error::Checksum`] of the header; for a live
    /// file also [`Error::FileLocked`] and [`Error::Torn`].
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint<'static>> {
        Self::open_as(path.as_ref(), Access::Read, false)
    }

    /// Opens a live file to work on it, and checks it.
    #[cfg(test)]
    pub(crate) fn open_live(path: &Path) -> Result<Checkpoint<'static>> {
        Self::open_as(path, Access::Live, false)
    }

    /// Opens a file to read it, or a live file to work on it; with `older`, a live file at
    /// the step before its last.
    pub(crate) fn open_as(path: &Path, access: Access, older: bool) -> Result<Checkpoint<'static>> {
        Checkpoint::of(SourceFile::open(path, access)?, access, older)
    }

    /// Reads a file that is in memory, as [`open`](Checkpoint::open) does one on disk. A
    /// live file counts as a copy.
    ///
    /// # Errors
    /// Those of [`open`](Checkpoint::open) that do not concern the system.
    pub fn from_bytes(bytes: &'f [u8]) -> Result<Checkpoint<'f>> {
        Checkpoint::in_memory(bytes, false)
    }

    pub(crate) fn in_memory(bytes: &'f [u8], older: bool) -> Result<Checkpoint<'f>> {
        Checkpoint::of(SourceFile::in_memory(bytes), Access::Read, older)
    }

    fn of(file: SourceFile<'f>, access: Access, older: bool) -> Result<Checkpoint<'f>> {
        let path = file.path();
        let Checked {
            header,
            format,
            arrays,
            end,
        } = check(path, &read_header(&file)?)?;
        if end != file.length() {
            return Err(wrong_length(&file, end));
        }
        let live = arrays.live.is_some();
        if live {
            file.lock(access)?;
        } else if older || access == Access::Live {
            return Err(Error::NotALiveFile {
                path: path.to_owned(),
            });
        }
        let mut checkpoint = Checkpoint {
            header,
            format,
            arrays,
            copy: 0,
            found: None,
            older,
            file,
        };
        if live {
            let found = match format {
                LIVE_FORMAT if older => return Err(checkpoint.no_older_copy()),
                LIVE_FORMAT => checkpoint.settle_3()?,
                _ => checkpoint.settle()?,
            };
            checkpoint.found = Some(found);
        }
        Ok(checkpoint)
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Everything in the file except its arrays.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The version of its format.
    pub fn format(&self) -> u64 {
        self.format
    }

    /// Whether it is a live file.
    pub fn is_live(&self) -> bool {
        self.arrays.live.is_some()
    }

    /// Whether it is a live file that was not synced after its last step: the
    /// process that worked on it died.
    pub fn is_unsynced(&self) -> bool {
        matches!(self.found, Some(Found::InUse(_)))
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
                plane: &array.name,
                dtype: array.dtype,
                offset: array.file_range.offset,
                bytes: array.file_range.bytes,
                crc32: array.crc,
            })
        })
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
        arrays.try_for_each(|array| self.check(array.tensor, array.plane, &mut |_| ()))
    }

    pub(super) fn damaged(&self, part: String) -> Error {
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

    /// Maps a live file to work on it. Returns its planes, too. A file that has no room
    /// for all numbers of tensors, as that of format 3, is replaced by one that has.
    pub(crate) fn into_live(self) -> Result<(Live, Copies)> {
        let live = self.arrays.live.as_ref();
        if live.is_some_and(|live| live.settings_words != SETTINGS_WORDS) {
            return self.renew();
        }
        let not_live = Error::NotALiveFile {
            path: self.file.path().to_owned(),
        };
        let found = self.found.ok_or(not_live)?;
        let length = self.file.length();
        let (file, path) = self.file.into_parts()?;
        let at = (self.header.step, self.copy);
        let (mut live, copies) = Live::new(file, &path, length, &self.arrays, at, &found)?;
        if self.older {
            live.go_back()?;
        }
        Ok((live, copies))
    }

    fn renew(self) -> Result<(Live, Copies)> {
        // Nobody may work on it until it is replaced; but readers, of whom the save
        // is one, may read it.
        self.file.lock(Access::Read)?;
        let path = self.file.path().to_owned();
        let mut header = self.header.clone();
        let planes = self
            .header
            .tensors
            .iter()
            .map(|tensor| header.arrays(tensor));
        let planes: Vec<_> = planes.collect();
        let parts = self.map_private()?;
        let mut arrays = Vec::new();
        for (tensor, (planes, parts)) in planes.iter().zip(&parts).enumerate() {
            arrays.extend(planes.iter().zip(parts).map(|(plane, bytes)| Array {
                tensor,
                plane: &plane.name,
                dtype: plane.dtype,
                bytes,
            }));
        }
        let settings = header.tensors.iter().map(|tensor| super::Settings {
            lr_scale: tensor.lr_scale,
            weight_decay: tensor.weight_decay,
            master: match (tensor.master_set, tensor.master_reset) {
                (true, _) => Master::Set,
                (_, true) => Master::Reset,
                _ => Master::Empty,
            },
            step_count: tensor.step_count,
            scalars: tensor.scalars,
        });
        let settings: Vec<_> = settings.collect();
        // Only the settings say that they were discarded.
        for tensor in &mut header.tensors {
            tensor.master_reset = false;
        }
        create_live(&path, &header, &arrays, settings.into_iter())
    }

    /// Reads the record of a live file: the current step and copy, the settings
    /// of tensors, and the checksums. Chooses the state that can be trusted.
    fn settle(&mut self) -> Result<Found> {
        let words = self.read_record()?;
        let settings = words[SETTINGS].len();
        let read = |place: usize| Synced::read(&words[SYNCED + place], settings, place);
        let mut synced: Vec<Synced> = (0..2).filter_map(read).collect();
        synced.sort_by_key(|synced| std::cmp::Reverse(synced.number));
        let commit = &words[0];
        let broken = || self.damaged(format!("\"{}\"", record::COMMIT));
        let (now, then) = (self.file.identity()?, record::identity(commit));
        let current = record::unpack(commit[CURRENT]);
        if commit[IN_USE] == 0 {
            let last = synced.into_iter().next().ok_or_else(broken)?;
            if current != Some(last.at) {
                return Err(broken());
            }
            if self.older {
                let is_own = now.file == then.file;
                self.go_back(&words, last.at, is_own)?;
                return Ok(Found::Synced(last.number));
            }
            self.take(&last)?;
            // A copy may have been made while the file was changing.
            if now.file != then.file {
                self.verify_arrays()?;
            }
            return Ok(Found::Synced(last.number));
        }
        if now == then && record::boot(commit).is(Boot::now()) {
            let (step, copy) = current.ok_or_else(broken)?;
            if self.older {
                self.go_back(&words, (step, copy), true)?;
                return Ok(Found::InUse(commit[IN_USE]));
            }
            self.settle_at(step, copy, &words[SETTINGS + copy])?;
            return Ok(Found::InUse(commit[IN_USE]));
        }
        if self.older {
            return Err(self.no_older_copy());
        }
        // A sync before the last one that has returned is no substitute for it.
        let last = |synced: &Synced| synced.number >= commit[IN_USE];
        for synced in synced.into_iter().filter(last) {
            self.take(&synced)?;
            match self.verify_arrays() {
                Ok(()) => return Ok(Found::Restored(synced)),
                Err(Error::Checksum { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.torn())
    }

    /// Takes the older copy, if it is whole. `is_own`: the file is no copy of another one, of
    /// which nothing but the current copy would be verified.
    fn go_back(&mut self, words: &[Vec<u64>], current: (u64, usize), is_own: bool) -> Result<()> {
        let older = record::unpack(words[0][OTHER]);
        let is_there = |older: &(u64, usize)| is_own && older.1 != current.1;
        let (step, copy) = older.filter(is_there).ok_or_else(|| self.no_older_copy())?;
        self.settle_at(step, copy, &words[SETTINGS + copy])
    }

    fn no_older_copy(&self) -> Error {
        Error::NoOlderCopy {
            path: self.file.path().to_owned(),
        }
    }

    /// Does what [`settle`](Self::settle) does, for a live file of format 3. State that is not
    /// as it was synced is not trusted.
    fn settle_3(&mut self) -> Result<Found> {
        let words = self.read_record()?;
        let synced = Synced::read_3(&words)?;
        let closed = words[0][1] == 0;
        let Some(synced) = synced else {
            return Err(match closed {
                true => self.damaged(format!("\"{}\"", record::COMMIT)),
                false => self.torn(),
            });
        };
        self.take(&synced)?;
        if !closed {
            self.verify_arrays().map_err(|error| match error {
                Error::Checksum { .. } => self.torn(),
                error => error,
            })?;
        }
        Ok(Found::Synced(synced.number))
    }

    fn read_record(&self) -> Result<Vec<Vec<u64>>> {
        let live = self.arrays.live.as_ref();
        let record = live.map_or(&[][..], |live| &live.record);
        let read = |range: &FileRange| {
            // The record is within the file, so it is not longer than that.
            let what = || "the record of a live file".to_owned();
            let mut bytes = zeroed_list(range.bytes as usize, what)?;
            self.file.read_at(range.offset, &mut bytes)?;
            Ok(record::words(&bytes))
        };
        record.iter().map(read).collect()
    }

    /// Takes the state of a sync for the file's.
    fn take(&mut self, synced: &Synced) -> Result<()> {
        let (step, copy) = synced.at;
        self.settle_at(step, copy, synced.settings())?;
        let planes = self.arrays.first.iter_mut().flatten();
        for (array, &crc) in planes.zip(synced.checksums()) {
            array.crc = Some(crc as u32);
        }
        Ok(())
    }

    fn settle_at(&mut self, step: u64, copy: usize, settings: &[u64]) -> Result<()> {
        if let Some(live) = self.arrays.live.as_mut().filter(|_| copy != self.copy) {
            std::mem::swap(&mut self.arrays.first, &mut live.second);
        }
        self.copy = copy;
        self.header.step = step;
        let planes = self.arrays.first.iter_mut().flatten();
        planes.for_each(|array| array.crc = None);
        self.settle_tensors(settings)
    }

    /// Takes the current settings of the tensors from the record.
    fn settle_tensors(&mut self, words: &[u64]) -> Result<()> {
        let refuse = |reason| Error::NotACheckpoint {
            path: self.file.path().to_owned(),
            reason,
        };
        let (format, step) = (self.format, self.header.step);
        let of_one = words.len() / self.header.tensors.len();
        let tensors = self.header.tensors.iter_mut();
        for (saved, words) in tensors.zip(words.chunks(of_one)) {
            let name = &saved.spec.name;
            let settings = record::settings(words, step)
                .ok_or_else(|| refuse(format!("the settings of {name:?} are unknown")))?;
            if settings.master != Master::Empty && !saved.spec.master {
                let reason = format!("{name:?} has no master weights, but its settings say so");
                return Err(refuse(reason));
            }
            saved.lr_scale = settings.lr_scale;
            saved.weight_decay = settings.weight_decay;
            saved.step_count = settings.step_count;
            saved.scalars = settings.scalars;
            saved.master_set = settings.master == Master::Set;
            // In format 3 the same number says that they are incomplete.
            saved.master_reset = settings.master == Master::Reset && format != LIVE_FORMAT;
        }
        let path = self.file.path();
        self.header.validate().map_err(|e| not_in_a_file(path, e))
    }

    fn torn(&self) -> Error {
        Error::Torn {
            path: self.file.path().to_owned(),
        }
    }
}

/// Reads everything before the data. The length of the header is used only after
/// checking that the file is that long.
fn read_header(file: &SourceFile) -> Result<Vec<u8>> {
    let refuse = |file: &SourceFile, reason: String| {
        Err(Error::NotACheckpoint {
            path: file.path().to_owned(),
            reason,
        })
    };
    let mut start = [0; LENGTH_BYTES];
    if file.length() < LENGTH_BYTES as u64 {
        return refuse(file, format!("it has only {} bytes", file.length()));
    }
    file.read_at(0, &mut start)?;
    let length = u64::from_le_bytes(start);
    if !(1..=MAX_LENGTH).contains(&length) {
        return refuse(
            file,
            format!("its header would have {length} bytes; it is no safetensors file"),
        );
    }
    let end = LENGTH_BYTES as u64 + length;
    if end > file.length() {
        return Err(wrong_length(file, end));
    }

    let what = || format!("the header of \"{}\"", file.path().display());
    let mut bytes = zeroed_list(end as usize, what)?;
    file.read_at(0, &mut bytes)?;
    // What is kept of an entry takes less memory than its text.
    ask(bytes.len(), what)?;
    Ok(bytes)
}

fn wrong_length(file: &SourceFile, expected: u64) -> Error {
    Error::FileLength {
        path: file.path().to_owned(),
        length: file.length(),
        expected,
    }
}
