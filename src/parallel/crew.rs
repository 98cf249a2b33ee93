//! Threads that help with a piece of work, as long as there is any.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use rayon::ThreadPool;

/// Where the threads of a pool learn of work without falling asleep in between: a step is
/// several pieces of work, one right after the other.
#[derive(Default)]
pub(super) struct Post {
    last: Mutex<Option<Arc<Crew>>>,
    /// The number of the last crew.
    number: AtomicUsize,
    /// Threads that wait for the next one.
    lingering: AtomicUsize,
}

/// Those who may help with one piece of work. Who comes when it is done finds nothing to
/// do, and nobody waits for them: to wake a thread takes longer than many a sweep.
struct Crew {
    number: usize,
    /// How many are helping, and [`CLOSED`].
    state: AtomicUsize,
    /// How many have come, of so many that may.
    come: AtomicUsize,
    most: usize,
    /// What helper `i` does. It is there as long as anybody helps.
    task: *const (dyn Fn(usize) + Sync),
    /// Who waits for them.
    caller: Thread,
    /// Of the first helper that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Nobody may begin to help any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Turns of a loop, of which each takes a processor some 10 to 40 nanoseconds: how long
/// those who are done wait for others, who mostly are soon, before they fall asleep.
const MOMENT: usize = 2000;
/// The same for those who wait for more work, which keeps other programs from theirs.
const LINGER: usize = 500;

// SAFETY: helpers share the task, which is `Sync`; the rest is, too.
unsafe impl Send for Crew {}
// SAFETY: as above.
unsafe impl Sync for Crew {}

/// What is behind the locks of this module is set as a whole, so that a panic leaves it right.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// Helps, unless it is too late, or there are enough.
    fn help(&self) {
        let enter = |state: usize| (state & CLOSED == 0).then_some(state + 1);
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        if self.state.fetch_update(order, failed, enter).is_err() {
            return;
        }
        let i = self.come.fetch_add(1, Ordering::Relaxed);
        if i < self.most {
            // SAFETY: whoever has made the crew waits for those who have entered.
            let task = unsafe { &*self.task };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(i))) {
                lock(&self.panic).get_or_insert(panic);
            }
        }
        if self.state.fetch_sub(1, Ordering::Release) == CLOSED + 1 {
            self.caller.unpark();
        }
    }

    /// Waits for those who are helping.
    fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::Relaxed);
        let is_done = || self.state.load(Ordering::Acquire) == CLOSED;
        if !soon(MOMENT, is_done) {
            while !is_done() {
                thread::park();
            }
        }
    }
}

/// Whether something happens within so many turns of a loop.
fn soon(turns: usize, happened: impl Fn() -> bool) -> bool {
    (0..turns).any(|_| {
        std::hint::spin_loop();
        happened()
    })
}

/// Closes a crew, also after a panic.
struct Closing<'a>(&'a Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Post {
    /// Helps, and then with what comes soon.
    fn serve(&self, mut crew: Arc<Crew>) {
        loop {
            crew.help();
            self.lingering.fetch_add(1, Ordering::Relaxed);
            let next = || self.number.load(Ordering::Acquire) != crew.number;
            let came = soon(LINGER, next);
            self.lingering.fetch_sub(1, Ordering::Relaxed);
            let last = came.then(|| lock(&self.last).clone()).flatten();
            match last {
                Some(last) => crew = last,
                None => return,
            }
        }
    }

    /// Runs `mine`, while threads of the pool run `task` with 0, 1, ... up to `helpers`, each
    /// once or not at all.
    pub(super) fn with_helpers(
        self: &Arc<Self>,
        pool: &ThreadPool,
        helpers: usize,
        task: &(dyn Fn(usize) + Sync),
        mine: impl FnOnce(),
    ) {
        type Task<'t> = &'t (dyn Fn(usize) + Sync);
        // SAFETY: only the lifetime changes. Helpers use the task between entering and
        // leaving, and this function returns, or unwinds, when all have left and none can
        // enter.
        let task = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        let mut last = lock(&self.last);
        let crew = Arc::new(Crew {
            number: self.number.fetch_add(1, Ordering::Release) + 1,
            state: AtomicUsize::new(0),
            come: AtomicUsize::new(0),
            most: helpers,
            task,
            caller: thread::current(),
            panic: Mutex::new(None),
        });
        *last = Some(crew.clone());
        drop(last);
        let lingering = self.lingering.load(Ordering::Relaxed);
        {
            let _closing = Closing(&crew);
            for _ in lingering..helpers {
                let (post, crew) = (self.clone(), crew.clone());
                pool.spawn(move || post.serve(crew));
            }
            mine();
        }
        let panic = lock(&crew.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
