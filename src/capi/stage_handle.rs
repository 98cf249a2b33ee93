//! The handles of steps in stages, each of which belongs to an optimizer or to a plan.

use super::arguments::Out;
use super::handles::{sonew_optimizer, sonew_plan, sonew_stages};
use super::registry::Registry;
use crate::error::{Error, Result};

/// Whose step in stages it is.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Optimizer(*const sonew_optimizer),
    Plan(*const sonew_plan),
}

// SAFETY: the pointers are handles, which are numbers: nobody follows them.
unsafe impl Send for Of {}
// SAFETY: as above.
unsafe impl Sync for Of {}

pub(super) static STAGES: Registry<Of> = Registry::new();

/// The handle of a step in stages, which is freed with this.
pub(super) struct Handle(usize);

impl Drop for Handle {
    fn drop(&mut self) {
        STAGES.remove_copied(self.0);
    }
}

impl Handle {
    /// Refuses a handle of another step: one that has ended.
    pub(super) fn check(&self, stages: usize) -> Result<()> {
        match self.0 == stages {
            true => Ok(()),
            false => Err(ENDED),
        }
    }
}

/// The handle is that of a step that has ended.
pub(super) const ENDED: Error = Error::BadHandle { argument: "stages" };

/// Writes the handle of a step in stages that has begun.
pub(super) fn begun(of: Of, out: Out<*mut sonew_stages>) -> Handle {
    let handle = STAGES.insert(Box::new(of));
    out.write(std::ptr::without_provenance_mut(handle));
    Handle(handle)
}
