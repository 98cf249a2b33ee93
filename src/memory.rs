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
