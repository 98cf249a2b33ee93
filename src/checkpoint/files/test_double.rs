//! For tests: makes file operations fail, and records them.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};

use super::Effect;

thread_local! {
    static REMAINING: Cell<Option<usize>> = const { Cell::new(None) };
    static ERROR: Cell<io::ErrorKind> = const { Cell::new(io::ErrorKind::StorageFull) };
    static RECORD: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
    static KILL: RefCell<Option<(PathBuf, Option<Vec<u8>>)>> = const { RefCell::new(None) };
    static DEAD: Cell<bool> = const { Cell::new(false) };
    static BOOT: Cell<Option<u64>> = const { Cell::new(None) };
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
    (remaining == 0).then(|| {
        KILL.with_borrow_mut(|kill| {
            if let Some((path, bytes)) = kill {
                note_stores(path);
                DEAD.set(true);
                *bytes = Some(std::fs::read(path).expect("a live file"));
            }
        });
        io::Error::from(ERROR.get())
    })
}

/// Kills the process that this thread stands for, instead of the operation after
/// the next `operations`: that operation fails, nothing is recorded any more, and
/// what is then in the live file at `path` is kept.
pub(crate) fn kill_after(operations: usize, path: &Path) {
    KILL.set(Some((path.to_owned(), None)));
    fail_after(operations, io::ErrorKind::Other);
}

/// What was in the live file when the process was killed, if it was. Another
/// process begins.
pub(crate) fn killed() -> Option<Vec<u8>> {
    DEAD.set(false);
    KILL.take().and_then(|(_, bytes)| bytes)
}

/// From now on, the machine of this thread's tests is in this boot, and all files
/// are the same file: the simulation writes the disk of a failed machine under
/// another name. `None` is the real machine.
pub(crate) fn boot(number: Option<u64>) {
    BOOT.set(number);
}

/// The boot that [`boot`] has set.
pub(crate) fn booted() -> Option<u64> {
    BOOT.get()
}

/// What an operation did.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Allocate(PathBuf, u64),
    SyncFile(PathBuf),
    /// The whole file as it is in its mapping. What differs from before was stored,
    /// but is perhaps not on disk.
    Stores(PathBuf, Vec<u8>),
    SyncMapping(PathBuf, std::ops::Range<usize>),
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

/// Records what is in a file that is mapped and was perhaps stored to.
pub(crate) fn note_stores(path: &Path) {
    note_event(|| Event::Stores(path.to_owned(), std::fs::read(path).expect("a mapped file")));
}

/// Notes, before a mapping is synced, what has been stored to it.
pub(super) fn before(path: &Path, effect: Effect<'_>) {
    if matches!(effect, Effect::SyncMapping { .. }) {
        note_stores(path);
    }
}

pub(super) fn note(path: &Path, effect: Effect<'_>) {
    let of = |make: fn(PathBuf) -> Event| note_event(|| make(path.to_owned()));
    match effect {
        Effect::None => {}
        Effect::Create => of(Event::Create),
        Effect::Write { offset, bytes } => {
            note_event(|| Event::Write(path.to_owned(), offset, bytes.to_vec()));
        }
        Effect::Allocate { length } => {
            note_event(|| Event::Allocate(path.to_owned(), length));
        }
        Effect::SyncFile => of(Event::SyncFile),
        Effect::SyncMapping { offset, length } => note_event(|| {
            let synced = offset as usize..(offset + length) as usize;
            Event::SyncMapping(path.to_owned(), synced)
        }),
        Effect::SyncDirectory => of(|_| Event::SyncDirectory),
        Effect::Rename { to } => {
            note_event(|| Event::Rename(path.to_owned(), to.to_owned()));
        }
        Effect::Remove => of(Event::Remove),
    }
}

fn note_event(event: impl FnOnce() -> Event) {
    if DEAD.get() {
        return;
    }
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            record.push(event());
        }
    });
}
