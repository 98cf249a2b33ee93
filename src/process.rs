//! Recognizes a forked child.
//!
//! Process ids are not enough: a process may be number 1 of its container, and its
//! child number 1 of another one (a new pid namespace). The kernel, however, can give
//! every child a memory page of zeros in place of its parent's. A process that finds
//! zero there takes a number that none of its ancestors has.

use std::sync::atomic::{AtomicU64, Ordering};

/// A process: its id, and a number that differs from those of its ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    id: u32,
    number: u64,
}

impl Process {
    /// The process that this is called in.
    pub(crate) fn current() -> Self {
        Process {
            id: std::process::id(),
            number: number(),
        }
    }

    pub(crate) fn is_current(self) -> bool {
        self == Process::current()
    }
}

/// The number of this process. Does not wait: a child may be forked at any moment.
fn number() -> u64 {
    /// The last number that this process or an ancestor has taken.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let word = page::word();
    match word.load(Ordering::Relaxed) {
        0 => {
            let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            let taken = word.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
            // If another thread was first, its number is the process's.
            taken.map_or_else(|first| first, |_| next)
        }
        number => number,
    }
}

#[cfg(target_os = "linux")]
mod page {
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    /// The number where there is no such page, with a kernel before 4.14: then only
    /// the ids of processes are compared.
    static WITHOUT: AtomicU64 = AtomicU64::new(u64::MAX);

    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

    /// A word that is zero in every new process.
    pub(super) fn word() -> &'static AtomicU64 {
        let mut word = WORD.load(Ordering::Acquire);
        if word.is_null() {
            let new = map().unwrap_or((&raw const WITHOUT).cast_mut());
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            word = match WORD.compare_exchange(ptr::null_mut(), new, order, failed) {
                Ok(_) => new,
                // Another thread was first. This page stays unused: it is the only
                // one, or nearly, because there is a first time only once.
                Err(first) => first,
            };
        }
        // SAFETY: a static, or a page that is never unmapped.
        unsafe { &*word }
    }

    fn map() -> Option<*mut AtomicU64> {
        const SIZE: usize = size_of::<AtomicU64>();
        // SAFETY: a new mapping, whose only use is this word. It is aligned to a page
        // and zero, which is a valid number.
        unsafe {
            let (access, kind) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            );
            let page = libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0);
            if page == libc::MAP_FAILED {
                return None;
            }
            if libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) != 0 {
                libc::munmap(page, SIZE);
                return None;
            }
            Some(page.cast())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod page {
    use std::sync::atomic::AtomicU64;

    /// Only the ids of processes are compared.
    pub(super) fn word() -> &'static AtomicU64 {
        static WITHOUT: AtomicU64 = AtomicU64::new(u64::MAX);
        &WITHOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_in_all_its_threads() {
        let here = Process::current();
        assert!(here.is_current());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || assert!(here.is_current()));
            }
        });
    }
}
