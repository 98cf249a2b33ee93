//! The numbers of one step: powers of the betas, corrections, factors.

use sonew_kernel::{Average, Denominator, Factor, Reference, TakeIn};

use super::units::Units;
use crate::layout::Update;
use crate::options::{Damping, Graft, Options, Statistics, StepOptions};

/// The smallest relative damping, as in the authors' JAX code.
const LEAST_RELATIVE_DAMPING: f64 = 1e-24;

/// What bias correction multiplies with in the `t`-th step of a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Corrections {
    /// `1 / (1 - beta1^t)`, or 1.
    momentum: f64,
    /// `1 / (1 - beta2^t)`, or 1.
    statistics: f64,
}

impl Corrections {
    /// Of a step of this number, all of them with the betas of the options.
    pub(super) fn new(options: &Options, number: u64) -> Self {
        let one_minus = |beta| 1.0 - power(beta, number);
        Corrections::of(options, [options.beta1, options.beta2].map(one_minus))
    }

    /// Of what momentum and statistics are divided by where they are corrected.
    pub(super) fn of(options: &Options, [momentum, statistics]: [f64; 2]) -> Self {
        let averaged = options.statistics == Statistics::MovingAverage;
        let correction = |divisor: f64, holds| if holds { 1.0 / divisor } else { 1.0 };
        Corrections {
            momentum: correction(momentum, options.bias_correction),
            statistics: correction(statistics, options.bias_correction && averaged),
        }
    }
}

/// What momentum and statistics are divided by in a tensor's step of this number, if
/// that follows products of betas; zeros if it follows from the number alone. `before`
/// is the same of the step before.
pub(super) fn bias_corrections(
    options: &Options,
    step: &StepOptions,
    before: [f64; 2],
    number: u64,
) -> [f64; 2] {
    let (all, own) = ([options.beta1, options.beta2], step.betas(options));
    if !options.bias_correction || before == [0.0; 2] && own == all {
        return [0.0; 2];
    }
    std::array::from_fn(|i| {
        let before = match before[i] {
            0.0 => 1.0 - power(all[i], number - 1),
            before => before,
        };
        // It is the weight of all gradients in the exponential moving average.
        (own[i] * before + (1.0 - own[i])).min(1.0)
    })
}

/// The numbers of a step of one tensor.
pub(super) struct Factors<'a> {
    pub(super) options: &'a Options,
    pub(super) step: &'a StepOptions,
    pub(super) corrections: Corrections,
}

impl Factors<'_> {
    pub(super) fn lr(&self) -> f64 {
        self.step.lr
    }

    pub(super) fn gamma(&self) -> f64 {
        self.options.gamma
    }

    /// How a tensor's state takes in a gradient, which this brings to norm 1.
    pub(super) fn take_in(
        &self,
        graft: Graft,
        normalize: Factor,
        denominator: Denominator,
    ) -> TakeIn {
        let [beta1, beta2] = self.step.betas(self.options);
        let rms = graft == Graft::NormalizedRmsprop;
        TakeIn {
            momentum: average(beta1),
            nesterov: self.options.nesterov,
            statistics: self.statistics(),
            rms: rms.then(|| average(beta2)),
            normalize,
            reference: self.reference(graft),
            denominator,
        }
    }

    /// How pooled sums take in the products of gradients over the roots of what the kernels
    /// leave of the diagonal.
    pub(super) fn pooled(&self) -> Average {
        let Average { keep, weight } = self.statistics();
        let weight = weight / self.corrections.statistics;
        Average { keep, weight }
    }

    fn statistics(&self) -> Average {
        match self.options.statistics {
            Statistics::MovingAverage => average(self.step.betas(self.options)[1]),
            Statistics::WeightedSum => Average {
                keep: 1.0,
                weight: self.step.statistics_weight,
            },
        }
    }

    /// The vector that a direction takes its norm from.
    fn reference(&self, graft: Graft) -> Option<Reference> {
        let eps = self.options.graft_eps;
        match graft {
            Graft::None => None,
            Graft::Sgd => Some(Reference::Sgd),
            Graft::Momentum => Some(Reference::Momentum),
            Graft::Adam => Some(Reference::Adam {
                eps: eps / self.graft_correction().sqrt(),
            }),
            Graft::NormalizedRmsprop => Some(Reference::NormalizedRmsprop { eps }),
        }
    }

    /// What corrects the diagonal in the vector that gives the norm.
    fn graft_correction(&self) -> f64 {
        if self.options.graft_bias_correction {
            self.corrections.statistics
        } else {
            1.0
        }
    }

    /// What divides the momentum where there are no edges. With `c` for the
    /// correction, `c H_jj + eps` is `c (H_jj + eps / c)`.
    pub(super) fn denominator(&self, update: Update, damping: f64) -> Denominator {
        match update {
            Update::Sonew => Denominator::Damped(damping / self.corrections.statistics),
            Update::Adam => {
                Denominator::Adam(self.options.graft_eps / self.corrections.statistics.sqrt())
            }
        }
    }

    /// What the kernels' results are multiplied with.
    pub(super) fn units(&self, update: Update, graft: Graft) -> Units {
        let (m, h) = (self.corrections.momentum, self.corrections.statistics);
        Units {
            statistics: h,
            direction: match update {
                Update::Sonew => m / h,
                Update::Adam => m / h.sqrt(),
            },
            reference: match graft {
                Graft::Adam => m / self.graft_correction().sqrt(),
                Graft::Momentum => m,
                Graft::None | Graft::Sgd | Graft::NormalizedRmsprop => 1.0,
            },
        }
    }

    /// The damping of a tensor, if it is relative to this.
    pub(super) fn damping(&self, largest: f64) -> f64 {
        match self.options.damping {
            Damping::Absolute => self.options.eps,
            Damping::Relative | Damping::RelativeLagged => {
                (self.options.eps * largest).max(LEAST_RELATIVE_DAMPING)
            }
        }
    }
}

fn average(beta: f64) -> Average {
    Average {
        keep: beta,
        weight: 1.0 - beta,
    }
}

/// `base^exponent` by repeated squaring: the same bits everywhere, which the
/// system's `pow` does not promise.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        // No branch, which a processor could not predict: times 1 changes nothing.
        result *= if exponent & 1 == 1 { square } else { 1.0 };
        square *= square;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::power;

    #[test]
    fn powers_agree_with_products() {
        for base in [0.0, 0.5, 0.9, 0.999] {
            let mut product = 1.0;
            for exponent in 0..200 {
                let error: f64 = power(base, exponent) - product;
                assert!(error.abs() <= 1e-13 * product, "{base}^{exponent}");
                product *= base;
            }
        }
        assert_eq!(power(0.9, u64::MAX), 0.0);
    }
}
