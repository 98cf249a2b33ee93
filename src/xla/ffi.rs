//! The structs of XLA's typed FFI that a handler on the CPU uses, as declared in
//! `xla/ffi/api/c_api.h` at version 0.1. Later versions add fields at the end;
//! `struct_size` tells how many a struct has.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

pub(super) const API_MAJOR: c_int = 0;
pub(super) const API_MINOR: c_int = 1;

pub(super) const EXTENSION_METADATA: c_int = 1;
pub(super) const STAGE_EXECUTE: c_int = 3;
pub(super) const INVALID_ARGUMENT: c_int = 3;
pub(super) const TYPE_BUFFER: c_int = 1;
pub(super) const ATTRIBUTE_ARRAY: c_int = 1;
pub(super) const ATTRIBUTE_SCALAR: c_int = 3;
pub(super) const ATTRIBUTE_STRING: c_int = 4;

pub(super) const S32: c_int = 4;
pub(super) const S64: c_int = 5;
pub(super) const U32: c_int = 8;
pub(super) const F16: c_int = 10;
pub(super) const F32: c_int = 11;
pub(super) const F64: c_int = 12;
pub(super) const BF16: c_int = 16;

/// An error that the runtime has created and owns.
pub(super) type Failure = c_void;

#[repr(C)]
pub(super) struct ExtensionBase {
    pub struct_size: usize,
    pub kind: c_int,
    pub next: *mut ExtensionBase,
}

#[repr(C)]
pub(super) struct ApiVersion {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub major: c_int,
    pub minor: c_int,
}

#[repr(C)]
pub(super) struct Metadata {
    pub struct_size: usize,
    pub api_version: ApiVersion,
    pub traits: u32,
}

#[repr(C)]
pub(super) struct MetadataExtension {
    pub base: ExtensionBase,
    pub metadata: *mut Metadata,
}

#[repr(C)]
pub(super) struct ErrorCreateArgs {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub message: *const c_char,
    pub code: c_int,
}

#[repr(C)]
pub(super) struct Api {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub api_version: ApiVersion,
    pub internal_api: *const c_void,
    pub error_create: Option<unsafe extern "C" fn(*mut ErrorCreateArgs) -> *mut Failure>,
}

#[repr(C)]
pub(super) struct Buffer {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub dtype: c_int,
    pub data: *mut c_void,
    pub rank: i64,
    pub dims: *const i64,
}

/// A list of arguments, or a list of results, which has the same layout.
#[repr(C)]
pub(super) struct Buffers {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub size: i64,
    pub types: *const c_int,
    pub buffers: *const *const Buffer,
}

#[repr(C)]
pub(super) struct ByteSpan {
    pub ptr: *const c_char,
    pub len: usize,
}

#[repr(C)]
pub(super) struct Scalar {
    pub dtype: c_int,
    pub value: *const c_void,
}

#[repr(C)]
pub(super) struct Array {
    pub dtype: c_int,
    pub size: usize,
    pub data: *const c_void,
}

#[repr(C)]
pub(super) struct Attributes {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub size: i64,
    pub types: *const c_int,
    pub names: *const *const ByteSpan,
    pub values: *const *const c_void,
}

#[repr(C)]
pub(super) struct CallFrame {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub api: *const Api,
    pub context: *mut c_void,
    pub stage: c_int,
    pub arguments: Buffers,
    pub results: Buffers,
    pub attributes: Attributes,
}

/// Structs that contain their own size.
pub(super) trait HasSize {
    const NAME: &'static str;
    /// The offset of the end of the last field that is used here.
    const SIZE: usize;
    fn struct_size(&self) -> usize;
}

macro_rules! sized {
    ($($rust:ident $c:literal $last:ident: $type:ty;)*) => {$(
        impl HasSize for $rust {
            const NAME: &'static str = $c;
            const SIZE: usize = offset_of!($rust, $last) + size_of::<$type>();
            fn struct_size(&self) -> usize {
                self.struct_size
            }
        }
    )*};
}

sized! {
    Metadata "XLA_FFI_Metadata" traits: u32;
    Api "XLA_FFI_Api" error_create: *const c_void;
    Buffer "XLA_FFI_Buffer" dims: *const i64;
    Buffers "XLA_FFI_Args" buffers: *const c_void;
    Attributes "XLA_FFI_Attrs" values: *const c_void;
    CallFrame "XLA_FFI_CallFrame" attributes: Attributes;
}

#[cfg(test)]
#[path = "ffi_tests.rs"]
mod tests;
