//! Runs a call: a step, or one stage of a step.

use super::cache;
use super::frame::Frame;
use super::operands::Operands;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::layout::TensorSpec;
use crate::options::StepOptions;
use crate::{Plan, Stage, Target, TensorBuffers};

/// Takes the step of a call, once for each member of a batch.
pub(super) fn run(frame: &Frame<'_>) -> Result<()> {
    let settings = Settings::read(frame)?;
    let (options, ..) = settings.options(&[])?;
    let operands = Operands::read(frame, &settings, &options)?;
    if operands.members == 0 {
        return Ok(());
    }
    let specs = operands.specs(&settings)?;
    let (options, ..) = settings.options(&operands.traced(&settings, 0))?;
    let mut borrowed = cache::borrow(&options, &specs)?;
    operands.settle(&options, &specs)?;
    for member in 0..operands.members {
        take(borrowed.plan(), &settings, &operands, &specs, member)?;
    }
    Ok(())
}

fn take(
    plan: &mut Plan,
    settings: &Settings<'_>,
    operands: &Operands<'_>,
    specs: &[TensorSpec],
    member: usize,
) -> Result<()> {
    let (options, step, decay) = settings.options(&operands.traced(settings, member))?;
    plan.set_numbers(&options)?;
    place(plan, operands, specs, member)?;
    let number = operands.count(member)? + 1;
    // SAFETY: `settle` has checked them, and they belong to the call until it
    // returns.
    let mut buffers = unsafe { operands.buffers(settings, specs, member, decay) };
    let mut numbers = vec![[0.0; 2]; specs.len()];
    let outcome = if settings.staged {
        let reached = operands.reached(settings, member);
        advance(plan, &step, number, &mut buffers, reached).map(|n| numbers = n)
    } else {
        plan.step(&step, number, &mut buffers)
    };
    let taken = match outcome {
        Ok(()) => true,
        Err(Error::NonFiniteGradient { .. }) => {
            if !settings.staged {
                clear_directions(&mut buffers);
            }
            false
        }
        Err(error) => return Err(error),
    };
    operands.tell(member, taken, &buffers, &numbers);
    Ok(())
}

/// Says which chains of larger tensors those of a member's tensors are.
fn place(
    plan: &mut Plan,
    operands: &Operands<'_>,
    specs: &[TensorSpec],
    member: usize,
) -> Result<()> {
    for (tensor, part) in operands.parts(member).enumerate() {
        // A negative number is more chains than there can be.
        let place = part.map(|own| own.map(|n| usize::try_from(n).unwrap_or(usize::MAX)));
        if !plan.place_chains(tensor, place) {
            return Err(Error::Operand {
                argument: format!("parts of tensor \"{}\"", specs[tensor].name),
                problem: format!(
                    "has {:?}, must be the number of the first chain in the whole tensor, and \
                     how many that has",
                    part.unwrap_or_default()
                ),
            });
        }
    }
    Ok(())
}

/// Continues the step to its next stage, and returns this part's numbers. Scalars
/// stay those of the step before until the step is done.
fn advance(
    plan: &mut Plan,
    step: &StepOptions,
    number: u64,
    buffers: &mut [TensorBuffers<'_>],
    mut reached: Vec<(Stage, Vec<[f64; 2]>)>,
) -> Result<Vec<[f64; 2]>> {
    // If the largest l1 was a stage, the squared norm of the graft's vector came
    // with it, because it is computed together with the statistics, which are
    // not updated a second time.
    if let [.., (Stage::LargestL1, earlier), (Stage::Norms, norms)] = &mut reached[..] {
        for (norm, earlier) in norms.iter_mut().zip(earlier) {
            norm[1] = earlier[1];
        }
    }
    let mut stages = plan.resume(step, number, buffers, &reached)?;
    let stage = stages.next()?;
    let mut numbers = stages.numbers().to_vec();
    match stage {
        Some(Stage::LargestL1) => {
            for (number, reference) in numbers.iter_mut().zip(stages.references()) {
                number[1] = reference;
            }
        }
        // It came with that stage. What this plan has in its place is of whichever call had the
        // plan before.
        Some(Stage::Norms) if reached.iter().any(|(stage, _)| *stage == Stage::LargestL1) => {
            numbers.iter_mut().for_each(|number| number[1] = 0.0);
        }
        _ => {}
    }
    let scalars: Vec<_> = stages.scalars().collect();
    drop(stages);
    for (buffers, scalars) in buffers.iter_mut().zip(scalars) {
        buffers.scalars = scalars;
    }
    Ok(numbers)
}

/// Sets the directions of a skipped step to zero.
fn clear_directions(buffers: &mut [TensorBuffers<'_>]) {
    for buffers in buffers {
        if let Target::Direction(u) = &mut buffers.target {
            u.bytes_mut().fill(0);
        }
    }
}
