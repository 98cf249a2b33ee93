//! Reads the arguments that C passes and writes its results. Null pointers are
//! refused here. Only pointers to buffers need an alignment.

use std::ffi::{c_char, CStr};
use std::fmt::{Display, Write};
use std::mem::size_of;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::memory::{push, reserve};
use crate::reserve::without;

/// Refuses a null pointer.
pub(crate) fn not_null<T>(pointer: *const T, argument: impl FnOnce() -> String) -> Result<()> {
    if pointer.is_null() {
        let argument = argument();
        return Err(Error::NullPointer { argument });
    }
    Ok(())
}

/// A pointer to the caller's result, which is written on success only.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is null, or valid for one write of a `T`.
    pub(super) unsafe fn new(pointer: *mut T, argument: &str) -> Result<Self> {
        not_null(pointer, || argument.to_owned())?;
        Ok(Out(pointer))
    }

    /// # Safety
    /// As for [`Out::new`].
    pub(super) unsafe fn optional(pointer: *mut T) -> Option<Self> {
        (!pointer.is_null()).then_some(Out(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` was promised that the pointer is valid for one write,
        // and this consumes `self`.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// A list that the caller owns.
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

    /// The same list, of which the library knows how many values it has.
    ///
    /// # Safety
    /// It is null, or valid for reads of `count` values.
    pub(super) unsafe fn with_count(self, count: usize) -> Self {
        List { count, ..self }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether the caller passed a list. A null pointer, which needs a count of
    /// 0, means no list.
    pub(super) fn is_given(&self) -> bool {
        !self.first.is_null()
    }

    /// Converts every value, given its position.
    pub(super) fn collect<R>(
        &self,
        what: &str,
        mut convert: impl FnMut(usize, T) -> Result<R>,
    ) -> Result<Vec<R>> {
        let mut values = self.iter();
        let next = |i| convert(i, values.next().expect("there are `count` values"));
        collect(self.count, size_of::<T>(), what, next)
    }

    /// The values.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = T> + '_ {
        (0..self.count).map(|i| {
            // SAFETY: `new` was promised `count` values, perhaps unaligned.
            unsafe { self.first.add(i).read_unaligned() }
        })
    }
}

/// Makes a list of what there is for each of `count` entries of a caller's list, which
/// are so many bytes apart. Running out of memory is an error, because the caller
/// chooses the size of the list.
pub(super) fn collect<R>(
    count: usize,
    stride: usize,
    what: &str,
    mut entry: impl FnMut(usize) -> Result<R>,
) -> Result<Vec<R>> {
    let too_many = || Error::OutOfMemory {
        what: what.to_owned(),
        bytes: count as u128 * stride.max(size_of::<R>()) as u128,
    };
    // No list in memory can have more entries than this.
    if count > isize::MAX as usize / stride {
        return Err(too_many());
    }
    let mut list = Vec::new();
    without(|| list.try_reserve_exact(count)).map_err(|_| too_many())?;
    for i in 0..count {
        push(&mut list, entry(i)?, what)?;
    }
    Ok(list)
}

/// The bytes of a string that the caller owns.
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
    // SAFETY: the caller's promise.
    unsafe { path_of(path, || "path".to_owned()) }
}

/// The same for an argument of another name.
///
/// # Safety
/// `path` is null, or ends with a NUL.
pub(super) unsafe fn path_of(
    path: *const c_char,
    argument: impl Fn() -> String,
) -> Result<PathBuf> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        // SAFETY: the caller's promise.
        let bytes = unsafe { bytes(path, argument) }?;
        Ok(std::ffi::OsString::from_vec(bytes).into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: the caller's promise.
        let text = unsafe { string(path, argument) }?;
        Ok(text.into())
    }
}

/// The value that the number of a C enumeration stands for.
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
            allowed: one_of(values.iter().map(|(number, _)| *number)),
        })
}

/// These numbers, in words: "0, 1 or 2".
fn one_of(numbers: impl ExactSizeIterator<Item = i32>) -> String {
    let last = numbers.len() - 1;
    let mut words = String::new();
    for (i, number) in numbers.enumerate() {
        let before = match i {
            0 => "",
            _ if i == last => " or ",
            _ => ", ",
        };
        let _ = write!(words, "{before}{number}");
    }
    words
}

/// The number of a value in its C enumeration: the inverse of [`named`].
pub(super) fn number<T: Copy + PartialEq>(meaning: T, values: &[(i32, T)]) -> i32 {
    let known = values.iter().find(|(_, value)| *value == meaning);
    known.expect("every value has a number").0
}

/// A truth value: 0 or 1.
pub(super) fn flag(value: i32, argument: &str) -> Result<bool> {
    named(value, || argument.to_owned(), &[(0, false), (1, true)])
}

/// A count that C passes as a signed number, so that a negative one is noticed.
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
