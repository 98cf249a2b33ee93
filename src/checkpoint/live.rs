//! Live files: state in a shared mapping. `docs/state-files.md` has the protocol,
//! its invariants and a diagram.
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
//! Therefore, before anything else in the file changes, a mark is written to disk:
//! that the file is in use, which file it is, and in which boot of the machine. A process
//! that opens it after another boot, or opens a copy of it, accepts only what was
//! synced, and only if the checksums match. A sync never overwrites what the sync
//! before it has written.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::files::{Boot, LiveFile};
use super::locate::{in_tensors, Arrays, FileRange};
use super::mapping::{Part, Words};
use super::record::{
    self, pack, settings_words, Synced, BOOT, BOOT_TIME, CURRENT, DEVICE, FILE, IN_USE, NUMBER,
    OTHER, SEAL, SETTINGS, SETTINGS_WORDS, SYNCED,
};
use super::Settings;
use crate::error::{Error, Result};
use crate::process::Process;

/// A live file that is open, without its planes.
#[derive(Debug)]
pub(crate) struct Live {
    file: LiveFile,
    length: u64,
    commit: Words,
    /// The bytes of the record in the file.
    head: FileRange,
    settings: [Words; 2],
    synced: [Words; 2],
    /// Which copy is current.
    copy: usize,
    step: u64,
    /// The word that says what the other copy holds, if that is whole.
    other: u64,
    /// The number of the last sync.
    number: AtomicU64,
    /// Whether the file says that it is in use.
    in_use: AtomicBool,
    /// Whether this is on disk, so that other stores may reach the disk.
    marked: AtomicBool,
    /// Whether a sync has failed, so that the system may take pages for written
    /// that are not.
    doubtful: AtomicBool,
    /// The process that may write the file.
    process: Process,
}

/// The planes of every tensor, in order: those of the current copy, and those of
/// the other.
pub(crate) type Copies = [Vec<Vec<Part>>; 2];

/// How a live file was found.
#[derive(Debug)]
pub(super) enum Found {
    /// As the sync of this number has left it.
    Synced(u64),
    /// In use by a process that has died: what is current counts. Since the sync of
    /// this number.
    InUse(u64),
    /// In use when the machine went down, or a copy of a file in use: the synced
    /// state counts, which is whole.
    Restored(Synced),
}

impl Live {
    /// Maps a live file. `arrays` has the current copy first. Returns the planes,
    /// too.
    pub(super) fn new(
        file: File,
        path: &Path,
        length: u64,
        arrays: &Arrays,
        (step, copy): (u64, usize),
        found: &Found,
    ) -> Result<(Live, Copies)> {
        let internal = |message: &str| Error::Internal {
            message: format!("{message}: {}", path.display()),
        };
        let live = arrays.live.as_ref().ok_or_else(|| internal("not live"))?;
        let (second, record) = (&live.second, &live.record);
        let planes = || arrays.first.iter().chain(second).flatten();
        let all = record
            .iter()
            .copied()
            .chain(planes().map(|array| array.file_range));
        let ranges: Vec<_> = all.map(FileRange::in_memory).collect();
        let file = LiveFile::map(file, path, length)?;
        let parts = file.mapping().cut(&ranges);
        let mut parts = parts.ok_or_else(|| internal("arrays overlap"))?.into_iter();
        let [commit, settings, settings_b, synced, synced_b] =
            std::array::from_fn(|_| Words::new(parts.next().expect("one for each range")));
        let copies = [&arrays.first, second].map(|arrays| in_tensors(arrays, &mut parts));

        let begin = record.iter().map(|range| range.offset).min();
        let end = record.iter().map(|range| range.offset + range.bytes).max();
        let (begin, end) = (begin.expect("five"), end.expect("five"));
        let (number, in_use) = match found {
            Found::Synced(number) => (*number, false),
            Found::InUse(number) => (*number, true),
            Found::Restored(synced) => (synced.number, true),
        };
        let mut live = Live {
            file,
            length,
            head: FileRange {
                offset: begin,
                bytes: end - begin,
            },
            settings: [settings, settings_b],
            synced: [synced, synced_b],
            copy,
            step,
            other: commit.load(OTHER),
            commit,
            number: number.into(),
            in_use: in_use.into(),
            marked: false.into(),
            doubtful: false.into(),
            process: Process::current(),
        };
        if let Found::Restored(synced) = found {
            live.restore(synced)?;
        }
        Ok((live, copies))
    }

    /// Makes the synced state the current one. If this is interrupted, the file is
    /// found as before, until the last stores make it this boot's and its own.
    fn restore(&mut self, synced: &Synced) -> Result<()> {
        // A later sync was not completed: its record must not be taken for whole
        // when the file is closed.
        let later = &self.synced[1 - record::slot(synced.number)];
        if later.load(NUMBER) > synced.number {
            later.store(SEAL, !later.load(SEAL));
            later.store(NUMBER, 0);
        }
        let settings = synced.settings().iter().enumerate();
        settings.for_each(|(index, &word)| self.settings[self.copy].store(index, word));
        self.commit.store(CURRENT, pack(self.step, self.copy));
        self.set_other(0);
        self.mark()
    }

    /// Makes the copy that it was opened with, the older one, the current one.
    pub(super) fn go_back(&mut self) -> Result<()> {
        self.mark()?;
        self.commit.store(CURRENT, pack(self.step, self.copy));
        // What the other copy holds is later.
        self.set_other(0);
        Ok(())
    }

    fn set_other(&mut self, other: u64) {
        self.other = other;
        self.commit.store(OTHER, other);
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
    /// that the file is in use.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.check_process()?;
        self.mark()
    }

    /// The same before a step, which writes the other copy.
    pub(crate) fn begin_step(&mut self) -> Result<()> {
        self.begin()?;
        self.commit.store(OTHER, 0);
        Ok(())
    }

    /// The step was refused or aborted. If it has written nothing, the other copy is as it
    /// was. A forked child has not begun one, and its parent may be in the middle of one.
    pub(crate) fn end_step(&mut self, has_written: bool) {
        if self.process.is_current() {
            self.set_other(if has_written { 0 } else { self.other });
        }
    }

    fn mark(&self) -> Result<()> {
        if self.marked.load(Relaxed) {
            return Ok(());
        }
        let (identity, boot) = (self.file.identity(), Boot::now());
        self.commit.store(IN_USE, self.number.load(Relaxed));
        self.commit.store(FILE, identity.file);
        self.commit.store(DEVICE, identity.device);
        self.commit.store(BOOT, boot.id);
        self.commit.store(BOOT_TIME, boot.time);
        // Even if another process has stored the same words: it may have died before
        // they were on disk.
        if let Err(error) = self.sync_head() {
            if !self.in_use.load(Relaxed) {
                self.commit.store(IN_USE, 0);
            }
            return Err(error);
        }
        self.in_use.store(true, Relaxed);
        self.marked.store(true, Relaxed);
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
        let before = pack(self.step, self.copy);
        self.commit.store(CURRENT, pack(step, other));
        self.set_other(before);
        (self.step, self.copy) = (step, other);
    }

    /// Refuses a step that the record cannot hold.
    pub(crate) fn check_step(step: u64) -> Result<()> {
        check_count(step, || "the step count of a live file".to_owned())
    }

    /// Refuses a tensor's step count that the record cannot hold.
    pub(crate) fn check_tensor_step(tensor: &str, step: u64) -> Result<()> {
        check_count(step, || {
            format!("the step count of tensor \"{tensor}\" in a live file")
        })
    }

    /// Writes the current copy and its checksums to disk. `planes` are those of
    /// all tensors, in the file's order.
    pub(crate) fn sync<'a>(&self, planes: impl Iterator<Item = &'a [u8]> + Clone) -> Result<()> {
        self.check_process()?;
        self.file.check_name()?;
        if !self.in_use.load(Relaxed) {
            return Ok(());
        }
        self.mark()?;
        let synced = self.write_state(planes);
        if synced.is_err() {
            self.doubtful.store(true, Relaxed);
            self.marked.store(false, Relaxed);
        }
        synced
    }

    fn write_state<'a>(&self, planes: impl Iterator<Item = &'a [u8]> + Clone) -> Result<()> {
        if self.doubtful.load(Relaxed) {
            planes
                .clone()
                .try_for_each(|plane| self.file.write_again(plane))?;
        }
        let number = self.number.load(Relaxed) + 1;
        let at = pack(self.step, self.copy);
        let settings = &self.settings[self.copy];
        let settings = (0..settings.len()).map(|index| settings.load(index));
        let checksums = planes.map(|plane| crc32fast::hash(plane).into());
        let words = record::synced(number, at, settings, checksums)?;
        // The record of the last sync is the other one.
        let record = &self.synced[record::slot(number)];
        let words = words.into_iter().enumerate();
        words.for_each(|(index, word)| record.store(index, word));
        self.commit.store(CURRENT, at);
        self.file.sync(0, self.length)?;
        // Only now is everything on disk.
        self.number.store(number, Relaxed);
        self.commit.store(IN_USE, 0);
        if let Err(error) = self.sync_head() {
            self.commit.store(IN_USE, number);
            return Err(error);
        }
        self.in_use.store(false, Relaxed);
        self.marked.store(false, Relaxed);
        self.doubtful.store(false, Relaxed);
        Ok(())
    }

    fn sync_head(&self) -> Result<()> {
        self.file.sync(self.head.offset, self.head.bytes)
    }
}

fn check_count(count: u64, argument: impl FnOnce() -> String) -> Result<()> {
    if count <= record::LARGEST_STEP {
        return Ok(());
    }
    Err(Error::OutOfRange {
        argument: argument(),
        value: count as f64,
        allowed: "below 2^47",
    })
}

fn put(words: &Words, tensor: usize, settings: Settings) {
    for (i, word) in settings_words(settings).into_iter().enumerate() {
        words.store(tensor * SETTINGS_WORDS + i, word);
    }
}

// The order in which the arrays of the record are mapped.
const _: () = assert!(SETTINGS == 1 && SYNCED == SETTINGS + 2);
