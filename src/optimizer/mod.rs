//! The optimizer: a plan, the state of its tensors, and a step count.

mod background;
mod copy;
mod flat;
mod import;
mod live;
mod load;
mod loading;
mod master;
mod partial;
mod saving;
mod settings;
mod staged;
mod state;
mod texts;

use std::mem::take;

pub use background::Saving;
pub use load::{LoadMode, LoadOptions};
pub(crate) use partial::{PARTIAL, REDUCED};
pub use settings::TensorSettings;
pub use staged::StagedStep;

use crate::checkpoint::{check_size, Texts};
use crate::dtype::{Element, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{self, check_count, Plane, TensorSpec};
use crate::memory::{again, fill, list, try_list, OF_TENSORS};
use crate::options::{Options, StepOptions};
use crate::parallel::Pool;
use crate::step::{Plan, Target, TensorBuffers};
use live::LiveState;
use staged::Staged;
use state::{lend, TensorState};

/// SONew over a list of parameter tensors.
///
/// Owns the state. Parameters and gradients belong to the caller, who passes
/// them to every step in the order of the tensors.
///
/// If a tensor has master weights, the first step copies them from the
/// parameters. After that, every step updates the master weights and overwrites
/// the parameters with them, rounded to nearest.
/// [`reset_master`](Optimizer::reset_master) makes the next step copy them
/// again.
///
/// ```
/// use sonew::{layout::TensorSpec, options::{Options, StepOptions}, Optimizer};
///
/// // Minimise |w - 1|^2 / 2.
/// let mut w = vec![0.0f32; 100];
/// let mut optimizer = Optimizer::new(Options::default(), &[TensorSpec::new("w", &[100])])?;
/// let step = StepOptions { lr: 0.05, ..StepOptions::default() };
/// for _ in 0..200 {
///     let gradient: Vec<f32> = w.iter().map(|x| x - 1.0).collect();
///     optimizer.step(&step, &mut [&mut w], &[Some(&gradient)])?;
/// }
/// assert!(w.iter().all(|x| (x - 1.0).abs() < 0.1));
/// # Ok::<(), sonew::Error>(())
/// ```
pub struct Optimizer {
    plan: Plan,
    specs: Vec<TensorSpec>,
    state: Vec<TensorState>,
    step_count: u64,
    /// Whether the state is still zero, as it was created.
    fresh: bool,
    /// The live file that holds the state, if one does.
    live: Option<LiveState>,
    /// The program's own, which are saved, too.
    texts: Texts,
    /// The step in stages that is under way, if one is.
    staged: Option<Staged>,
    /// Empty: keeps the memory of a step's list, so that the next one asks for none.
    spare: Vec<TensorBuffers<'static>>,
}

impl Optimizer {
    /// An optimizer with zero state.
    ///
    /// # Errors
    /// Options out of range ([`Error::OutOfRange`]), tensors that cannot be optimized,
    /// more of them than a file can name ([`Error::TooManyTensors`]), and state that does
    /// not fit into memory ([`Error::OutOfMemory`]).
    pub fn new(options: Options, tensors: &[TensorSpec]) -> Result<Self> {
        Optimizer::in_pool(options, tensors, None)
    }

    /// An optimizer whose steps use the threads of a pool. `options.threads` is 0.
    ///
    /// # Errors
    /// See [`new`](Optimizer::new).
    pub fn with_pool(options: Options, tensors: &[TensorSpec], pool: &Pool) -> Result<Self> {
        Optimizer::in_pool(options, tensors, Some(pool))
    }

    pub(crate) fn in_pool(
        options: Options,
        tensors: &[TensorSpec],
        pool: Option<&Pool>,
    ) -> Result<Self> {
        Self::with_state(options, tensors, pool, TensorState::zeroed)
    }

    /// An optimizer whose state is made of each tensor by `state`.
    fn with_state(
        options: Options,
        tensors: &[TensorSpec],
        pool: Option<&Pool>,
        state: impl Fn(&TensorSpec, &Options) -> Result<TensorState>,
    ) -> Result<Self> {
        options.validate()?;
        layout::validate(tensors)?;
        layout::validate_options(&options, tensors)?;
        check_size(&options, tensors)?;
        // The state is allocated before the plan: for tensors of an absurd size
        // its allocation fails at once, while the smaller ones of the plan might
        // succeed and be written to.
        let state = tensors.iter().map(|spec| state(spec, &options));
        let state = try_list(state, OF_TENSORS)?;
        let plan = Plan::in_pool(&options, tensors, pool)?;
        Ok(Optimizer {
            plan,
            specs: list(tensors.iter().cloned(), OF_TENSORS)?,
            state,
            step_count: 0,
            fresh: true,
            live: None,
            texts: Texts::default(),
            staged: None,
            spare: Vec::new(),
        })
    }

    /// Takes one step: `params[i]` and the state of tensor `i` are updated
    /// from `grads[i]`. If that is `None`, the tensor takes no part in the step:
    /// its parameters, its state and its
    /// [step count](TensorSettings::step_count) stay as they are. For tensors of several types
    /// there is [`step_any`](Optimizer::step_any).
    ///
    /// # Errors
    /// Nothing has changed then: parameters, state and step count are as
    /// before. [`Error::NonFiniteGradient`] where the check finds one;
    /// [`Error::TensorCount`], [`Error::WrongDtype`], [`Error::WrongLength`]
    /// and [`Error::OutOfRange`] for arguments that do not fit; [`Error::PartialSums`] before
    /// [`set_reduced_sums`](Optimizer::set_reduced_sums), if a tensor has some.
    pub fn step<P: Element, G: Element>(
        &mut self,
        step: &StepOptions,
        params: &mut [&mut [P]],
        grads: &[Option<&[G]>],
    ) -> Result<()> {
        let params = params.iter_mut().map(|p| ElementsMut::new(p));
        let grads = grads.iter().map(|g| g.map(Elements::new));
        self.step_with(step, params, grads)
    }

    /// [`step`](Optimizer::step) for buffers whose types are known only at run
    /// time, and may differ between tensors.
    ///
    /// # Errors
    /// Those of [`step`](Optimizer::step).
    pub fn step_any(
        &mut self,
        step: &StepOptions,
        params: &mut [ElementsMut<'_>],
        grads: &[Option<Elements<'_>>],
    ) -> Result<()> {
        let params = params.iter_mut().map(ElementsMut::reborrow);
        self.step_with(step, params, grads.iter().copied())
    }

    /// [`step_any`](Optimizer::step_any) for buffers that are in no list.
    pub(crate) fn step_with<'a>(
        &mut self,
        step: &StepOptions,
        params: impl ExactSizeIterator<Item = ElementsMut<'a>>,
        grads: impl ExactSizeIterator<Item = Option<Elements<'a>>>,
    ) -> Result<()> {
        self.between_steps()?;
        self.check_reduced()?;
        let buffers = self.lent(params, grads)?;
        let next = |optimizer: &mut Self, buffers| optimizer.plan_step(step, buffers);
        self.begin(buffers, next).map(drop)
    }

    /// The buffers that the caller lends for a step.
    fn lent<'a>(
        &mut self,
        params: impl ExactSizeIterator<Item = ElementsMut<'a>>,
        grads: impl ExactSizeIterator<Item = Option<Elements<'a>>>,
    ) -> Result<Vec<TensorBuffers<'a>>> {
        self.check_count("params", params.len())?;
        self.check_count("grads", grads.len())?;
        let mut buffers = again(take(&mut self.spare));
        let lent = |(param, grad)| TensorBuffers::new(Target::Parameters(param), grad, []);
        fill(&mut buffers, params.zip(grads).map(lent))?;
        Ok(buffers)
    }

    /// Copies master weights that are not set, and calls `next`; if that fails,
    /// discards the copied ones again. Returns the result of `next` and the tensors
    /// whose master weights were copied.
    fn begin<'a, R>(
        &mut self,
        buffers: Vec<TensorBuffers<'a>>,
        next: impl FnOnce(&mut Self, Vec<TensorBuffers<'a>>) -> Result<R>,
    ) -> Result<(R, Vec<usize>)> {
        self.fresh = false;
        let masters = self.take_masters(&buffers)?;
        match next(self, buffers) {
            Ok(done) => Ok((done, masters)),
            Err(error) => {
                self.end_live_step(false);
                self.forget_masters(masters);
                Err(error)
            }
        }
    }

    fn plan_step(&mut self, step: &StepOptions, buffers: Vec<TensorBuffers<'_>>) -> Result<()> {
        let number = self.next_step()?;
        self.begin_live_step(number)?;
        let mut buffers = lend(&mut self.state, buffers);
        let stepped = self.plan.step(step, number, &mut buffers);
        self.spare = again(buffers);
        stepped?;
        self.complete(number);
        Ok(())
    }

    /// The number of the next step.
    fn next_step(&self) -> Result<u64> {
        let out_of_range = || Error::OutOfRange {
            argument: "the step count".to_owned(),
            value: self.step_count as f64,
            allowed: "less than 2^64 - 1 before a step",
        };
        self.step_count.checked_add(1).ok_or_else(out_of_range)
    }

    /// Makes a step, which has been taken entirely, the last one.
    fn complete(&mut self, number: u64) {
        for (state, scalars) in self.state.iter_mut().zip(self.plan.scalars()) {
            if state.takes_part {
                state.step_count = state.step_count.saturating_add(1);
                state.scalars = scalars;
                state.is_partial = state.is_cut;
            }
        }
        self.commit_live_step(number);
        self.step_count = number;
    }

    /// The gradient norm of the last step: the norm over all tensors, after
    /// [`grad_scale`](StepOptions::grad_scale) and before clipping. `None`
    /// before the first step since it was created, loaded or set, and after one that
    /// was skipped or did not read all gradients first.
    pub fn gradient_norm(&self) -> Option<f64> {
        self.plan.gradient_norm()
    }

    /// Steps taken so far. One in which a tensor took no part, or even none took
    /// part, counts; for a tensor's own see [`TensorSettings::step_count`].
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// The options that the optimizer was created with.
    pub fn options(&self) -> &Options {
        self.plan.options()
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Names and types of a tensor's state planes, in the order of
    /// [`planes`](layout::planes).
    ///
    /// # Errors
    /// [`Error::UnknownTensor`].
    pub fn planes(&self, tensor: usize) -> Result<&[Plane]> {
        Ok(&self.state_of(tensor)?.planes)
    }

    /// A state plane as it is stored: without bias correction, one entry per
    /// element in the tensor's own memory order (of `pooled` see [`planes`](layout::planes)). The entry of coordinate `j`
    /// in `band.k` is `H_j+k,j` along its chain.
    ///
    /// # Errors
    /// [`Error::UnknownTensor`], [`Error::UnknownPlane`].
    pub fn plane(&self, tensor: usize, plane: usize) -> Result<Elements<'_>> {
        let state = self.state_of(tensor)?;
        state.plane(plane).ok_or_else(|| Error::UnknownPlane {
            tensor: self.specs[tensor].name.clone(),
            plane,
            count: state.planes.len(),
        })
    }

    /// Size of the state in bytes.
    pub fn state_bytes(&self) -> usize {
        self.state.iter().map(TensorState::bytes).sum()
    }

    /// Bytes of memory held in all: the state, scratch memory for each thread,
    /// and the sums of blocks. State that is mapped from a file is not counted:
    /// the system decides how much of it is in memory. A step allocates nothing
    /// that grows with the model.
    pub fn memory_bytes(&self) -> usize {
        let state: usize = self.state.iter().map(TensorState::memory).sum();
        state + self.plan.bytes()
    }

    /// The largest number of threads that a step uses: [`Pool::threads`].
    pub fn threads(&self) -> usize {
        self.plan.threads()
    }

    /// The pool whose threads steps use.
    pub(crate) fn pool(&self) -> &Pool {
        self.plan.pool()
    }

    /// The instruction set in use; see [`Plan::instruction_set`].
    pub fn instruction_set(&self) -> &'static str {
        self.plan.instruction_set()
    }

    fn state_of(&self, tensor: usize) -> Result<&TensorState> {
        self.state.get(tensor).ok_or(Error::UnknownTensor {
            index: tensor,
            count: self.state.len(),
        })
    }

    fn check_count(&self, argument: &'static str, count: usize) -> Result<()> {
        check_count(argument, count, self.specs.len())
    }
}
