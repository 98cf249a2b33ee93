//! Zeroed memory at cache-line boundaries, from allocations that may fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapMut, MmapOptions};

use crate::error::{Error, Result};

/// One cache line; gives its slice the alignment.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; LINE]);

/// Bytes of a cache line, and the alignment of every buffer.
pub(crate) const LINE: usize = 64;

/// From this size on a buffer is mapped by itself, on huge pages where the
/// system has them: a step runs through all of it, and would otherwise look up
/// one page for every 4 KiB of each plane.
const MAPPED: usize = 4 << 20;

/// Mapped buffers start at different places of a page, and of the pages around:
/// a step goes through several at once, and caches (and their predictors) tell
/// addresses apart by some of their bits only. The planes of a tensor of 2^26
/// numbers would otherwise drive each other out, at half the speed.
const STAGGER: usize = 3 * 4096 + 5 * LINE;
/// So many places.
const PLACES: usize = 32;

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
            let lines = bytemuck::allocation::try_zeroed_slice_box(len.div_ceil(LINE));
            lines
                .ok()
                .map(|lines| AlignedBytes::Allocated { lines, len })
        } else {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let start = NEXT.fetch_add(1, Ordering::Relaxed) % PLACES * STAGGER;
            let bytes = len.checked_add(start);
            let map = bytes.and_then(|len| MmapOptions::new().len(len).map_anon().ok());
            map.map(|map| {
                // Advice only: where it is not taken, pages are small.
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

/// Makes room for `more` entries of a list.
pub(crate) fn reserve<T>(
    list: &mut Vec<T>,
    more: usize,
    what: impl FnOnce() -> String,
) -> Result<()> {
    list.try_reserve_exact(more)
        .map_err(|_| Error::OutOfMemory {
            what: what(),
            bytes: more as u128 * size_of::<T>() as u128,
        })
}

/// What an iterator gives, in a list. The memory for it may be refused.
pub(crate) fn list<T>(items: impl IntoIterator<Item = T>, what: &str) -> Result<Vec<T>> {
    try_list(items.into_iter().map(Ok), what)
}

/// [`list`] of what may fail in itself.
pub(crate) fn try_list<T>(
    items: impl IntoIterator<Item = Result<T>>,
    what: &str,
) -> Result<Vec<T>> {
    let items = items.into_iter();
    let mut list = Vec::new();
    reserve(&mut list, items.size_hint().0, || what.to_owned())?;
    for item in items {
        if list.len() == list.capacity() {
            // Not exactly one: a list of unknown length doubles.
            list.try_reserve(1).map_err(|_| Error::OutOfMemory {
                what: what.to_owned(),
                bytes: (list.len() as u128 + 1) * size_of::<T>() as u128,
            })?;
        }
        list.push(item?);
    }
    Ok(list)
}

/// An empty list with the memory of one that is not needed any more. What a step
/// lists is kept that way for the next one, whose lists differ in nothing but how
/// long they borrow: then, and only then, the memory is the same.
pub(crate) fn again<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    let none = list.into_iter().map(|_| unreachable!("it is empty"));
    none.collect()
}

/// Makes a list what an iterator gives. The memory for it may be refused.
pub(crate) fn fill<T>(list: &mut Vec<T>, items: impl ExactSizeIterator<Item = T>) -> Result<()> {
    list.clear();
    reserve(list, items.len(), || OF_A_STEP.to_owned())?;
    list.extend(items);
    Ok(())
}

/// What a step lists of its tensors, in the error about its memory.
pub(crate) const OF_A_STEP: &str = "the lists of a step";

/// What is listed of tensors for good, in the error about its memory.
pub(crate) const OF_TENSORS: &str = "the list of tensors";

/// Lists of so few bytes are not asked for beforehand.
const FEW: usize = 32 << 10;

/// Refuses where so much memory is not to be had, and keeps none of it. For
/// what is made of many small pieces, or by code that cannot be refused
/// memory: that comes after, and takes no more than this in all.
pub(crate) fn ask(bytes: usize, what: impl FnOnce() -> String) -> Result<()> {
    if bytes < FEW {
        return Ok(());
    }
    let mut block: Vec<u8> = Vec::new();
    reserve(&mut block, bytes, what)?;
    // Without this, compilers leave out what is not used.
    std::hint::black_box(block.as_ptr());
    Ok(())
}

/// As [`ask`], for lists of tensors with names of these lengths, of their
/// planes, and for what a file says of both.
pub(crate) fn ask_for_tensors(names: impl Iterator<Item = usize>, planes: usize) -> Result<()> {
    let tensor = |name: usize| 1024 + planes * (384 + 12 * name);
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
