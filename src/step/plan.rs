//! A plan: everything about a step that does not change between steps.

use std::ops::Range;

use super::block::Job;
use super::buffers::{check, Target, TensorBuffers};
use super::factors::Factors;
use super::instruction_set;
use super::run::Run;
use super::sums::Sums;
use super::tensor::Tensor;
use crate::dtype::{Dtype, Elements};
use crate::error::{Error, Result};
use crate::kernel::{FloatMode, Isa, Kernels, Shape, Workspace};
use crate::layout::{check_count, validate, TensorSpec};
use crate::memory::AlignedBytes;
use crate::options::{NonFinite, Options, StepOptions};
use crate::parallel::{Buffers, Lent, Pool, Team, Tiles};

/// A thread is worth waking for this many parameters.
const PARAMETERS_PER_THREAD: usize = 32 * 1024;
/// Tiles for each thread, so that a slow one holds up the others but little.
const TILES_PER_THREAD: usize = 16;
/// Bounds of a tile, in blocks: the directions of one block per tile are
/// computed after the others, from memory instead of from the cache.
const TILE: Range<usize> = 8..64;

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
/// plan.step(&StepOptions::default(), 1, &mut [TensorBuffers {
///     target: Target::Parameters(ElementsMut::new(&mut w)),
///     gradient: Some(Elements::new(&[0.1f32, 0.0, -0.1])),
///     planes: [&mut m, &mut h, &mut e].map(|p| ElementsMut::new(p)).into(),
///     lr_scale: 1.0,
///     weight_decay: 0.0,
/// }])?;
/// assert!(w[0] < 1.0 && w[2] > 3.0);
/// # Ok::<(), sonew::Error>(())
/// ```
pub struct Plan {
    options: Options,
    tensors: Vec<Tensor>,
    /// Where each tensor's directions are kept between the sweep that measures
    /// them and the one that applies them: to read them back is cheaper than
    /// to compute them again.
    directions: Vec<Option<AlignedBytes>>,
    tiles: Tiles,
    kernels: &'static Kernels,
    pool: Pool,
    workspaces: Vec<Workspace>,
    sums: Sums,
}

impl Plan {
    /// A plan for these tensors.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for options; [`Error::NoTensors`],
    /// [`Error::TensorName`], [`Error::DuplicateName`],
    /// [`Error::TooManyDimensions`], [`Error::ZeroDimension`] and
    /// [`Error::SizeOverflow`], [`Error::StateDtype`] and
    /// [`Error::MasterDtype`] for tensors; [`Error::InstructionSet`] where the
    /// one that was asked for is not there; [`Error::OutOfMemory`].
    pub fn new(options: &Options, tensors: &[TensorSpec]) -> Result<Self> {
        let isa = instruction_set::choose(options.instruction_set)?;
        Plan::with(options, tensors, isa, None)
    }

    /// A plan on a given instruction set, with tiles of up to so many blocks.
    fn with(
        options: &Options,
        tensors: &[TensorSpec],
        isa: Isa,
        tile: Option<usize>,
    ) -> Result<Self> {
        options.validate()?;
        validate(tensors)?;
        let mut blocks = 0;
        let tensors: Vec<Tensor> = tensors
            .iter()
            .map(|spec| {
                let tensor = Tensor::new(spec, options, blocks);
                blocks = tensor.blocks.end;
                tensor
            })
            .collect();
        let sums = Sums::new(blocks)?;
        let pool = Pool::new(options.threads);
        let parameters = tensors
            .iter()
            .map(|t| t.spec.len())
            .fold(0, usize::saturating_add);
        let workers = workers(&pool, parameters);
        let fair = blocks / (workers * TILES_PER_THREAD);
        let longest = tile.unwrap_or(fair.clamp(TILE.start, TILE.end));
        let tiles = Tiles::new(tensors.iter().map(|t| &t.grid), longest);
        let shapes: Vec<Shape> = tensors.iter().map(Tensor::shape).collect();
        let workspaces = (0..workers)
            .map(|_| Workspace::new(&shapes, size_of::<f32>()))
            .collect::<Result<_>>()?;
        Ok(Plan {
            options: options.clone(),
            directions: tensors
                .iter()
                .map(Tensor::directions)
                .collect::<Result<_>>()?,
            tensors,
            tiles,
            kernels: isa.kernels(),
            pool,
            workspaces,
            sums,
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

    /// The largest number of threads that a step uses.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set in use: `"avx512"`, `"avx2"`, `"neon"` or
    /// `"portable"`.
    pub fn instruction_set(&self) -> &'static str {
        self.kernels.isa().name()
    }

    /// Bytes that the plan holds besides the state: scratch for each thread,
    /// the sums of blocks, and with grafting 4 bytes per parameter for
    /// directions.
    pub fn bytes(&self) -> usize {
        let work: usize = self.workspaces.iter().map(Workspace::bytes).sum();
        let kept = self.directions.iter().flatten().map(|d| d.len());
        work + kept.sum::<usize>() + self.sums.bytes()
    }

    /// The length of all gradients together in the last step; see
    /// [`Optimizer::gradient_norm`](crate::Optimizer::gradient_norm).
    pub fn gradient_norm(&self) -> Option<f64> {
        None
    }

    /// Updates parameters (or writes directions) and state by one step.
    ///
    /// `number` is the step's number, from 1: it decides the bias correction.
    /// `buffers` has one entry for each tensor.
    ///
    /// # Errors
    /// Nothing has been written then. [`Error::NonFiniteGradient`] where the
    /// check finds one; [`Error::TensorCount`], [`Error::PlaneCount`],
    /// [`Error::WrongDtype`], [`Error::WrongLength`] and [`Error::OutOfRange`]
    /// for arguments that do not fit; [`Error::Threads`] if the system gives no threads.
    pub fn step(
        &mut self,
        step: &StepOptions,
        number: u64,
        buffers: &mut [TensorBuffers<'_>],
    ) -> Result<()> {
        let _mode = FloatMode::set_default();
        self.check(step, number, buffers)?;
        float32_only(&self.tensors)?;
        keep_master(&self.tensors, buffers, |master, params| {
            params.copy_from_slice(master)
        });
        let gradients = buffers.iter().filter_map(|b| b.gradient);
        let parameters = gradients.map(Elements::len).sum();
        let workers = workers(&self.pool, parameters).min(self.workspaces.len());
        self.pool.prepare(workers)?;

        let factors = Factors::new(&self.options, step, number);
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(self.tensors.len());
        for (tensor, buffers) in self.tensors.iter().zip(&*buffers) {
            jobs.push(tensor.job(self.kernels, &factors, step.lr, buffers));
        }
        let mut lent: Vec<Option<Lent<'_>>> = Vec::with_capacity(buffers.len());
        let owned = self.tensors.iter().zip(&mut self.directions);
        for ((tensor, directions), buffers) in owned.zip(&mut *buffers) {
            lent.push(lend(tensor, buffers, directions.as_deref_mut()));
        }
        let mut run = Run {
            tensors: &self.tensors,
            tiles: &self.tiles,
            grids: self.tensors.iter().map(|t| &t.grid).collect(),
            sums: &self.sums,
            team: Team {
                pool: &self.pool,
                workspaces: &mut self.workspaces[..workers],
            },
            lent,
        };
        let check = step.non_finite == NonFinite::Skip;
        if check || self.tensors.iter().any(|t| t.rms) {
            run.gradient_lengths(&mut jobs, check)?;
        }
        run.statistics(&mut jobs);
        run.rest(&mut jobs);
        keep_master(&self.tensors, buffers, |master, params| {
            master.copy_from_slice(params)
        });
        Ok(())
    }

    fn check(&self, step: &StepOptions, number: u64, buffers: &[TensorBuffers<'_>]) -> Result<()> {
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

/// The kernels are float32 as yet.
fn float32_only(tensors: &[Tensor]) -> Result<()> {
    let float32 = |t: &TensorSpec| [t.params, t.grads, t.state] == [Dtype::F32; 3];
    match tensors.iter().all(|t| float32(&t.spec)) {
        true => Ok(()),
        false => Err(Error::Internal {
            message: "the kernels are float32 only".to_owned(),
        }),
    }
}

/// Float32 parameters are their own master weights.
fn keep_master(
    tensors: &[Tensor],
    buffers: &mut [TensorBuffers<'_>],
    copy: impl Fn(&mut [u8], &mut [u8]),
) {
    for (tensor, buffers) in tensors.iter().zip(buffers) {
        if let (true, Some(_), Target::Parameters(params)) =
            (tensor.spec.master, buffers.gradient, &mut buffers.target)
        {
            let master = buffers.planes.last_mut().expect("there are planes");
            copy(master.bytes_mut(), params.bytes_mut());
        }
    }
}

/// Threads for so many parameters: none is woken for what one core finishes
/// sooner.
fn workers(pool: &Pool, parameters: usize) -> usize {
    (parameters / PARAMETERS_PER_THREAD).clamp(1, pool.threads())
}

/// The buffers of a tensor that takes part in the step.
fn lend<'a>(
    tensor: &Tensor,
    buffers: &'a mut TensorBuffers<'_>,
    direction: Option<&'a mut [u8]>,
) -> Option<Lent<'a>> {
    let count = buffers.planes.len() - usize::from(tensor.spec.master);
    let planes = buffers.planes[..count].iter_mut();
    let target = match &mut buffers.target {
        Target::Parameters(p) => p,
        Target::Direction(u) => u,
    };
    let buffers = Buffers {
        gradient: buffers.gradient?.bytes(),
        planes: planes.map(|p| p.bytes_mut()).collect(),
        target: target.bytes_mut(),
        direction,
    };
    Some(Lent::new(buffers, tensor.grid.shape()))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
