//! What plans share, and what they do not.

use super::*;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Barrier;
use std::thread::ThreadId;

use crate::error::Error;

fn workers(pool: &Pool) -> Workers {
    Workers::of(pool.clone())
}

fn pool(threads: usize) -> Pool {
    Pool::new(threads, &[]).unwrap()
}

/// The threads that work for it, all at once.
fn at_work(workers: &mut Workers, count: usize) -> HashSet<ThreadId> {
    assert_eq!(workers.prepare(count), count);
    // Passing the barrier takes all of them at once.
    let barrier = Barrier::new(count);
    let threads = Mutex::new(HashSet::new());
    workers.run(&mut vec![(); count], &|_| {
        barrier.wait();
        threads.lock().unwrap().insert(std::thread::current().id());
    });
    threads.into_inner().unwrap()
}

#[test]
fn one_thread_means_that_none_is_started() {
    let mut workers = workers(&pool(1));
    assert_eq!(workers.prepare(1), 1);
    assert!(workers.threads.is_none());
    let mut items = [0, 0, 0];
    workers.run(&mut items, &|x| *x += 1);
    assert_eq!(items, [1, 0, 0]);
}

/// Threads that each take one piece after the other: all are done once, whoever came.
#[test]
fn the_work_is_done_whoever_helps() {
    let own = pool(3);
    let mut workers = workers(&own);
    for pieces in 0..300 {
        let mut items = vec![0; workers.prepare(3)];
        let next = AtomicUsize::new(0);
        workers.run(&mut items, &|done| {
            while next.fetch_add(1, Ordering::Relaxed) < pieces {
                *done += 1;
            }
        });
        assert_eq!(items.iter().sum::<usize>(), pieces);
    }
}

/// The caller gets the panic of a helper, and the pool goes on.
#[test]
fn a_panic_of_a_helper_is_passed_on() {
    let mut workers = workers(&pool(2));
    assert_eq!(workers.prepare(2), 2);
    for _ in 0..3 {
        let (barrier, caller) = (Barrier::new(2), std::thread::current().id());
        let work = |_: &mut ()| {
            barrier.wait();
            if std::thread::current().id() != caller {
                std::panic::resume_unwind(Box::new("of a helper"));
            }
        };
        let run = || workers.run(&mut [(); 2], &work);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"of a helper"));
    }
    assert_eq!(at_work(&mut workers, 2).len(), 2);
}

#[test]
fn items_are_worked_on_at_the_same_time() {
    assert_eq!(at_work(&mut workers(&pool(3)), 3).len(), 3);
}

#[test]
fn all_plans_of_a_pool_have_its_threads_and_the_last_one_ends_them() {
    let own = pool(3);
    let (mut first, mut second) = (workers(&own), workers(&own));
    let threads = at_work(&mut first, 3);
    assert_eq!(at_work(&mut second, 3), threads);
    drop(first);
    assert_eq!(at_work(&mut second, 3), threads);
    let ended = Arc::downgrade(second.threads.as_ref().unwrap());
    drop(second);
    assert_eq!(ended.strong_count(), 0);
    // The pool can be used again.
    assert_eq!(at_work(&mut workers(&own), 3).len(), 3);
}

#[test]
fn who_asks_for_the_same_number_shares_unless_it_has_a_pool_of_its_own() {
    let shared = |threads| {
        let options = Options {
            threads,
            ..Options::default()
        };
        Pool::choose(&options, None).unwrap()
    };
    let mut all = [shared(5), shared(5), shared(6), pool(5)].map(|pool| workers(&pool));
    let [first, second, six, own] = all.each_mut().map(|workers| {
        let mut threads = at_work(workers, 5);
        threads.remove(&std::thread::current().id());
        threads
    });
    assert_eq!(first, second);
    assert!(first.is_disjoint(&own));
    assert!(first.is_disjoint(&six));
}

#[test]
fn plans_of_one_pool_work_at_once() {
    let own = pool(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut workers = workers(&own);
                for _ in 0..200 {
                    let count = workers.prepare(2);
                    let mut items = vec![0; count];
                    let next = AtomicUsize::new(0);
                    workers.run(&mut items, &|done| {
                        while next.fetch_add(1, Ordering::Relaxed) < 10 {
                            *done += 1;
                        }
                    });
                    assert_eq!(items.iter().sum::<usize>(), 10);
                }
            });
        }
    });
}

#[test]
fn a_pool_of_too_many_threads_is_refused() {
    let refused = Pool::new(1025, &[]).unwrap_err();
    assert_eq!(refused.to_string(), "threads is 1025, must be 0 to 1024");
    assert!(matches!(refused, Error::OutOfRange { .. }));
}

/// The numbers in the line of this thread's status in /proc, such as "0-2,5".
#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    let ranges = line.unwrap().trim().split(',');
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    };
    ranges.flat_map(range).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn threads_run_on_the_processors_of_their_pool() {
    let all = allowed();
    let last = *all.last().unwrap();
    // One named twice is one.
    let own = Pool::new(3, &[last, last]).unwrap();
    assert_eq!(Pool::new(0, &[last, last]).unwrap().threads(), 1);
    assert_eq!(Pool::new(0, &all).unwrap().threads(), all.len());
    let mut workers = workers(&own);
    assert_eq!(workers.prepare(3), 3);
    let (barrier, caller) = (Barrier::new(3), std::thread::current().id());
    workers.run(&mut [(); 3], &|_| {
        barrier.wait();
        match std::thread::current().id() == caller {
            true => assert_eq!(allowed(), all),
            false => assert_eq!(allowed(), [last]),
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_processor_that_is_not_there_is_refused_by_name() {
    let there = allowed()[0];
    for absent in [8191, 8192, usize::MAX] {
        let refused = Pool::new(2, &[there, absent]).unwrap_err();
        let message = format!("processors[1] is {absent}: ");
        assert!(refused.to_string().starts_with(&message), "{refused}");
        assert!(matches!(refused, Error::Processor { index: 1, .. }));
    }
}
