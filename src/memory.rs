//! Zeroed memory at cache-line boundaries, from allocations that may fail.

use crate::error::{Error, Result};

/// One cache line; gives its slice the alignment.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Bytes of a cache line, and the alignment of every buffer.
pub(crate) const LINE: usize = 64;

/// A buffer that starts at a multiple of 64 bytes.
pub(crate) struct AlignedBytes {
    lines: Box<[Line]>,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes. The pages are the system's own zero pages until they
    /// are first written. `what` names the buffer in the error.
    pub(crate) fn zeroed(len: usize, what: impl FnOnce() -> String) -> Result<Self> {
        match bytemuck::allocation::try_zeroed_slice_box(len.div_ceil(LINE)) {
            Ok(lines) => Ok(AlignedBytes { lines, len }),
            Err(()) => Err(Error::OutOfMemory {
                what: what(),
                bytes: len as u128,
            }),
        }
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
