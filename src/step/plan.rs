//! A plan: everything about a step that does not change between steps.

use std::ops::Range;

use super::block::Job;
use super::buffers::{check, Target, TensorBuffers};
use super::factors::Factors;
use super::sums::Sums;
use crate::error::{Error, Result};
use crate::kernel::{Apply, FloatMode, Isa, Kernels, Shape, Workspace};
use crate::layout::{planes, validate, Grid, TensorSpec, Update};
use crate::options::{Damping, Graft, NonFinite, Options, StepOptions};
use crate::parallel::{Buffers, Lent, Pool, Sweep, Team, Tile, Visit};

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
/// use sonew::{layout::TensorSpec, options::{Options, StepOptions}};
/// use sonew::{Plan, Target, TensorBuffers};
///
/// let mut plan = Plan::new(&Options::default(), &[TensorSpec::new("w", &[3])])?;
/// let mut w = [1.0, 2.0, 3.0];
/// let (mut m, mut h, mut e) = ([0.0; 3], [0.0; 3], [0.0; 3]);
/// plan.step(&StepOptions::default(), 1, &mut [TensorBuffers {
///     target: Target::Parameters(&mut w),
///     gradient: Some(&[0.1, 0.0, -0.1]),
///     planes: vec![&mut m, &mut h, &mut e],
///     lr_scale: 1.0,
///     weight_decay: 0.0,
/// }])?;
/// assert!(w[0] < 1.0 && w[2] > 3.0);
/// # Ok::<(), sonew::Error>(())
/// ```
pub struct Plan {
    options: Options,
    tensors: Vec<Tensor>,
    tiles: Vec<Tile>,
    kernels: &'static Kernels,
    pool: Pool,
    workspaces: Vec<Workspace>,
    sums: Sums,
}

/// What a plan knows of a tensor.
struct Tensor {
    spec: TensorSpec,
    planes: Vec<String>,
    grid: Grid,
    /// The tensor's blocks among those of all.
    blocks: Range<usize>,
    /// Whether its damping, and its length, take a sweep of their own.
    relative: bool,
    grafted: bool,
    rms: bool,
}

impl Tensor {
    fn new(spec: &TensorSpec, options: &Options, first_block: usize) -> Self {
        let sonew = spec.update == Update::Sonew;
        let graft = spec.update.graft(options);
        let grid = Grid::new(spec, spec.update.band(options));
        Tensor {
            spec: spec.clone(),
            planes: planes(options, spec.update),
            blocks: first_block..first_block + grid.blocks(),
            grid,
            relative: sonew && options.damping == Damping::Relative,
            grafted: graft != Graft::None,
            rms: graft == Graft::NormalizedRmsprop,
        }
    }

    /// The largest block that its directions are computed for.
    fn shape(&self) -> Shape {
        let (stride, core) = self.grid.largest_packed();
        Shape::new(self.grid.band(), stride, core, false)
    }

    /// The tensor's part in a step.
    fn job<'a>(
        &'a self,
        kernels: &'a Kernels,
        factors: &'a Factors<'a>,
        lr: f64,
        buffers: &TensorBuffers<'_>,
    ) -> Job<'a> {
        let rate = lr * buffers.lr_scale;
        Job {
            grid: &self.grid,
            kernels,
            factors,
            update: self.spec.update,
            rms: self.rms,
            gradient_length: 0.0,
            damping: factors.damping(0.0),
            apply: match buffers.target {
                Target::Parameters(_) => Apply::Update {
                    rate: -rate,
                    decay: -(rate * buffers.weight_decay),
                },
                Target::Direction(_) => Apply::Write { scale: 1.0 },
            },
        }
    }
}

/// What a sweep does to a block after its statistics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    LargestL1,
    Lengths,
    Apply,
}

impl Plan {
    /// A plan for these tensors. Refuses options out of range, tensors that
    /// cannot be optimized, and what does not fit into memory.
    pub fn new(options: &Options, tensors: &[TensorSpec]) -> Result<Self> {
        Plan::with(options, tensors, Isa::best(), None)
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
        let tiles = tensors
            .iter()
            .enumerate()
            .flat_map(|(tensor, t)| {
                let tile = move |blocks| Tile { tensor, blocks };
                t.grid.tiles(longest).map(tile)
            })
            .collect();
        let shapes: Vec<Shape> = tensors.iter().map(Tensor::shape).collect();
        let workspaces = (0..workers)
            .map(|_| Workspace::new(&shapes, size_of::<f32>()))
            .collect::<Result<_>>()?;
        Ok(Plan {
            options: options.clone(),
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
    /// and the sums of blocks.
    pub fn bytes(&self) -> usize {
        let work: usize = self.workspaces.iter().map(Workspace::bytes).sum();
        work + self.sums.bytes()
    }

    /// Updates parameters (or writes directions) and state by one step.
    ///
    /// `number` is the step's number, from 1: it decides the bias correction.
    /// `buffers` has one entry for each tensor. On an error nothing has been
    /// written.
    pub fn step(
        &mut self,
        step: &StepOptions,
        number: u64,
        buffers: &mut [TensorBuffers<'_>],
    ) -> Result<()> {
        let _mode = FloatMode::set_default();
        self.check(step, number, buffers)?;
        let active = |b: &&TensorBuffers<'_>| b.gradient.is_some();
        let parameters = buffers.iter().filter(active);
        let parameters = parameters
            .filter_map(|b| b.gradient)
            .map(<[f32]>::len)
            .sum();
        let workers = workers(&self.pool, parameters).min(self.workspaces.len());
        self.pool.prepare(workers)?;

        let factors = Factors::new(&self.options, step, number);
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(self.tensors.len());
        for (tensor, buffers) in self.tensors.iter().zip(&*buffers) {
            jobs.push(tensor.job(self.kernels, &factors, step.lr, buffers));
        }
        let mut lent: Vec<Option<Lent<'_>>> = Vec::with_capacity(buffers.len());
        for (tensor, buffers) in self.tensors.iter().zip(buffers) {
            lent.push(lend(tensor, buffers));
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
        if buffers.len() != self.tensors.len() {
            return Err(Error::TensorCount {
                argument: "buffers",
                count: buffers.len(),
                expected: self.tensors.len(),
            });
        }
        let mut pairs = self.tensors.iter().zip(buffers);
        pairs.try_for_each(|(t, b)| check(&t.spec, &t.planes, b))
    }
}

/// Threads for so many parameters: none is woken for what one core finishes
/// sooner.
fn workers(pool: &Pool, parameters: usize) -> usize {
    (parameters / PARAMETERS_PER_THREAD).clamp(1, pool.threads())
}

/// The buffers of a tensor that takes part in the step.
fn lend<'a>(tensor: &Tensor, buffers: &'a mut TensorBuffers<'_>) -> Option<Lent<'a>> {
    let gradient = bytemuck::cast_slice(buffers.gradient?);
    let planes = buffers.planes.iter_mut();
    let target: &mut [f32] = match &mut buffers.target {
        Target::Parameters(p) => p,
        Target::Direction(u) => u,
    };
    let buffers = Buffers {
        gradient,
        planes: planes.map(|p| bytemuck::cast_slice_mut(p)).collect(),
        target: bytemuck::cast_slice_mut(target),
    };
    Some(Lent::new(buffers, tensor.grid.shape(), tensor.grid.band()))
}

/// One step under way.
struct Run<'a> {
    tensors: &'a [Tensor],
    tiles: &'a [Tile],
    grids: Vec<&'a Grid>,
    sums: &'a Sums,
    team: Team<'a>,
    lent: Vec<Option<Lent<'a>>>,
}

impl Run<'_> {
    /// Visits the blocks of all tensors that take part.
    fn sweep(&mut self, sweep: Sweep, visit: impl Fn(Visit<'_, '_>) + Sync) {
        self.team
            .sweep(sweep, self.tiles, &self.grids, &mut self.lent, &visit);
    }

    /// The length of each gradient. With `check`, refuses one that is not
    /// finite.
    fn gradient_lengths(&mut self, jobs: &mut [Job<'_>], check: bool) -> Result<()> {
        let (tensors, sums) = (self.tensors, self.sums);
        let visited: &[Job<'_>] = jobs;
        self.sweep(Sweep::Whole, |visit| {
            let squares = visited[visit.tensor].gradient_squares(visit.block, visit.access);
            let block = tensors[visit.tensor].blocks.start + visit.block;
            sums.set(block, [squares, 0.0]);
        });
        for ((tensor, job), lent) in tensors.iter().zip(jobs).zip(&self.lent) {
            if lent.is_none() {
                continue;
            }
            let [squares, _] = sums.fold(tensor.blocks.clone(), |a, b| a + b);
            if check && squares.is_nan() {
                return Err(Error::NonFiniteGradient {
                    tensor: tensor.spec.name.clone(),
                });
            }
            job.gradient_length = squares.sqrt();
        }
        Ok(())
    }

    /// Statistics of all blocks, together with the first stage after them of
    /// every tensor that needs nothing else before it.
    fn statistics(&mut self, jobs: &mut [Job<'_>]) {
        let (tensors, sums) = (self.tensors, self.sums);
        let jobs: &[Job<'_>] = jobs;
        let next = |visit: Visit<'_, '_>| {
            let tensor = &tensors[visit.tensor];
            match tensor.stages().next() {
                Some(Stage::LargestL1) | None => {}
                Some(stage) => perform(stage, tensor, &jobs[visit.tensor], sums, visit),
            }
        };
        self.sweep(Sweep::Tiles, |visit| {
            jobs[visit.tensor].statistics(visit.block, visit.access);
            if !visit.waits {
                next(visit);
            }
        });
        self.sweep(Sweep::Waiting, next);
    }

    /// The stages that are left, each over the tensors that need it.
    fn rest(&mut self, jobs: &mut [Job<'_>]) {
        let (tensors, sums) = (self.tensors, self.sums);
        for stage in [Stage::LargestL1, Stage::Lengths, Stage::Apply] {
            let left = |tensor: &Tensor| {
                let fused = !tensor.relative && tensor.stages().next() == Some(stage);
                !fused && tensor.stages().any(|s| s == stage)
            };
            if tensors.iter().any(left) {
                let jobs: &[Job<'_>] = jobs;
                self.sweep(Sweep::Whole, |visit| {
                    let tensor = &tensors[visit.tensor];
                    if left(tensor) {
                        perform(stage, tensor, &jobs[visit.tensor], sums, visit);
                    }
                });
            }
            for (tensor, job) in tensors.iter().zip(&mut *jobs) {
                if tensor.stages().any(|s| s == stage) {
                    take_in(stage, tensor, job, sums);
                }
            }
        }
    }
}

impl Tensor {
    /// The stages after the statistics that this tensor needs, in order.
    fn stages(&self) -> impl Iterator<Item = Stage> {
        [
            (self.relative, Stage::LargestL1),
            (self.grafted, Stage::Lengths),
            (true, Stage::Apply),
        ]
        .into_iter()
        .filter_map(|(needed, stage)| needed.then_some(stage))
    }
}

/// Performs a stage on a block and notes what it gives.
fn perform(stage: Stage, tensor: &Tensor, job: &Job<'_>, sums: &Sums, visit: Visit<'_, '_>) {
    let block = tensor.blocks.start + visit.block;
    match stage {
        Stage::LargestL1 => {
            let l1 = job.largest_l1(visit.block, visit.access, visit.work);
            sums.set(block, [l1, 0.0]);
        }
        Stage::Lengths => sums.set(block, job.lengths(visit.block, visit.access, visit.work)),
        Stage::Apply => job.apply(visit.block, visit.access, visit.work),
    }
}

/// Takes what a stage gave into the numbers of the next.
fn take_in(stage: Stage, tensor: &Tensor, job: &mut Job<'_>, sums: &Sums) {
    let blocks = tensor.blocks.clone();
    match stage {
        Stage::LargestL1 => {
            let [l1, _] = sums.fold(blocks, f64::max);
            job.damping = job.factors.damping(l1);
        }
        Stage::Lengths => {
            let [direction, reference] = sums.fold(blocks, |a, b| a + b);
            let ratio = if direction > 0.0 {
                (reference / direction).sqrt()
            } else {
                0.0
            };
            match &mut job.apply {
                Apply::Update { rate, .. } => *rate *= ratio,
                Apply::Write { scale } => *scale *= ratio,
            }
        }
        Stage::Apply => {}
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
