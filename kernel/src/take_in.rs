//! How the state takes in a gradient: averages, and another method's direction.

use crate::Factor;

/// An average: `keep` multiplies what is there, `weight` what comes in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Average {
    /// Multiplies what is there.
    pub keep: f64,
    /// Multiplies what comes in.
    pub weight: f64,
}

/// How the state takes in a gradient.
#[derive(Debug, Clone, Copy)]
pub struct TakeIn {
    /// The momentum's average.
    pub momentum: Average,
    /// Nesterov momentum: what directions and norms are computed from is the momentum
    /// averaged with the gradient once more.
    pub nesterov: bool,
    /// That of diagonal and sub-diagonals.
    pub statistics: Average,
    /// That of the plane of normalized RMSProp, where there is one.
    pub rms: Option<Average>,
    /// Makes the gradient one of norm 1.
    pub normalize: Factor,
    /// The direction whose squares are added up.
    pub reference: Option<Reference>,
    /// What divides the momentum where there are no edges.
    pub denominator: Denominator,
}

/// Another method's direction, whose norm is wanted; of state without bias
/// correction, as everything here.
#[derive(Debug, Clone, Copy)]
pub enum Reference {
    /// `g`.
    Sgd,
    /// `m`.
    Momentum,
    /// `m / (sqrt(H_jj) + eps)`.
    Adam {
        /// Added to the root.
        eps: f64,
    },
    /// `q / (sqrt(r) + eps)`, with `q = g / |g|`.
    NormalizedRmsprop {
        /// Added to the root.
        eps: f64,
    },
}

impl TakeIn {
    pub(crate) fn is_adam(&self) -> bool {
        matches!(self.reference, Some(Reference::Adam { .. }))
    }

    /// Whether it takes nothing but the state and the gradient.
    pub(crate) fn is_plain(&self) -> bool {
        self.reference.is_none() && self.rms.is_none()
    }
}

/// What divides the momentum where there are no edges.
#[derive(Debug, Clone, Copy)]
pub enum Denominator {
    /// The diagonal and this damping.
    Damped(f64),
    /// The diagonal's square root and this eps: plain Adam.
    Adam(f64),
}

/// What a state plane becomes in the chunk.
#[derive(Debug, Clone, Copy)]
pub enum Reading {
    /// The diagonal: what divides the momentum.
    Denominator(Denominator),
    /// The same, times a power of two.
    Times(f64),
    /// Nesterov momentum: the same, and then averaged with the gradient.
    Nesterov {
        /// The power of two.
        times: f64,
        /// The momentum's average.
        by: Average,
        /// Multiplies the gradient; the power of two is in it.
        scale: Factor,
    },
}
