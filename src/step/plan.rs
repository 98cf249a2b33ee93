//! A plan: everything about a step that does not change between steps.

use std::mem::take;
use std::ops::Range;

use sonew_kernel::{FloatMode, Isa, Memory, Stochastic, TensorBuffers, Workspace};

use super::block::shape;
use super::buffers::check;
use super::instruction_set;
use super::pooled::Pooled;
use super::progress::{Lists, Progress};
use super::run::Run;
use super::sums::Sums;
use super::tensor::Tensor;
use crate::dtype::Elements;
use crate::error::{Error, Result};
use crate::layout::{check_count, validate, validate_options, Scalars, TensorSpec};
use crate::memory::{again, list, reserve, try_list, AlignedBytes, OF_A_STEP, OF_TENSORS};
use crate::options::{Options, Rounding, StepOptions};
use crate::parallel::{Pool, Team, Tiles, Workers};

/// A thread is worth waking for this many parameters.
const PARAMETERS_PER_THREAD: usize = 32 * 1024;
/// Tiles for each thread, so that a slow one holds up the others but little.
const TILES_PER_THREAD: usize = 16;
/// Bounds of a tile, in blocks: the directions of one block per tile are
/// computed after the others, from memory instead of from the cache.
const BLOCKS_OF_TILE: Range<usize> = 8..64;

/// The stateless step over buffers that the caller owns: for programs that
/// keep parameters and state in arrays of their own. [`Optimizer`] is a plan
/// with its state.
///
/// [`Optimizer`]: crate::Optimizer
///
/// ```
/// use sonew::dtype::{Elements, ElementsMut};
/// use sonew::{layout::TensorSpec, options::{Options, StepOptions}};
/// use sonew::{Plan, Target, TensorBuffers};
///
/// let mut plan = Plan::new(&Options::default(), &[TensorSpec::new("w", &[3])])?;
/// let mut w = [1.0f32, 2.0, 3.0];
/// let (mut m, mut h, mut e) = ([0.0f32; 3], [0.0f32; 3], [0.0f32; 3]);
/// plan.step(&StepOptions::default(), 1, &mut [TensorBuffers::new(
///     Target::Parameters(ElementsMut::new(&mut w)),
///     Some(Elements::new(&[0.1f32, 0.0, -0.1])),
///     [&mut m, &mut h, &mut e].map(|plane| ElementsMut::new(plane)),
/// )])?;
/// assert!(w[0] < 1.0 && w[2] > 3.0);
/// # Ok::<(), sonew::Error>(())
/// ```
pub struct Plan {
    pub(super) options: Options,
    pub(super) tensors: Vec<Tensor>,
    /// Where each tensor's directions are kept between the sweep that measures
    /// them and the one that applies them: to read them back is cheaper than
    /// to compute them again.
    directions: Vec<Option<AlignedBytes>>,
    /// For tensors whose chains share their correlations.
    pooled: Vec<Option<Pooled>>,
    tiles: Tiles,
    isa: Isa,
    pub(super) gradient_norm: Option<f64>,
    workers: Workers,
    most_threads: usize,
    workspaces: Vec<Workspace>,
    pub(super) sums: Sums,
    /// What all of these hold, which is asked for after every step.
    bytes: usize,
    pub(super) lists: Lists,
}

impl Plan {
    /// A plan for these tensors.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for options; [`Error::NoTensors`],
    /// [`Error::TensorName`], [`Error::DuplicateName`],
    /// [`Error::TooManyDimensions`] and
    /// [`Error::SizeOverflow`], [`Error::StateDtype`] and
    /// [`Error::MasterDtype`], [`Error::PooledShard`] and [`Error::PooledCut`] for tensors;
    /// [`Error::InstructionSet`] where the one that was asked for is not there;
    /// [`Error::OutOfMemory`].
    pub fn new(options: &Options, tensors: &[TensorSpec]) -> Result<Self> {
        Plan::in_pool(options, tensors, None)
    }

    /// A plan whose steps use the threads of a pool. `options.threads` is 0.
    ///
    /// # Errors
    /// See [`Plan::new`].
    pub fn with_pool(options: &Options, tensors: &[TensorSpec], pool: &Pool) -> Result<Self> {
        Plan::in_pool(options, tensors, Some(pool))
    }

    pub(crate) fn in_pool(
        options: &Options,
        tensors: &[TensorSpec],
        pool: Option<&Pool>,
    ) -> Result<Self> {
        let isa = instruction_set::choose(options.instruction_set)?;
        Plan::with(options, tensors, pool, isa, None)
    }

    /// A plan on a given instruction set, with tiles of up to so many blocks.
    fn with(
        options: &Options,
        tensors: &[TensorSpec],
        pool: Option<&Pool>,
        isa: Isa,
        tile: Option<usize>,
    ) -> Result<Self> {
        options.validate()?;
        let pool = Pool::choose(options, pool)?;
        validate(tensors)?;
        validate_options(options, tensors)?;
        let mut blocks = 0;
        let tensors = tensors.iter().map(|spec| {
            let tensor = Tensor::new(spec, options, isa, blocks);
            blocks = tensor.blocks.end;
            tensor
        });
        let tensors = list(tensors, OF_TENSORS)?;
        let sums = Sums::new(blocks)?;
        let parameters = tensors
            .iter()
            .map(|t| t.spec.len())
            .fold(0, usize::saturating_add);
        let workers = workers(&pool, parameters);
        let fair = blocks / (workers * TILES_PER_THREAD);
        // Where there are few blocks, every thread gets some.
        let least = match workers {
            1 => BLOCKS_OF_TILE.start,
            _ => (blocks / workers).clamp(1, BLOCKS_OF_TILE.start),
        };
        let longest = tile.unwrap_or(fair.clamp(least, BLOCKS_OF_TILE.end));
        let tiles = Tiles::new(tensors.iter().map(|t| &t.grid), longest)?;
        let workspaces = (0..workers).map(|_| {
            let panels = tensors.iter().filter_map(|t| t.chains);
            let panels = panels.map(|chains| chains.panel_bytes());
            let workspace = Workspace::new(tensors.iter().map(|t| shape(&t.grid)), panels);
            workspace.map_err(|bytes| Error::OutOfMemory {
                what: "a thread's workspace".to_owned(),
                bytes: bytes as u128,
            })
        });
        let workspaces = workspaces.collect::<Result<Vec<_>>>()?;
        let directions = tensors.iter().map(|t| t.directions(options.is_lagged()));
        let directions = try_list(directions, OF_TENSORS)?;
        let pooled = try_list(tensors.iter().map(Tensor::pooled), OF_TENSORS)?;
        let work: usize = workspaces.iter().map(Workspace::bytes).sum();
        let kept: usize = directions.iter().flatten().map(|d| d.len()).sum();
        let pools: usize = pooled.iter().flatten().map(Pooled::bytes).sum();
        Ok(Plan {
            options: options.clone(),
            bytes: work + kept + pools + sums.bytes(),
            directions,
            pooled,
            tiles,
            tensors,
            isa,
            gradient_norm: None,
            workers: Workers::of(pool),
            most_threads: usize::MAX,
            workspaces,
            sums,
            lists: Lists::default(),
        })
    }

    /// The options that the plan was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The tensors that the plan was made for.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorSpec> {
        self.tensors.iter().map(|t| &t.spec)
    }

    /// The largest number of threads that a step uses: [`Pool::threads`].
    pub fn threads(&self) -> usize {
        self.pool().threads()
    }

    /// The pool whose threads steps use.
    pub(crate) fn pool(&self) -> &Pool {
        self.workers.pool()
    }

    /// The instruction set in use: `"avx512"`, `"avx2"`, `"neon"` or
    /// `"portable"`.
    pub fn instruction_set(&self) -> &'static str {
        self.isa.name()
    }

    /// Bytes that the plan holds besides the state: scratch for each thread,
    /// the sums of blocks, and with grafting one number for each parameter for
    /// directions.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The norm of all gradients of the last step together, after
    /// [`StepOptions::grad_scale`] and before clipping; `None` where that step
    /// had no reason to look, or was skipped.
    pub fn gradient_norm(&self) -> Option<f64> {
        self.gradient_norm
    }

    /// The last step was skipped, or is no longer the last one.
    pub(crate) fn forget_norm(&mut self) {
        self.gradient_norm = None;
    }

    /// Updates parameters (or writes directions) and state by one step.
    ///
    /// `number` is the step's number, from 1: it decides the bias correction of tensors
    /// whose buffers have no [`step_number`](TensorBuffers::step_number) of their own.
    /// `buffers` has one entry for each tensor.
    ///
    /// # Errors
    /// Nothing has been written then. [`Error::NonFiniteGradient`] where the
    /// check finds one; [`Error::TensorCount`], [`Error::PlaneCount`],
    /// [`Error::WrongDtype`], [`Error::WrongLength`] and [`Error::OutOfRange`]
    /// for arguments that do not fit.
    pub fn step(
        &mut self,
        step: &StepOptions,
        number: u64,
        buffers: &mut [TensorBuffers<'_>],
    ) -> Result<()> {
        let _mode = FloatMode::set_default();
        let mut progress = self.progress(step, number, buffers, false)?;
        let mut run = self.run(step, number, buffers, true)?;
        let taken = loop {
            match run.advance(&mut progress) {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(skipped) => break Err(skipped),
            }
        };
        run.end();
        match taken {
            Ok(()) => self.finish(&mut progress, buffers),
            Err(_) => {
                self.forget_norm();
                progress.give_back(&mut self.lists);
            }
        }
        taken
    }

    /// Hands over what a step leaves to its caller, and its lists to the next.
    pub(super) fn finish(&mut self, progress: &mut Progress, buffers: &mut [TensorBuffers<'_>]) {
        self.gradient_norm = progress.gradient_norm;
        for (buffers, known) in buffers.iter_mut().zip(&progress.known) {
            buffers.scalars = known.scalars;
        }
        progress.give_back(&mut self.lists);
    }

    /// What the last step left to each tensor's next one, besides the planes.
    pub(crate) fn scalars(&self) -> impl Iterator<Item = Scalars> + '_ {
        self.lists.known.iter().map(|known| known.scalars)
    }

    /// Whether it was made for these tensors and for these options, but for
    /// what [`Plan::set_numbers`] can change.
    pub(crate) fn is_for(&self, options: &Options, tensors: &[TensorSpec]) -> bool {
        let as_here = Options {
            beta1: self.options.beta1,
            beta2: self.options.beta2,
            eps: self.options.eps,
            gamma: self.options.gamma,
            graft_eps: self.options.graft_eps,
            weight_decay: self.options.weight_decay,
            shrink: self.options.shrink,
            ..options.clone()
        };
        as_here == self.options && self.tensors().eq(tensors)
    }

    /// The decays, the damping and the other real numbers among the options,
    /// from the next step on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub(crate) fn set_numbers(&mut self, options: &Options) -> Result<()> {
        options.validate()?;
        self.options = options.clone();
        Ok(())
    }

    /// Says which chains of a larger tensor those of a tensor are, if their correlations are
    /// pooled: the number of the first, and how many there are in all. They take turns as
    /// chains of that. `None` if it is no part. Returns whether there are such chains.
    pub(crate) fn place_chains(&mut self, tensor: usize, place: Option<[usize; 2]>) -> bool {
        self.pooled[tensor].as_mut().is_none_or(|pooled| {
            let chains = &mut pooled.chains;
            let [first, whole] = place.unwrap_or([0, chains.count]);
            let is_there = whole
                .checked_sub(first)
                .is_some_and(|rest| rest >= chains.count);
            if is_there {
                (chains.first, chains.whole) = (first, whole);
            }
            is_there
        })
    }

    /// Steps use no more threads than this, from the next one on.
    pub(crate) fn limit_threads(&mut self, most: usize) {
        self.most_threads = most.max(1);
    }

    /// What is known of a step at its beginning, when its arguments are checked.
    pub(super) fn progress(
        &mut self,
        step: &StepOptions,
        number: u64,
        buffers: &[TensorBuffers<'_>],
        apart: bool,
    ) -> Result<Progress> {
        self.check(step, number, buffers)?;
        let (options, lists) = (&self.options, &mut self.lists);
        Progress::new(options, &self.tensors, step, number, buffers, lists, apart)
    }

    /// Gets everything ready for a step, whose arguments have been checked.
    pub(super) fn run<'a>(
        &'a mut self,
        step: &StepOptions,
        number: u64,
        buffers: &'a mut [TensorBuffers<'_>],
        keeps: bool,
    ) -> Result<Run<'a>> {
        let buffers: &'a [TensorBuffers<'a>] = buffers;
        let gradients = buffers.iter().filter_map(|b| b.gradient);
        let parameters = gradients.map(Elements::len).sum();
        let most = self.workspaces.len().min(self.most_threads);
        let wanted = workers(self.workers.pool(), parameters).min(most);
        let workers = self.workers.prepare(wanted);

        let lists = &mut self.lists;
        let mut memory: Vec<Option<Memory<'_>>> = again(take(&mut lists.memory));
        reserve(&mut memory, buffers.len(), || OF_A_STEP.to_owned())?;
        let is_stochastic = self.options.rounding == Rounding::Stochastic;
        let tensors = self.tensors.iter().zip(buffers).zip(&mut self.directions);
        for (index, ((tensor, buffers), kept)) in tensors.enumerate() {
            let kept = kept.as_deref_mut().filter(|_| keeps);
            let rounding = is_stochastic.then_some(Stochastic {
                seed: self.options.seed,
                step: buffers.number(number),
                tensor: index,
            });
            memory.push(tensor.memory(buffers, kept, rounding));
        }
        Ok(Run {
            options: &self.options,
            step: step.clone(),
            tensors: &self.tensors,
            pooled: &mut self.pooled,
            tiles: &self.tiles,
            sums: &self.sums,
            team: Team {
                workers: &self.workers,
                workspaces: &mut self.workspaces[..workers],
            },
            lists,
            buffers,
            memory,
            // With lagged norms only first steps would keep them.
            keeps: keeps && !self.options.is_lagged(),
            defers: false,
        })
    }

    pub(super) fn check(
        &self,
        step: &StepOptions,
        number: u64,
        buffers: &[TensorBuffers<'_>],
    ) -> Result<()> {
        step.validate(self.options.statistics)?;
        if number == 0 {
            return Err(Error::OutOfRange {
                argument: "the step number".to_owned(),
                value: 0.0,
                allowed: "at least 1",
            });
        }
        check_count("buffers", buffers.len(), self.tensors.len())?;
        let mut pairs = self.tensors.iter().zip(buffers);
        pairs.try_for_each(|(t, b)| check(&t.spec, &t.planes, step.lr, b))
    }
}

/// Threads for so many parameters: none is woken for what one core finishes
/// sooner.
fn workers(pool: &Pool, parameters: usize) -> usize {
    (parameters / PARAMETERS_PER_THREAD).clamp(1, pool.asked())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "before_tests.rs"]
mod before_tests;
