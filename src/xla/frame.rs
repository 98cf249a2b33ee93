//! Checks the sizes, counts and types of what the runtime passes before they are
//! used.

use std::ffi::{c_int, c_void};

use super::ffi::{self, CallFrame, Failure, HasSize};
use crate::capi::arguments::not_null;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// No call has more operands, results or attributes than this.
const MAX_ENTRIES: usize = 1 << 24;

/// One call of the handler.
pub(super) struct Frame<'a> {
    arguments: &'a ffi::Buffers,
    results: &'a ffi::Buffers,
    attributes: &'a ffi::Attributes,
}

/// An operand or a result.
#[derive(Clone, Copy)]
pub(super) struct XlaBuffer<'a> {
    pub dtype: c_int,
    pub data: *mut c_void,
    pub dims: &'a [i64],
}

/// A struct of the runtime, if it has all fields that are used here.
///
/// # Safety
/// `pointer` is null, or points to a struct of the size in its `struct_size`.
unsafe fn read<'a, T: HasSize>(pointer: *const T) -> Result<&'a T> {
    not_null(pointer, || T::NAME.to_owned())?;
    // SAFETY: the caller's promise: every struct begins with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    check_size::<T>(size)?;
    // SAFETY: the caller's promise; only the fields up to SIZE are used.
    Ok(unsafe { &*pointer })
}

fn check_size<T: HasSize>(size: usize) -> Result<()> {
    if size >= T::SIZE {
        return Ok(());
    }
    Err(Error::StructSize {
        argument: format!("{}.struct_size", T::NAME),
        size,
        expected: T::SIZE,
        hint: "the runtime is older than any that this library knows",
    })
}

/// Answers a query for metadata, if this is one: it comes in place of a call, in
/// a frame with no other field filled in.
///
/// # Safety
/// `frame` is null, or what the runtime passes.
pub(super) unsafe fn answered_metadata(frame: *const CallFrame) -> Result<bool> {
    not_null(frame, || CallFrame::NAME.to_owned())?;
    // SAFETY: the caller's promise; every version of the struct begins with
    // these two fields.
    let mut extension = unsafe { (*frame).extension_start };
    while !extension.is_null() {
        // SAFETY: a list of the runtime, whose entries have the sizes that they
        // say.
        unsafe {
            if (*extension).kind == ffi::EXTENSION_METADATA {
                let metadata = (*extension.cast::<ffi::MetadataExtension>()).metadata;
                read(metadata)?;
                (*metadata).api_version.major = ffi::API_MAJOR;
                (*metadata).api_version.minor = ffi::API_MINOR;
                (*metadata).traits = 0;
                return Ok(true);
            }
            extension = (*extension).next;
        }
    }
    Ok(false)
}

/// The runtime's function that makes errors.
///
/// # Safety
/// `frame` is null, or what the runtime passes.
pub(super) unsafe fn error_create(
    frame: *const CallFrame,
) -> Result<unsafe extern "C" fn(*mut ffi::ErrorCreateArgs) -> *mut Failure> {
    not_null(frame, || CallFrame::NAME.to_owned())?;
    // SAFETY: the caller's promise; sizes are checked before fields are read.
    unsafe {
        let size = (*frame).struct_size;
        if size < std::mem::offset_of!(CallFrame, api) + size_of::<*const ffi::Api>() {
            check_size::<CallFrame>(size)?;
        }
        let create = read((*frame).api)?.error_create;
        create.ok_or_else(|| Error::NullPointer {
            argument: "XLA_FFI_Error_Create".to_owned(),
        })
    }
}

impl<'a> Frame<'a> {
    /// The call, if it is one to execute.
    ///
    /// # Safety
    /// `frame` is null, or what the runtime passes, which lives for `'a`.
    pub(super) unsafe fn new(frame: *const CallFrame) -> Result<Option<Self>> {
        // SAFETY: the caller's promise.
        let frame = unsafe { read(frame) }?;
        if frame.stage != ffi::STAGE_EXECUTE {
            return Ok(None);
        }
        check_size::<ffi::Buffers>(frame.arguments.struct_size())?;
        check_size::<ffi::Buffers>(frame.results.struct_size())?;
        check_size::<ffi::Attributes>(frame.attributes.struct_size())?;
        Ok(Some(Frame {
            arguments: &frame.arguments,
            results: &frame.results,
            attributes: &frame.attributes,
        }))
    }

    /// The operands.
    pub(super) fn arguments(&self) -> Result<Vec<XlaBuffer<'a>>> {
        buffers(self.arguments, "operands")
    }

    /// The results.
    pub(super) fn results(&self) -> Result<Vec<XlaBuffer<'a>>> {
        buffers(self.results, "results")
    }

    /// The address of an attribute, which must be there and have this type.
    fn attribute(&self, name: &'static str, kind: c_int, what: &str) -> Result<*const c_void> {
        let wrong = |problem: String| Error::Attribute { name, problem };
        match self.find(name)? {
            Some((found, value)) if found == kind => Ok(value),
            Some(_) => Err(wrong(format!("is not {what}"))),
            None => Err(wrong("is missing".to_owned())),
        }
    }

    /// The type and the address of an attribute, if it is there.
    fn find(&self, name: &'static str) -> Result<Option<(c_int, *const c_void)>> {
        let count = count(self.attributes.size, "attributes")?;
        for i in 0..count {
            // SAFETY: the runtime's lists have `size` entries.
            let (key, found, value) = unsafe {
                let key = &**self.attributes.names.add(i);
                let found = *self.attributes.types.add(i);
                (key, found, *self.attributes.values.add(i))
            };
            // SAFETY: the runtime's string is as long as it says.
            let text = unsafe { bytes(key) };
            if text == name.as_bytes() {
                return Ok(Some((found, value)));
            }
        }
        Ok(None)
    }

    fn scalar<T: Copy>(&self, name: &'static str, dtype: c_int, what: &str) -> Result<T> {
        let value = self.attribute(name, ffi::ATTRIBUTE_SCALAR, what)?;
        // SAFETY: an attribute of this kind points to a `Scalar`.
        let scalar = unsafe { &*value.cast::<ffi::Scalar>() };
        if scalar.dtype != dtype {
            let problem = format!("is not {what}");
            return Err(Error::Attribute { name, problem });
        }
        // SAFETY: the runtime's scalar has the type that it says.
        Ok(unsafe { scalar.value.cast::<T>().read_unaligned() })
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<i64> {
        self.scalar(name, ffi::S64, "an s64 scalar")
    }

    /// An integer attribute that is an `int32_t` in the C API.
    pub(super) fn int(&self, name: &'static str) -> Result<i32> {
        let value = self.integer(name)?;
        i32::try_from(value).map_err(|_| Error::UnknownValue {
            argument: format!("attribute \"{name}\""),
            value,
            allowed: "a 32-bit integer".to_owned(),
        })
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool> {
        match self.integer(name)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Error::UnknownValue {
                argument: format!("attribute \"{name}\""),
                value,
                allowed: "0 or 1".to_owned(),
            }),
        }
    }

    /// An option that programs made before it do not have; they are without it.
    pub(super) fn later_flag(&self, name: &'static str) -> Result<bool> {
        match self.find(name)? {
            Some(_) => self.flag(name),
            None => Ok(false),
        }
    }

    /// The same of a number; theirs is 0.
    pub(super) fn later_int(&self, name: &'static str) -> Result<i32> {
        match self.find(name)? {
            Some(_) => self.int(name),
            None => Ok(0),
        }
    }

    fn array<T: Copy>(&self, name: &'static str, dtype: c_int, what: &str) -> Result<Vec<T>> {
        let value = self.attribute(name, ffi::ATTRIBUTE_ARRAY, what)?;
        // SAFETY: an attribute of this kind points to an `Array`.
        let array = unsafe { &*value.cast::<ffi::Array>() };
        if array.dtype != dtype {
            let problem = format!("is not {what}");
            return Err(Error::Attribute { name, problem });
        }
        let first = array.data.cast::<T>();
        // SAFETY: the runtime's array has the length and the type that it says.
        let value = |i| unsafe { first.add(i).read_unaligned() };
        Ok((0..array.size).map(value).collect())
    }

    pub(super) fn ints(&self, name: &'static str) -> Result<Vec<i32>> {
        self.array(name, ffi::S32, "an array of s32")
    }

    pub(super) fn doubles(&self, name: &'static str) -> Result<Vec<f64>> {
        self.array(name, ffi::F64, "an array of f64")
    }

    pub(super) fn text(&self, name: &'static str) -> Result<&'a str> {
        let value = self.attribute(name, ffi::ATTRIBUTE_STRING, "a string")?;
        // SAFETY: an attribute of this kind points to a string of the length that
        // it says.
        let text = unsafe { bytes(&*value.cast::<ffi::ByteSpan>()) };
        std::str::from_utf8(text).map_err(|_| Error::InvalidString {
            argument: format!("attribute \"{name}\""),
        })
    }
}

/// # Safety
/// The string has the length that it says, and lives for `'a`.
unsafe fn bytes<'a>(span: &ffi::ByteSpan) -> &'a [u8] {
    if span.len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(span.ptr.cast(), span.len) }
}

fn count(size: i64, what: &'static str) -> Result<usize> {
    let count = usize::try_from(size).unwrap_or(usize::MAX);
    if count > MAX_ENTRIES {
        return Err(Error::OperandCount {
            what,
            count,
            expected: MAX_ENTRIES,
        });
    }
    Ok(count)
}

fn buffers<'a>(list: &'a ffi::Buffers, what: &'static str) -> Result<Vec<XlaBuffer<'a>>> {
    let checked = |i| {
        // SAFETY: the runtime's lists have `size` entries.
        let (kind, buffer) = unsafe { (*list.types.add(i), *list.buffers.add(i)) };
        let argument = || format!("{what}[{i}]");
        let wrong = |problem: String| Error::Operand {
            argument: argument(),
            problem,
        };
        if kind != ffi::TYPE_BUFFER {
            return Err(wrong("is not a buffer".to_owned()));
        }
        // SAFETY: an entry of this kind points to a buffer.
        let buffer = unsafe { read(buffer) }?;
        let rank = usize::try_from(buffer.rank).ok().filter(|&r| r <= 64);
        let rank = rank.ok_or_else(|| wrong(format!("has rank {}", buffer.rank)))?;
        let dims = match rank {
            0 => &[],
            // SAFETY: the runtime's list of dimensions has `rank` entries.
            _ => unsafe { std::slice::from_raw_parts(buffer.dims, rank) },
        };
        Ok(XlaBuffer {
            dtype: buffer.dtype,
            data: buffer.data,
            dims,
        })
    };
    (0..count(list.size, what)?).map(checked).collect()
}

/// The library's element type for a number of XLA.
pub(super) fn dtype(number: c_int) -> Option<Dtype> {
    match number {
        ffi::F32 => Some(Dtype::F32),
        ffi::F64 => Some(Dtype::F64),
        ffi::BF16 => Some(Dtype::Bf16),
        ffi::F16 => Some(Dtype::F16),
        _ => None,
    }
}
