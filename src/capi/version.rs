//! Version
//!
//! SONEW_VERSION_MAJOR and its like, at the top of this header, are those of
//! the header; these functions give those of the library in use. Before 1.0,
//! two versions work together if major and minor agree, from then on if major
//! agrees and the library is not the older one.

use std::ffi::c_char;

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

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("the version has a part that is no number"),
    }
}
