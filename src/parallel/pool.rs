//! Threads that any number of plans share: the library's own, never the host's.

use std::mem::{forget, take};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};
use sonew_kernel::FloatMode;

use super::crew::{lock, Post};
use super::processors::Processors;
use crate::error::Result;
use crate::options::{in_range, Options, MAX_THREADS};
use crate::process::{PerProcess, Process};
use crate::reserve::Taken;
use crate::signals::Blocked;

/// Threads that any number of optimizers and plans share.
///
/// All optimizers and plans of the process that ask for the same number of threads share
/// one. A pool of the program's own, for
/// [`Optimizer::with_pool`](crate::Optimizer::with_pool) and
/// [`Plan::with_pool`](crate::Plan::with_pool), keeps groups of them apart, or runs their
/// threads on chosen processors. Two steps at once divide the threads; results do not
/// depend on any of this.
///
/// The threads start when a step first needs them, and end with the last optimizer or
/// plan that has used them. If the system refuses some, steps go on with the others:
/// [`threads`](Pool::threads) says how many. A clone is the same pool.
#[derive(Clone)]
pub struct Pool {
    /// How many are asked for, the thread that calls a step included.
    asked: usize,
    /// `None` is the pool that the process has for this number.
    own: Option<Arc<Place>>,
}

/// Where the threads of a pool are found.
struct Place {
    processors: Option<Processors>,
    /// They live as long as a plan holds them.
    threads: PerProcess<Mutex<Weak<Threads>>>,
}

/// The pool of the process for each number of threads.
static SHARED: [Place; MAX_THREADS + 1] = [const { Place::new(None) }; MAX_THREADS + 1];

impl Place {
    const fn new(processors: Option<Processors>) -> Self {
        Place {
            processors,
            threads: PerProcess::new(),
        }
    }

    /// The threads that are running, if there are any.
    fn running(&self) -> Option<Arc<Threads>> {
        lock(self.threads.known()?).upgrade()
    }

    /// The same, or those that `start` makes.
    fn running_or(&self, start: impl FnOnce() -> Threads) -> Arc<Threads> {
        let mut running = lock(self.threads.get());
        running.upgrade().unwrap_or_else(|| {
            let started = Arc::new(start());
            *running = Arc::downgrade(&started);
            started
        })
    }
}

impl Pool {
    /// A pool of the program's own, of so many threads, the thread that calls a step
    /// included. 0 means one for each of `processors`, or without them one for each
    /// processor that the process may run on. With `processors`, numbered as the system
    /// does, the threads of the pool run on no other; the calling thread runs where it
    /// does. Starts no thread.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for more than 1024 threads,
    /// [`Error::Processor`](crate::Error::Processor) for a processor that the process
    /// may not run on, and on systems other than Linux for any. With processors, which
    /// are tried, [`Error::Threads`](crate::Error::Threads).
    pub fn new(threads: usize, processors: &[usize]) -> Result<Self> {
        let allowed = "0 to 1024";
        in_range("threads", threads as f64, threads <= MAX_THREADS, allowed)?;
        let processors = (!processors.is_empty()).then(|| Processors::new(processors));
        let processors = processors.transpose()?;
        let asked = match (threads, &processors) {
            (0, Some(processors)) => processors.count().min(MAX_THREADS),
            _ => or_all(threads),
        };
        Ok(Pool {
            asked,
            own: Some(Arc::new(Place::new(processors))),
        })
    }

    /// The pool for these options, which are valid: the one that is given, or the one that
    /// the process has for the number of threads.
    pub(crate) fn choose(options: &Options, given: Option<&Pool>) -> Result<Self> {
        let threads = options.threads;
        let holds = threads == 0 || given.is_none();
        in_range("options.threads", threads as f64, holds, "0 with a pool")?;
        Ok(given.cloned().unwrap_or_else(|| Pool {
            asked: or_all(threads),
            own: None,
        }))
    }

    fn place(&self) -> &Place {
        match &self.own {
            Some(own) => own,
            None => &SHARED[self.asked],
        }
    }

    /// This pool, unless it is the one that the process has for a number of threads.
    pub(crate) fn own(&self) -> Option<&Pool> {
        self.own.is_some().then_some(self)
    }

    /// How many are asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// The largest number of threads that a step uses, the calling thread included: while
    /// the pool's threads are running, those that the system gave, otherwise those
    /// that were asked for.
    pub fn threads(&self) -> usize {
        let running = self.place().running();
        running.map_or(self.asked, |threads| 1 + threads.handles.len())
    }
}

/// So many; 0 means as many as the process may run on.
fn or_all(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
        n => n,
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("asked", &self.asked).finish()
    }
}

/// What a plan has of a pool: its threads, from the first step on that needs them.
pub(crate) struct Workers {
    pool: Pool,
    threads: Option<Arc<Threads>>,
}

impl Workers {
    pub(crate) fn of(pool: Pool) -> Self {
        let threads = None;
        Workers { pool, threads }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sees to it that there are threads, unless one worker is enough. Returns how many
    /// workers there are, up to `wanted`. After a fork the child starts its own: the
    /// parent's did not come along.
    pub(crate) fn prepare(&mut self, wanted: usize) -> usize {
        if wanted <= 1 {
            return wanted;
        }
        let is_current = |threads: &Arc<Threads>| threads.process.is_current();
        if !self.threads.as_ref().is_some_and(is_current) {
            let place = self.pool.place();
            let start = || Threads::start(self.pool.asked - 1, place.processors.as_ref());
            self.threads = Some(place.running_or(start));
        }
        let threads = self.threads.as_ref();
        wanted.min(1 + threads.map_or(0, |threads| threads.handles.len()))
    }

    /// Runs `work` for the first item in the caller's thread, and meanwhile for each of
    /// the others in a thread of the pool, of as many as have been
    /// [prepared](Workers::prepare): as long as the first takes. What is left by then is
    /// left out, so that the work must be one that any of them does to its end. All
    /// threads but the caller's are in the default floating-point mode meanwhile.
    pub(crate) fn run<T: Send>(&self, items: &mut [T], work: &(impl Fn(&mut T) + Sync)) {
        let Some((mine, others)) = items.split_first_mut() else {
            return;
        };
        let threads = self.threads.as_ref().filter(|_| !others.is_empty());
        match threads.and_then(|threads| Some((threads.pool.as_ref()?, &threads.post))) {
            Some((pool, post)) => {
                let (count, others) = (others.len(), Items::of(others));
                let task = |i: usize| {
                    let _mode = FloatMode::set_default();
                    // SAFETY: they are borrowed exclusively, and each is asked for once.
                    work(unsafe { others.get(i) });
                };
                post.with_helpers(pool, count, &task, || work(mine));
            }
            None => work(mine),
        }
    }
}

/// A list of which each thread gets items of its own.
pub(super) struct Items<T>(*mut T, usize);

// SAFETY: what threads get are different items.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    pub(super) fn of(list: &mut [T]) -> Self {
        Items(list.as_mut_ptr(), list.len())
    }

    /// # Safety
    /// The list is borrowed exclusively, and nobody else has this item.
    #[allow(clippy::mut_from_ref)] // That is the promise.
    pub(super) unsafe fn get(&self, i: usize) -> &mut T {
        assert!(i < self.1);
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(i) }
    }
}

/// Running threads. They end when this is dropped.
struct Threads {
    /// `None` if the system gave none.
    pool: Option<ThreadPool>,
    post: Arc<Post>,
    handles: Vec<JoinHandle<()>>,
    /// The process that they live in.
    process: Process,
}

impl Threads {
    /// Starts up to so many: as many as the system gives.
    fn start(wanted: usize, processors: Option<&Processors>) -> Self {
        let mut threads = Threads {
            pool: None,
            post: Arc::default(),
            handles: Vec::with_capacity(wanted),
            process: Process::current(),
        };
        let mut posts = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let (post, work) = channel();
            let Some(thread) = start(index, work) else {
                break;
            };
            if processors.is_some_and(|processors| processors.bind(&thread).is_err()) {
                drop(post);
                // Without work it ends.
                let _ = thread.join();
                break;
            }
            posts.push(post);
            threads.handles.push(thread);
        }
        if !posts.is_empty() {
            // They exist before the pool is made, which does not do with fewer.
            let pool = ThreadPoolBuilder::new().num_threads(posts.len());
            let pool = pool.spawn_handler(|worker| {
                let post = &posts[worker.index()];
                // Its thread waits for it.
                let sent = post.send(worker);
                sent.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
            });
            threads.pool = pool.build().ok();
        }
        threads
    }
}

/// Starts a thread that waits for its work; `None` if the system refuses it.
fn start(index: usize, work: Receiver<ThreadBuilder>) -> Option<JoinHandle<()>> {
    // The name distinguishes the library's own panics from the host's.
    let thread = std::thread::Builder::new().name(format!("sonew-{}", index + 1));
    let reserve = Taken::new()?;
    let _blocked = Blocked::now();
    let work = move || {
        let _held = reserve.hold();
        if let Ok(worker) = work.recv() {
            worker.run();
        }
    };
    thread.spawn(work).ok()
}

impl Drop for Threads {
    fn drop(&mut self) {
        let (pool, handles) = (self.pool.take(), take(&mut self.handles));
        if !self.process.is_current() {
            // A forked child: the threads exist in the parent only, and their
            // locks may be held for ever.
            forget((pool, handles));
            return;
        }
        drop(pool);
        for handle in handles {
            // They have nothing left to do. A panic in one was passed on to
            // the step that caused it.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
