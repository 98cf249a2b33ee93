//! What can be asked of an optimizer while another thread uses it.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use crate::{Optimizer, Pool};

/// What an optimizer was when the last call that used it ended. Each number is right by
/// itself; those that a step changes may be of two steps in a row.
pub(super) struct Told {
    pub(super) step_count: AtomicU64,
    pub(super) gradient_norm: AtomicU64,
    pub(super) memory_bytes: AtomicUsize,
    /// It says itself how many threads there are.
    pub(super) pool: Pool,
    pub(super) tensor_count: usize,
    pub(super) state_bytes: usize,
    pub(super) instruction_set: &'static CStr,
}

impl Told {
    pub(super) fn of(optimizer: &Optimizer) -> Arc<Told> {
        let told = Told {
            step_count: AtomicU64::default(),
            gradient_norm: AtomicU64::default(),
            memory_bytes: AtomicUsize::default(),
            pool: optimizer.pool().clone(),
            tensor_count: optimizer.tensors().len(),
            state_bytes: optimizer.state_bytes(),
            instruction_set: match optimizer.instruction_set() {
                "avx512" => c"avx512",
                "avx2" => c"avx2",
                "neon" => c"neon",
                _ => c"portable",
            },
        };
        told.tell(optimizer);
        Arc::new(told)
    }

    pub(super) fn tell(&self, optimizer: &Optimizer) {
        let norm = optimizer.gradient_norm().filter(|norm| norm.is_finite());
        let norm = norm.unwrap_or(f64::NAN);
        self.step_count.store(optimizer.step_count(), Relaxed);
        self.gradient_norm.store(norm.to_bits(), Relaxed);
        self.memory_bytes.store(optimizer.memory_bytes(), Relaxed);
    }
}
