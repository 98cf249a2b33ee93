//! Signals are the host's: its handlers run on its own threads.

#[cfg(unix)]
pub(crate) use unix::Blocked;

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;

    /// Left to the library's threads: what a thread causes itself, so that the
    /// host's crash handler still sees it, and the signal of sampling profilers.
    const NOT_BLOCKED: [libc::c_int; 7] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGSYS,
        libc::SIGPROF,
    ];

    /// While it lives, the calling thread takes no signals but those above: for
    /// the time in which it starts others, which have its mask.
    pub(crate) struct Blocked {
        before: libc::sigset_t,
    }

    impl Blocked {
        pub(crate) fn now() -> Option<Self> {
            let mut all = MaybeUninit::uninit();
            let mut before = MaybeUninit::uninit();
            // SAFETY: `sigfillset` makes a set of the first one, and where
            // `pthread_sigmask` succeeds it makes one of the second.
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
            // SAFETY: the set is the one that this thread had.
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
