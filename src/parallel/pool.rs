//! The threads of one plan: its own, never the host's.

use std::io::ErrorKind;
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::process::Process;
use crate::reserve::Taken;
use crate::signals::Blocked;

/// Threads that are started when first needed and joined when dropped.
pub(crate) struct Pool {
    /// The largest number of threads at work, the caller's included.
    threads: usize,
    started: Option<Started>,
}

struct Started {
    pool: ThreadPool,
    handles: Vec<JoinHandle<()>>,
    /// The process that the threads live in.
    process: Process,
}

impl Pool {
    /// A pool of up to `threads` threads; 0 means as many as the process may
    /// run on. Starts none.
    pub(crate) fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        Pool {
            threads,
            started: None,
        }
    }

    /// The largest number of threads at work, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Starts the threads, unless one worker is enough. After a fork the
    /// child starts its own: the parent's did not come along.
    pub(crate) fn prepare(&mut self, workers: usize) -> Result<()> {
        if workers <= 1 {
            return Ok(());
        }
        if let Some(started) = &self.started {
            if started.process.is_current() {
                return Ok(());
            }
            self.stop();
        }
        self.started = Some(Started::new(self.threads - 1)?);
        Ok(())
    }

    /// Runs `work` once for each item, at the same time where the pool has
    /// been prepared; the caller's thread takes the first.
    pub(crate) fn run<T: Send>(&self, items: &mut [T], work: &(impl Fn(&mut T) + Sync)) {
        let Some((mine, others)) = items.split_first_mut() else {
            return;
        };
        match &self.started {
            Some(started) if !others.is_empty() => started.pool.in_place_scope(|scope| {
                for item in others {
                    scope.spawn(move |_| work(item));
                }
                work(mine);
            }),
            _ => {
                work(mine);
                others.iter_mut().for_each(work);
            }
        }
    }

    fn stop(&mut self) {
        let Some(started) = self.started.take() else {
            return;
        };
        if !started.process.is_current() {
            // A forked child: the threads exist in the parent only, and their
            // locks may be held for ever.
            std::mem::forget(started);
            return;
        }
        drop(started.pool);
        for handle in started.handles {
            // They have nothing left to do. A panic in one was passed on to
            // the step that caused it.
            let _ = handle.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Started {
    fn new(threads: usize) -> Result<Self> {
        let mut handles = Vec::with_capacity(threads);
        let _blocked = Blocked::now();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(|worker| {
                let name = format!("sonew-{}", worker.index() + 1);
                let thread = std::thread::Builder::new().name(name);
                let reserve = Taken::new().ok_or(ErrorKind::OutOfMemory)?;
                handles.push(thread.spawn(|| {
                    let _held = reserve.hold();
                    worker.run();
                })?);
                Ok(())
            })
            .build()
            .map_err(|error| Error::Threads {
                threads,
                reason: error.to_string(),
            })?;
        Ok(Started {
            pool,
            handles,
            process: Process::current(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::{Barrier, Mutex};

    #[test]
    fn one_thread_means_that_none_is_started() {
        let mut pool = Pool::new(1);
        pool.prepare(1).unwrap();
        assert!(pool.started.is_none());
        let mut items = [0, 0, 0];
        pool.run(&mut items, &|x| *x += 1);
        assert_eq!(items, [1, 1, 1]);
    }

    #[test]
    fn items_are_worked_on_at_the_same_time() {
        let mut pool = Pool::new(3);
        pool.prepare(3).unwrap();
        // Passing the barrier takes three threads at once.
        let barrier = Barrier::new(3);
        let threads = Mutex::new(HashSet::new());
        pool.run(&mut [(); 3], &|_| {
            barrier.wait();
            threads.lock().unwrap().insert(std::thread::current().id());
        });
        assert_eq!(threads.into_inner().unwrap().len(), 3);
    }
}
