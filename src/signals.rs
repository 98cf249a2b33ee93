//! Keeps the host's signal handlers from running on the library's threads, and its
//! threads from being cancelled in the middle of a call.

#[cfg(unix)]
pub(crate) use unix::{Blocked, NotCancelled};

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;

    /// Signals that the library's threads do take: those that a thread causes
    /// itself, so that the host's crash handler still gets them, and the signal
    /// of sampling profilers.
    const NOT_BLOCKED: [libc::c_int; 7] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGPROF,
    ];

    /// While this lives, `pthread_cancel` does not end the calling thread: the request
    /// stays pending. A thread that ended in a file operation would leave a handle in
    /// use and files half written, and its unwinding may not pass through Rust.
    pub(crate) struct NotCancelled {
        /// Whether it could be cancelled before.
        before: libc::c_int,
    }

    extern "C" {
        fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
    }

    /// `PTHREAD_CANCEL_DISABLE`.
    const DISABLE: libc::c_int = match cfg!(target_vendor = "apple") {
        true => 0,
        false => 1,
    };

    impl NotCancelled {
        pub(crate) fn now() -> Self {
            let mut before = DISABLE;
            // SAFETY: it writes the state that was before. It cannot fail for this
            // state.
            unsafe { pthread_setcancelstate(DISABLE, &mut before) };
            NotCancelled { before }
        }
    }

    impl Drop for NotCancelled {
        fn drop(&mut self) {
            let mut ignored = 0;
            // SAFETY: the state that this thread had. This does not cancel it either:
            // only its next cancellation point does.
            unsafe { pthread_setcancelstate(self.before, &mut ignored) };
        }
    }

    /// While this lives, the calling thread takes no signals but those above. It
    /// exists while threads are started, because they inherit the signal mask.
    pub(crate) struct Blocked {
        before: libc::sigset_t,
    }

    impl Blocked {
        pub(crate) fn now() -> Option<Self> {
            let mut all = MaybeUninit::uninit();
            let mut before = MaybeUninit::uninit();
            // SAFETY: `sigfillset` initializes the first set, and
            // `pthread_sigmask` the second one if it succeeds.
            unsafe {
                libc::sigfillset(all.as_mut_ptr());
                for signal in NOT_BLOCKED {
                    libc::sigdelset(all.as_mut_ptr(), signal);
                }
                let failed =
                    libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
                (failed == 0).then(|| Blocked {
                    before: before.assume_init(),
                })
            }
        }
    }

    impl Drop for Blocked {
        fn drop(&mut self) {
            // SAFETY: the set is the mask that this thread had before.
            unsafe {
                libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
            }
        }
    }
}

#[cfg(not(unix))]
pub(crate) struct Blocked;

#[cfg(not(unix))]
pub(crate) struct NotCancelled;

#[cfg(not(unix))]
impl NotCancelled {
    pub(crate) fn now() -> Self {
        NotCancelled
    }
}

#[cfg(not(unix))]
impl Blocked {
    pub(crate) fn now() -> Self {
        Blocked
    }
}
