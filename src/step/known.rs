//! What a step knows of a tensor so far.

use sonew_kernel::Scalars;

use super::factors::{Corrections, Factors};
use super::range::Wide;
use crate::options::{Options, StepOptions};

/// What is known of a tensor so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// It has a gradient and elements.
    pub(super) takes_part: bool,
    /// From the beginning: the number of the tensor's step, and what follows from it.
    pub(super) number: u64,
    pub(super) corrections: Corrections,
    pub(super) gradient_norm: Wide,
    /// What its damping is relative to; 0 if that is not known.
    pub(super) largest: f64,
    /// It will be known once the statistics are.
    pub(super) damping_waits: bool,
    /// The norm that the direction takes, over its own.
    pub(super) ratio: Wide,
    /// The same of the step before, if directions are applied with it.
    pub(super) lagged: Option<Wide>,
    /// That made the norm of the update too large.
    pub(super) is_too_large: bool,
    /// What the step leaves to the next, but for [`Known::next_largest`].
    pub(super) scalars: Scalars,
    /// What lagged damping is relative to in the next step. It becomes one of the scalars at
    /// the end, since until then those of a step that is taken by several plans are what they
    /// were before it.
    pub(super) next_largest: f64,
    /// The sum of squares of the stage that was reached: what its number stands for,
    /// where float64 does not hold that.
    pub(super) squares: Wide,
    /// The power of two that multiplies what the current sweeps square: gradients, or
    /// the momentum before directions are computed from it.
    pub(super) lift: i32,
    /// That with which the squares were summed.
    pub(super) summed: i32,
}

impl Known {
    /// The numbers of a step of the tensor.
    pub(super) fn factors<'a>(&self, options: &'a Options, step: &'a StepOptions) -> Factors<'a> {
        Factors {
            options,
            step,
            corrections: self.corrections,
        }
    }

    /// What a number of the stage that was reached stands for, if it is still the
    /// tensor's own.
    pub(super) fn exactly(&self, number: f64) -> Wide {
        match self.squares.to_f64() == number {
            true => self.squares,
            false => Wide::from(number),
        }
    }
}
