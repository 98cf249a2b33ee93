//! Step in stages
//!
//! For programs that train one model on several machines (or in several
//! processes), each of which holds a part of the model. Most of a step needs
//! only neighbouring elements, but clipping, relative damping and grafting need
//! sums or maxima over whole tensors, in up to three stages. A step in stages
//! stops at each of them: the program reduces the numbers of all parts and
//! continues the step. Every machine lists all tensors, in the same order. A tensor of
//! which it has nothing has a dimension of 0, as {0, 784}. A tensor that every machine
//! holds whole is counted by one of them only. With MPI:
//!
//! ```c
//! double numbers[2 * COUNT];                     // two for each tensor
//! sonew_stages *stages = NULL;
//! int32_t stage;
//! status = sonew_stages_begin(optimizer, &step, params, grads, COUNT, &stages);
//! while (status == SONEW_OK) {
//!     status = sonew_stages_next(stages, numbers, COUNT, &stage);
//!     if (status != SONEW_OK || stage == SONEW_DONE)
//!         break;
//!     for (int i = 0; i < COUNT; i++)            // those that all machines hold whole
//!         if (rank != 0 && is_whole[i])
//!             numbers[2 * i] = numbers[2 * i + 1] = 0;
//!     MPI_Allreduce(MPI_IN_PLACE, numbers, 2 * COUNT, MPI_DOUBLE,
//!                   stage == SONEW_LARGEST_L1 ? MPI_MAX : MPI_SUM, MPI_COMM_WORLD);
//! }
//! ```
//!
//! Which stages there are depends only on the options of optimizer and step, so that all
//! machines stop at the same ones, whatever tensors they have; a step that needs none is
//! done at the first sonew_stages_next(). If a machine's call fails where those of others
//! do not (SONEW_OUT_OF_MEMORY, for example), the others wait for it: repeat the call, or end the
//! program.
//!
//! If the numbers are given back unchanged, the step gives the same bits as sonew_step().
//! If they are reduced, it gives the step of the whole tensors, up to the rounding of the
//! sums, provided that tensors are cut between chains: between rows with
//! SONEW_CONTIGUOUS_LINES,
//! between columns with SONEW_STRIDED_LINES. Where a chain is cut, the edges over the cut are
//! missing. With numbers that are only compared (SONEW_LARGEST_L1) the bits are those of
//! the whole tensors. Sums are added up in another order than on one machine: that
//! changes the last bits of their float64, and so rarely one of the parameters. With
//! SONEW_STOCHASTIC, each machine draws random numbers of its own.
//!
//! With lagged norms, and damping that is lagged or absolute, no machine has to wait before its
//! parameters are updated: they have been when the step reaches SONEW_NORMS, by the norms of the
//! step before. (The first step of a tensor has none: reduce its numbers at each stage, and wait.
//! Parameters of 16 bits without master weights always take two passes: they are updated at the
//! end.) What the step measured may be reduced in the background, as by MPI_Iallreduce, while the
//! updated parameters are passed on and the next gradients are computed. Then the step is ended,
//! before the next one begins: an update whose norm was more than twice what it should have been
//! is brought back here, one gradient late. SONEW_LARGEST_L1 comes before SONEW_NORMS: pass the
//! machine's own numbers on, reduce them together with the norms, and set them when the step is
//! done, as the last of sonew_settings.scalars. examples/mpi does all of this.
//!
//! Sums can be made independent of the number of machines, and tensors with pooled correlations
//! need some more: the next two sections.
//!
//! Each machine saves its part to a file of its own, with sonew_save(), at the same step.
//! If tensors say which rows of the whole ones they are (sonew_tensor.first_row), any
//! number of machines can load these files (sonew_load_options.paths), and the program
//! `sonew merge` makes one file of them.
//!
//! While a step in stages is under way, functions that only read answer as they
//! did before it. Functions that step, save, load, sync or change a setting are
//! refused with SONEW_IN_STAGES. The buffers must stay in place and unchanged
//! until the step is done or aborted. Only gradients may be overwritten before, as by the next
//! ones: from SONEW_NORMS on they are not read any more, unless options.nesterov is 1. Freeing the
//! optimizer or plan ends the step, too. The handle of a step that has ended gets
//! SONEW_BAD_HANDLE.

use std::ffi::c_void;

use super::arguments::Out;
use super::buffers::{Buffer, Output};
use super::guard::{call, call_always};
use super::handles::{sonew_optimizer, sonew_plan, sonew_stages};
use super::owned::with;
use super::plan::{self, sonew_buffers};
use super::stage_handle::{begun, Of, ENDED, STAGES};
use super::status::sonew_status;
use super::step::{arguments, sonew_step_options, step_options};
use crate::error::{Error, Result};
use crate::layout::check_count;
use crate::Stage;

/// The point that a step in stages has reached, and what its numbers are: two
/// for each tensor, both zero for a tensor that takes no part in the step.
#[repr(C)]
pub enum sonew_stage {
    /// The step is done; there are no numbers.
    SONEW_DONE = 0,
    /// Numbers: the sum of squares of the gradient after grad_scale, NaN if an
    /// element is not finite; and 0. Reduce with a sum. Nothing has been written
    /// yet. This stage exists with SONEW_SKIP, with clip_norm, and with
    /// SONEW_GRAFT_NORMALIZED_RMSPROP.
    SONEW_GRADIENT_SQUARES = 1,
    /// Numbers: the l1 of SONEW_RELATIVE, or the h of SONEW_RELATIVE_LAGGED, which the next
    /// step uses; and 0. Reduce with a maximum. The state has been updated with the
    /// gradients, and with SONEW_RELATIVE_LAGGED and lagged_norms parameters may have been,
    /// too. This stage exists with both.
    SONEW_LARGEST_L1 = 2,
    /// Numbers: the squared norm of the direction u, and that of the graft's
    /// vector a. Reduce with a sum. The state has been updated with the
    /// gradients and, with lagged_norms, parameters may have been by the norms of the step
    /// before. This stage exists with every graft but SONEW_GRAFT_NONE.
    SONEW_NORMS = 3,
}

/// The number of a stage.
fn number_of(stage: Option<Stage>) -> i32 {
    let stage = match stage {
        None => sonew_stage::SONEW_DONE,
        Some(Stage::GradientSquares) => sonew_stage::SONEW_GRADIENT_SQUARES,
        Some(Stage::LargestL1) => sonew_stage::SONEW_LARGEST_L1,
        Some(Stage::Norms) => sonew_stage::SONEW_NORMS,
    };
    stage as i32
}

/// The caller's buffer for the numbers of a stage, two for each tensor.
struct Numbers(*mut f64);

impl Numbers {
    /// # Safety
    /// `first` is null, or valid for reads and writes of `2 * count` numbers.
    unsafe fn new(first: *mut f64, count: usize, tensors: usize) -> Result<Self> {
        super::arguments::not_null(first, || "numbers".to_owned())?;
        check_count("numbers", count, tensors)?;
        Ok(Numbers(first))
    }

    /// Reads the numbers that the caller has reduced.
    fn take(&self, numbers: &mut [[f64; 2]]) {
        for (i, number) in numbers.as_flattened_mut().iter_mut().enumerate() {
            // SAFETY: `new` was promised this many numbers.
            *number = unsafe { self.0.add(i).read_unaligned() };
        }
    }

    /// Writes the numbers that the caller is to reduce.
    fn give(&self, numbers: &[[f64; 2]]) {
        for (i, &number) in numbers.as_flattened().iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.0.add(i).write_unaligned(number) };
        }
    }
}

/// What a call to the next stage writes besides the buffers of the step. It may
/// overlap none of them.
struct Outputs {
    numbers: Output,
    stage: Output,
}

impl Outputs {
    fn new(numbers: *const f64, count: usize, stage: *const i32) -> Self {
        Outputs {
            numbers: Output::new(numbers, count, "numbers"),
            stage: Output::new(stage, 1, "stage"),
        }
    }

    /// Refuses outputs that overlap each other.
    fn apart(&self) -> Result<()> {
        self.numbers.apart_from_output(&self.stage)
    }

    /// Refuses outputs that overlap a buffer of the step.
    fn apart_from(&self, buffer: &Buffer<'_>) -> Result<()> {
        self.numbers.apart_from(buffer)?;
        self.stage.apart_from(buffer)
    }
}

/// Begins a step in stages of an optimizer, and writes its handle to *stages. The other
/// arguments are those of sonew_step(); the buffers are used until the step is done. This
/// call itself reads no gradient and changes no state.
///
/// Errors: those of sonew_step(), except SONEW_NON_FINITE_GRADIENT. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_stages_begin(
    optimizer: *mut sonew_optimizer,
    step: *const sonew_step_options,
    params: *const *mut c_void,
    grads: *const *const c_void,
    count: usize,
    stages: *mut *mut sonew_stages,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let (out, (step, params, grads)) = unsafe {
            (
                Out::new(stages, "stages")?,
                arguments(step, params, grads, count)?,
            )
        };
        let of = Of::Optimizer(optimizer);
        with(optimizer, |owned| {
            check_count("params", count, owned.optimizer.tensors().len())?;
            let (optimizer, spare) = (&mut owned.optimizer, &mut owned.spare);
            let passed = spare.check(optimizer, &params, &grads)?;
            // SAFETY: no written buffer overlaps another one, and the header
            // forbids any other use of them now.
            let (params, grads) = unsafe { passed.lend() };
            optimizer.begin_stages(&step, params, grads)?;
            owned.staged = Some((begun(of, out), passed));
            Ok(())
        })
    })
}

/// Begins a step in stages of a plan, and writes its handle to *stages. The other
/// arguments are those of sonew_plan_step().
///
/// Errors: those of sonew_plan_step(), except SONEW_NON_FINITE_GRADIENT. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_stages_begin(
    plan: *mut sonew_plan,
    step: *const sonew_step_options,
    step_number: u64,
    buffers: *const sonew_buffers,
    count: usize,
    stages: *mut *mut sonew_stages,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let (out, step) = unsafe { (Out::new(stages, "stages")?, step_options(step)?) };
        plan::with(plan, |owned| {
            // SAFETY: the header asks for buffers as long as they say, until the step is done.
            let passed = unsafe { plan::checked_buffers(owned, &step, buffers, count) }?;
            let under_way = owned.plan.begin(&step, step_number, &passed.buffers)?;
            owned.staged = Some(plan::Staged {
                handle: begun(Of::Plan(plan), out),
                under_way,
                passed,
            });
            Ok(())
        })
    })
}

/// Continues the step to its next stage. Writes that stage, one of sonew_stage,
/// to *stage, and its numbers to numbers: two for each of the count tensors,
/// 2 * count in all. The caller reduces them in this buffer and passes it to the
/// next call; the first call does not read it. With SONEW_DONE the step is done:
/// parameters and state are updated, an optimizer's step count has grown by one, numbers
/// are left as they are, and the handle is freed. Neither numbers nor stage may overlap a
/// buffer of the step, the state, or each other.
///
/// Errors: SONEW_TENSOR_COUNT, SONEW_OVERLAP, SONEW_OUT_OF_RANGE
/// (a number is negative), SONEW_OUT_OF_MEMORY, SONEW_FORKED: the step is at
/// the same stage as before, and the call can be repeated.
/// SONEW_NON_FINITE_GRADIENT: a sum of squares is NaN, here or on another
/// machine; the step has ended, its handle is freed, and nothing has changed. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_stages_next(
    stages: *mut sonew_stages,
    numbers: *mut f64,
    count: usize,
    stage: *mut i32,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result.
        let out = unsafe { Out::new(stage, "stage") }?;
        let to = NextStage {
            stages: stages.addr(),
            numbers,
            count,
            stage,
        };
        // SAFETY: the header asks for `2 * count` numbers.
        let reached = unsafe {
            match STAGES.copy(to.stages, "stages")? {
                Of::Optimizer(optimizer) => to.of_optimizer(optimizer),
                Of::Plan(plan) => to.of_plan(plan),
            }
        }?;
        out.write(number_of(reached));
        Ok(())
    })
}

/// Aborts a step that is under way, and frees its handle. NULL is allowed and does
/// nothing.
///
/// Of an optimizer, everything is then as it was before the step. If the state is in a
/// live file, this is possible at any stage. If it is in memory, it is possible only
/// before the first stage and at SONEW_GRADIENT_SQUARES, because the step has updated the
/// state when it reaches a later stage: SONEW_STATE_WRITTEN. Then either finish the step
/// (with this part's own numbers, if the other machines cannot be reached), or free the
/// optimizer and load its last save into another one.
///
/// Of a plan, a step can be aborted at any stage. From SONEW_LARGEST_L1 or SONEW_NORMS
/// on, the state planes have been updated with the gradients, and the caller must restore
/// them; params or direction have not been written.
///
/// Errors: SONEW_STATE_WRITTEN; in a live file SONEW_FORKED and SONEW_IO. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_stages_abort(stages: *mut sonew_stages) -> sonew_status {
    if stages.is_null() {
        return sonew_status::SONEW_OK;
    }
    let stages = stages.addr();
    call_always(|| match STAGES.copy(stages, "stages")? {
        Of::Optimizer(optimizer) => with(optimizer, |owned| {
            owned.staged(stages)?;
            owned.optimizer.abort_stages()?;
            owned.end_stages();
            Ok(())
        }),
        Of::Plan(plan) => plan::with(plan, |owned| {
            owned.staged(stages)?;
            owned.end_stages();
            Ok(())
        }),
    })
}

/// The arguments of sonew_stages_next().
struct NextStage {
    stages: usize,
    numbers: *mut f64,
    count: usize,
    stage: *const i32,
}

impl NextStage {
    /// # Safety
    /// `numbers` is null, or valid for reads and writes of `2 * count` numbers.
    unsafe fn numbers(&self, tensors: usize) -> Result<(Numbers, Outputs)> {
        let outputs = Outputs::new(self.numbers, 2 * tensors, self.stage);
        // SAFETY: the caller's promise.
        let numbers = unsafe { Numbers::new(self.numbers, self.count, tensors) }?;
        outputs.apart()?;
        Ok((numbers, outputs))
    }

    /// # Safety
    /// As for [`NextStage::numbers`].
    unsafe fn of_optimizer(&self, optimizer: *const sonew_optimizer) -> Result<Option<Stage>> {
        with(optimizer, |owned| {
            owned.staged(self.stages)?;
            // SAFETY: the caller's promise.
            let (numbers, outputs) = unsafe { self.numbers(owned.optimizer.tensors().len()) }?;
            let (optimizer, (_, passed)) =
                (&mut owned.optimizer, owned.staged.as_ref().ok_or(ENDED)?);
            passed.for_each(optimizer, |buffer| outputs.apart_from(&buffer))?;
            if optimizer.has_reached_stage() {
                numbers.take(optimizer.stage_numbers());
            }
            // SAFETY: the buffers were checked when the step began, and the
            // header forbids any other use of them before it is done.
            let (params, grads) = unsafe { passed.lend() };
            let reached = optimizer.next_stage(params, grads);
            match reached {
                Ok(Some(_)) => numbers.give(optimizer.stage_numbers()),
                Ok(None) | Err(Error::NonFiniteGradient { .. }) => owned.end_stages(),
                Err(_) => {}
            }
            reached
        })
    }

    /// # Safety
    /// As for [`NextStage::numbers`].
    unsafe fn of_plan(&self, plan: *const sonew_plan) -> Result<Option<Stage>> {
        plan::with(plan, |owned| {
            owned.staged(self.stages)?;
            // SAFETY: the caller's promise.
            let (numbers, outputs) = unsafe { self.numbers(owned.plan.tensors().len()) }?;
            owned.for_each_staged(|buffer| outputs.apart_from(&buffer))?;
            let staged = owned.staged.as_mut().ok_or(ENDED)?;
            let (under_way, passed) = (&mut staged.under_way, &mut staged.passed);
            if under_way.has_begun() {
                numbers.take(under_way.numbers());
            }
            // The buffers were checked when the step began, and the header forbids any
            // other use of them before it is done.
            let reached = owned.plan.advance(under_way, &mut passed.buffers);
            match reached {
                Ok(Some(_)) => numbers.give(under_way.numbers()),
                Ok(None) => {
                    // SAFETY: as said.
                    unsafe { passed.give_scalars() };
                    owned.end_stages();
                }
                Err(Error::NonFiniteGradient { .. }) => owned.end_stages(),
                Err(_) => {}
            }
            reached
        })
    }
}
