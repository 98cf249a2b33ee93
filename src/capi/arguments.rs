//! Reading what C passes, and writing what it gets back. A pointer that is
//! null is refused here; no pointer but those to buffers needs an alignment.

use std::ffi::{c_char, CStr};
use std::fmt::Display;
use std::mem::size_of;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::memory::reserve;

/// Refuses a null pointer.
pub(crate) fn not_null<T>(pointer: *const T, argument: impl FnOnce() -> String) -> Result<()> {
    if pointer.is_null() {
        let argument = argument();
        return Err(Error::NullPointer { argument });
    }
    Ok(())
}

/// Where a result goes, which is written on success only.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is null, or valid for one write of a `T`.
    pub(super) unsafe fn new(pointer: *mut T, argument: &str) -> Result<Self> {
        not_null(pointer, || argument.to_owned())?;
        Ok(Out(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` was promised that the pointer is valid, and `self`
        // goes.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// A list of the caller's.
pub(super) struct List<T> {
    first: *const T,
    count: usize,
}

impl<T: Copy> List<T> {
    /// # Safety
    /// `first` is null, or valid for reads of `count` values.
    pub(super) unsafe fn new(
        first: *const T,
        count: usize,
        argument: impl Display,
    ) -> Result<Self> {
        if count > 0 {
            not_null(first, || argument.to_string())?;
        }
        Ok(List { first, count })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether there is a list at all: not for a null pointer, which needs a
    /// count of 0.
    pub(super) fn is_given(&self) -> bool {
        !self.first.is_null()
    }

    /// What `convert` makes of every value and its position. The memory for
    /// it, sized by the caller, may be refused.
    pub(super) fn collect<R>(
        &self,
        what: &str,
        mut convert: impl FnMut(usize, T) -> Result<R>,
    ) -> Result<Vec<R>> {
        let too_many = || Error::OutOfMemory {
            what: what.to_owned(),
            bytes: self.count as u128 * size_of::<T>().max(size_of::<R>()) as u128,
        };
        // More than this no list in memory can have.
        if self.count > isize::MAX as usize / size_of::<T>() {
            return Err(too_many());
        }
        let mut list = Vec::new();
        list.try_reserve_exact(self.count).map_err(|_| too_many())?;
        for (i, value) in self.iter().enumerate() {
            list.push(convert(i, value)?);
        }
        Ok(list)
    }

    /// The values.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = T> + '_ {
        (0..self.count).map(|i| {
            // SAFETY: `new` was promised so many values, and only their
            // alignment is left open.
            unsafe { self.first.add(i).read_unaligned() }
        })
    }
}

/// A string of the caller's.
///
/// # Safety
/// `text` is null, or ends with a NUL.
unsafe fn bytes(text: *const c_char, argument: impl Fn() -> String) -> Result<Vec<u8>> {
    not_null(text, &argument)?;
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_bytes();
    let mut bytes = Vec::new();
    reserve(&mut bytes, text.len(), argument)?;
    bytes.extend_from_slice(text);
    Ok(bytes)
}

/// A string that must be UTF-8.
///
/// # Safety
/// `text` is null, or ends with a NUL.
pub(super) unsafe fn string(text: *const c_char, argument: impl Fn() -> String) -> Result<String> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(text, &argument) }?;
    String::from_utf8(bytes).map_err(|_| Error::InvalidString {
        argument: argument(),
    })
}

/// A file name: on Unix any bytes, elsewhere UTF-8.
///
/// # Safety
/// `path` is null, or ends with a NUL.
pub(super) unsafe fn path(path: *const c_char) -> Result<PathBuf> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        // SAFETY: the caller's promise.
        let bytes = unsafe { bytes(path, || "path".to_owned()) }?;
        Ok(std::ffi::OsString::from_vec(bytes).into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: the caller's promise.
        let text = unsafe { string(path, || "path".to_owned()) }?;
        Ok(text.into())
    }
}

/// The meaning of a number that stands for a named value.
pub(crate) fn named<T: Copy>(
    value: i32,
    argument: impl FnOnce() -> String,
    values: &[(i32, T)],
) -> Result<T> {
    let known = values.iter().find(|(number, _)| *number == value);
    known
        .map(|&(_, meaning)| meaning)
        .ok_or_else(|| Error::UnknownValue {
            argument: argument(),
            value: value.into(),
        })
}

/// The number that stands for a named value: [`named`] the other way round.
pub(super) fn number<T: Copy + PartialEq>(meaning: T, values: &[(i32, T)]) -> i32 {
    let known = values.iter().find(|(_, value)| *value == meaning);
    known.expect("every value has a number").0
}

/// A truth value: 0 or 1.
pub(super) fn flag(value: i32, argument: &str) -> Result<bool> {
    named(value, || argument.to_owned(), &[(0, false), (1, true)])
}

/// A count that C passes as a signed number, so that a negative one shows.
pub(super) fn count(value: i32, argument: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::OutOfRange {
        argument: argument.to_owned(),
        value: value.into(),
        allowed: "not negative",
    })
}

/// Refuses numbers other than 0 in fields that a later version may use.
pub(super) fn unused(values: &[i32], argument: impl Fn() -> String) -> Result<()> {
    for (i, &value) in values.iter().enumerate() {
        named(value, || format!("{}[{i}]", argument()), &[(0, ())])?;
    }
    Ok(())
}
