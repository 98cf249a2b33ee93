//! What a plan knows of one tensor.

use std::ops::Range;

use sonew_kernel::{
    power_of_two, Apply, Directions, ElementsMut, Isa, Kernels, Memory, Rule, Stochastic, Target,
    TensorBuffers,
};

use super::block::{ahead, Job};
use super::factors::Factors;
use super::range::Wide;
use super::stages::Known;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::layout::{planes, Grid, Plane, TensorSpec, Update};
use crate::memory::AlignedBytes;
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

    /// All memory of the tensor in a step; `None` if it takes no part.
    pub(super) fn memory<'a>(
        &self,
        buffers: &'a TensorBuffers<'a>,
        kept: Option<&'a mut [u8]>,
        rounding: Option<Stochastic>,
    ) -> Option<Memory<'a>> {
        buffers.gradient.as_ref()?;
        let few = |dtype| matches!(dtype, Dtype::Bf16 | Dtype::F16);
        let is_few = few(self.spec.state) || few(self.spec.params);
        Some(Memory {
            buffers,
            master: self.spec.master,
            cols: self.grid.shape().1,
            kept: kept.map(|kept| ElementsMut::from_bytes(self.spec.arithmetic(), kept)),
            rounding: rounding.filter(|_| is_few),
            ahead: ahead(&self.grid),
        })
    }

    /// How a step treats the tensor, after what is known of it.
    pub(super) fn job(
        &self,
        factors: &Factors<'_>,
        known: &Known,
        scale: f64,
        buffers: &TensorBuffers<'_>,
    ) -> Job<'_> {
        let units = factors.units(self.spec.update, self.graft);
        let rate = factors.lr() * buffers.lr_scale;
        let factor = |x: Wide| x.factor(self.kernels.arithmetic());
        // What multiplies a direction as the kernels leave it.
        let applied = |by: f64| {
            let product = Wide::from(by) * known.ratio * Wide::from(units.direction);
            factor(product.shifted(-known.lift))
        };
        let normalize = match known.gradient_norm.is_positive() {
            true => Wide::from(1.0) / known.gradient_norm,
            false => Wide::ZERO,
        };
        let rule = Rule {
            scale: factor(Wide::from(scale).shifted(known.lift)),
            lift: power_of_two(known.lift),
            take_in: factors.take_in(
                self.graft,
                factor(normalize),
                factors.denominator(self.spec.update, factors.damping(known.l1)),
            ),
            gamma: factors.gamma(),
            apply: match buffers.target {
                Target::Parameters(_) => Apply::Update {
                    rate: applied(-rate),
                    decay: -(rate * buffers.weight_decay),
                },
                Target::Direction(_) => Apply::Write {
                    scale: applied(1.0),
                },
            },
        };
        Job {
            grid: &self.grid,
            kernels: self.kernels,
            rule,
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
