//! Plans between calls: a handler has no place of its own to keep them.
//!
//! A call takes a plan that nobody else has, or makes one, and gives it back.
//! The lock is never waited for: a child that was forked while another thread
//! held it could wait for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::Result;
use crate::layout::TensorSpec;
use crate::options::Options;
use crate::Plan;

/// Plans that are kept while not in use; the one used longest ago goes first.
const MOST: usize = 8;
/// Times that the lock is tried: it is never held for longer than it takes to
/// look through so few plans.
const TRIES: usize = 1000;

/// Those not in use, the one used last at the end.
static IDLE: Mutex<Vec<Plan>> = Mutex::new(Vec::new());
/// Calls at work.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);

/// A plan in use.
pub(super) struct Borrowed {
    plan: Option<Plan>,
    _active: Active,
}

/// Counts a call as long as it lives.
struct Active;

impl Active {
    /// Counts one more, and tells how many there are.
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
    // Several devices of one host step at the same time: together they use as
    // many threads as one would. An explicit number is taken as it is.
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
        // After a panic it may be half-done.
        if std::thread::panicking() {
            return;
        }
        let mut oldest = None;
        if let (Some(plan), Some(mut idle)) = (self.plan.take(), idle()) {
            if idle.len() >= MOST {
                oldest = Some(idle.remove(0));
            }
            idle.push(plan);
        }
        // Joins threads: not while the lock is held.
        drop(oldest);
    }
}

/// Frees all that are not in use.
pub(super) fn clear() {
    let plans = idle().map(|mut idle| std::mem::take(&mut *idle));
    drop(plans);
}

fn idle() -> Option<MutexGuard<'static, Vec<Plan>>> {
    for _ in 0..TRIES {
        match IDLE.try_lock() {
            Ok(idle) => return Some(idle),
            // Nothing that can panic is done while it is held.
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

    /// Which plan it is: where its tensors are.
    fn identity(borrowed: &mut Borrowed) -> *const TensorSpec {
        borrowed.plan().tensors().next().unwrap()
    }

    /// One test, for the cache is one.
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

        for len in 1..2 * MOST {
            drop(borrow(&options, &tensors(len)).unwrap());
        }
        assert!(idle().unwrap().len() <= MOST);
        clear();
        assert!(idle()
            .unwrap()
            .iter()
            .all(|p| !p.is_for(&options, &tensors(2))));
    }
}
