//! Keeps the host's signal handlers from running on the library's threads.

#[cfg(unix)]
pub(crate) use unix::Blocked;

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
impl Blocked {
    pub(crate) fn now() -> Self {
        Blocked
    }
}
