//! What a plan knows of one tensor.

use std::ops::Range;

use super::block::Job;
use super::buffers::{Target, TensorBuffers};
use super::factors::Factors;
use crate::error::Result;
use crate::kernel::{Apply, Kernels, Shape};
use crate::layout::{planes, Grid, Plane, TensorSpec, Update};
use crate::memory::AlignedBytes;
use crate::options::{Damping, Graft, Options};

/// A tensor of a plan.
pub(super) struct Tensor {
    pub(super) spec: TensorSpec,
    pub(super) planes: Vec<Plane>,
    pub(super) grid: Grid,
    /// The tensor's blocks among those of all.
    pub(super) blocks: Range<usize>,
    /// Whether its damping, and its length, take a sweep of their own.
    pub(super) relative: bool,
    pub(super) grafted: bool,
    pub(super) rms: bool,
}

impl Tensor {
    pub(super) fn new(spec: &TensorSpec, options: &Options, first_block: usize) -> Self {
        let sonew = spec.update == Update::Sonew;
        let graft = spec.update.graft(options);
        let grid = Grid::new(spec, spec.update.band(options));
        Tensor {
            spec: spec.clone(),
            planes: planes(options, spec),
            blocks: first_block..first_block + grid.blocks(),
            grid,
            relative: sonew && options.damping == Damping::Relative,
            grafted: graft != Graft::None,
            rms: graft == Graft::NormalizedRmsprop,
        }
    }

    /// Memory for its directions, if it has to keep them.
    pub(super) fn directions(&self) -> Result<Option<AlignedBytes>> {
        let name = || format!("the direction of tensor \"{}\"", self.spec.name);
        let bytes = self.spec.len() * size_of::<f32>();
        let keep = || AlignedBytes::zeroed(bytes, name);
        self.grafted.then(keep).transpose()
    }

    /// The largest block that its directions are computed for.
    pub(super) fn shape(&self) -> Shape {
        let (stride, core) = self.grid.largest_packed();
        Shape::new(self.grid.band(), stride, core, false)
    }

    /// The tensor's part in a step.
    pub(super) fn job<'a>(
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
            kept: self.grafted,
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

    /// The stages after the statistics that this tensor needs, in order.
    pub(super) fn stages(&self) -> impl Iterator<Item = Stage> {
        [
            (self.relative, Stage::LargestL1),
            (self.grafted, Stage::Lengths),
            (true, Stage::Apply),
        ]
        .into_iter()
        .filter_map(|(needed, stage)| needed.then_some(stage))
    }

    /// The first of them, if it can share a sweep with the statistics: the
    /// largest l1 has to wait for all of them.
    pub(super) fn fused(&self) -> Option<Stage> {
        self.stages().next().filter(|&s| s != Stage::LargestL1)
    }
}

/// What a sweep does to a block after its statistics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    LargestL1,
    Lengths,
    Apply,
}
