//! How far a step is, and what one of its stages hands to the next.

use std::iter::repeat_n;
use std::mem::take;

use sonew_kernel::{Memory, TensorBuffers};

use super::factors::{bias_corrections, Corrections};
use super::known::Known;
use super::range::Wide;
use super::tensor::Tensor;
use crate::error::Result;
use crate::memory::fill;
use crate::options::{Damping, Options, StepOptions};

/// A point in a step at which numbers of whole tensors are known that the rest
/// of the step needs. Each has two numbers for every tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The sum of squares of the gradient (times
    /// [`grad_scale`](crate::options::StepOptions::grad_scale)), NaN if one of
    /// its elements is not finite; and 0. Reduced by adding. Nothing has been
    /// written yet.
    GradientSquares,
    /// What relative damping is relative to, see
    /// [`Damping`](crate::options::Damping): the largest `H_jj + |H_j,j-1|` of the
    /// bias-corrected statistics or, lagged, the largest `H_jj`, which is for the next step;
    /// and 0. Reduced by taking the largest. State has been updated.
    LargestL1,
    /// The sum of squares of the direction, and that of the vector whose norm
    /// it takes. Reduced by adding. With lagged norms, parameters have been updated by
    /// those of the step before, and these are for the next.
    Norms,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Gradient,
    Statistics,
    Measure,
    Apply,
    Done,
}

/// Lists of tensors that a step needs, empty: between steps a plan keeps their
/// memory, so that the next one asks for none.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) memory: Vec<Option<Memory<'static>>>,
    pub(super) numbers: Vec<[f64; 2]>,
    pub(super) known: Vec<Known>,
}

/// A step under way, apart from its buffers.
pub(crate) struct Progress {
    pub(super) next: Next,
    /// The numbers of the stage that was reached, for each tensor.
    pub(crate) numbers: Vec<[f64; 2]>,
    pub(super) known: Vec<Known>,
    /// Multiplies every gradient.
    pub(super) scale: f64,
    /// The norm of all gradients, where it was computed.
    pub(crate) gradient_norm: Option<f64>,
}

impl Progress {
    /// At its beginning. `apart` says that its stages are taken by different plans: what one
    /// measures, the next does not know, so that none measures before a stage.
    pub(super) fn new(
        all: &Options,
        tensors: &[Tensor],
        step: &StepOptions,
        number: u64,
        buffers: &[TensorBuffers<'_>],
        lists: &mut Lists,
        apart: bool,
    ) -> Result<Self> {
        let corrections = |number| (number, Corrections::new(all, number));
        // Most tensors have the same number, whose powers are computed once.
        let mut last = corrections(number);
        let known = tensors.iter().zip(buffers).map(|(tensor, buffers)| {
            let options = tensor.spec.options_or(all);
            let own = buffers.number(number);
            let mut scalars = buffers.scalars;
            if buffers.gradient.is_some() {
                let before = scalars.bias_corrections;
                scalars.bias_corrections = bias_corrections(options, step, before, own);
            }
            let corrections = match scalars.bias_corrections {
                [0.0, 0.0] if tensor.spec.options.is_some() => Corrections::new(options, own),
                [0.0, 0.0] => {
                    if own != last.0 {
                        last = corrections(own);
                    }
                    last.1
                }
                divisors => Corrections::of(options, divisors),
            };
            let lagged = Some(scalars.norm_ratio).filter(|&r| options.is_lagged() && r > 0.0);
            let is_lagged = tensor.damping == Damping::RelativeLagged;
            let largest = if is_lagged { scalars.largest } else { 0.0 };
            Known {
                takes_part: buffers.gradient.is_some() && !tensor.spec.is_empty(),
                number: own,
                corrections,
                gradient_norm: Wide::ZERO,
                largest,
                damping_waits: tensor.is_relative() && (largest == 0.0 || apart),
                ratio: Wide::from(lagged.unwrap_or(1.0)),
                lagged: lagged.map(Wide::from),
                is_too_large: false,
                scalars,
                next_largest: scalars.largest,
                squares: Wide::ZERO,
                lift: 0,
                summed: 0,
            }
        });
        fill(&mut lists.numbers, repeat_n([0.0; 2], buffers.len()))?;
        fill(&mut lists.known, known)?;
        Ok(Progress {
            next: Next::Gradient,
            numbers: take(&mut lists.numbers),
            known: take(&mut lists.known),
            scale: step.grad_scale,
            gradient_norm: None,
        })
    }

    /// Nothing more is done with its lists.
    pub(super) fn give_back(&mut self, lists: &mut Lists) {
        lists.numbers = take(&mut self.numbers);
        lists.known = take(&mut self.known);
    }
}
