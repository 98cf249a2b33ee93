//! Live files: state in a shared mapping.
//!
//! The file holds every plane twice. A step reads the current copy and writes
//! the other one; then one atomic store of a word makes the other one current.
//! Whenever the process dies, that word names a copy that was not being written,
//! and which holds the state after a completed step. This requires that the
//! stores reach the mapping in the order in which they are made. They do: all
//! threads have finished the sweep, with fences, before the word is stored, and
//! the contents of a mapping survive the process.
//!
//! That is not enough for the disk. The system writes pages to disk in any
//! order, so that after a power failure the file may mix old and new pages.
//! Therefore, before anything else in the file changes, an identifier of the
//! current boot of the machine is written to disk in it. A process that opens
//! the file after another boot accepts it only if the checksums of the last sync
//! match.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::files::LiveFile;
use super::locate::{in_tensors, Arrays, FileRange, LiveArrays};
use super::mapping::{Part, Words};
use super::record::{self, pack, settings_words, CURRENT, SEAL, SETTINGS_WORDS, SYNCED, WRITTEN};
use super::{Master, Settings, WORD};
use crate::error::{Error, Result};
use crate::process::Process;

/// A live file that is open, without its planes.
#[derive(Debug)]
pub(crate) struct Live {
    file: LiveFile,
    length: u64,
    commit: Words,
    /// The offset of the commit words in the file.
    commit_at: u64,
    settings: [Words; 2],
    checksums: Words,
    /// Which copy is current.
    copy: usize,
    step: u64,
    /// Whether the file has been written since the last sync.
    written: AtomicBool,
    /// The process that may write the file.
    process: Process,
}

/// The planes of every tensor, in order: those of the current copy, and those of
/// the other.
pub(crate) type Copies = [Vec<Vec<Part>>; 2];

impl Live {
    /// Maps a live file whose record says which step and which copy are current.
    /// `arrays` has the current copy first. Returns the planes, too.
    pub(super) fn new(
        file: File,
        path: &Path,
        length: u64,
        arrays: &Arrays,
        (step, copy): (u64, usize),
        written: bool,
    ) -> Result<(Live, Copies)> {
        let internal = |message: &str| Error::Internal {
            message: format!("{message}: {}", path.display()),
        };
        let live = arrays.live.as_ref();
        let LiveArrays { second, record } = live.ok_or_else(|| internal("not live"))?;
        let planes = || arrays.first.iter().chain(second).flatten();
        let all = record
            .iter()
            .copied()
            .chain(planes().map(|array| array.file_range));
        let ranges: Vec<_> = all.map(FileRange::in_memory).collect();
        let file = LiveFile::map(file, path, length)?;
        let parts = file.mapping().cut(&ranges);
        let mut parts = parts.ok_or_else(|| internal("arrays overlap"))?.into_iter();
        let [commit, settings, settings_b, checksums] =
            std::array::from_fn(|_| Words::new(parts.next().expect("one for each range")));
        let copies = [&arrays.first, second].map(|arrays| in_tensors(arrays, &mut parts));

        let live = Live {
            file,
            length,
            commit_at: record[0].offset,
            commit,
            settings: [settings, settings_b],
            checksums,
            copy,
            step,
            written: written.into(),
            process: Process::current(),
        };
        if !written {
            // If the machine has crashed since, this is the synced step.
            live.commit.store(CURRENT, pack(step, copy));
            live.commit.store(WRITTEN, 0);
        }
        Ok((live, copies))
    }

    /// The file's path when it was opened.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Whether a path leads to this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.file.is_at(path)
    }

    /// Refuses a forked child, because parent and child would write the same
    /// bytes.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process.is_current() {
            return Ok(());
        }
        Err(Error::Forked {
            path: self.path().to_owned(),
        })
    }

    /// Must be called before anything in the file is written: writes to disk
    /// that the file is being changed after its last sync.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.check_process()?;
        if !self.written.load(Relaxed) {
            self.commit.store(WRITTEN, record::boot_id());
            self.written.store(true, Relaxed);
            if let Err(error) = self.sync_commit() {
                self.commit.store(WRITTEN, 0);
                self.written.store(false, Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Changes the settings of a tensor in the current copy. The caller has
    /// called [`begin`](Live::begin).
    pub(crate) fn set(&mut self, tensor: usize, settings: Settings) {
        put(&self.settings[self.copy], tensor, settings);
    }

    /// Makes the other copy, which has been written entirely, the current one.
    pub(crate) fn commit(&mut self, step: u64, settings: impl Iterator<Item = Settings>) {
        let other = 1 - self.copy;
        for (tensor, settings) in settings.enumerate() {
            put(&self.settings[other], tensor, settings);
        }
        self.commit.store(CURRENT, pack(step, other));
        (self.step, self.copy) = (step, other);
    }

    /// Whether a process died while it was writing the master weights of a
    /// tensor in place.
    pub(crate) fn is_changing(&self, tensor: usize) -> bool {
        let settings = record::settings(&self.settings[self.copy].bytes(), tensor);
        settings.is_some_and(|settings| settings.master == Master::Changing)
    }

    /// Refuses a step that the record cannot hold.
    pub(crate) fn check_step(step: u64) -> Result<()> {
        if step <= record::LARGEST_STEP {
            return Ok(());
        }
        Err(Error::OutOfRange {
            argument: "the step count of a live file".to_owned(),
            value: step as f64,
            allowed: "below 2^47",
        })
    }

    /// Writes the current copy and its checksums to disk. `planes` are those of
    /// all tensors, in the file's order.
    pub(crate) fn sync<'a>(&self, planes: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        self.check_process()?;
        if !self.written.load(Relaxed) {
            return Ok(());
        }
        for (index, plane) in planes.enumerate() {
            self.checksums.store(index, crc32fast::hash(plane).into());
        }
        let synced = pack(self.step, self.copy);
        let settings = self.settings[self.copy].bytes();
        let seal = record::seal(synced, &settings, &self.checksums.bytes());
        self.commit.store(SYNCED, synced);
        self.commit.store(SEAL, seal);
        self.file.sync(0, self.length)?;
        // Only now is everything on disk.
        self.commit.store(WRITTEN, 0);
        if let Err(error) = self.sync_commit() {
            self.commit.store(WRITTEN, record::boot_id());
            return Err(error);
        }
        self.written.store(false, Relaxed);
        Ok(())
    }

    fn sync_commit(&self) -> Result<()> {
        let length = self.commit.len() * WORD;
        self.file.sync(self.commit_at, length as u64)
    }
}

fn put(words: &Words, tensor: usize, settings: Settings) {
    for (i, word) in settings_words(settings).into_iter().enumerate() {
        words.store(tensor * SETTINGS_WORDS + i, word);
    }
}
