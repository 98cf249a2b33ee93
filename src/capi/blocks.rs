//! Sums that do not depend on the number of machines
//!
//! If the sums of a step in stages are not to depend on the number of machines at all, not even
//! in their last bits, cut tensors between blocks (sonew_block_rows()), and reduce the numbers of blocks instead
//! of those of tensors. Each is zero on all machines but one, so that adding changes no bit.
//! Then combine them in their order, on every machine:
//!
//! ```c
//! size_t blocks[COUNT], length = 0;              // once: how many blocks tensors have
//! sonew_stages_blocks(stages, blocks, COUNT, NULL, 0);
//! for (int i = 0; i < COUNT; i++)
//!     length += 2 * blocks[i];
//!
//! sonew_stages_blocks(stages, blocks, COUNT, of_blocks, length);   // at each stage
//! MPI_Allreduce(MPI_IN_PLACE, of_blocks, length, MPI_DOUBLE, op, MPI_COMM_WORLD);
//! const double *next = of_blocks;
//! for (int i = 0; i < COUNT; i++) {
//!     numbers[2 * i] = numbers[2 * i + 1] = 0;
//!     for (size_t block = 0; block < blocks[i]; block++, next += 2)
//!         for (int k = 0; k < 2; k++)            // with SONEW_LARGEST_L1, the larger one
//!             numbers[2 * i + k] += next[k];
//! }
//! ```
//!
//! Any number of machines then has the bits of one that has the whole tensors, with
//! sonew_step(), too: parameters, state and files. (Except where a direction is beyond the
//! range of its type, which each machine sees by its own part.) A block is 8192 elements or
//! about as many, so these are 16 bytes for every 8192 parameters of all machines together.

use super::arguments::{not_null, Out};
use super::buffers::Output;
use super::guard::call;
use super::handles::sonew_stages;
use super::options::{self, sonew_options};
use super::owned::with;
use super::plan;
use super::stage_handle::{Of, ENDED, STAGES};
use super::status::sonew_status;
use super::tensor::{sonew_tensor, tensors};
use crate::error::{Error, Result};
use crate::layout::{check_count, validate, validate_options};

/// Writes how many blocks each of the count tensors has to blocks[i]: those of the whole
/// tensor, if it is a shard. If numbers is not NULL, writes the numbers of the stage that was
/// reached there, two for each block of all tensors, in their order: zeros for blocks of rows
/// that are not here, of tensors that take no part, and before the first stage. length is
/// the number of numbers, twice that of all blocks, and 0 with NULL. See the example above.
/// Neither blocks nor numbers may overlap a buffer of the step, the state, or each other.
///
/// Errors: SONEW_BLOCK_CUT, SONEW_TENSOR_COUNT, SONEW_WRONG_LENGTH, SONEW_OVERLAP,
/// SONEW_OUT_OF_MEMORY; the step is where it was. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_stages_blocks(
    stages: *mut sonew_stages,
    blocks: *mut usize,
    count: usize,
    numbers: *mut f64,
    length: usize,
) -> sonew_status {
    call(|| {
        not_null(blocks, || "blocks".to_owned())?;
        if length > 0 {
            not_null(numbers, || "numbers".to_owned())?;
        }
        let to = Blocks {
            blocks,
            count,
            numbers,
            length,
        };
        match STAGES.copy(stages.addr(), "stages")? {
            Of::Optimizer(optimizer) => with(optimizer, |owned| {
                owned.staged(stages.addr())?;
                let optimizer = &owned.optimizer;
                let (_, passed) = owned.staged.as_ref().ok_or(ENDED)?;
                let all = optimizer.stage_blocks()?;
                let [blocks, numbers] = to.outputs(&all)?;
                passed.for_each(optimizer, |buffer| {
                    blocks.apart_from(&buffer)?;
                    numbers.apart_from(&buffer)
                })?;
                let numbers = || optimizer.stage_block_numbers();
                // SAFETY: the header asks for lists as long as they say.
                unsafe { to.give(&all, numbers) }
            }),
            Of::Plan(plan) => plan::with(plan, |owned| {
                owned.staged(stages.addr())?;
                let all = owned.plan.blocks()?;
                let [blocks, numbers] = to.outputs(&all)?;
                owned.for_each_staged(|buffer| {
                    blocks.apart_from(&buffer)?;
                    numbers.apart_from(&buffer)
                })?;
                let staged = owned.staged.as_ref().ok_or(ENDED)?;
                let numbers = || owned.plan.block_numbers(&staged.under_way);
                // SAFETY: as above.
                unsafe { to.give(&all, numbers) }
            }),
        }
    })
}

/// Writes to *rows how many rows of a tensor belong together, so that machines that cut it
/// between rows whose numbers are multiples of this have the blocks of the whole tensor: see
/// sonew_stages_blocks(). It is the number of all rows if there is no such cut, because it
/// would go through chains, the tensor is one block, or its correlations are pooled. If the tensor is a shard, the answer is
/// that of the whole one. options may be NULL, which means the defaults.
///
/// With SONEW_CONTIGUOUS_LINES and at least two dimensions, blocks are whole lines: as many as
/// fit into 8192 elements, but so that each begins at a multiple of 16, if that is possible
/// with at most 32768. With SONEW_UPDATE_ADAM or a band of 0, they are 8192 elements.
///
/// Errors: those of sonew_create() for options and tensors. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_block_rows(
    options: *const sonew_options,
    tensor: *const sonew_tensor,
    rows: *mut usize,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe {
        let out = Out::new(rows, "rows")?;
        let (options, _) = options::options(options, "options")?;
        not_null(tensor, || "tensor".to_owned())?;
        let tensors = tensors(tensor, 1)?;
        options.validate()?;
        validate(&tensors)?;
        validate_options(&options, &tensors)?;
        out.write(tensors[0].block_rows(&options));
        Ok(())
    })
}

/// What sonew_stages_blocks() writes.
struct Blocks {
    blocks: *mut usize,
    count: usize,
    numbers: *mut f64,
    length: usize,
}

impl Blocks {
    /// Where it is written, checked against how many blocks tensors have, and against each
    /// other.
    fn outputs(&self, all: &[usize]) -> Result<[Output; 2]> {
        check_count("blocks", self.count, all.len())?;
        let (length, expected) = (self.length, 2 * all.iter().sum::<usize>());
        if !self.numbers.is_null() && length != expected {
            return Err(Error::BlockNumbers { length, expected });
        }
        let blocks = Output::new(self.blocks, self.count, "blocks");
        let numbers = Output::new(self.numbers, self.length, "numbers");
        blocks.apart_from_output(&numbers)?;
        Ok([blocks, numbers])
    }

    /// # Safety
    /// The lists are as long as they say, or null with a length of 0.
    unsafe fn give(
        &self,
        blocks: &[usize],
        numbers: impl FnOnce() -> Result<Vec<[f64; 2]>>,
    ) -> Result<()> {
        if !self.numbers.is_null() {
            for (i, &number) in numbers()?.as_flattened().iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { self.numbers.add(i).write_unaligned(number) };
            }
        }
        for (i, &count) in blocks.iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.blocks.add(i).write_unaligned(count) };
        }
        Ok(())
    }
}
