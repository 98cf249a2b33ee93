//! The message of each thread's last failed call.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::fmt::{self, Display, Write};

/// Bytes of a message, its NUL included; longer ones are cut.
const SIZE: usize = 1024;

thread_local! {
    // Has a constant initial value and no destructor: a destructor would keep
    // the library loaded after dlclose, until the thread ends.
    static MESSAGE: UnsafeCell<[u8; SIZE]> = const { UnsafeCell::new([0; SIZE]) };
}

/// Stores a message for this thread.
pub(super) fn set(message: &dyn Display) {
    MESSAGE.with(|buffer| {
        // SAFETY: only this thread can access the buffer, and nothing that is
        // called while the reference lives calls this function again.
        let buffer = unsafe { &mut *buffer.get() };
        let mut text = Text { buffer, len: 0 };
        // The only possible error is that the buffer is full.
        let _ = write!(text, "{message}");
        text.buffer[text.len] = 0;
    });
}

/// The message, NUL-terminated.
pub(super) fn get() -> *const c_char {
    MESSAGE.with(|buffer| buffer.get().cast_const().cast())
}

/// Writes text to a buffer until it is full, leaving room for a NUL.
struct Text<'a> {
    buffer: &'a mut [u8; SIZE],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = SIZE - 1 - self.len;
        let mut fits = text.len().min(room);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.buffer[self.len..][..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits < text.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text() -> &'static str {
        // SAFETY: `set` ends the text with a NUL; each test has its thread.
        unsafe { CStr::from_ptr(get()) }.to_str().unwrap()
    }

    #[test]
    fn it_is_empty_at_first_and_each_thread_has_its_own() {
        assert_eq!(text(), "");
        set(&"mine");
        std::thread::spawn(|| assert_eq!(text(), ""))
            .join()
            .unwrap();
        assert_eq!(text(), "mine");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        for start in 0..4 {
            let long = format!("{}{}", "x".repeat(start), "€".repeat(SIZE));
            set(&long);
            assert!(long.starts_with(text()));
            assert!((SIZE - 3..SIZE).contains(&text().len()));
        }
        set(&"short");
        assert_eq!(text(), "short");
    }
}
