//! Version
//!
//! The macros SONEW_VERSION_MAJOR and so on, at the top of this header, are the
//! version of the header; these functions return the version of the library in
//! use. Before 1.0, two versions work together if major and minor agree; from
//! 1.0 on, if major agrees and the library is not older than the header.

use std::ffi::c_char;

use super::arguments::{string, Out};
use super::guard::call_always;
use super::status::sonew_status;
use super::struct_layout::extent;

/// Returns the version of the library, as in "0.2.0". Never NULL; the string is
/// constant. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Tells the layout of this header's structs in the library in use: writes the
/// offset of a field in its struct to *offset and the field's size to *size,
/// both in bytes. structure is the name of the struct, as in "sonew_tensor", and
/// field that of the field; field may be NULL, which means the whole struct.
///
/// For callers whose compiler does not read this header: they can detect that a
/// struct which they declare themselves differs, instead of crashing.
///
/// Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_struct_field(
    structure: *const c_char,
    field: *const c_char,
    offset: *mut usize,
    size: *mut usize,
) -> sonew_status {
    call_always(|| {
        // SAFETY: the header asks for strings that end with a NUL.
        let (structure, field) = unsafe {
            let named = || string(field, || "field".to_owned());
            (
                string(structure, || "structure".to_owned())?,
                (!field.is_null()).then(named).transpose()?,
            )
        };
        // SAFETY: the header asks for pointers to the results.
        let (out_offset, out_size) =
            unsafe { (Out::new(offset, "offset")?, Out::new(size, "size")?) };
        let extent = extent(&structure, field.as_deref())?;
        out_offset.write(extent.offset);
        out_size.write(extent.size);
        Ok(())
    })
}
