//! Memory that is set aside, so that small allocations do not fail.
//!
//! Rust ends the process when an allocation fails, except where the code asks to be
//! told. Large buffers are asked for in that way (see `memory.rs`), but not the hundreds
//! of pieces that the standard library and other crates need: names, paths, messages,
//! headers of files, threads. For these every call of the C API, and every thread of the
//! library, first takes a reserve, and is refused if there is none; a call for many
//! tensors adds one of a size that they determine. While a thread holds it, what the
//! system refuses is served from it. From then on, until the call ends, [`is_used`]
//! makes every list of `memory.rs` fail, so that the call comes to an end before its
//! reserve does.
//!
//! Only with the feature `own-allocator`: the allocator of a Rust program is its own.

// Without it no reserve is ever taken.
#![cfg_attr(not(feature = "own-allocator"), allow(dead_code))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Bytes of every thread's first reserve. The system does not provide the pages before
/// they are used.
pub(crate) const SIZE: usize = 256 << 10;

/// The first reserve serves no larger requests.
const LARGEST: usize = 32 << 10;

/// The alignment of a reserve, and the strictest one of its pieces.
const ALIGNMENT: usize = 4096;

/// A reserve, of which pieces are given away one after the other. These descriptions are
/// never freed and never change their size, so that they can be read without waiting for
/// other threads.
#[derive(Debug)]
struct Reserve {
    size: usize,
    /// Its first byte; null if it has no memory.
    memory: AtomicPtr<u8>,
    /// How many pieces are in use, and one more while a thread holds the reserve.
    users: AtomicUsize,
    /// Where the next piece begins. This and the next field belong to the thread that
    /// holds the reserve.
    next: AtomicUsize,
    /// The reserve that this thread has taken before.
    below: AtomicPtr<Reserve>,
    /// The reserve that was made before this one.
    other: Option<&'static Reserve>,
}

/// The reserve that was made last.
static LAST: AtomicPtr<Reserve> = AtomicPtr::new(ptr::null_mut());

/// How many pieces of all reserves are in use.
static PIECES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant initial values and no destructors, so that the allocator may use them
    // at any time.
    /// The reserve that this thread has taken last.
    static HELD: Cell<Option<&'static Reserve>> = const { Cell::new(None) };
    /// Whether any was needed.
    static USED: Cell<bool> = const { Cell::new(false) };
    /// Whether the code can be told that there is no memory.
    static FALLIBLE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the system has refused memory since this thread took its first reserve.
pub(crate) fn is_used() -> bool {
    cfg!(feature = "own-allocator") && USED.get()
}

/// Runs code that asks for memory and can be told that there is none, so that it gets
/// nothing of the reserve.
pub(crate) fn without<R>(allocate: impl FnOnce() -> R) -> R {
    let before = FALLIBLE.replace(true);
    let allocated = allocate();
    FALLIBLE.set(before);
    allocated
}

/// A reserve for one thread.
#[derive(Debug)]
pub(crate) struct Taken(Option<&'static Reserve>);

impl Taken {
    /// `None` if there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        match cfg!(feature = "own-allocator") {
            true => take(SIZE).map(|reserve| Taken(Some(reserve))),
            false => Some(Taken(None)),
        }
    }

    /// Lets this thread use it, as long as what is returned lives.
    pub(crate) fn hold(self) -> Held {
        if let Some(reserve) = self.0 {
            USED.set(false);
            hold(reserve);
        }
        Held(self)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(reserve) = self.0 {
            reserve.release();
        }
    }
}

/// While this lives, the thread has a reserve.
#[derive(Debug)]
pub(crate) struct Held(Taken);

impl Drop for Held {
    fn drop(&mut self) {
        let Some(first) = self.0 .0 else {
            return;
        };
        while let Some(reserve) = HELD.get() {
            HELD.set(reserve.below());
            if ptr::eq(reserve, first) {
                break;
            }
            reserve.release();
        }
        USED.set(false);
    }
}

/// Whether this thread has a reserve.
pub(crate) fn is_held() -> bool {
    HELD.get().is_some()
}

/// Sets so many more bytes aside, until the reserve that is held is given back. `None`
/// if there is no memory for them.
pub(crate) fn add(bytes: usize) -> Option<()> {
    take(bytes).map(hold)
}

fn hold(reserve: &'static Reserve) {
    let below = HELD.replace(Some(reserve));
    let below = below.map_or(ptr::null(), ptr::from_ref).cast_mut();
    reserve.below.store(below, Ordering::Relaxed);
}

/// All reserves.
fn all() -> impl Iterator<Item = &'static Reserve> {
    // SAFETY: a reserve is complete before it is in the list, and is never freed.
    let last = unsafe { LAST.load(Ordering::Acquire).as_ref() };
    std::iter::successors(last, |reserve| reserve.other)
}

/// Takes an unused reserve of at least so many bytes, or makes one.
fn take(bytes: usize) -> Option<&'static Reserve> {
    // A few sizes only, so that reserves can be used again.
    let step = bytes.max(SIZE).checked_next_power_of_two()? / 8;
    let size = bytes.max(SIZE).checked_next_multiple_of(step)?;
    let unused = |reserve: &&Reserve| {
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let users = &reserve.users;
        reserve.size == size && users.compare_exchange(0, 1, order, failed).is_ok()
    };
    let reserve = all().find(unused).or_else(|| make(size))?;
    if reserve.memory.load(Ordering::Relaxed).is_null() {
        let layout = reserve.layout()?;
        // SAFETY: the size is not zero.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() {
            reserve.users.store(0, Ordering::Release);
            return None;
        }
        reserve.memory.store(memory, Ordering::Relaxed);
    }
    reserve.next.store(0, Ordering::Relaxed);
    Some(reserve)
}

/// A new reserve, which this thread has taken. It has no memory yet.
fn make(size: usize) -> Option<&'static Reserve> {
    const LAYOUT: Layout = Layout::new::<Reserve>();
    // SAFETY: the size is not zero.
    let reserve = unsafe { System.alloc(LAYOUT) }.cast::<Reserve>();
    if reserve.is_null() {
        return None;
    }
    let mut last = LAST.load(Ordering::Acquire);
    loop {
        // SAFETY: it is large enough and aligned, and no other thread knows it. The
        // last one is complete and never freed.
        unsafe {
            reserve.write(Reserve {
                size,
                memory: AtomicPtr::new(ptr::null_mut()),
                users: AtomicUsize::new(1),
                next: AtomicUsize::new(0),
                below: AtomicPtr::new(ptr::null_mut()),
                other: last.as_ref(),
            });
        }
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        match LAST.compare_exchange_weak(last, reserve, order, failed) {
            // SAFETY: it is complete, and never freed.
            Ok(_) => return unsafe { reserve.as_ref() },
            Err(now) => last = now,
        }
    }
}

impl Reserve {
    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(self.size, ALIGNMENT).ok()
    }

    fn below(&self) -> Option<&'static Reserve> {
        // SAFETY: null, or a reserve, which is never freed.
        unsafe { self.below.load(Ordering::Relaxed).as_ref() }
    }

    /// One user less. The last one frees the memory of a large reserve.
    fn release(&self) {
        if self.size > SIZE && self.users.load(Ordering::Acquire) == 1 {
            // Nobody but the caller uses it, and nobody else can take it.
            let memory = self.memory.swap(ptr::null_mut(), Ordering::Relaxed);
            if let Some(layout) = self.layout() {
                // SAFETY: it comes from the system, has this layout, and no piece of
                // it is in use.
                unsafe { System.dealloc(memory, layout) };
            }
            self.users.store(0, Ordering::Release);
        } else {
            self.users.fetch_sub(1, Ordering::Release);
        }
    }

    /// A piece of it, or null. For the thread that holds it.
    fn piece(&self, layout: Layout) -> *mut u8 {
        let large = self.size == SIZE && layout.size() > LARGEST;
        if large || layout.align() > ALIGNMENT {
            return ptr::null_mut();
        }
        let first = match self.users.load(Ordering::Acquire) {
            // All pieces have been freed.
            1 => 0,
            _ => self.next.load(Ordering::Relaxed),
        };
        let start = first.next_multiple_of(layout.align());
        let Some(end) = start.checked_add(layout.size()).filter(|&e| e <= self.size) else {
            return ptr::null_mut();
        };
        self.next.store(end, Ordering::Relaxed);
        self.users.fetch_add(1, Ordering::Relaxed);
        PIECES.fetch_add(1, Ordering::Relaxed);
        USED.set(true);
        // SAFETY: within the memory, as was just checked.
        unsafe { self.memory.load(Ordering::Relaxed).add(start) }
    }

    fn has(&self, memory: *mut u8) -> bool {
        let start = self.memory.load(Ordering::Relaxed).addr();
        start != 0 && (start..start + self.size).contains(&memory.addr())
    }
}

/// A piece of one of this thread's reserves, or null.
fn piece(layout: Layout) -> *mut u8 {
    if FALLIBLE.get() {
        return ptr::null_mut();
    }
    let mut reserves = std::iter::successors(HELD.get(), |reserve| reserve.below());
    let piece = |reserve: &'static Reserve| Some(reserve.piece(layout)).filter(|p| !p.is_null());
    reserves.find_map(piece).unwrap_or(ptr::null_mut())
}

/// The reserve that memory is a piece of.
fn owner(memory: *mut u8) -> Option<&'static Reserve> {
    // Whoever frees a piece has got it from the thread that has counted it.
    if PIECES.load(Ordering::Relaxed) == 0 {
        return None;
    }
    all().find(|reserve| reserve.has(memory))
}

/// The system's allocator, with the reserve of this thread behind it.
pub(crate) struct Allocator;

#[cfg(feature = "own-allocator")]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

impl Allocator {
    /// Moves memory to a new place of another size.
    ///
    /// # Safety
    /// As for `realloc`.
    unsafe fn moved(&self, old: *mut u8, layout: Layout, size: usize, new: *mut u8) -> *mut u8 {
        if !new.is_null() {
            // SAFETY: both have at least so many bytes, and are different pieces.
            unsafe {
                ptr::copy_nonoverlapping(old, new, layout.size().min(size));
                self.dealloc(old, layout);
            }
        }
        new
    }
}

// SAFETY: what comes from the system goes back to it. A piece of a reserve is aligned,
// has the size that was asked for, overlaps no other piece that is in use, because only
// one thread makes pieces of a reserve, one after the other until all are freed, and
// stays valid until it is freed. Nothing here panics or allocates.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc(layout) };
        match memory.is_null() {
            true => piece(layout),
            false => memory,
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if !memory.is_null() {
            return memory;
        }
        let memory = piece(layout);
        if !memory.is_null() {
            // SAFETY: it has so many bytes.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match owner(memory) {
            Some(reserve) => {
                PIECES.fetch_sub(1, Ordering::Relaxed);
                reserve.release();
            }
            // SAFETY: the caller's promise: it comes from the system.
            None => unsafe { System.dealloc(memory, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size is valid for this alignment.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if owner(memory).is_some() {
            // SAFETY: as above.
            return unsafe { self.moved(memory, layout, size, self.alloc(larger)) };
        }
        // SAFETY: the caller's promise: it comes from the system.
        let new = unsafe { System.realloc(memory, layout, size) };
        if !new.is_null() {
            return new;
        }
        // SAFETY: as above; the system has left the memory as it was.
        unsafe { self.moved(memory, layout, size, piece(larger)) }
    }
}

#[cfg(all(test, feature = "own-allocator"))]
mod tests {
    use super::*;

    const FEW: Layout = Layout::new::<[u64; 3]>();

    #[test]
    fn pieces_do_not_overlap_and_are_given_again_when_all_are_freed() {
        assert!(piece(FEW).is_null(), "no reserve is held");
        let held = Taken::new().unwrap().hold();
        assert!(!is_used());
        let fill = || {
            let mut pieces = Vec::new();
            loop {
                let align = 1 << (pieces.len() % 8);
                let layout = Layout::from_size_align(100 + pieces.len(), align).unwrap();
                let piece = piece(layout);
                if piece.is_null() {
                    return pieces;
                }
                assert!(piece.addr().is_multiple_of(align));
                pieces.push((piece, layout));
            }
        };
        let pieces = fill();
        assert!(is_used());
        assert!(pieces.len() > 100);
        for (before, after) in pieces.iter().zip(&pieces[1..]) {
            assert!(before.0.addr() + before.1.size() <= after.0.addr());
        }
        let (last, others) = pieces.split_last().unwrap();
        // SAFETY: each is freed once.
        let free = |(piece, layout): &(*mut u8, Layout)| unsafe {
            Allocator.dealloc(*piece, *layout);
        };
        others.iter().for_each(free);
        assert!(piece(last.1).is_null(), "one is in use");
        free(last);
        let again = fill();
        assert_eq!(again.len(), pieces.len());
        again.iter().for_each(free);
        drop(held);
        assert!(!is_used());
        assert!(piece(FEW).is_null());
    }

    #[test]
    fn a_piece_may_outlive_its_call_and_go_to_another_thread() {
        let held = Taken::new().unwrap().hold();
        let first = piece(FEW);
        // SAFETY: it has room for this.
        unsafe { first.cast::<[u64; 3]>().write([1, 2, 3]) };
        drop(held);
        let address = first.expose_provenance();
        std::thread::spawn(move || {
            // The reserve is not given away while it has a piece.
            let held = Taken::new().unwrap().hold();
            let other = piece(FEW);
            assert!(other.addr().abs_diff(address) >= SIZE);
            let first = ptr::with_exposed_provenance_mut(address);
            // SAFETY: they are freed, or moved, once each.
            unsafe {
                Allocator.dealloc(other, FEW);
                drop(held);
                let moved = Allocator.realloc(first, FEW, 1 << 20);
                assert!(owner(moved).is_none());
                assert_eq!(moved.cast::<[u64; 3]>().read(), [1, 2, 3]);
                let large = Layout::from_size_align(1 << 20, FEW.align()).unwrap();
                Allocator.dealloc(moved, large);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn what_is_large_is_not_served() {
        let _held = Taken::new().unwrap().hold();
        let of = |size, align| piece(Layout::from_size_align(size, align).unwrap());
        assert!(of(LARGEST + 1, 1).is_null());
        assert!(of(1, 2 * ALIGNMENT).is_null());
        assert!(without(|| of(1, 1)).is_null());
        assert!(!is_used());
        add(10 * LARGEST).unwrap();
        let large = Layout::from_size_align(10 * LARGEST, 64).unwrap();
        let piece = piece(large);
        assert!(!piece.is_null());
        // SAFETY: it is freed once.
        unsafe { Allocator.dealloc(piece, large) };
        // SAFETY: nobody uses it.
        let zero = unsafe { Allocator.alloc_zeroed(FEW) };
        // SAFETY: it is freed once.
        unsafe { Allocator.dealloc(zero, FEW) };
    }
}
