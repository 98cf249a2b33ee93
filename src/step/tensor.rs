//! What a plan knows of one tensor.

use std::ops::Range;

use sonew_kernel::{Apply, Isa, Kernels, Noise};

use super::block::{Directions, Job};
use super::buffers::Way;
use super::factors::Factors;
use super::stages::Known;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::layout::{planes, Grid, Plane, TensorSpec, Update};
use crate::memory::{reserve, AlignedBytes, OF_A_STEP};
use crate::options::{Damping, Graft, Options};

/// A tensor of a plan.
pub(super) struct Tensor {
    pub(super) spec: TensorSpec,
    pub(super) planes: Vec<Plane>,
    pub(super) grid: Grid,
    pub(super) kernels: Kernels,
    /// The tensor's blocks among those of all.
    pub(super) blocks: Range<usize>,
    /// The tensor's damping takes a sweep of its own.
    pub(super) relative: bool,
    pub(super) graft: Graft,
}

impl Tensor {
    pub(super) fn new(spec: &TensorSpec, options: &Options, isa: Isa, first_block: usize) -> Self {
        let sonew = spec.update == Update::Sonew;
        let grid = Grid::new(spec, spec.update.band(options));
        Tensor {
            spec: spec.clone(),
            planes: planes(options, spec),
            kernels: Kernels::new(isa, spec.arithmetic()),
            blocks: first_block..first_block + grid.blocks(),
            grid,
            relative: sonew && options.damping == Damping::Relative,
            graft: spec.update.graft(options),
        }
    }

    /// Whether the direction has to be measured before it can be applied. It is kept
    /// in between.
    pub(super) fn grafted(&self) -> bool {
        self.graft != Graft::None
    }

    /// Memory for its directions, if it keeps them.
    pub(super) fn directions(&self) -> Result<Option<AlignedBytes>> {
        let name = || format!("the direction of tensor \"{}\"", self.spec.name);
        let bytes = self.grid.all_kept() * self.spec.arithmetic().size();
        let keep = || AlignedBytes::zeroed(bytes, name);
        self.grafted().then(keep).transpose()
    }

    /// The random bits of its planes and of its target in a step, where any of
    /// its numbers are rounded to 16 bits.
    pub(super) fn make_noise(
        &self,
        noise: &mut Vec<Noise>,
        index: usize,
        seed: u64,
        number: u64,
    ) -> Result<()> {
        let few = |dtype| matches!(dtype, Dtype::Bf16 | Dtype::F16);
        noise.clear();
        if few(self.spec.state) || few(self.spec.params) {
            let plane = |plane| Noise::new(seed, number, index, plane);
            let planes = 0..=self.planes.len();
            reserve(noise, planes.end() + 1, || OF_A_STEP.to_owned())?;
            noise.extend(planes.map(plane));
        }
        Ok(())
    }

    /// The tensor's part in a step, after what is known of it.
    pub(super) fn job<'a>(
        &'a self,
        factors: &Factors<'_>,
        known: &Known,
        scale: f64,
        way: Way,
    ) -> Job<'a> {
        let units = factors.units(self.spec.update, self.graft);
        Job {
            grid: &self.grid,
            kernels: self.kernels,
            scale,
            take_in: factors.take_in(
                self.graft,
                known.gradient_norm,
                factors.denominator(self.spec.update, factors.damping(known.l1)),
            ),
            gamma: factors.gamma(),
            apply: match way {
                Way::Update { rate, decay } => Apply::Update {
                    rate: -rate * known.ratio * units.direction,
                    decay: -decay,
                },
                Way::Write => Apply::Write {
                    scale: known.ratio * units.direction,
                },
            },
            units,
        }
    }

    /// What becomes of its directions in the sweep that takes in gradients: the
    /// largest l1 has to wait for all statistics, and a step that defers applies
    /// nothing yet.
    pub(super) fn fused(&self, defers: bool) -> Option<Directions> {
        match (self.relative, self.grafted()) {
            (true, _) => None,
            (_, true) => Some(Directions::Measured),
            _ if defers => None,
            _ => Some(Directions::Applied),
        }
    }

    /// Whether its directions are yet to be measured, or applied, after that.
    pub(super) fn is_left(&self, directions: Directions, defers: bool) -> bool {
        let needed = directions == Directions::Applied || self.grafted();
        needed && self.fused(defers) != Some(directions)
    }
}
