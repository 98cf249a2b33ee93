//! Wraps the body of every exported function: saves and restores the caller's
//! floating-point mode, holds back cancellation, sets memory aside, catches panics, and
//! turns an error into a status and a message.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use super::last_error;
use super::status::sonew_status;
use sonew_kernel::FloatMode;

use crate::error::{Error, Result};
use crate::reserve::{self, Taken};
use crate::signals::NotCancelled;

/// Runs the body of an exported function, with a reserve for its small allocations.
pub(super) fn call(body: impl FnOnce() -> Result<()>) -> sonew_status {
    match Taken::new() {
        Some(reserve) => {
            let _held = reserve.hold();
            answer(body)
        }
        None => {
            // No error, because its text would need memory.
            let needs = format_args!("out of memory: a call needs {} bytes", reserve::SIZE);
            last_error::set(&needs);
            sonew_status::SONEW_OUT_OF_MEMORY
        }
    }
}

/// The same for a function that allocates nothing when it succeeds. It is not refused
/// for lack of memory.
pub(super) fn call_always(body: impl FnOnce() -> Result<()>) -> sonew_status {
    let _held = Taken::new().map(Taken::hold);
    answer(body)
}

fn answer(body: impl FnOnce() -> Result<()>) -> sonew_status {
    match caught(body) {
        Ok(()) => sonew_status::SONEW_OK,
        Err(error) => {
            last_error::set(&error);
            sonew_status::from(&error)
        }
    }
}

/// Runs a body and turns a panic into an error.
pub(crate) fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    // Every function needs this, not only the step: parsing and printing the
    // numbers in a file is arithmetic, too.
    let _mode = FloatMode::set_default();
    let _not_cancelled = NotCancelled::now();
    keep_panics_silent();
    INSIDE.set(true);
    // A panic can leave only the handle in an inconsistent state, and the
    // registry refuses that handle from then on.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(false);
    outcome.unwrap_or_else(|payload| {
        Err(Error::Internal {
            message: format!("{}{}", text(&*payload), take_location()),
        })
    })
}

thread_local! {
    /// Whether this thread is in a call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Where the last panic was.
static LOCATION: Mutex<String> = Mutex::new(String::new());

/// Rust prints a panic before it can be caught, unless a hook does otherwise.
/// This hook prints nothing for the library's own panics, whose text the caller
/// gets as a message, and passes all others to the previous hook. (In a shared
/// library there are no others: the hook belongs to the library's own copy of
/// std.)
fn keep_panics_silent() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Relaxed)
        || std::thread::panicking()
        || INSTALLED.swap(true, Ordering::Relaxed)
    {
        return;
    }
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if is_ours() {
            note_location(info);
        } else {
            others(info);
        }
    }));
}

/// Whether this thread is in a call, or is one that an optimizer started.
fn is_ours() -> bool {
    let worker = || {
        let thread = std::thread::current();
        thread.name().is_some_and(|name| name.starts_with("sonew-"))
    };
    INSIDE.get() || worker()
}

fn note_location(info: &PanicHookInfo<'_>) {
    let location = info.location().map(|at| format!(" ({at})"));
    // Does not wait for the lock: if two threads panic at once, one location is
    // enough.
    if let Ok(mut last) = LOCATION.try_lock() {
        *last = location.unwrap_or_default();
    }
}

fn take_location() -> String {
    LOCATION
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

    /// The next test runs this one in a separate process.
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
