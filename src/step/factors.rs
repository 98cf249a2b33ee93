//! The numbers of one step: powers of the betas, corrections, factors.

use crate::kernel::{Average, Reference};
use crate::layout::Update;
use crate::options::{Damping, Graft, Options, Statistics, StepOptions};

/// The smallest relative damping, as in the authors' JAX code.
const LEAST_RELATIVE_DAMPING: f64 = 1e-24;

/// What is the same for all tensors of a step.
pub(super) struct Factors<'a> {
    options: &'a Options,
    step: &'a StepOptions,
    /// `1 / (1 - beta1^t)`, or 1.
    momentum_correction: f64,
    /// `1 / (1 - beta2^t)`, or 1.
    statistics_correction: f64,
}

impl<'a> Factors<'a> {
    pub(super) fn new(options: &'a Options, step: &'a StepOptions, number: u64) -> Self {
        let averaged = options.statistics == Statistics::MovingAverage;
        let correction = |beta, holds| {
            if holds {
                1.0 / (1.0 - power(beta, number))
            } else {
                1.0
            }
        };
        Factors {
            options,
            step,
            momentum_correction: correction(options.beta1, options.bias_correction),
            statistics_correction: correction(options.beta2, options.bias_correction && averaged),
        }
    }

    pub(super) fn gamma(&self) -> f64 {
        self.options.gamma
    }

    pub(super) fn grad_scale(&self) -> f64 {
        self.step.grad_scale
    }

    pub(super) fn momentum_correction(&self) -> f64 {
        self.momentum_correction
    }

    pub(super) fn statistics_correction(&self) -> f64 {
        self.statistics_correction
    }

    /// How the momentum takes in a gradient.
    pub(super) fn momentum(&self) -> Average {
        Average {
            keep: self.options.beta1,
            weight: 1.0 - self.options.beta1,
            scale: self.step.grad_scale,
        }
    }

    /// How diagonal and sub-diagonals take in products of gradients.
    pub(super) fn statistics(&self) -> Average {
        let (keep, weight) = match self.options.statistics {
            Statistics::MovingAverage => (self.options.beta2, 1.0 - self.options.beta2),
            Statistics::WeightedSum => (1.0, self.step.statistics_weight),
        };
        Average {
            keep,
            weight,
            scale: self.step.grad_scale,
        }
    }

    /// How the plane of normalized RMSProp takes in a gradient.
    pub(super) fn rms(&self, gradient_length: f64) -> Average {
        Average {
            keep: self.options.beta2,
            weight: 1.0 - self.options.beta2,
            scale: self.normalize(gradient_length),
        }
    }

    /// The damping of a tensor whose largest l1 is `l1`.
    pub(super) fn damping(&self, l1: f64) -> f64 {
        match self.options.damping {
            Damping::Absolute => self.options.eps,
            Damping::Relative => (self.options.eps * l1).max(LEAST_RELATIVE_DAMPING),
        }
    }

    /// What turns a gradient of this length into one of length 1.
    fn normalize(&self, gradient_length: f64) -> f64 {
        if gradient_length > 0.0 {
            self.step.grad_scale / gradient_length
        } else {
            0.0
        }
    }

    /// The vector that a tensor's direction takes its length from; for plain
    /// Adam the direction itself.
    pub(super) fn reference(&self, update: Update, gradient_length: f64) -> Option<Reference> {
        let adam = |diagonal| Reference::Adam {
            correction: self.momentum_correction,
            diagonal,
            eps: self.options.graft_eps,
        };
        match (update, self.options.graft) {
            (Update::Adam, _) => Some(adam(self.statistics_correction)),
            (_, Graft::None) => None,
            (_, Graft::Sgd) => Some(Reference::Sgd {
                scale: self.step.grad_scale,
            }),
            (_, Graft::Momentum) => Some(Reference::Momentum {
                correction: self.momentum_correction,
            }),
            (_, Graft::Adam) if self.options.graft_bias_correction => {
                Some(adam(self.statistics_correction))
            }
            (_, Graft::Adam) => Some(adam(1.0)),
            (_, Graft::NormalizedRmsprop) => Some(Reference::NormalizedRmsprop {
                scale: self.normalize(gradient_length),
                eps: self.options.graft_eps,
            }),
        }
    }
}

/// `base^exponent` by repeated squaring: the same bits everywhere, which the
/// system's `pow` does not promise.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
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
