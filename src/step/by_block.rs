//! The numbers of a stage, block by block: for processes whose results are not to depend on how
//! many they are.

use super::plan::Plan;
use super::progress::{Next, Progress, Stage};
use super::range::Wide;
use super::stages::{Stages, UnderWay};
use super::sums::{Slot, Sums};
use super::tensor::Tensor;
use crate::error::Result;
use crate::layout::WholeBlocks;
use crate::memory::{list, try_list, OF_A_STEP};
use crate::options::Options;

impl Stage {
    /// What a tensor's blocks have together: added up in their order, or the largest.
    pub fn combine(self, blocks: &[[f64; 2]]) -> [f64; 2] {
        let combine = |a: f64, b: f64| match self {
            Stage::LargestL1 => a.max(b),
            Stage::GradientSquares | Stage::Norms => a + b,
        };
        let both = |all: [f64; 2], own: &[f64; 2]| [0, 1].map(|i| combine(all[i], own[i]));
        blocks.iter().fold([0.0; 2], both)
    }
}

/// Where the blocks of each tensor are.
fn places(options: &Options, tensors: &[Tensor]) -> Result<Vec<WholeBlocks>> {
    let place = |tensor: &Tensor| tensor.spec.whole_blocks(options, &tensor.grid);
    try_list(tensors.iter().map(place), OF_A_STEP)
}

/// How many there are of each tensor.
fn counts(options: &Options, tensors: &[Tensor]) -> Result<Vec<usize>> {
    let places = places(options, tensors)?;
    list(places.iter().map(|place| place.count), OF_A_STEP)
}

/// The numbers of the stage that was reached.
fn numbers(
    options: &Options,
    tensors: &[Tensor],
    sums: &Sums,
    progress: &Progress,
) -> Result<Vec<[f64; 2]>> {
    let places = places(options, tensors)?;
    let count = places.iter().map(|place| place.count).sum();
    let mut numbers = list(std::iter::repeat_n([0.0; 2], count), OF_A_STEP)?;
    let mut before = 0;
    for ((tensor, place), known) in tensors.iter().zip(&places).zip(&progress.known) {
        let concerned = match progress.next {
            Next::Gradient | Next::Done => false,
            Next::Statistics => true,
            Next::Measure => tensor.is_relative(),
            Next::Apply => tensor.grafted(),
        };
        let own = &mut numbers[before + place.first..][..tensor.blocks.len()];
        before += place.count;
        if !concerned || !known.takes_part {
            continue;
        }
        let squares = |block| Wide::from(sums.get(block, Slot::First)).shifted(-2 * known.summed);
        for (to, block) in own.iter_mut().zip(tensor.blocks.clone()) {
            *to = match progress.next {
                Next::Measure => [sums.get(block, Slot::Largest), 0.0],
                Next::Apply => [squares(block).to_f64(), sums.get(block, Slot::Reference)],
                _ => [squares(block).to_f64(), 0.0],
            };
        }
    }
    Ok(numbers)
}

impl Plan {
    /// How many blocks the whole tensors have.
    pub(crate) fn blocks(&self) -> Result<Vec<usize>> {
        counts(&self.options, &self.tensors)
    }

    /// Their numbers in a step that is under way; zeros of blocks that are not here.
    pub(crate) fn block_numbers(&self, under_way: &UnderWay) -> Result<Vec<[f64; 2]>> {
        numbers(
            &self.options,
            &self.tensors,
            &self.sums,
            &under_way.progress,
        )
    }
}

impl Stages<'_> {
    /// How many blocks each tensor has: those of the whole one, if it is a shard.
    ///
    /// # Errors
    /// [`Error::BlockCut`](crate::Error::BlockCut) if a shard is cut elsewhere than between
    /// [blocks](crate::layout::TensorSpec::block_rows).
    pub fn blocks(&self) -> Result<Vec<usize>> {
        counts(self.run.options, self.run.tensors)
    }

    /// The numbers of the stage that was reached, two for each block of all tensors, zeros for
    /// blocks of rows that are not here: see
    /// [`StagedStep::block_numbers`](crate::StagedStep::block_numbers).
    ///
    /// # Errors
    /// See [`Stages::blocks`].
    pub fn block_numbers(&self) -> Result<Vec<[f64; 2]>> {
        let run = &self.run;
        numbers(run.options, run.tensors, run.sums, &self.progress)
    }
}
