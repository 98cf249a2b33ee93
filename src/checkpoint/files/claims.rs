//! Which names this process is saving to. Locks of a process do not keep its own
//! threads apart.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{attempt, directory_of, Effect};
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::process::{PerProcess, Process};

/// The folder (device and number), and a hash of the name.
type Key = (u64, u64, u64);

/// A child has a list of its own: at the moment of the fork another thread of its parent may
/// have been using its parent's.
static CLAIMED: PerProcess<Mutex<Vec<Key>>> = PerProcess::new();

/// The right to save to a name, of which a process has at most one.
#[derive(Debug)]
pub(super) struct Claim {
    of: Process,
    key: Key,
}

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
        let key = (device, number, hasher.finish());
        let mut claimed = claimed();
        if claimed.contains(&key) {
            return Err(Error::FileLocked {
                path: path.to_owned(),
            });
        }
        reserve(&mut claimed, 1, || "the list of saves".to_owned())?;
        claimed.push(key);
        Ok(Claim {
            of: Process::current(),
            key,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What a forked child finds belongs to its parent.
        if self.of.is_current() {
            claimed().retain(|key| *key != self.key);
        }
    }
}

fn claimed() -> MutexGuard<'static, Vec<Key>> {
    let claimed = CLAIMED.get().lock();
    claimed.unwrap_or_else(PoisonError::into_inner)
}
