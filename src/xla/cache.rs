//! Keeps plans between calls of the XLA handler, which has no state of its own.
//!
//! A call takes an idle plan, or creates one, and puts it back at the end. It
//! only tries the lock a number of times and never blocks on it: a child that
//! was forked while another thread held the lock would block for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::Result;
use crate::layout::TensorSpec;
use crate::options::Options;
use crate::Plan;

/// Number of idle plans that are kept; the least recently used one is freed
/// first. A program that makes more different calls than this in every step would
/// make all of its plans anew: groups of parameters with options of their own.
const MAX_IDLE: usize = 64;
/// How often the lock is tried. It is held only while these few plans are
/// searched.
const TRIES: usize = 1000;

/// The idle plans, the most recently used one last.
static IDLE: Mutex<Vec<Plan>> = Mutex::new(Vec::new());
/// Number of calls that are running.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// A plan in use.
pub(super) struct Borrowed {
    plan: Option<Plan>,
    _active: Active,
}

/// Counts a call in [`ACTIVE`] while it lives.
struct Active;

impl Active {
    /// Counts one more call, and returns how many there are.
    fn enter() -> (Self, usize) {
        (Active, ACTIVE.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A plan for these tensors, with these options.
pub(super) fn borrow(options: &Options, tensors: &[TensorSpec]) -> Result<Borrowed> {
    let (active, calls) = Active::enter();
    let kept = idle().and_then(|mut idle| {
        let i = idle.iter().rposition(|p| p.is_for(options, tensors))?;
        Some(idle.remove(i))
    });
    let mut plan = match kept {
        Some(plan) => plan,
        None => Plan::new(options, tensors)?,
    };
    plan.set_numbers(options)?;
    // Several devices of one host may step at the same time. Together they
    // should use as many threads as one device would. A number of threads that
    // the caller chose is used unchanged.
    plan.limit_threads(match options.threads {
        0 => plan.threads() / calls,
        _ => usize::MAX,
    });
    Ok(Borrowed {
        plan: Some(plan),
        _active: active,
    })
}

impl Borrowed {
    pub(super) fn plan(&mut self) -> &mut Plan {
        self.plan.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // After a panic the plan may be inconsistent.
        if std::thread::panicking() {
            return;
        }
        let mut oldest = None;
        if let (Some(plan), Some(mut idle)) = (self.plan.take(), idle()) {
            if idle.len() >= MAX_IDLE {
                oldest = Some(idle.remove(0));
            }
            idle.push(plan);
        }
        // Dropping a plan joins its threads, so it must not hold the lock.
        drop(oldest);
    }
}

/// Frees all idle plans.
pub(super) fn clear() {
    let plans = idle().map(|mut idle| std::mem::take(&mut *idle));
    drop(plans);
}

fn idle() -> Option<MutexGuard<'static, Vec<Plan>>> {
    for _ in 0..TRIES {
        match IDLE.try_lock() {
            Ok(idle) => return Some(idle),
            // Nothing that can panic is done while the lock is held.
            Err(TryLockError::Poisoned(idle)) => return Some(idle.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(len: usize) -> [TensorSpec; 1] {
        [TensorSpec::new("x", &[len])]
    }

    /// Identifies a plan by the address of its tensors.
    fn identity(borrowed: &mut Borrowed) -> *const TensorSpec {
        borrowed.plan().tensors().next().unwrap()
    }

    /// One test, because all tests would share the one cache.
    #[test]
    fn a_plan_is_used_again_but_never_by_two() {
        let options = Options {
            threads: 3,
            ..Options::default()
        };
        let mut first = borrow(&options, &tensors(1001)).unwrap();
        let mut second = borrow(&options, &tensors(1001)).unwrap();
        let both = [identity(&mut first), identity(&mut second)];
        assert_ne!(both[0], both[1]);
        drop(first);
        drop(second);

        // Other numbers, the same plan.
        let other = Options {
            beta1: 0.5,
            eps: 1e-3,
            ..options.clone()
        };
        let mut third = borrow(&other, &tensors(1001)).unwrap();
        assert!(both.contains(&identity(&mut third)));
        assert_eq!(third.plan().options(), &other);
        drop(third);

        // Another band, or other tensors: another plan.
        let band = Options {
            band: 3,
            ..options.clone()
        };
        assert!(!both.contains(&identity(&mut borrow(&band, &tensors(1001)).unwrap())));
        assert!(!both.contains(&identity(&mut borrow(&options, &tensors(1002)).unwrap())));

        // Numbers out of their range are refused, whether a plan is kept or not.
        let wrong = Options {
            beta1: 1.0,
            ..options.clone()
        };
        let refused = borrow(&wrong, &tensors(1001)).err().unwrap();
        assert!(
            refused.to_string().starts_with("options.beta1 is 1,"),
            "{refused}"
        );

        for len in 1..2 * MAX_IDLE {
            drop(borrow(&options, &tensors(len)).unwrap());
        }
        assert!(idle().unwrap().len() <= MAX_IDLE);
        clear();
        assert!(idle()
            .unwrap()
            .iter()
            .all(|p| !p.is_for(&options, &tensors(2))));
    }
}
