//! Step in stages
//!
//! For programs that train one model on several machines (or in several
//! processes), each with a part of every tensor. Most of a step looks at one
//! place of a tensor only, but clipping, relative damping and grafting take
//! numbers of whole tensors, in up to three stages. A step in stages stops at
//! each: the program reduces the numbers of the parts, and goes on. With MPI:
//!
//! ```c
//! double numbers[2 * COUNT];                     // two for each tensor
//! int32_t stage;
//! status = sonew_stages_begin(optimizer, &step, params, grads, COUNT);
//! while (status == SONEW_OK) {
//!     status = sonew_stages_next(optimizer, numbers, COUNT, &stage);
//!     if (status != SONEW_OK || stage == SONEW_DONE)
//!         break;
//!     MPI_Allreduce(MPI_IN_PLACE, numbers, 2 * COUNT, MPI_DOUBLE,
//!                   stage == SONEW_LARGEST_L1 ? MPI_MAX : MPI_SUM, MPI_COMM_WORLD);
//! }
//! ```
//!
//! Which stages there are depends on options and tensors alone, so that all machines
//! stop at the same ones; a step that needs none is done at the first
//! sonew_stages_next(). Numbers that are given back as they came make the step
//! that sonew_step() takes, to the bit. Reduced ones make the step of the whole,
//! to the rounding of their sums, where tensors are cut between chains: between
//! rows with SONEW_ROWS, between columns with SONEW_COLUMNS.
//!
//! While a step in stages is under way, functions that ask something answer as
//! before it. Those that step, save, load, sync or change a setting are refused
//! with SONEW_IN_STAGES. The buffers must stay where they are, and unchanged,
//! until the step is done or aborted. Freeing the handle ends it, too.

use std::ffi::c_void;

use super::arguments::Out;
use super::guard::call;
use super::optimizer::{sonew_optimizer, with};
use super::plan::{self, sonew_buffers, sonew_plan};
use super::status::sonew_status;
use super::step::{arguments, sonew_step_options, step_options};
use crate::error::{Error, Result};
use crate::layout::check_count;
use crate::Stage;

/// Where a step in stages stands: what its numbers are, two for each tensor. A
/// tensor that takes no part has zeros.
#[repr(C)]
pub enum sonew_stage {
    /// The step is done; there are no numbers.
    SONEW_DONE = 0,
    /// The sum of the squares of the gradient (after grad_scale), NaN where
    /// an element is not finite; and 0. To be added up. Nothing has been written
    /// yet. With SONEW_SKIP, with clip_norm, and with
    /// SONEW_GRAFT_NORMALIZED_RMSPROP.
    SONEW_GRADIENT_SQUARES = 1,
    /// The l1 of SONEW_RELATIVE: the largest sum of sizes in a row of the
    /// statistics; and 0. The largest is to be taken. The state has taken in
    /// the gradients.
    SONEW_LARGEST_L1 = 2,
    /// The sum of squares of the direction, and that of the vector whose length
    /// it takes. To be added up. The state has taken in the gradients. With
    /// every graft but SONEW_GRAFT_NONE.
    SONEW_LENGTHS = 3,
}

/// The number of a stage.
fn number_of(stage: Option<Stage>) -> i32 {
    let stage = match stage {
        None => sonew_stage::SONEW_DONE,
        Some(Stage::GradientSquares) => sonew_stage::SONEW_GRADIENT_SQUARES,
        Some(Stage::LargestL1) => sonew_stage::SONEW_LARGEST_L1,
        Some(Stage::Lengths) => sonew_stage::SONEW_LENGTHS,
    };
    stage as i32
}

/// Numbers of tensors that the caller gets, reduces, and gives back.
struct Numbers(*mut f64);

impl Numbers {
    /// # Safety
    /// `first` is null, or valid for reads and writes of `2 * count` numbers.
    unsafe fn new(first: *mut f64, count: usize, tensors: usize) -> Result<Self> {
        super::arguments::not_null(first, || "numbers".to_owned())?;
        check_count("numbers", count, tensors)?;
        Ok(Numbers(first))
    }

    /// Takes what is there.
    fn take(&self, numbers: &mut [[f64; 2]]) {
        for (i, number) in numbers.as_flattened_mut().iter_mut().enumerate() {
            // SAFETY: `new` was promised so many, and refused other counts.
            *number = unsafe { self.0.add(i).read_unaligned() };
        }
    }

    /// Writes what there is to be reduced.
    fn give(&self, numbers: &[[f64; 2]]) {
        for (i, &number) in numbers.as_flattened().iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.0.add(i).write_unaligned(number) };
        }
    }
}

/// Begins a step in stages. Arguments are those of sonew_step_any(); the
/// buffers are used until the step is done. Nothing has been written when this
/// returns, and no gradient been read.
///
/// Errors: those of sonew_step_any(), but SONEW_NON_FINITE_GRADIENT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_stages_begin(
    optimizer: *mut sonew_optimizer,
    step: *const sonew_step_options,
    params: *const *mut c_void,
    grads: *const *const c_void,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let (step, params, grads) = unsafe { arguments(step, params, grads, count) }?;
        with(optimizer, |owned| {
            check_count("params", count, owned.optimizer.tensors().len())?;
            let (optimizer, lists) = (&mut owned.optimizer, &mut owned.lists);
            let passed = lists.check(optimizer, &params, &grads)?;
            // SAFETY: no written buffer overlaps another one, and the header
            // asks that nobody else uses them now.
            unsafe {
                lists.lend(&passed, |params, grads| {
                    optimizer.begin_stages(&step, params, grads)
                })
            }?;
            owned.staged = Some(passed);
            Ok(())
        })
    })
}

/// Takes the step to its next stage, whose number goes to *stage, one of
/// sonew_stage, and whose numbers go to numbers: two for each of the count
/// tensors, 2 * count in all. They are given back, reduced, in the same place
/// with the next call; the first call does not look at what is there. With
/// SONEW_DONE the step is done: parameters and state are updated, the step count
/// has grown by one, and numbers are left as they are.
///
/// Errors: SONEW_NO_STAGES, SONEW_TENSOR_COUNT, SONEW_OUT_OF_RANGE (a number is
/// negative), SONEW_OUT_OF_MEMORY, SONEW_THREADS, SONEW_FORKED: the step stands
/// where it stood, and the call can be repeated. SONEW_NON_FINITE_GRADIENT: a
/// sum of squares is NaN, here or on another machine, and the step is over as
/// if it had not begun. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_stages_next(
    optimizer: *mut sonew_optimizer,
    numbers: *mut f64,
    count: usize,
    stage: *mut i32,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a place for the result.
        let out = unsafe { Out::new(stage, "stage") }?;
        let reached = with(optimizer, |owned| {
            let optimizer = &mut owned.optimizer;
            // SAFETY: the header asks for so many numbers.
            let numbers = unsafe { Numbers::new(numbers, count, optimizer.tensors().len()) }?;
            let passed = owned.staged.as_ref().ok_or(Error::NoStages)?;
            if optimizer.has_reached_stage() {
                numbers.take(optimizer.stage_numbers());
            }
            // SAFETY: they were checked when the step began, and the header
            // asks that nobody else uses them before it is done.
            let reached = unsafe {
                owned
                    .lists
                    .lend(passed, |params, grads| optimizer.next_stage(params, grads))
            };
            match reached {
                Ok(Some(_)) => numbers.give(optimizer.stage_numbers()),
                Ok(None) | Err(Error::NonFiniteGradient { .. }) => owned.end_stages(),
                Err(_) => {}
            }
            reached
        })?;
        out.write(number_of(reached));
        Ok(())
    })
}

/// Gives up the step that is under way: everything is as it was before it. That
/// is so at any time where the state is in a live file; where it is in memory,
/// only as long as the state has not taken in the gradients, that is until
/// SONEW_GRADIENT_SQUARES. After that the step can be finished (its numbers as
/// they are, if those of other machines do not come), or the optimizer freed,
/// and its last save loaded into another one.
///
/// Errors: SONEW_NO_STAGES, SONEW_STATE_WRITTEN; in a live file SONEW_FORKED and
/// SONEW_IO. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_stages_abort(optimizer: *mut sonew_optimizer) -> sonew_status {
    call(|| {
        with(optimizer, |owned| {
            owned.optimizer.abort_stages()?;
            owned.end_stages();
            Ok(())
        })
    })
}

/// As sonew_stages_begin(), for a plan. Arguments are those of sonew_plan_step().
///
/// Errors: those of sonew_plan_step(), but SONEW_NON_FINITE_GRADIENT. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_stages_begin(
    plan: *mut sonew_plan,
    step: *const sonew_step_options,
    step_number: u64,
    buffers: *const sonew_buffers,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let step = unsafe { step_options(step) }?;
        // SAFETY: the header asks for buffers as long as they say.
        plan::with(plan, |owned| unsafe {
            let passed = plan::passed(owned, buffers, count)?;
            let buffers = owned.lists.lend(&passed)?;
            let begun = owned.plan.begin(&step, step_number, &buffers);
            owned.lists.take_back(buffers);
            owned.staged = Some((begun?, passed));
            Ok(())
        })
    })
}

/// As sonew_stages_next(), for a plan. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_stages_next(
    plan: *mut sonew_plan,
    numbers: *mut f64,
    count: usize,
    stage: *mut i32,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a place for the result.
        let out = unsafe { Out::new(stage, "stage") }?;
        let reached = plan::with(plan, |owned| {
            let tensors = owned.plan.tensors().len();
            // SAFETY: the header asks for so many numbers.
            let numbers = unsafe { Numbers::new(numbers, count, tensors) }?;
            let (under_way, passed) = owned.staged.as_mut().ok_or(Error::NoStages)?;
            if under_way.has_begun() {
                numbers.take(under_way.numbers());
            }
            // SAFETY: they were checked when the step began, and the header
            // asks that nobody else uses them before it is done.
            let mut buffers = unsafe { owned.lists.lend(passed) }?;
            let reached = owned.plan.advance(under_way, &mut buffers, &[]);
            owned.lists.take_back(buffers);
            match reached {
                Ok(Some(_)) => numbers.give(under_way.numbers()),
                Ok(None) | Err(Error::NonFiniteGradient { .. }) => owned.end_stages(),
                Err(_) => {}
            }
            reached
        })?;
        out.write(number_of(reached));
        Ok(())
    })
}

/// Gives up a plan's step that is under way, at any time. From SONEW_LARGEST_L1
/// or SONEW_LENGTHS on, the state planes have taken in the gradients, and are
/// the caller's to put right; params or direction have not been written.
///
/// Errors: SONEW_NO_STAGES. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_plan_stages_abort(plan: *mut sonew_plan) -> sonew_status {
    call(|| {
        plan::with(plan, |owned| {
            owned.staged.as_ref().ok_or(Error::NoStages)?;
            owned.end_stages();
            Ok(())
        })
    })
}
