//! The processors that threads run on.

use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::reserve::Taken;
use crate::signals::Blocked;

/// More processors than any kernel knows.
const MOST: usize = 8192;
const BITS: usize = libc::c_ulong::BITS as usize;

/// A set of processors, as the system reads it.
type Mask = [libc::c_ulong; MOST / BITS];

pub(super) struct Processors(Box<Mask>);

impl Processors {
    /// A set of these, on all of which the process may run: that is tried, with a thread
    /// that does nothing else.
    pub(super) fn new(numbers: &[usize]) -> Result<Self> {
        let refused = |index: usize| Error::Processor {
            index,
            processor: numbers[index],
            reason: REASON,
        };
        let mut mask = Box::new([0; MOST / BITS]);
        for (index, &number) in numbers.iter().enumerate() {
            if number >= MOST {
                return Err(refused(index));
            }
            mask[number / BITS] |= 1 << (number % BITS);
        }
        let processors = Processors(mask);
        let no_thread = |reason| Error::Threads { threads: 1, reason };
        let reserve = Taken::new().ok_or_else(|| no_thread("out of memory".to_owned()))?;
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("sonew-processors".to_owned());
        let blocked = Blocked::now();
        let thread = thread.spawn(move || {
            let _held = reserve.hold();
            let _ = wait.recv();
        });
        drop(blocked);
        let thread = thread.map_err(|error| no_thread(error.to_string()))?;
        let bound = processors.bind(&thread);
        drop(done);
        let _ = thread.join();
        match bound {
            Ok(()) => Ok(processors),
            Err(left) => {
                let is_left = |&number: &usize| left[number / BITS] >> (number % BITS) & 1 == 1;
                let first = numbers.iter().position(|number| !is_left(number));
                Err(refused(first.unwrap_or(0)))
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Lets a thread run on these processors only. If the system leaves any out, which it
    /// does without an error, returns the others.
    pub(super) fn bind(&self, thread: &JoinHandle<()>) -> std::result::Result<(), Box<Mask>> {
        let mut left = Box::new([0; MOST / BITS]);
        set(thread, &self.0, &mut left);
        match left == self.0 {
            true => Ok(()),
            false => Err(left),
        }
    }
}

#[cfg(target_os = "linux")]
const REASON: &str = "there is no such processor, or the process may not run on it";

/// Lets a thread run on the processors of a set only, and writes where it may run then.
#[cfg(target_os = "linux")]
fn set(thread: &JoinHandle<()>, mask: &Mask, left: &mut Mask) {
    use std::os::unix::thread::JoinHandleExt;

    extern "C" {
        fn pthread_setaffinity_np(
            thread: libc::pthread_t,
            size: usize,
            mask: *const libc::c_ulong,
        ) -> libc::c_int;
        fn pthread_getaffinity_np(
            thread: libc::pthread_t,
            size: usize,
            mask: *mut libc::c_ulong,
        ) -> libc::c_int;
    }
    let thread = thread.as_pthread_t() as libc::pthread_t;
    // SAFETY: the thread has not been joined, and the masks have the size that is said.
    unsafe {
        if pthread_setaffinity_np(thread, size_of::<Mask>(), mask.as_ptr()) == 0 {
            pthread_getaffinity_np(thread, size_of::<Mask>(), left.as_mut_ptr());
        }
    }
}

#[cfg(not(target_os = "linux"))]
const REASON: &str = "this system does not bind threads to processors";

#[cfg(not(target_os = "linux"))]
fn set(_: &JoinHandle<()>, _: &Mask, _: &mut Mask) {}
