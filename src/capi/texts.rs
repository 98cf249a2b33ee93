//! Texts of the program
//!
//! What a program must know to go on besides parameters and state: the position of its data
//! loader, the state of its random generator, the epoch. It gives the optimizer short texts,
//! each under a key, and every save writes them together with the state, in one file that is
//! complete or not there. A load replaces them by those of the file (of several files, by
//! those of the first). sonew_file_text() reads them without an optimizer. In the file they
//! are metadata of the format, with the keys "sonew.text.KEY".
//!
//! There may be 1000 texts, each of any length that the file has room for: its header holds
//! the texts beside the list of tensors, and safetensors limits it to 100,000,000 bytes. A
//! save that needs more is refused: SONEW_HEADER_LENGTH. Binary state, as that of many random
//! generators, is written in hexadecimal or base64. A live file has no texts, because its
//! header never changes.

use std::ffi::c_char;

use super::arguments::{string, Out};
use super::guard::call;
use super::handles::sonew_optimizer;
use super::names::c_string;
use super::owned::with;
use super::status::sonew_status;

/// Keeps a text under a key, in place of the one that had it. The key is UTF-8, not empty, and
/// has no control characters; the text is UTF-8. Both are copied. text may be NULL, which
/// removes the text of the key if there is one.
///
/// Errors: SONEW_INVALID_STRING, SONEW_TEXT, SONEW_LIVE_TEXT, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_set_text(
    optimizer: *mut sonew_optimizer,
    key: *const c_char,
    text: *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string, and for another one or NULL.
        let (key, text) = unsafe {
            let given = (!text.is_null()).then(|| string(text, || "text".to_owned()));
            (string(key, || "key".to_owned())?, given.transpose()?)
        };
        with(optimizer, |owned| {
            owned.optimizer.set_text(&key, text.as_deref())?;
            owned.texts.clear();
            Ok(())
        })
    })
}

/// Writes the text of a key to *text, or NULL if there is none. The text lives until the next
/// call that sets a text of the optimizer, loads into it, resets or frees it.
///
/// Errors: SONEW_INVALID_STRING, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_get_text(
    optimizer: *const sonew_optimizer,
    key: *const c_char,
    text: *mut *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a string and a pointer to the result.
        let (key, out) = unsafe { (string(key, || "key".to_owned())?, Out::new(text, "text")?) };
        with(optimizer, |owned| {
            let Some(text) = owned.optimizer.text(&key) else {
                out.write(std::ptr::null());
                return Ok(());
            };
            if !owned.texts.contains_key(&key) {
                owned.texts.insert(key.clone(), c_string(text)?);
            }
            out.write(owned.texts[&key].as_ptr());
            Ok(())
        })
    })
}
