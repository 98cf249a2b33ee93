//! What a plan knows of one tensor.

use std::ops::Range;

use sonew_kernel::{
    power_of_two, Access, Apply, Directions, ElementsMut, Factor, Isa, Kernels, Memory,
    PooledChains, Rule, Stochastic, Target, TensorBuffers,
};

use super::block::{ahead, Job};
use super::factors::Factors;
use super::known::Known;
use super::pooled::Pooled;
use super::range::Wide;
use super::units::Units;
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
    /// How its chains lie, if they share their correlations.
    pub(super) chains: Option<PooledChains>,
    /// What its damping is; absolute if it takes none.
    pub(super) damping: Damping,
    /// Its directions need the pooled correlations of this step.
    pub(super) pools_first: bool,
    pub(super) graft: Graft,
}

impl Tensor {
    pub(super) fn new(spec: &TensorSpec, options: &Options, isa: Isa, first_block: usize) -> Self {
        let options = spec.options_or(options);
        let is_pooled = spec.update.is_pooled(options);
        let (grid, chains) = match is_pooled && !spec.is_empty() {
            true => {
                let (grid, chains) = Grid::pooled(spec, options);
                (grid, Some(chains))
            }
            false => (Grid::new(spec, spec.update.band(options)), None),
        };
        Tensor {
            spec: spec.clone(),
            planes: planes(options, spec),
            kernels: Kernels::new(isa, spec.arithmetic()),
            blocks: first_block..first_block + grid.blocks(),
            grid,
            chains,
            pools_first: is_pooled && !options.is_lagged(),
            damping: match spec.update {
                Update::Sonew => options.damping,
                Update::Adam => Damping::Absolute,
            },
            graft: spec.update.graft(options),
        }
    }

    /// Whether the direction has to be measured before it can be applied. It is kept
    /// in between.
    pub(super) fn grafted(&self) -> bool {
        self.graft != Graft::None
    }

    /// Memory for its directions, if it keeps them.
    pub(super) fn directions(&self, lagged: bool) -> Result<Option<AlignedBytes>> {
        let name = || format!("the direction of tensor \"{}\"", self.spec.name);
        let bytes = self.grid.all_kept() * self.spec.arithmetic().size();
        let keep = || AlignedBytes::zeroed(bytes, name);
        (self.grafted() && !lagged).then(keep).transpose()
    }

    /// What its plan keeps if its chains share their correlations.
    pub(super) fn pooled(&self) -> Result<Option<Pooled>> {
        let blocks = self.grid.blocks();
        let new = |chains| Pooled::new(&self.spec.name, self.kernels, chains, blocks);
        self.chains.map(new).transpose()
    }

    /// All memory of the tensor in a step; `None` if it takes no part.
    pub(super) fn memory<'a>(
        &self,
        buffers: &'a TensorBuffers<'a>,
        kept: Option<&'a mut [u8]>,
        rounding: Option<Stochastic>,
    ) -> Option<Memory<'a>> {
        buffers.gradient.filter(|_| !self.spec.is_empty())?;
        let is_few = is_few(self.spec.state) || is_few(self.spec.params);
        Some(Memory {
            buffers,
            master: self.spec.master,
            pooled: self.chains.is_some(),
            cols: self.grid.shape().1,
            kept: kept.map(|kept| ElementsMut::from_bytes(self.spec.arithmetic(), kept)),
            rounding: rounding.filter(|_| is_few),
            ahead: ahead(&self.grid),
            is_written: false,
        })
    }

    /// How a step treats the tensor, after what is known of it.
    pub(super) fn job<'a>(
        &'a self,
        factors: &Factors<'_>,
        known: &Known,
        scale: f64,
        buffers: &TensorBuffers<'_>,
        pooled: Option<&'a Pooled>,
    ) -> Job<'a> {
        let units = factors.units(self.spec.update, self.graft);
        let normalize = match known.gradient_norm.is_positive() {
            true => Wide::from(1.0) / known.gradient_norm,
            false => Wide::ZERO,
        };
        let rule = Rule {
            scale: self.scale(known, scale),
            lift: power_of_two(known.lift),
            take_in: factors.take_in(
                self.graft,
                self.factor(normalize),
                factors.denominator(self.spec.update, factors.damping(known.largest)),
            ),
            gamma: factors.gamma(),
            apply: self.apply(factors, known, &units, buffers),
        };
        Job {
            grid: &self.grid,
            kernels: self.kernels,
            rule,
            units,
            pooled,
            number: known.number,
            adds_later: known.damping_waits,
        }
    }

    fn factor(&self, x: Wide) -> Factor {
        x.factor(self.kernels.arithmetic())
    }

    /// What multiplies the gradient.
    fn scale(&self, known: &Known, scale: f64) -> Factor {
        self.factor(Wide::from(scale).shifted(known.lift))
    }

    /// What becomes of directions.
    fn apply(
        &self,
        factors: &Factors<'_>,
        known: &Known,
        units: &Units,
        buffers: &TensorBuffers<'_>,
    ) -> Apply {
        // What multiplies a direction as the kernels leave it.
        let applied = |by: f64, ratio: Wide| {
            let product = Wide::from(by) * ratio * Wide::from(units.direction);
            self.factor(product.shifted(-known.lift))
        };
        if let Target::Direction(_) = buffers.target {
            return Apply::Write {
                scale: applied(1.0, known.ratio),
            };
        }
        let rate = factors.lr() * buffers.lr_scale;
        let takes_back = known.is_too_large && self.can_take_back();
        match known.lagged.filter(|_| takes_back) {
            None => Apply::Update {
                rate: applied(-rate, known.ratio),
                decay: -(rate * buffers.weight_decay),
            },
            // What was too much is taken back.
            Some(lagged) => {
                let excess = 1.0 - (known.ratio / lagged).to_f64();
                Apply::Update {
                    rate: applied(rate * excess, lagged),
                    decay: 0.0,
                }
            }
        }
    }

    /// The sum of squares of a block's gradient; NaN if it is not finite.
    pub(super) fn gradient_squares(
        &self,
        known: &Known,
        scale: f64,
        block: usize,
        access: &Access<'_>,
    ) -> f64 {
        let scale = self.scale(known, scale);
        let rect = self.grid.statistics(block);
        self.grid.runs(&rect).fold(0.0, |sum, (_, run)| {
            sum + self.kernels.gradient_squares(access, run, scale)
        })
    }

    /// Applies the directions of a block that were kept.
    pub(super) fn apply_kept(
        &self,
        factors: &Factors<'_>,
        known: &Known,
        buffers: &TensorBuffers<'_>,
        block: usize,
        access: &mut Access<'_>,
    ) {
        let units = factors.units(self.spec.update, self.graft);
        let apply = self.apply(factors, known, &units, buffers);
        let rect = self.grid.directions(block);
        let first = self.grid.kept(block).start;
        for (at, run) in self.grid.runs(&rect) {
            self.kernels.deliver_kept(access, run, first + at, apply);
        }
    }

    /// Whether its damping is relative to something of the tensor.
    pub(super) fn is_relative(&self) -> bool {
        self.damping != Damping::Absolute
    }

    /// Whether its directions need something of the whole tensor's statistics.
    fn waits_for_statistics(&self, known: &Known) -> bool {
        known.damping_waits || self.pools_first
    }

    /// What becomes of its directions in the sweep that takes in gradients: damping may have
    /// to wait for all statistics, and a step that defers applies nothing yet.
    pub(super) fn fused(&self, known: &Known, defers: bool) -> Option<Directions> {
        match self.grafted() {
            _ if self.waits_for_statistics(known) => None,
            true => Some(self.measured(known)),
            false if defers => None,
            false => Some(Directions::Applied),
        }
    }

    /// The sweep that measures directions applies them, too, if the norms of the step
    /// before will do.
    fn measured(&self, known: &Known) -> Directions {
        match known.lagged {
            Some(_) if self.can_take_back() => Directions::AppliedAndMeasured,
            _ => Directions::Measured,
        }
    }

    /// Whether the sweep that has measured its directions has applied them.
    pub(super) fn is_applied(&self, known: &Known) -> bool {
        self.grafted() && self.measured(known) == Directions::AppliedAndMeasured
    }

    /// Whether an update that was too long can be taken back: not from parameters of few
    /// bits, which have lost what they were.
    fn can_take_back(&self) -> bool {
        self.spec.master || !is_few(self.spec.params)
    }

    /// What is left to be done in the sweep that measures.
    pub(super) fn left_to_measure(&self, known: &Known) -> Option<Directions> {
        (self.grafted() && self.waits_for_statistics(known)).then(|| self.measured(known))
    }

    /// What is left to be done in the last sweep.
    pub(super) fn left_to_apply(&self, known: &Known, defers: bool) -> Option<Directions> {
        let is_left = match self.grafted() {
            true => known.lagged.is_none() || known.is_too_large || !self.can_take_back(),
            false => self.fused(known, defers).is_none(),
        };
        is_left.then_some(Directions::Applied)
    }
}

/// Whether a type has few bits, to which numbers are rounded.
fn is_few(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Bf16 | Dtype::F16)
}
