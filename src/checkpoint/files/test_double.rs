//! For tests: makes file operations fail, and records them.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};

use super::Effect;

thread_local! {
    static REMAINING: Cell<Option<usize>> = const { Cell::new(None) };
    static ERROR: Cell<io::ErrorKind> = const { Cell::new(io::ErrorKind::StorageFull) };
    static RECORD: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Makes one operation of this thread fail: the one after the next `operations`.
pub(crate) fn fail_after(operations: usize, error: io::ErrorKind) {
    REMAINING.set(Some(operations));
    ERROR.set(error);
}

/// Cancels a failure that has not happened yet. Returns whether there was one.
pub(crate) fn clear() -> bool {
    REMAINING.take().is_some()
}

pub(super) fn strike() -> Option<io::Error> {
    let remaining = REMAINING.get()?;
    REMAINING.set(remaining.checked_sub(1));
    (remaining == 0).then(|| io::Error::from(ERROR.get()))
}

/// What an operation did.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Allocate(PathBuf, u64),
    SyncFile(PathBuf),
    /// The whole file as it was in the mapping, and the bytes that were synced.
    SyncMapping(PathBuf, Vec<u8>, std::ops::Range<usize>),
    SyncDirectory,
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Records what `body` does to files.
pub(crate) fn record<R>(body: impl FnOnce() -> R) -> (R, Vec<Event>) {
    RECORD.set(Some(Vec::new()));
    let result = body();
    (result, RECORD.take().expect("set above"))
}

pub(super) fn note(path: &Path, effect: Effect<'_>) {
    RECORD.with_borrow_mut(|record| {
        let Some(record) = record else {
            return;
        };
        let path = path.to_owned();
        record.push(match effect {
            Effect::None => return,
            Effect::Create => Event::Create(path),
            Effect::Write { offset, bytes } => Event::Write(path, offset, bytes.to_vec()),
            Effect::Allocate { length } => Event::Allocate(path, length),
            Effect::SyncFile => Event::SyncFile(path),
            Effect::SyncMapping { offset, length } => {
                let all = std::fs::read(&path).expect("a mapped file");
                let synced = offset as usize..(offset + length) as usize;
                Event::SyncMapping(path, all, synced)
            }
            Effect::SyncDirectory => Event::SyncDirectory,
            Effect::Rename { to } => Event::Rename(path, to.to_owned()),
            Effect::Remove => Event::Remove(path),
        });
    });
}
