//! The live handles of one kind.
//!
//! A handle is a number, not an address. So a handle that was freed, invented,
//! or is of another kind is recognized without accessing freed memory. A number
//! is never used again.
//!
//! No operation waits, so that a child that is forked during one cannot hang:
//! one atomic word says which handle a slot holds and who may access its value.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Handles of one kind. Slots are reused, and never freed.
pub(super) struct Registry<T> {
    buckets: [AtomicPtr<Slot<T>>; BUCKETS],
}

/// Number of lists of slots. A handle's number selects the list, so that each is
/// short.
const BUCKETS: usize = 256;

struct Slot<T> {
    /// The handle's number, shifted, and one of the states below.
    word: AtomicUsize,
    value: UnsafeCell<Option<Box<T>>>,
    next: *mut Slot<T>,
}

/// The slot holds no value.
const FREE: usize = 0;
/// One thread has exclusive access to the value.
const IN_USE: usize = 1;
/// A panic may have left the value inconsistent: it can only be freed.
const BROKEN: usize = 2;
/// The slot holds a value that no thread is using. Greater states: so many threads are
/// copying it.
const LIVE: usize = 3;
/// The largest state.
const MOST: usize = (1 << STATE) - 1;
/// Bits of a state.
const STATE: u32 = 8;

/// How often a thread lets others run before it leaves what they are copying.
const PATIENCE: usize = 10_000;

/// The lowest byte of every handle. Small integers and aligned addresses have
/// another one, so they are not taken for handles.
const TAG: usize = 0x5e;

/// The last number given to a handle of any kind.
static LAST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: only the thread that has set a slot's word to IN_USE changes its value. While
// threads copy it, which `copy` asks `T: Sync` for, no thread can set that word.
unsafe impl<T: Send> Sync for Registry<T> {}

impl<T> Registry<T> {
    pub(super) const fn new() -> Self {
        Registry {
            buckets: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS],
        }
    }

    /// Adds a value and returns its handle, which is not 0.
    pub(super) fn insert(&self, value: Box<T>) -> usize {
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        self.put(number, value);
        number << 8 | TAG
    }

    /// Adds what can be asked for by a handle of another registry.
    pub(super) fn insert_beside(&self, handle: usize, value: Box<T>) {
        self.put(handle >> 8, value);
    }

    fn put(&self, number: usize, value: Box<T>) {
        let bucket = &self.buckets[number % BUCKETS];
        let in_use = number << STATE | IN_USE;
        let slot = match slots(bucket).find(|slot| slot.claim(in_use)) {
            Some(slot) => slot,
            None => push(bucket, in_use),
        };
        // SAFETY: the word says that the value is this thread's.
        unsafe { *slot.value.get() = Some(value) };
        slot.word.store(number << STATE | LIVE, Ordering::Release);
    }

    /// Calls `body` with the value of a handle. Refuses a handle that is not
    /// live, and one that another thread is using. After a panic in `body` the
    /// handle is broken.
    pub(super) fn with<R>(
        &self,
        handle: usize,
        argument: &'static str,
        body: impl FnOnce(&mut T) -> Result<R>,
    ) -> Result<R> {
        let (slot, number) = self.take(handle, argument, false)?;
        let lease = Lease { slot, number };
        // SAFETY: the word says that the value is this thread's, until the
        // lease ends.
        let value = unsafe { &mut *slot.value.get() };
        let result = body(value.as_mut().expect("a live slot has a value"));
        lease.end(LIVE);
        result
    }

    /// Removes a handle and returns its value.
    pub(super) fn remove(&self, handle: usize, argument: &'static str) -> Result<Box<T>> {
        let (slot, number) = self.take(handle, argument, true)?;
        // SAFETY: the word says that the value is this thread's.
        let value = unsafe { (*slot.value.get()).take() };
        slot.word.store(number << STATE | FREE, Ordering::Release);
        Ok(value.expect("a live slot has a value"))
    }

    /// Removes a handle that other threads may be copying: they are done in a moment. In a
    /// child that was forked meanwhile they never are, and the handle stays.
    pub(super) fn remove_copied(&self, handle: usize) {
        for _ in 0..PATIENCE {
            match self.remove(handle, "handle") {
                Err(Error::Busy { .. }) => std::thread::yield_now(),
                _ => return,
            }
        }
    }

    /// Refuses a handle that stands for nothing, whether or not its value is in use.
    pub(super) fn check(&self, handle: usize, argument: &'static str) -> Result<()> {
        let (slot, word) = self.find(handle, argument)?;
        match refusal(slot.word.load(Ordering::Relaxed), word, argument) {
            Error::Busy { .. } => Ok(()),
            other => Err(other),
        }
    }

    /// A copy of the value of a handle. Any number of threads may copy it at once; nor
    /// does a child suffer that is forked in the middle, but it cannot free the handle.
    pub(super) fn copy(&self, handle: usize, argument: &'static str) -> Result<T>
    where
        T: Clone + Sync,
    {
        let (slot, word) = self.find(handle, argument)?;
        let mut now = slot.word.load(Ordering::Relaxed);
        loop {
            let state = now.wrapping_sub(word);
            if !(LIVE..MOST).contains(&state) {
                return Err(refusal(now, word, argument));
            }
            let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
            match slot.word.compare_exchange_weak(now, now + 1, order, failed) {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        // SAFETY: as long as the state is greater than LIVE, no thread changes the value.
        let value = unsafe { &*slot.value.get() };
        let copy = T::clone(value.as_ref().expect("a live slot has a value"));
        slot.word.fetch_sub(1, Ordering::Release);
        Ok(copy)
    }

    /// Finds the slot of a handle, and the handle's part of its word.
    fn find(&self, handle: usize, argument: &'static str) -> Result<(&Slot<T>, usize)> {
        if handle == 0 {
            let argument = argument.to_owned();
            return Err(Error::NullPointer { argument });
        }
        if handle & 0xff != TAG {
            return Err(Error::BadHandle { argument });
        }
        let number = handle >> 8;
        let mut slots = slots(&self.buckets[number % BUCKETS]);
        let holds = |slot: &&Slot<T>| slot.word.load(Ordering::Relaxed) >> STATE == number;
        let slot = slots.find(holds).ok_or(Error::BadHandle { argument })?;
        Ok((slot, number << STATE))
    }

    /// Finds the slot of a handle and marks it as in use by this thread.
    fn take(
        &self,
        handle: usize,
        argument: &'static str,
        broken: bool,
    ) -> Result<(&Slot<T>, usize)> {
        let (slot, word) = self.find(handle, argument)?;
        let take = |from| {
            let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
            slot.word
                .compare_exchange(word | from, word | IN_USE, order, failed)
        };
        let number = word >> STATE;
        match take(LIVE) {
            Ok(_) => Ok((slot, number)),
            Err(now) if now == word | BROKEN && broken && take(BROKEN).is_ok() => {
                Ok((slot, number))
            }
            Err(now) => Err(refusal(now, word, argument)),
        }
    }
}

/// Why a value is not available, by what its slot's word is and would be.
fn refusal(now: usize, word: usize, argument: &'static str) -> Error {
    match now.wrapping_sub(word) {
        BROKEN => Error::Internal {
            message: format!("an earlier call broke {argument}, it can only be freed"),
        },
        IN_USE | LIVE..=MOST => Error::Busy { argument },
        // Another thread has freed it since its slot was found.
        _ => Error::BadHandle { argument },
    }
}

impl<T> Slot<T> {
    /// Takes a free slot for a new handle.
    fn claim(&self, in_use: usize) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        let free = word & MOST == FREE;
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        free && self
            .word
            .compare_exchange(word, in_use, order, failed)
            .is_ok()
    }
}

/// The slots of one list.
fn slots<T>(bucket: &AtomicPtr<Slot<T>>) -> impl Iterator<Item = &Slot<T>> {
    let mut next = bucket.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: a slot is initialized before it is in a list, and is never
        // freed.
        let slot = unsafe { next.as_ref() }?;
        next = slot.next;
        Some(slot)
    })
}

/// Adds a slot to a list.
fn push<T>(bucket: &AtomicPtr<Slot<T>>, word: usize) -> &Slot<T> {
    let slot = Box::into_raw(Box::new(Slot {
        word: AtomicUsize::new(word),
        value: UnsafeCell::new(None),
        next: ptr::null_mut(),
    }));
    let mut first = bucket.load(Ordering::Relaxed);
    loop {
        // SAFETY: the slot is not in the list yet, so only this thread can access
        // it.
        unsafe { (*slot).next = first };
        match bucket.compare_exchange_weak(first, slot, Ordering::Release, Ordering::Relaxed) {
            // SAFETY: it was just allocated, and is never freed.
            Ok(_) => return unsafe { &*slot },
            Err(now) => first = now,
        }
    }
}

/// Exclusive access of one thread to a value, until [`end`](Lease::end).
struct Lease<'a, T> {
    slot: &'a Slot<T>,
    number: usize,
}

impl<T> Lease<'_, T> {
    fn end(self, state: usize) {
        let word = self.number << STATE | state;
        self.slot.word.store(word, Ordering::Release);
        std::mem::forget(self);
    }
}

impl<T> Drop for Lease<'_, T> {
    /// Runs only if the body panics.
    fn drop(&mut self) {
        let word = self.number << STATE | BROKEN;
        self.slot.word.store(word, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    type Numbers = Registry<u64>;

    fn read(registry: &Numbers, handle: usize) -> Result<u64> {
        registry.with(handle, "number", |n| Ok(*n))
    }

    fn is_bad(result: Result<u64>) -> bool {
        matches!(result, Err(Error::BadHandle { argument: "number" }))
    }

    #[test]
    fn handles_reach_their_values_until_they_are_removed() {
        let registry = Numbers::new();
        let handles: Vec<_> = (0..1000).map(|n| registry.insert(Box::new(n))).collect();
        for (n, &handle) in (0..).zip(&handles) {
            assert_eq!(read(&registry, handle).unwrap(), n);
        }
        for (n, &handle) in (0..).zip(&handles) {
            assert_eq!(*registry.remove(handle, "number").unwrap(), n);
        }
        // Slots are reused, handle numbers are not.
        let again: Vec<_> = (0..1000).map(|n| registry.insert(Box::new(n))).collect();
        for &handle in &handles {
            assert!(is_bad(read(&registry, handle)));
            assert!(registry.remove(handle, "number").is_err());
            assert!(!again.contains(&handle));
        }
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        let (registry, other) = (Numbers::new(), Numbers::new());
        let handle = registry.insert(Box::new(1));
        assert!(matches!(read(&registry, 0), Err(Error::NullPointer { .. })));
        for made_up in [1, 2, 0x1000, usize::MAX, handle + 1, handle + 256] {
            assert!(is_bad(read(&registry, made_up)), "{made_up:#x}");
        }
        assert!(is_bad(read(&other, handle)));
    }

    #[test]
    fn a_second_user_is_refused() {
        let registry = Numbers::new();
        let handle = registry.insert(Box::new(1));
        let inner = registry.with(handle, "number", |_| {
            assert!(matches!(
                registry.remove(handle, "number"),
                Err(Error::Busy { argument: "number" })
            ));
            Ok(read(&registry, handle))
        });
        assert!(matches!(inner.unwrap(), Err(Error::Busy { .. })));
        assert_eq!(read(&registry, handle).unwrap(), 1);
    }

    /// Its copies are made by several threads at once.
    #[derive(Debug)]
    struct Met(std::sync::Arc<std::sync::Barrier>);

    impl Clone for Met {
        fn clone(&self) -> Self {
            self.0.wait();
            Met(self.0.clone())
        }
    }

    #[test]
    fn a_value_is_copied_by_several_threads_at_once_and_not_freed_meanwhile() {
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(3));
        let registry = Registry::<Met>::new();
        let handle = registry.insert(Box::new(Met(barrier.clone())));
        std::thread::scope(|scope| {
            let copy = || registry.copy(handle, "met").map(drop);
            let copies = [scope.spawn(copy), scope.spawn(copy)];
            let slot = registry.find(handle, "met").unwrap().0;
            while slot.word.load(Ordering::Relaxed) & MOST != LIVE + 2 {
                std::thread::yield_now();
            }
            let refused = registry.remove(handle, "met");
            assert!(matches!(refused, Err(Error::Busy { argument: "met" })));
            barrier.wait();
            for copy in copies {
                copy.join().unwrap().unwrap();
            }
        });
        registry.remove(handle, "met").unwrap();
        let refused = registry.copy(handle, "met");
        assert!(matches!(refused, Err(Error::BadHandle { .. })));
    }

    #[test]
    fn after_a_panic_a_handle_can_only_be_freed() {
        let registry = Numbers::new();
        let handle = registry.insert(Box::new(1));
        let body = |_: &mut u64| -> Result<()> { std::panic::resume_unwind(Box::new(())) };
        let panicked = catch_unwind(AssertUnwindSafe(|| registry.with(handle, "number", body)));
        assert!(panicked.is_err());
        assert!(matches!(
            read(&registry, handle),
            Err(Error::Internal { .. })
        ));
        assert_eq!(*registry.remove(handle, "number").unwrap(), 1);
        assert!(is_bad(read(&registry, handle)));
    }

    /// Threads add, count up and remove; a count is correct only if no two
    /// threads ever used its value at the same time.
    #[test]
    fn threads_never_share_a_value() {
        let registry = Numbers::new();
        let shared = registry.insert(Box::new(0));
        let counted: u64 = std::thread::scope(|scope| {
            let work = || {
                let mut counted = 0;
                for n in 0..2000 {
                    let own = registry.insert(Box::new(n));
                    let count = |value: &mut u64| {
                        *value += 1;
                        Ok(())
                    };
                    match registry.with(shared, "number", count) {
                        Ok(()) => counted += 1,
                        Err(error) => assert!(matches!(error, Error::Busy { .. })),
                    }
                    assert_eq!(*registry.remove(own, "number").unwrap(), n);
                }
                counted
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(read(&registry, shared).unwrap(), counted);
    }
}
