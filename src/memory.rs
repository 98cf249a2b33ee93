//! Memory allocation that returns an error instead of aborting, and zeroed
//! buffers that are aligned to cache lines.

use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapOptions};

use crate::error::{Error, Result};
use crate::options::MAX_BAND;
use crate::reserve::{self, is_used, without};

/// One cache line; a slice of these is aligned to cache lines.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; LINE]);

/// Bytes of a cache line, and the alignment of every buffer.
pub(crate) const LINE: usize = 64;

/// Buffers of this size or more get a mapping of their own, on huge pages if the
/// system has them. A step reads every plane completely, and with pages of 4 KiB
/// it would need many more address translations.
const MAPPED: usize = 4 << 20;

/// Mapped buffers start at different offsets from a page boundary. A step reads
/// several buffers at once, and caches select a set by some bits of the address
/// only. If the planes of a tensor of 2^26 numbers started at the same offset,
/// they would evict each other's lines, and the step would take twice as long.
const STAGGER: usize = 3 * 4096 + 5 * LINE;
/// Number of different offsets, all multiples of [`STAGGER`].
const OFFSETS: usize = 32;

/// A buffer that starts at a multiple of 64 bytes.
pub(crate) enum AlignedBytes {
    Allocated { lines: Box<[Line]>, len: usize },
    Mapped { map: MmapMut, start: usize },
}

impl AlignedBytes {
    /// `len` zero bytes. The pages are the system's own zero pages until they
    /// are first written. `what` names the buffer in the error.
    pub(crate) fn zeroed(len: usize, what: impl FnOnce() -> String) -> Result<Self> {
        let buffer = if len < MAPPED {
            let lines = len.div_ceil(LINE);
            let lines = without(|| bytemuck::allocation::try_zeroed_slice_box(lines));
            lines
                .ok()
                .map(|lines| AlignedBytes::Allocated { lines, len })
        } else {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let start = NEXT.fetch_add(1, Ordering::Relaxed) % OFFSETS * STAGGER;
            let bytes = len.checked_add(start);
            let map = bytes.and_then(|len| MmapOptions::new().len(len).map_anon().ok());
            map.map(|map| {
                // This is only a hint; without huge pages the buffer still works.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                AlignedBytes::Mapped { map, start }
            })
        };
        buffer.ok_or_else(|| Error::OutOfMemory {
            what: what(),
            bytes: len as u128,
        })
    }
}

/// A list of `len` zero bytes.
pub(crate) fn zeroed_list(len: usize, what: impl FnOnce() -> String) -> Result<Vec<u8>> {
    let mut list = Vec::new();
    reserve(&mut list, len, what)?;
    list.resize(len, 0);
    Ok(list)
}

/// Allocates memory for `more` entries of a list.
pub(crate) fn reserve<T>(
    list: &mut Vec<T>,
    more: usize,
    what: impl FnOnce() -> String,
) -> Result<()> {
    // Lists that are kept from step to step have room already.
    let has_room = list.capacity() - list.len() >= more;
    let has_room = has_room || without(|| list.try_reserve_exact(more)).is_ok();
    if !has_room || is_used() {
        return Err(Error::OutOfMemory {
            what: what(),
            bytes: more as u128 * size_of::<T>() as u128,
        });
    }
    Ok(())
}

/// Collects an iterator into a list. Running out of memory is an error.
pub(crate) fn list<T>(items: impl IntoIterator<Item = T>, what: &str) -> Result<Vec<T>> {
    try_list(items.into_iter().map(Ok), what)
}

/// Like [`list`], for items that may be errors.
pub(crate) fn try_list<T>(
    items: impl IntoIterator<Item = Result<T>>,
    what: &str,
) -> Result<Vec<T>> {
    let items = items.into_iter();
    let mut list = Vec::new();
    reserve(&mut list, items.size_hint().0, || what.to_owned())?;
    for item in items {
        push(&mut list, item?, what)?;
    }
    Ok(list)
}

/// Adds an entry to a list. Running out of memory is an error, and so is having run out
/// of it in what made the entry.
pub(crate) fn push<T>(list: &mut Vec<T>, item: T, what: &str) -> Result<()> {
    // This reserves more than one entry when needed: capacity doubles.
    if without(|| list.try_reserve(1)).is_err() || is_used() {
        return Err(Error::OutOfMemory {
            what: what.to_owned(),
            bytes: (list.len() as u128 + 1) * size_of::<T>() as u128,
        });
    }
    list.push(item);
    Ok(())
}

/// Turns a list that is not needed any more into an empty one that keeps its
/// allocation. Between steps, lists of borrowed buffers are kept in this way. The
/// allocation is reused only if `A` and `B` have the same size and alignment;
/// they differ only in lifetimes.
pub(crate) fn again<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    let none = list.into_iter().map(|_| unreachable!("it is empty"));
    none.collect()
}

/// Replaces the contents of a list. Running out of memory is an error.
pub(crate) fn fill<T>(list: &mut Vec<T>, items: impl ExactSizeIterator<Item = T>) -> Result<()> {
    list.clear();
    reserve(list, items.len(), || OF_A_STEP.to_owned())?;
    list.extend(items);
    Ok(())
}

/// Names the lists of a step in the error for lack of memory.
pub(crate) const OF_A_STEP: &str = "the lists of a step";

/// Names permanent lists of tensors in the error for lack of memory.
pub(crate) const OF_TENSORS: &str = "the list of tensors";

/// Names the lists of arrays of a file in the error for lack of memory.
pub(crate) const OF_FILES: &str = "the list of a file's arrays";

/// Below this number of bytes [`ask`] does nothing: the first reserve is enough.
const FEW: usize = 32 << 10;

/// Sets this much memory aside until the call ends; in a Rust program it only checks
/// that there is so much. For use before code that ends the process if an allocation
/// fails, and that allocates at most this much in all.
pub(crate) fn ask(bytes: usize, what: impl FnOnce() -> String) -> Result<()> {
    if bytes < FEW {
        return Ok(());
    }
    if reserve::is_held() {
        return reserve::add(bytes).ok_or_else(|| Error::OutOfMemory {
            what: what(),
            bytes: bytes as u128,
        });
    }
    let mut block: Vec<u8> = Vec::new();
    reserve(&mut block, bytes, what)?;
    // Prevents the compiler from removing the unused allocation.
    std::hint::black_box(block.as_ptr());
    Ok(())
}

/// An error if the system has refused memory in this call. For use between pieces of
/// work that [`ask`] stands before, so that they need no more than the reserve.
pub(crate) fn check(what: &str) -> Result<()> {
    match is_used() {
        false => Ok(()),
        true => Err(Error::OutOfMemory {
            what: what.to_owned(),
            bytes: 1,
        }),
    }
}

/// Like [`ask`], for the lists of tensors and planes and the header of a file,
/// for tensors with names of these lengths.
pub(crate) fn ask_for_tensors(names: impl Iterator<Item = usize>, band: usize) -> Result<()> {
    // Momentum, diagonal, rms, master, and parameters in a file.
    let planes = band.min(MAX_BAND) + 5;
    // A text that grows leaves its former pieces behind: up to four times its length. In
    // the header a name stands twice, once of these in a text within the text.
    let tensor = |name: usize| 2048 + planes * (1024 + 24 * name);
    let bytes = names.map(tensor).fold(0, usize::saturating_add);
    ask(bytes, || OF_TENSORS.to_owned())
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            AlignedBytes::Allocated { lines, len } => &bytemuck::cast_slice(lines)[..*len],
            AlignedBytes::Mapped { map, start } => &map[*start..],
        }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            AlignedBytes::Allocated { lines, len } => &mut bytemuck::cast_slice_mut(lines)[..*len],
            AlignedBytes::Mapped { map, start } => &mut map[*start..],
        }
    }
}
