//! Files in memory, cut into parts that do not overlap.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// A whole file in memory. Its bytes are reached through [`Part`]s only.
///
/// What no library can prevent: another program that writes to the file, which
/// changes what is in memory, or that makes it shorter, which makes the next
/// access of what is gone a SIGBUS. The locks keep out programs that ask.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    /// Open, and with it locked, as long as the mapping lasts.
    _file: File,
}

impl Mapping {
    /// Maps a file whose stores are the file's.
    pub(super) fn shared(file: File, length: u64) -> io::Result<Mapping> {
        let map = MmapOptions::new().len(size(length)?).map_raw(&file)?;
        Ok(Mapping { map, _file: file })
    }

    /// Maps a file whose stores stay in memory: a page is copied when it is
    /// first stored to.
    pub(super) fn private(file: File, length: u64) -> io::Result<Mapping> {
        let mut options = MmapOptions::new();
        // Memory for copies is taken when they are made: a file may be larger
        // than all memory.
        options.len(size(length)?).no_reserve_swap();
        // SAFETY: nothing here ever writes to a file that is not live, and live
        // ones are locked. Nothing can be done about other programs; see
        // `Mapping`.
        let map = unsafe { options.map_copy(&file)? };
        Ok(Mapping {
            map: map.into(),
            _file: file,
        })
    }

    /// Brings bytes of a shared mapping to the disk.
    pub(super) fn flush(&self, offset: usize, length: usize) -> io::Result<()> {
        self.map.flush_range(offset, length)
    }

    /// Cuts a mapping into parts. `None` where two of them overlap, or one is
    /// not in the file.
    pub(super) fn cut(self: &Arc<Self>, ranges: &[Range<usize>]) -> Option<Vec<Part>> {
        // One owner: the parts of an earlier cut could be the same bytes.
        if Arc::strong_count(self) != 1 {
            return None;
        }
        let mut in_order: Vec<_> = ranges.iter().collect();
        in_order.sort_by_key(|range| (range.start, range.end));
        let mut position = 0;
        for range in in_order {
            if range.start < position || range.end < range.start {
                return None;
            }
            position = range.end;
        }
        if position > self.map.len() {
            return None;
        }
        let part = |range: &Range<usize>| Part {
            mapping: self.clone(),
            range: range.clone(),
        };
        Some(ranges.iter().map(part).collect())
    }
}

fn size(length: u64) -> io::Result<usize> {
    usize::try_from(length).map_err(|_| ErrorKind::FileTooLarge.into())
}

/// Bytes of a mapping that belong to nobody else.
#[derive(Debug)]
pub struct Part {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl Part {
    fn first(&self) -> *mut u8 {
        // SAFETY: `cut` has checked that the range is within the mapping.
        unsafe { self.mapping.map.as_mut_ptr().add(self.range.start) }
    }
}

/// Numbers of 8 bytes in a mapping, each loaded and stored whole: a process
/// that dies leaves the old one or the new one.
#[derive(Debug)]
pub(super) struct Words(Part);

impl Words {
    /// # Panics
    /// If the part is not aligned to them.
    pub(super) fn new(part: Part) -> Words {
        assert!(part.first().cast::<AtomicU64>().is_aligned());
        Words(part)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.range.len() / size_of::<u64>()
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// What this thread has stored before, and what others have before they
    /// handed over to it, is in the file before this is.
    pub(super) fn store(&self, index: usize, word: u64) {
        self.word(index).store(word, Ordering::Release);
    }

    /// All of them as they are in the file.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let words = (0..self.len()).map(|index| self.load(index));
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len(), "word {index} of {}", self.len());
        // SAFETY: aligned and within the part, which is this value's alone, and
        // of which there are no other references.
        unsafe { AtomicU64::from_ptr(self.0.first().cast::<u64>().add(index)) }
    }
}

impl Deref for Part {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `cut` has checked that the range is within the mapping, and
        // that no other part has any of it. It lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first(), self.range.len()) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the part is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.range.len()) }
    }
}
