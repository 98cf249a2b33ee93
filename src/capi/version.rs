//! Version
//!
//! SONEW_VERSION_MAJOR and its like, at the top of this header, are those of
//! the header; these functions give those of the library in use. Before 1.0,
//! two versions work together if major and minor agree, from then on if major
//! agrees and the library is not the older one.

use std::ffi::c_char;

use super::arguments::{string, Out};
use super::guard::call;
use super::status::sonew_status;
use super::struct_layout::place;

/// The version of the library, as in "0.1.0". Never NULL; the string is
/// constant. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// The version of the library as one number, to be compared with
/// SONEW_VERSION_NUMBER: major * 1000000 + minor * 1000 + patch. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_version_number() -> u32 {
    const NUMBER: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + number(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + number(env!("CARGO_PKG_VERSION_PATCH"));
    NUMBER
}

/// Where a field of one of this header's structs lies in the library in use:
/// its offset from the struct's start, in *offset, and its size, in *size, both
/// in bytes. structure is the struct's name, as in "sonew_tensor", and field the
/// field's; field may be NULL, which means the struct as a whole.
///
/// For callers whose compiler does not read this header, so that a declaration
/// that differs is an error and not a crash.
///
/// Errors: SONEW_INVALID_STRING, SONEW_UNKNOWN_NAME. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_struct_field(
    structure: *const c_char,
    field: *const c_char,
    offset: *mut usize,
    size: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for strings that end with a NUL.
        let (structure, field) = unsafe {
            let named = || string(field, || "field".to_owned());
            (
                string(structure, || "structure".to_owned())?,
                (!field.is_null()).then(named).transpose()?,
            )
        };
        // SAFETY: the header asks for places for the results.
        let (out_offset, out_size) =
            unsafe { (Out::new(offset, "offset")?, Out::new(size, "size")?) };
        let place = place(&structure, field.as_deref())?;
        out_offset.write(place.offset);
        out_size.write(place.size);
        Ok(())
    })
}

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("the version has a part that is no number"),
    }
}
