//! Recognizes a forked child.
//!
//! Process ids are not enough: a process may be number 1 of its container, and its
//! child number 1 of another one (a new pid namespace). The kernel, however, can give
//! every child a memory page of zeros in place of its parent's. A process that finds
//! zero there takes a number that none of its ancestors has.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

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

/// A value that every process has for itself. A forked child begins with a new one, and
/// never touches its parent's, whose locks other threads may have held at that moment.
pub(crate) struct PerProcess<T: Default + Send + Sync>(AtomicPtr<Of<T>>);

/// A value, and whose it is.
struct Of<T> {
    process: Process,
    value: T,
}

impl<T: Default + Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of this process, if it has been asked for before. Allocates nothing.
    pub(crate) fn known(&self) -> Option<&T> {
        self.own(self.0.load(Ordering::Acquire))
    }

    /// The value of this process. Does not wait.
    pub(crate) fn get(&self) -> &T {
        let mut last = self.0.load(Ordering::Acquire);
        loop {
            if let Some(value) = self.own(last) {
                return value;
            }
            let new = Box::into_raw(Box::new(Of {
                process: Process::current(),
                value: T::default(),
            }));
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            match self.0.compare_exchange(last, new, order, failed) {
                // What was there before belongs to the parent, and is left as it is.
                Ok(_) => last = new,
                Err(first) => {
                    // SAFETY: no other thread knows it.
                    drop(unsafe { Box::from_raw(new) });
                    last = first;
                }
            }
        }
    }

    /// The value that has been found, if it is this process's.
    fn own(&self, found: *mut Of<T>) -> Option<&T> {
        // SAFETY: null, or a value that is freed only with this one.
        let of = unsafe { found.as_ref() }?;
        of.process.is_current().then_some(&of.value)
    }
}

impl<T: Default + Send + Sync> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.known().is_some() {
            // SAFETY: nothing else knows it any more.
            drop(unsafe { Box::from_raw(*self.0.get_mut()) });
        }
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
    fn all_threads_of_a_process_have_one_value() {
        static VALUE: PerProcess<AtomicU64> = PerProcess::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| VALUE.get().fetch_add(1, Ordering::Relaxed));
            }
        });
        assert_eq!(VALUE.get().load(Ordering::Relaxed), 4);
    }

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
