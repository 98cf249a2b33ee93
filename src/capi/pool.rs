//! Pool
//!
//! A pool is a set of threads that any number of optimizers and plans share.
//! Programs that do not need a choice need no pool: all optimizers and plans of
//! a process that ask for the same number of threads share one, so that hundreds
//! of optimizers, one for each parameter, have no more threads than one has. A
//! pool of a program's own, in sonew_options.pool, keeps groups of them apart, or
//! runs their threads on chosen processors.
//!
//! Its threads start when a step first needs them, and end when the last
//! optimizer or plan that has used them is freed. If the system refuses some, steps
//! go on with those that it gives. Two steps at once divide the threads. A thread that
//! has nothing to do falls asleep after some 20 microseconds. Results do not depend on any
//! of this.
//!
//! In a program with threads of its own, as of OpenMP, both may want the same processors. That
//! does no harm where those of the program sleep between their pieces of work. Those of GNU's
//! and LLVM's OpenMP do not: for milliseconds (200 with LLVM) after a parallel region they keep
//! their processors busy, and a step that begins then has only the rest of them, and waits for
//! those of its threads that got no processor. The library cannot know of this. Run the
//! program with OMP_WAIT_POLICY=passive in its environment, or give the step only processors
//! that are free: options.threads = 1 is one thread, the calling one.

use super::arguments::{count, List, Out};
use super::guard::{call, call_always};
use super::handles::sonew_pool;
use super::registry::Registry;
use super::status::sonew_status;
use crate::error::Result;
use crate::Pool;

static POOLS: Registry<Pool> = Registry::new();

/// The pool of a handle, which other threads may get at the same time.
pub(super) fn get(pool: *const sonew_pool, argument: &'static str) -> Result<Pool> {
    POOLS.copy(pool.addr(), argument)
}

/// Creates a pool of up to 1024 threads, the thread that calls a step included, and
/// writes its handle to *pool. processors has the numbers, as the system counts
/// them, of count processors: the threads of the pool run on no others, while the
/// calling thread runs where it does. With count 0 they run on any, and processors
/// may be NULL. 0 threads means one for each of these processors, or for each one
/// that the process may run on. No thread of the pool starts before a step needs it.
///
/// Any number of threads may use a pool's handle at once.
///
/// Errors: SONEW_OUT_OF_RANGE for threads; SONEW_PROCESSOR for a processor that is
/// not there, or that the process may not run on, and on systems other than Linux
/// for any; SONEW_THREADS; SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_pool_create(
    threads: i32,
    processors: *const usize,
    count: usize,
    pool: *mut *mut sonew_pool,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { create(threads, processors, count, pool) })
}

/// # Safety
/// As for [`sonew_pool_create`].
unsafe fn create(
    threads: i32,
    processors: *const usize,
    len: usize,
    out: *mut *mut sonew_pool,
) -> Result<()> {
    // SAFETY: the caller's promise, for both.
    let (out, processors) = unsafe {
        (
            Out::new(out, "pool")?,
            List::new(processors, len, "processors")?,
        )
    };
    let processors = processors.collect("the list of processors", |_, number| Ok(number))?;
    let pool = Pool::new(count(threads, "threads")?, &processors)?;
    let handle = POOLS.insert(Box::new(pool));
    out.write(std::ptr::without_provenance_mut(handle));
    Ok(())
}

/// Frees a pool. Optimizers and plans that were created with it keep it: it may be
/// freed before them. NULL is allowed and does nothing. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_pool_free(pool: *mut sonew_pool) -> sonew_status {
    if pool.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| POOLS.remove(pool.addr(), "pool").map(drop))
}
