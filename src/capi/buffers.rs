//! Checks the buffers of a call before any of them is accessed: none may be null
//! or misaligned, and none that is written may overlap another one.

use std::ffi::c_void;

use super::arguments::not_null;
use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{Plane, TensorSpec};
use crate::memory::{reserve, OF_A_STEP};
use crate::Optimizer;

/// The address, size and element type of a checked buffer, without its tensor
/// and its purpose.
#[derive(Clone, Copy)]
pub(crate) struct RawBuffer {
    dtype: Dtype,
    first: *mut c_void,
    bytes: usize,
}

// SAFETY: only an address. The methods that dereference it make their caller
// promise exclusive access.
unsafe impl Send for RawBuffer {}

impl RawBuffer {
    /// Whether it begins here, or is empty, and so could be anywhere.
    pub(super) fn is_at(&self, first: *const c_void) -> bool {
        self.bytes == 0 || self.first.cast_const() == first
    }

    /// # Safety
    /// The elements are valid for reads, and nothing writes them during `'b`.
    pub(crate) unsafe fn elements<'b>(&self) -> Elements<'b> {
        // SAFETY: not null, and the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(self.first.cast(), self.bytes) };
        Elements::from_bytes(self.dtype, bytes)
    }

    /// # Safety
    /// Whenever something is done with them during `'b`, the elements are valid for
    /// writes, and nothing else reads or writes them.
    pub(crate) unsafe fn elements_mut<'b>(&self) -> ElementsMut<'b> {
        let len = self.dtype.elements_in(self.bytes);
        // SAFETY: not null, aligned, and the caller's promise.
        unsafe { ElementsMut::from_raw(self.dtype, self.first.cast(), len) }
    }
}

/// A buffer of a tensor, in most cases with one value for each of its elements.
#[derive(Clone, Copy)]
pub(crate) struct Buffer<'a> {
    tensor: &'a TensorSpec,
    /// Its purpose, for messages, as in "the gradient".
    what: &'a str,
    raw: RawBuffer,
    written: bool,
}

impl<'a> Buffer<'a> {
    /// A buffer that the call only reads. `argument` is its name in the header.
    pub(crate) fn read(
        tensor: &'a TensorSpec,
        what: &'a str,
        dtype: Dtype,
        first: *const c_void,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        Buffer::of_length(tensor, what, (dtype, tensor.len()), first, argument)
    }

    /// A state plane of a tensor.
    pub(crate) fn read_plane(
        tensor: &'a TensorSpec,
        plane: &'a Plane,
        first: *const c_void,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        let kind = (plane.dtype, plane.len());
        Buffer::of_length(tensor, &plane.name, kind, first, argument)
    }

    fn of_length(
        tensor: &'a TensorSpec,
        what: &'a str,
        (dtype, len): (Dtype, usize),
        first: *const c_void,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        let alignment = dtype.size();
        let first = match len {
            // Of no elements, the pointer says nothing.
            0 => std::ptr::without_provenance(alignment),
            _ => first,
        };
        not_null(first, || {
            format!("{}, {what} of tensor \"{}\",", argument(), tensor.name)
        })?;
        let address = first.addr();
        if !dtype.divides(address) {
            return Err(Error::Misaligned {
                tensor: tensor.name.clone(),
                argument: what.to_owned(),
                address,
                alignment,
            });
        }
        let bytes = len * dtype.size();
        if address.checked_add(bytes).is_none() {
            return Err(Error::PastLastAddress {
                tensor: tensor.name.clone(),
                argument: what.to_owned(),
                address,
                bytes,
            });
        }
        Ok(Buffer {
            tensor,
            what,
            raw: RawBuffer {
                dtype,
                first: first.cast_mut(),
                bytes,
            },
            written: false,
        })
    }

    /// The same, which the call writes.
    pub(crate) fn write_plane(
        tensor: &'a TensorSpec,
        plane: &'a Plane,
        first: *mut c_void,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        Self::read_plane(tensor, plane, first, argument).map(Buffer::to_write)
    }

    /// A buffer that the call writes.
    pub(crate) fn write(
        tensor: &'a TensorSpec,
        what: &'a str,
        dtype: Dtype,
        first: *mut c_void,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        Self::read(tensor, what, dtype, first, argument).map(Buffer::to_write)
    }

    fn to_write(self) -> Self {
        Buffer {
            written: true,
            ..self
        }
    }

    /// Numbers that the call writes, of which the tensor has so many.
    pub(super) fn numbers(
        tensor: &'a TensorSpec,
        what: &'a str,
        len: usize,
        first: *mut f64,
        argument: impl FnOnce() -> String,
    ) -> Result<Self> {
        let kind = (Dtype::F64, len);
        Self::of_length(tensor, what, kind, first.cast(), argument).map(Buffer::to_write)
    }

    /// A buffer that was checked in an earlier call.
    pub(super) fn checked(tensor: &'a TensorSpec, what: &'a str, raw: RawBuffer) -> Self {
        Buffer {
            tensor,
            what,
            raw,
            written: true,
        }
    }

    /// The same, of which the elements are kept.
    pub(super) fn of(tensor: &'a TensorSpec, what: &'a str, elements: Elements<'_>) -> Self {
        let raw = RawBuffer {
            dtype: elements.dtype(),
            first: elements.bytes().as_ptr().cast_mut().cast(),
            bytes: elements.bytes().len(),
        };
        Buffer::checked(tensor, what, raw)
    }

    /// Its address, size and element type.
    pub(crate) fn raw(&self) -> RawBuffer {
        self.raw
    }

    fn start(&self) -> usize {
        self.raw.first.addr()
    }

    fn end(&self) -> usize {
        self.start() + self.raw.bytes
    }

    fn name(&self) -> String {
        format!("{} of tensor \"{}\"", self.what, self.tensor.name)
    }
}

/// Adds the optimizer's own buffers, which a step writes, to `list`.
pub(super) fn state<'a>(optimizer: &'a Optimizer, list: &mut Vec<Buffer<'a>>) -> Result<()> {
    let count = |i| Ok(2 * optimizer.planes(i)?.len());
    let most = (0..optimizer.tensors().len())
        .map(count)
        .sum::<Result<_>>()?;
    reserve(list, most, || OF_A_STEP.to_owned())?;
    for_each_of_state(optimizer, |buffer| {
        list.push(buffer);
        Ok(())
    })
}

/// Calls `body` with each of the optimizer's own buffers: those of both copies if
/// the state is in a live file.
pub(super) fn for_each_of_state<'a>(
    optimizer: &'a Optimizer,
    mut body: impl FnMut(Buffer<'a>) -> Result<()>,
) -> Result<()> {
    for (i, tensor) in optimizer.tensors().iter().enumerate() {
        for (plane, copies) in optimizer.copies(i)? {
            for bytes in copies.into_iter().flatten() {
                let first = bytes.as_ptr().cast();
                let buffer = Buffer::read_plane(tensor, plane, first, String::new)?;
                body(buffer.to_write())?;
            }
        }
    }
    Ok(())
}

/// Memory that a call writes besides the buffers of tensors.
pub(super) struct Output {
    start: usize,
    end: usize,
    /// Its name in the header.
    argument: &'static str,
}

impl Output {
    /// `count` values of a type, from `first` on.
    pub(super) fn new<T>(first: *const T, count: usize, argument: &'static str) -> Self {
        let start = first.addr();
        Output {
            start,
            end: start.saturating_add(count.saturating_mul(size_of::<T>())),
            argument,
        }
    }

    /// Refuses a buffer that this memory overlaps.
    pub(super) fn apart_from(&self, buffer: &Buffer<'_>) -> Result<()> {
        self.apart(buffer.start(), buffer.end(), || buffer.name())
    }

    /// Refuses two outputs that overlap.
    pub(super) fn apart_from_output(&self, other: &Output) -> Result<()> {
        self.apart(other.start, other.end, || other.argument.to_owned())
    }

    fn apart(&self, start: usize, end: usize, name: impl FnOnce() -> String) -> Result<()> {
        if self.start < end && start < self.end {
            return Err(Error::Overlap {
                first: self.argument.to_owned(),
                second: name(),
            });
        }
        Ok(())
    }
}

/// Refuses a written buffer that overlaps any other one.
pub(crate) fn none_overlap(buffers: &mut [Buffer<'_>]) -> Result<()> {
    buffers.sort_unstable_by_key(|buffer| (buffer.start(), buffer.end()));
    let mut furthest: Option<&Buffer<'_>> = None;
    let mut furthest_written: Option<&Buffer<'_>> = None;
    for buffer in buffers.iter().filter(|buffer| buffer.raw.bytes > 0) {
        let before = match buffer.written {
            true => furthest,
            false => furthest_written,
        };
        if let Some(before) = before.filter(|before| before.end() > buffer.start()) {
            return Err(Error::Overlap {
                first: before.name(),
                second: buffer.name(),
            });
        }
        let further = |than: Option<&Buffer<'_>>| than.is_none_or(|b| b.end() < buffer.end());
        if further(furthest) {
            furthest = Some(buffer);
        }
        if buffer.written && further(furthest_written) {
            furthest_written = Some(buffer);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY: usize = 0x10000;

    /// Buffers given as offset, length (both in elements), and whether written.
    fn overlap(layout: &[(usize, usize, bool)]) -> Result<()> {
        let spec = |&(_, len, _): &_| TensorSpec::new("x", &[len]);
        let specs: Vec<_> = layout.iter().map(spec).collect();
        let mut buffers: Vec<_> = specs
            .iter()
            .zip(layout)
            .map(|(tensor, &(offset, _, written))| Buffer {
                tensor,
                what: "it",
                raw: RawBuffer {
                    dtype: Dtype::F32,
                    first: std::ptr::without_provenance_mut(MEMORY + offset * 4),
                    bytes: tensor.len() * 4,
                },
                written,
            })
            .collect();
        none_overlap(&mut buffers)
    }

    proptest! {
        /// The sweep finds an overlap exactly where comparing all pairs does.
        #[test]
        fn as_comparing_all_pairs(
            layout in proptest::collection::vec((0usize..60, 1usize..12, any::<bool>()), 0..9)
        ) {
            let pair = |(a, la, wa): (usize, usize, bool), (b, lb, wb)| {
                (wa || wb) && a < b + lb && b < a + la
            };
            let expected = (0..layout.len())
                .any(|i| (0..i).any(|j| pair(layout[i], layout[j])));
            prop_assert_eq!(overlap(&layout).is_err(), expected);
        }
    }

    #[test]
    fn neighbours_do_not_overlap() {
        overlap(&[(0, 4, true), (4, 4, true), (8, 1, false)]).unwrap();
    }
}
