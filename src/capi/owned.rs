//! The optimizers that handles stand for.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use super::arguments::Out;
use super::handles::sonew_optimizer;
use super::names::Names;
use super::registry::Registry;
use super::stage_handle::{self, ENDED};
use super::step_arguments::{SpareStepArguments, StepArguments};
use super::told::Told;
use crate::error::Result;
use crate::layout::{largest_band, TensorSpec};
use crate::memory::{ask_for_tensors, try_list, OF_TENSORS};
use crate::options::Options;
use crate::Optimizer;

/// The value that a handle stands for.
pub(super) struct Owned {
    pub optimizer: Optimizer,
    /// The names that views point to, as C strings.
    pub names: Vec<Names>,
    /// What can be asked while another thread uses the optimizer.
    pub told: Arc<Told>,
    /// The step in stages that is under way, if one is, and its buffers.
    pub staged: Option<(stage_handle::Handle, StepArguments)>,
    pub spare: SpareStepArguments,
    /// Texts that were asked for, as C strings.
    pub texts: HashMap<String, CString>,
}

impl Owned {
    /// Refuses a handle that is not that of the step in stages under way.
    pub(super) fn staged(&self, stages: usize) -> Result<()> {
        let (handle, _) = self.staged.as_ref().ok_or(ENDED)?;
        handle.check(stages)
    }

    /// Notes that no step in stages is under way any more.
    pub(super) fn end_stages(&mut self) {
        if let Some((_, passed)) = self.staged.take() {
            self.spare.keep(passed);
        }
    }
}

static OPTIMIZERS: Registry<Owned> = Registry::new();
/// Of the same handles.
static TOLD: Registry<Arc<Told>> = Registry::new();

/// Calls `body` with the optimizer of a handle.
pub(super) fn with<R>(
    optimizer: *const sonew_optimizer,
    body: impl FnOnce(&mut Owned) -> Result<R>,
) -> Result<R> {
    OPTIMIZERS.with(optimizer.addr(), "optimizer", |owned| {
        let result = body(owned);
        owned.told.tell(&owned.optimizer);
        result
    })
}

/// What there is to be told of an optimizer, also while another thread uses it.
pub(super) fn told(optimizer: *const sonew_optimizer) -> Result<Arc<Told>> {
    OPTIMIZERS.check(optimizer.addr(), "optimizer")?;
    TOLD.copy(optimizer.addr(), "optimizer")
}

/// Calls `body` with the optimizer of a handle, which it leaves as it is.
pub(super) fn ask<R>(
    optimizer: *const sonew_optimizer,
    body: impl FnOnce(&Owned) -> Result<R>,
) -> Result<R> {
    OPTIMIZERS.with(optimizer.addr(), "optimizer", |owned| body(owned))
}

fn names(optimizer: &Optimizer) -> Result<Vec<Names>> {
    let tensors = optimizer.tensors().iter().enumerate();
    let names = tensors.map(|(i, tensor)| Names::new(tensor, optimizer.planes(i)?));
    try_list(names, OF_TENSORS)
}

/// Writes the handle of a new optimizer.
pub(super) fn own(optimizer: Optimizer, out: Out<*mut sonew_optimizer>) -> Result<()> {
    let owned = Owned {
        names: names(&optimizer)?,
        told: Told::of(&optimizer),
        staged: None,
        spare: SpareStepArguments::default(),
        texts: HashMap::new(),
        optimizer,
    };
    let told = Box::new(owned.told.clone());
    let handle = OPTIMIZERS.insert(Box::new(owned));
    TOLD.insert_beside(handle, told);
    out.write(std::ptr::without_provenance_mut(handle));
    Ok(())
}

/// Takes the optimizer of a handle out, and what there is to be told of it.
pub(super) fn disown(optimizer: *const sonew_optimizer) -> Result<Box<Owned>> {
    let owned = OPTIMIZERS.remove(optimizer.addr(), "optimizer")?;
    TOLD.remove_copied(optimizer.addr());
    Ok(owned)
}

/// Returns an error if there is no memory for the lists of tensors and planes
/// that a call makes.
pub(super) fn ask_for(tensors: &[TensorSpec], options: &Options) -> Result<()> {
    let band = largest_band(options, tensors);
    ask_for_tensors(tensors.iter().map(|tensor| tensor.name.len()), band)
}

/// [`ask_for`] the tensors of an optimizer.
pub(super) fn ask_for_own(optimizer: &Optimizer) -> Result<()> {
    ask_for(optimizer.tensors(), optimizer.options())
}
