//! Structs that may grow in later versions: the caller passes the size that they
//! have in its own version of the header.

use std::fmt::Display;
use std::mem::size_of;
use std::ptr;

use super::arguments::{collect, not_null};
use super::guard::call_always;
use super::status::sonew_status;
use crate::error::{Error, Result};

/// A struct of the C API that later versions add fields to, at its end only.
///
/// # Safety
/// The type is `repr(C)` and has no padding.
pub(super) unsafe trait Growing: Copy {
    /// The size of every version so far, oldest first; the last is the current
    /// one.
    const SIZES: &'static [usize];
}

/// A growing struct that the caller fills in. Its first field is
/// `size_t struct_size`.
///
/// # Safety
/// The type begins with a `usize`, and every bit pattern is a valid value.
pub(super) unsafe trait Versioned: Growing {
    /// For messages: how to set the right `struct_size`.
    const HINT: &'static str;

    /// Default values, for this size of the struct.
    fn with_defaults(struct_size: usize) -> Self;
}

/// Larger values of `struct_size` are refused as not initialized.
const LARGEST: usize = 4096;

/// Fills in a caller's struct of `size` bytes with defaults.
///
/// # Safety
/// `out` is null, or valid for writes of `size` bytes.
pub(super) unsafe fn init<T: Versioned>(out: *mut T, size: usize, argument: &str) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { init_list(out, 1, size, argument) }
}

/// Fills in a list of `count` structs of `size` bytes each with defaults.
///
/// # Safety
/// `out` is null, or valid for writes of `count * size` bytes.
pub(super) unsafe fn init_list<T: Versioned>(
    out: *mut T,
    count: usize,
    size: usize,
    argument: &str,
) -> Result<()> {
    if count > 0 {
        not_null(out, || argument.to_owned())?;
    }
    for i in 0..count {
        // SAFETY: the caller's promise; the size has been checked for the first one.
        unsafe {
            write(
                T::with_defaults(size),
                out.byte_add(i * size),
                size,
                argument,
            )
        }?;
    }
    Ok(())
}

/// A caller's list of structs, all of which have the size that the caller's version of
/// the struct has.
pub(super) struct Entries<T> {
    first: *const T,
    count: usize,
    stride: usize,
    argument: &'static str,
}

impl<T: Versioned> Entries<T> {
    /// # Safety
    /// `first` is null, or has `count` entries, each of them valid for reads of as many
    /// bytes as its first field says.
    pub(super) unsafe fn new(
        first: *const T,
        count: usize,
        argument: &'static str,
    ) -> Result<Self> {
        let stride = match count {
            0 => size_of::<T>(),
            _ => {
                not_null(first, || argument.to_owned())?;
                // SAFETY: the caller's promise.
                let stride = unsafe { struct_size(first) };
                check_size::<T>(stride, format_args!("{argument}[0].struct_size"), T::HINT)?;
                stride
            }
        };
        Ok(Entries {
            first,
            count,
            stride,
            argument,
        })
    }

    /// One of the entries.
    pub(super) fn get(&self, i: usize) -> Result<T> {
        assert!(i < self.count);
        // SAFETY: `new` was promised this entry; those before it have been read, and are
        // `stride` bytes apart.
        let (entry, size) = unsafe {
            let entry = self.first.byte_add(i * self.stride);
            (entry, struct_size(entry))
        };
        if size != self.stride {
            return Err(Error::StructSize {
                argument: format!("{}[{i}].struct_size", self.argument),
                size,
                expected: self.stride,
                hint: T::HINT,
            });
        }
        // SAFETY: the promise of `new`.
        unsafe { read(entry, format_args!("{}[{i}]", self.argument)) }
    }

    /// Converts every entry, given its position.
    pub(super) fn collect<R>(
        &self,
        what: &str,
        mut convert: impl FnMut(usize, T) -> Result<R>,
    ) -> Result<Vec<R>> {
        collect(self.count, self.stride, what, |i| convert(i, self.get(i)?))
    }
}

/// # Safety
/// The struct begins with its size.
unsafe fn struct_size<T: Versioned>(input: *const T) -> usize {
    // SAFETY: the caller's promise.
    unsafe { input.cast::<usize>().read_unaligned() }
}

/// Writes a struct to a caller whose version of it has `size` bytes. Fields that
/// this version does not have become zero.
///
/// # Safety
/// `out` is valid for writes of `size` bytes.
unsafe fn write<T: Growing>(value: T, out: *mut T, size: usize, argument: &str) -> Result<()> {
    check_size::<T>(
        size,
        format_args!("the size of {argument}"),
        "pass sizeof the struct",
    )?;
    let fits = size.min(size_of::<T>());
    // SAFETY: `fits` bytes are within both structs, and the caller's promise
    // covers the rest.
    unsafe {
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), out.cast(), fits);
        ptr::write_bytes(out.cast::<u8>().add(fits), 0, size - fits);
    }
    Ok(())
}

/// The body of a function that tells a struct, to a caller whose version of it has `size`
/// bytes.
///
/// # Safety
/// `out` is null, or valid for writes of `size` bytes.
pub(super) unsafe fn tell<T: Growing>(
    out: *mut T,
    size: usize,
    argument: &str,
    value: impl FnOnce() -> Result<T>,
) -> sonew_status {
    call_always(|| {
        not_null(out, || argument.to_owned())?;
        // SAFETY: the caller's promise.
        unsafe { write(value()?, out, size, argument) }
    })
}

/// Reads a caller's struct. Fields that an older caller does not have get
/// their defaults; those that this version does not have must be zero.
///
/// # Safety
/// `input` is null, or valid for reads of as many bytes as its first field
/// says.
pub(super) unsafe fn read<T: Versioned>(input: *const T, argument: impl Display) -> Result<T> {
    not_null(input, || argument.to_string())?;
    // SAFETY: the caller's promise.
    let size = unsafe { struct_size(input) };
    let input = input.cast::<u8>();
    check_size::<T>(size, format_args!("{argument}.struct_size"), T::HINT)?;
    let mut value = T::with_defaults(size);
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are within both structs, and every bit pattern is a
    // valid `T`.
    unsafe { ptr::copy_nonoverlapping(input, (&raw mut value).cast(), known) };
    for offset in known..size {
        // SAFETY: the caller's promise.
        if unsafe { input.add(offset).read() } != 0 {
            let argument = argument.to_string();
            return Err(Error::UnknownField { argument, offset });
        }
    }
    Ok(value)
}

fn check_size<T: Growing>(size: usize, argument: impl Display, hint: &'static str) -> Result<()> {
    if T::SIZES.contains(&size) || (size_of::<T>()..=LARGEST).contains(&size) {
        return Ok(());
    }
    Err(Error::StructSize {
        argument: argument.to_string(),
        size,
        expected: size_of::<T>(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct with two versions.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Grown {
        struct_size: usize,
        first: f64,
        second: f64,
    }

    const OLD: usize = 16;
    const NOW: usize = 24;

    // SAFETY: three fields of 8 bytes.
    unsafe impl Growing for Grown {
        const SIZES: &'static [usize] = &[OLD, NOW];
    }

    // SAFETY: the first field is a usize; all are numbers.
    unsafe impl Versioned for Grown {
        const HINT: &'static str = "call grown_init first";

        fn with_defaults(struct_size: usize) -> Self {
            Grown {
                struct_size,
                first: 1.0,
                second: 2.0,
            }
        }
    }

    /// The caller's memory: up to 40 bytes of struct.
    type Memory = [f64; 5];

    fn size_as_field(size: usize) -> f64 {
        f64::from_bits(size as u64)
    }

    fn init_memory(size: usize) -> (Result<()>, Memory) {
        let mut memory = [9.0; 5];
        // SAFETY: tests pass sizes of up to 40 bytes, or refused ones.
        let result = unsafe { init(memory.as_mut_ptr().cast::<Grown>(), size, "grown") };
        (result, memory)
    }

    fn read_memory(mut memory: Memory, size: usize) -> Result<Grown> {
        memory[0] = size_as_field(size);
        // SAFETY: as in `init_memory`.
        unsafe { read(memory.as_ptr().cast::<Grown>(), "grown") }
    }

    #[test]
    fn every_caller_gets_what_it_has_room_for() {
        for (size, filled) in [
            (OLD, [1.0, 9.0, 9.0, 9.0]),
            (NOW, [1.0, 2.0, 9.0, 9.0]),
            (NOW + 8, [1.0, 2.0, 0.0, 9.0]),
        ] {
            let (result, memory) = init_memory(size);
            result.unwrap();
            assert_eq!(memory[0].to_bits(), size as u64);
            assert_eq!(memory[1..], filled);
        }
    }

    #[test]
    fn an_older_caller_gets_defaults_for_what_it_does_not_know() {
        let read = read_memory([0.0, 5.0, 6.0, 7.0, 8.0], OLD).unwrap();
        assert_eq!((read.first, read.second), (5.0, 2.0));
        let read = read_memory([0.0, 5.0, 6.0, 7.0, 8.0], NOW).unwrap();
        assert_eq!((read.first, read.second), (5.0, 6.0));
    }

    #[test]
    fn a_newer_caller_may_not_use_what_is_unknown() {
        let read = read_memory([0.0, 5.0, 6.0, 0.0, 0.0], NOW + 16).unwrap();
        assert_eq!((read.first, read.second), (5.0, 6.0));
        let refused = read_memory([0.0, 5.0, 6.0, 0.0, f64::MIN_POSITIVE], NOW + 16);
        assert!(matches!(
            refused,
            Err(Error::UnknownField { offset: 38, .. })
        ));
    }

    #[test]
    fn sizes_that_no_version_has_are_refused() {
        for size in [0, 8, OLD + 4, NOW - 1, LARGEST + 1, usize::MAX] {
            let (result, memory) = init_memory(size);
            assert!(matches!(result, Err(Error::StructSize { .. })), "{size}");
            assert_eq!(memory, [9.0; 5]);
            let refused = read_memory([0.0; 5], size);
            assert!(matches!(refused, Err(Error::StructSize { .. })), "{size}");
        }
    }
}
