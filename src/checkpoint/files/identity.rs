//! What tells a live file from a copy of it, and one boot of the machine from
//! another.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};

/// What tells a file from every copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Identity {
    /// Of its number and the time when it was created, which a file keeps as long
    /// as it exists. Where the file system knows no such time, of the device instead.
    pub(in super::super) file: u64,
    /// The device, which may have another number after the file system was mounted
    /// again. A copy of the whole device is on another one.
    pub(in super::super) device: u64,
}

impl Identity {
    /// That of no file.
    pub(in super::super) const NONE: Identity = Identity { file: 0, device: 0 };

    pub(in super::super) fn of(file: &File) -> io::Result<Identity> {
        #[cfg(test)]
        if super::test_double::booted().is_some() {
            return Ok(Identity { file: 1, device: 1 });
        }
        let metadata = file.metadata()?;
        #[cfg(unix)]
        let (number, device) = {
            use std::os::unix::fs::MetadataExt;
            (metadata.ino(), metadata.dev())
        };
        #[cfg(not(unix))]
        let (number, device) = (0, 0);
        // The hash is that of one version of the standard library: with another one
        // the file is only taken for a copy.
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        match metadata.created() {
            Ok(time) => time.hash(&mut hasher),
            Err(_) => device.hash(&mut hasher),
        }
        Ok(Identity {
            file: hasher.finish(),
            device,
        })
    }
}

/// What tells a boot of the machine from another one. Stores to a mapping survive
/// the death of the process, but not a crash of the machine: a file that was in use
/// in an earlier boot may be incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Boot {
    /// A hash of Linux's boot id, or 0 where it cannot be read. Containers may have
    /// one of their own, and a new one at each start.
    pub(in super::super) id: u64,
    /// When the machine was booted, in nanoseconds since 1970, by its clock. It is
    /// the difference between two clocks, which changes only if somebody sets the
    /// clock.
    pub(in super::super) time: u64,
}

/// The two clocks are read within less than this many nanoseconds.
const PRECISION: u64 = 100_000;

impl Boot {
    pub(in super::super) fn now() -> Boot {
        #[cfg(test)]
        if let Some(number) = super::test_double::booted() {
            return Boot {
                id: number,
                time: number << 32,
            };
        }
        Boot {
            id: boot_id().unwrap_or(0),
            time: boot_time(),
        }
    }

    /// Whether both are the same boot. Two boots of a machine have different ids,
    /// and are seconds apart.
    pub(in super::super) fn is(self, other: Boot) -> bool {
        self.id != 0 && self.id == other.id
            || self.time != 0 && self.time.abs_diff(other.time) <= 2 * PRECISION
    }
}

fn boot_id() -> Option<u64> {
    let mut text = [0; 64];
    let mut file = File::open("/proc/sys/kernel/random/boot_id").ok()?;
    let length = file.read(&mut text).ok()?;
    let mut hasher = DefaultHasher::new();
    text[..length].hash(&mut hasher);
    Some(hasher.finish().max(1))
}

#[cfg(target_os = "linux")]
fn boot_time() -> u64 {
    use rustix::time::{clock_gettime, ClockId};
    let read = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as i128 * 1_000_000_000 + time.tv_nsec as i128
    };
    let mut best = None;
    // Between two readings the thread may have to wait for the processor.
    for _ in 0..1000 {
        let before = read(ClockId::Boottime);
        let now = read(ClockId::Realtime);
        let width = read(ClockId::Boottime) - before;
        if best.is_none_or(|(least, _)| width < least) {
            best = Some((width, now - before - width / 2));
        }
        if width < PRECISION as i128 / 10 {
            break;
        }
    }
    best.map_or(0, |(_, time)| time.max(1) as u64)
}

#[cfg(not(target_os = "linux"))]
fn boot_time() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_of_the_machine_is_the_same_at_every_look() {
        let boot = Boot::now();
        for _ in 0..100 {
            let again = Boot::now();
            assert!(again.is(boot));
            // Where the boot id cannot be read, or is another one in each
            // container, the clocks say it alone.
            assert!(Boot { id: 0, ..again }.is(boot));
            assert!(Boot { id: 5, ..again }.is(boot));
        }
        let later = Boot {
            id: boot.id ^ 1,
            time: boot.time + 1_000_000_000,
        };
        assert!(!later.is(boot));
        assert!(!Boot { id: 0, ..later }.is(Boot { id: 0, ..boot }));
    }

    #[test]
    fn a_copy_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let [path, copy, moved] = ["file", "copy", "moved"].map(|name| folder.path().join(name));
        std::fs::write(&path, "x").unwrap();
        let of = |path| Identity::of(&File::open(path).unwrap()).unwrap();
        let first = of(&path);
        std::fs::copy(&path, &copy).unwrap();
        assert_ne!(of(&copy).file, first.file);
        std::fs::rename(&path, &moved).unwrap();
        std::fs::write(&moved, "other contents").unwrap();
        assert_eq!(of(&moved), first);
        // A file that gets the number of a removed one.
        std::fs::remove_file(&moved).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert_ne!(of(&path).file, first.file);
    }
}
