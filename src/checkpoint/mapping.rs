//! Mapped files, cut into parts that do not overlap.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// A whole file that is mapped. Its bytes are accessed through [`Part`]s only.
///
/// No library can prevent another program from writing to the file, which
/// changes the mapped bytes, or from truncating it, so that the next access of
/// the missing bytes is a SIGBUS. The locks exclude only programs that check
/// them.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    /// Kept open as long as the mapping exists, because closing it would end its
    /// lock.
    file: File,
}

impl Mapping {
    /// Maps a file so that stores change the file.
    pub(super) fn shared(file: &File, length: u64) -> io::Result<MmapRaw> {
        MmapOptions::new().len(size(length)?).map_raw(file)
    }

    /// Maps a file so that stores stay in memory: a page is copied at the first
    /// store to it.
    pub(super) fn private(file: &File, length: u64) -> io::Result<MmapRaw> {
        let mut options = MmapOptions::new();
        // No memory is reserved for the copies, because the file may be larger
        // than all memory.
        options.len(size(length)?).no_reserve_swap();
        // SAFETY: this library writes only to live files, which are locked.
        // Other programs cannot be excluded; see `Mapping`.
        let map = unsafe { options.map_copy(file)? };
        Ok(map.into())
    }

    /// A map of a file, with the file.
    pub(super) fn new(map: MmapRaw, file: File) -> Mapping {
        Mapping { map, file }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where bytes of the mapping are in the file.
    pub(super) fn offset_of(&self, bytes: &[u8]) -> Option<u64> {
        let offset = bytes
            .as_ptr()
            .addr()
            .checked_sub(self.map.as_ptr().addr())?;
        (offset + bytes.len() <= self.map.len()).then_some(offset as u64)
    }

    /// Writes bytes of a shared mapping to disk.
    pub(super) fn flush(&self, offset: usize, length: usize) -> io::Result<()> {
        self.map.flush_range(offset, length)
    }

    /// Cuts a mapping into parts. `None` if two of them overlap, or one is not
    /// within the file.
    pub(super) fn cut(self: &Arc<Self>, ranges: &[Range<usize>]) -> Option<Vec<Part>> {
        // There must be one owner, because parts of an earlier cut could contain
        // the same bytes.
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

/// Bytes of a mapping that no other part contains.
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

/// Words of 8 bytes in a mapping, loaded and stored atomically: a process that
/// dies leaves the old value or the new one.
#[derive(Debug)]
pub(super) struct Words(Part);

impl Words {
    /// # Panics
    /// If the part is not aligned to words.
    pub(super) fn new(part: Part) -> Words {
        assert!(part.first().cast::<AtomicU64>().is_aligned());
        Words(part)
    }

    /// The number of words.
    pub(super) fn len(&self) -> usize {
        self.0.range.len() / size_of::<u64>()
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores a word, after all earlier stores of this thread, and of other
    /// threads that it has synchronized with, have reached the file.
    pub(super) fn store(&self, index: usize, word: u64) {
        self.word(index).store(word, Ordering::Release);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len(), "word {index} of {}", self.len());
        // SAFETY: the word is aligned and within the part, which this value owns
        // and to which there are no other references.
        unsafe { AtomicU64::from_ptr(self.0.first().cast::<u64>().add(index)) }
    }
}

impl Deref for Part {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `cut` has checked that the range is within the mapping, and
        // that no other part overlaps it. It lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.first(), self.range.len()) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the whole part is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.range.len()) }
    }
}
