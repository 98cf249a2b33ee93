//! What every exported function does around its body: the caller's
//! floating-point mode is put aside, no panic leaves it, and an error becomes a
//! status and a message.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::last_error;
use super::status::sonew_status;
use crate::error::{Error, Result};
use crate::kernel::FloatMode;

/// Runs the body of an exported function.
pub(super) fn call(body: impl FnOnce() -> Result<()>) -> sonew_status {
    match caught(body) {
        Ok(()) => sonew_status::SONEW_OK,
        Err(error) => {
            last_error::set(&error);
            sonew_status::from(&error)
        }
    }
}

/// The outcome of a body; a panic is an error, too.
pub(crate) fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    // Not for the step alone: the numbers in a file are read and written with
    // arithmetic, too.
    let _mode = FloatMode::set_default();
    keep_panics_silent();
    INSIDE.set(true);
    // What a panic may leave half-done is a handle, which its registry then
    // refuses from there on.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(false);
    outcome.unwrap_or_else(|payload| {
        Err(Error::Internal {
            message: format!("{}{}", text(&*payload), place()),
        })
    })
}

thread_local! {
    /// Whether this thread is in a call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Where the last panic was.
static PLACE: Mutex<String> = Mutex::new(String::new());

/// Rust prints a panic before it can be caught, unless a hook does otherwise.
/// This one is silent about the library's own panics, whose text the caller
/// gets as a message, and passes every other one on. (In a shared library
/// there is no other: the hook belongs to the library's own copy of std.)
fn keep_panics_silent() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if std::thread::panicking() || INSTALLED.swap(true, Ordering::Relaxed) {
        return;
    }
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if is_ours() {
            note_place(info);
        } else {
            others(info);
        }
    }));
}

/// Whether this thread is in a call, or one of an optimizer's own.
fn is_ours() -> bool {
    let worker = || {
        let thread = std::thread::current();
        thread.name().is_some_and(|name| name.starts_with("sonew-"))
    };
    INSIDE.get() || worker()
}

fn note_place(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|at| format!(" ({at})"));
    // Never waits: another panic at the same time tells enough.
    if let Ok(mut last) = PLACE.try_lock() {
        *last = place.unwrap_or_default();
    }
}

fn place() -> String {
    PLACE
        .try_lock()
        .map(|mut last| std::mem::take(&mut *last))
        .unwrap_or_default()
}

/// The text of a panic.
fn text(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    let formatted = || payload.downcast_ref::<String>().map(String::as_str);
    literal
        .or_else(formatted)
        .unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::process::Command;

    fn message() -> &'static str {
        // SAFETY: the message ends with a NUL; each test has its thread.
        unsafe { CStr::from_ptr(last_error::get()) }
            .to_str()
            .unwrap()
    }

    #[test]
    fn an_error_becomes_a_status_and_a_message() {
        assert_eq!(
            call(|| Err(Error::NoTensors)),
            sonew_status::SONEW_NO_TENSORS
        );
        assert_eq!(message(), "the list of tensors is empty");
        assert_eq!(call(|| Ok(())), sonew_status::SONEW_OK);
    }

    /// Run by the next test, in a process of its own.
    #[test]
    #[ignore]
    fn panics_in_a_call_and_in_a_worker() {
        let number = std::hint::black_box(7);
        let status = call(|| panic!("pop {number}"));
        assert_eq!(status, sonew_status::SONEW_INTERNAL);
        let expected = "internal error, please report it: pop 7 (src/capi/guard.rs:";
        assert!(message().starts_with(expected), "{}", message());

        let worker = std::thread::Builder::new().name("sonew-1".to_owned());
        let worker = worker.spawn(|| panic!("pop in a worker")).unwrap();
        assert_eq!(
            call(|| panic::resume_unwind(worker.join().unwrap_err())),
            sonew_status::SONEW_INTERNAL
        );
        assert!(message().contains("pop in a worker"), "{}", message());

        let other = std::thread::spawn(|| panic!("a panic of the host"));
        assert!(other.join().is_err());
    }

    #[test]
    fn a_panic_becomes_a_status_and_is_not_printed() {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("capi::guard::tests::panics_in_a_call_and_in_a_worker")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&run.stderr);
        let outcome = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{outcome}{printed}");
        assert!(outcome.contains("1 passed"), "{outcome}");
        assert!(!printed.contains("pop"), "{printed}");
        assert!(printed.contains("a panic of the host"), "{printed}");
    }
}
