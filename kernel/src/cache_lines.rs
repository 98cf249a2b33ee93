//! Memory in whole lines of the cache.

/// A cache line; gives the memory its alignment.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct CacheLine([u8; 64]);

/// Zeroed memory of at least so many bytes; or their number, if they are not to be had.
pub(crate) fn cache_lines(bytes: usize) -> Result<Box<[CacheLine]>, usize> {
    let lines = bytes.div_ceil(size_of::<CacheLine>());
    let memory = bytemuck::allocation::try_zeroed_slice_box(lines);
    memory.map_err(|()| lines * size_of::<CacheLine>())
}
