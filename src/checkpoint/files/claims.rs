//! Which names this process is saving to. Locks of a process do not keep its own
//! threads apart.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::{attempt, directory_of, Effect};
use crate::error::{Error, Result};
use crate::memory::reserve;

/// The list is in use for less than a microsecond at a time, except in a child that
/// was forked in this very moment: there it is in use for ever, and saves are
/// refused.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// The process, the folder (device and number), and a hash of the name.
type Key = (u32, u64, u64, u64);

static CLAIMED: Mutex<Vec<Key>> = Mutex::new(Vec::new());

/// The right to save to a name, of which a process has at most one.
#[derive(Debug)]
pub(super) struct Claim(Key);

impl Claim {
    /// Refused while another thread of this process has it.
    pub(super) fn take(path: &Path) -> Result<Claim> {
        let folder = directory_of(path);
        let folder = attempt("create", path, Effect::None, || fs::metadata(folder))?;
        let mut hasher = DefaultHasher::new();
        path.file_name().hash(&mut hasher);
        #[cfg(unix)]
        let (device, number) = {
            use std::os::unix::fs::MetadataExt;
            (folder.dev(), folder.ino())
        };
        #[cfg(not(unix))]
        let (device, number) = {
            directory_of(path).hash(&mut hasher);
            let _ = folder;
            (0, 0)
        };
        let key = (std::process::id(), device, number, hasher.finish());
        let locked = Error::FileLocked {
            path: path.to_owned(),
        };
        let Some(mut claimed) = claimed() else {
            return Err(locked);
        };
        // What a forked child finds there belongs to its parent.
        claimed.retain(|(process, ..)| *process == key.0);
        if claimed.contains(&key) {
            return Err(locked);
        }
        reserve(&mut claimed, 1, || "the list of saves".to_owned())?;
        claimed.push(key);
        Ok(Claim(key))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(mut claimed) = claimed() {
            claimed.retain(|key| *key != self.0);
        }
    }
}

fn claimed() -> Option<MutexGuard<'static, Vec<Key>>> {
    for _ in 0..TRIES {
        match CLAIMED.try_lock() {
            Ok(claimed) => return Some(claimed),
            Err(TryLockError::Poisoned(claimed)) => return Some(claimed.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
    None
}
