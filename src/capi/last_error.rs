//! The message of each thread's last failed call.

use std::cell::UnsafeCell;
use std::ffi::c_char;
use std::fmt::{self, Display, Write};
use std::ops::Range;

/// Bytes of a message, its NUL included.
const SIZE: usize = 1024;

/// A name, a path or another part of a message that is longer than this loses its
/// middle, so that there is room for what is wrong with it.
const LONGEST_PART: usize = 240;

/// Stands for what was left out.
const GAP: &str = "[...]";

/// Bytes at the end of a message that are kept in any case: the reason stands
/// there.
const END: usize = 400;

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
        // The message is formatted twice, because no memory may be needed for it.
        let mut whole = Length(0);
        let _ = write!(Parts(&mut whole), "{message}");
        let mut text = Text {
            buffer,
            len: 0,
            passed: 0,
            left_out: left_out(whole.0),
        };
        // Neither it nor its parts ever fail.
        let _ = write!(Parts(&mut text), "{message}");
        text.buffer[text.len] = 0;
    });
}

/// The message, NUL-terminated.
pub(super) fn get() -> *const c_char {
    MESSAGE.with(|buffer| buffer.get().cast_const().cast())
}

/// The bytes of a message of this length that have no room.
fn left_out(length: usize) -> Range<usize> {
    match length < SIZE {
        true => length..length,
        false => SIZE - 1 - GAP.len() - END..length - END,
    }
}

/// The last boundary between characters that is not after this byte.
fn boundary_before(text: &str, mut byte: usize) -> usize {
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

/// The first boundary between characters that is not before this byte.
fn boundary_after(text: &str, mut byte: usize) -> usize {
    while !text.is_char_boundary(byte) {
        byte += 1;
    }
    byte
}

/// Shortens each part of a message.
struct Parts<'a, W>(&'a mut W);

impl<W: Write> Write for Parts<'_, W> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if part.len() <= LONGEST_PART {
            return self.0.write_str(part);
        }
        let kept = (LONGEST_PART - GAP.len()) / 2;
        self.0.write_str(&part[..boundary_before(part, kept)])?;
        self.0.write_str(GAP)?;
        let end = boundary_after(part, part.len() - kept);
        self.0.write_str(&part[end..])
    }
}

/// Counts bytes.
struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Writes text to a buffer, but for what is left out.
struct Text<'a> {
    buffer: &'a mut [u8; SIZE],
    /// Bytes in the buffer.
    len: usize,
    /// Bytes of the message that came before.
    passed: usize,
    left_out: Range<usize>,
}

impl Text<'_> {
    fn push(&mut self, text: &str) {
        self.buffer[self.len..][..text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Where the gap begins and ends in this text. A character that it cuts is
        // left out.
        let within = |at: usize| at.saturating_sub(self.passed).min(text.len());
        let begin = boundary_before(text, within(self.left_out.start));
        let end = boundary_after(text, within(self.left_out.end));
        let begins = self.left_out.start < self.left_out.end
            && (self.passed..self.passed + text.len()).contains(&self.left_out.start);
        self.passed += text.len();
        self.push(&text[..begin]);
        if begins {
            self.push(GAP);
        }
        self.push(&text[end..]);
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

    /// A long name, here of characters of three bytes, keeps its beginning and its
    /// end, and the reason stays.
    #[test]
    fn a_long_name_is_shortened_and_the_reason_kept() {
        for start in 0..4 {
            let name = format!("{}{}.end", "x".repeat(start), "€".repeat(4000));
            set(&format_args!("tensor \"{name}\" is wrong"));
            let (before, after) = text().split_once(GAP).unwrap();
            assert!(name.starts_with(before.strip_prefix("tensor \"").unwrap()));
            assert!(name.ends_with(after.strip_suffix("\" is wrong").unwrap()));
            assert!((LONGEST_PART - 5..LONGEST_PART + 20).contains(&text().len()));
        }
    }

    #[test]
    fn the_reason_is_kept_between_long_names() {
        let (a, b) = ("a".repeat(10_000), "b".repeat(10_000));
        set(&format_args!("{a} overlaps {b}"));
        assert!(text().contains("aa overlaps bb"), "{}", text());
    }

    /// Many short parts, as where every second character is escaped.
    #[test]
    fn a_long_message_of_short_parts_keeps_both_ends() {
        for start in 0..8 {
            let name = format!("{}{}", "x".repeat(start), "\n€".repeat(SIZE));
            set(&format_args!(
                "tensor 3 is named {name:?}: and that is wrong"
            ));
            assert!(text().starts_with("tensor 3 is named \""), "{}", text());
            assert!(text().ends_with("\": and that is wrong"), "{}", text());
            assert!(text().contains(GAP));
            assert!(
                (SIZE - 10..SIZE).contains(&text().len()),
                "{}",
                text().len()
            );
        }
    }

    /// At every length around the limit nothing is lost that fits.
    #[test]
    fn what_fits_is_whole() {
        for length in SIZE - 10..SIZE + 10 {
            let parts = "0123456789".repeat(200);
            set(&format_args!("{:?}", Chars(&parts[..length])));
            assert_eq!(text() == &parts[..length], length < SIZE, "{length}");
            assert_eq!(text().len(), length.min(SIZE - 1));
        }
        set(&"short");
        assert_eq!(text(), "short");
    }

    /// A text of which every character is a part.
    struct Chars<'a>(&'a str);

    impl fmt::Debug for Chars<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.chars().try_for_each(|c| f.write_char(c))
        }
    }
}
