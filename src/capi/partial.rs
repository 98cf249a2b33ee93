//! Shards with pooled correlations
//!
//! A tensor with pooled correlations (sonew_pooling) that several machines have some rows of
//! needs sums over the chains of all of them. They are those of the step before: each machine
//! keeps the sums of all steps up to then, and what a step adds is reduced at any time between
//! that step and the next. Nothing waits for it. With MPI, for tensors of float32:
//!
//! ```c
//! size_t counts[COUNT], length = 0;              // once: how many numbers tensors have
//! for (size_t i = 0; i < COUNT; i++) {
//!     sonew_partial_sums(optimizer, i, NULL, 0, &counts[i]);
//!     length += counts[i];
//! }
//!
//! float *next = sums;                            // after a step
//! for (size_t i = 0; i < COUNT; next += counts[i++])
//!     sonew_partial_sums(optimizer, i, next, counts[i], NULL);
//! MPI_Iallreduce(MPI_IN_PLACE, sums, length, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
//! ...                                            // the next gradients are computed
//! MPI_Wait(&request, MPI_STATUS_IGNORE);
//! next = sums;
//! for (size_t i = 0; i < COUNT; next += counts[i++])
//!     sonew_set_reduced_sums(optimizer, i, next, counts[i]);
//! ```
//!
//! Such shards are cut between chains: their chains are rows (SONEW_CONTIGUOUS or
//! SONEW_CONTIGUOUS_LINES, with at least two dimensions), of which each machine has any number,
//! also none. What is cut through chains, as a tensor with SONEW_STRIDED_LINES between rows, is
//! refused with SONEW_SHARD: let each part be a tensor of its own, without first_row, with
//! correlations of its own. lagged_norms may not be 0, since correlations of a step itself would
//! have to be reduced within it.
//!
//! Their state cannot be in a live file, in which only steps write. Each machine's file has the
//! sums of all, which must be the same in the files of a set.
//!
//! Every machine takes the same steps: of one tensor either all have a gradient in a step, or
//! none. Then the results are those of the whole tensor, up to the rounding of sums, wherever it
//! is cut. Without a plane of the optimizer's own, as with plans, a program reduces in place what
//! these functions read and write: of the plane "pooled" the numbers from n on, n of them, with
//! n = (band + 1) L, (rank + 1) L or L L. It has to do so after a step that the tensor took part
//! in, and at no other time, and to leave it out where a machine has no rows of the tensor: these
//! add zeros.

use std::ffi::c_void;

use super::arguments::Out;
use super::buffers::{none_overlap, state, Buffer, Output};
use super::guard::call;
use super::handles::sonew_optimizer;
use super::owned::{ask, with};
use super::status::sonew_status;
use crate::error::{Error, Result};
use crate::layout::Plane;
use crate::optimizer::{PARTIAL, REDUCED};
use crate::Optimizer;

/// Writes what the optimizer has of the sums of products of a tensor's last step, of the chains
/// that are here, to sums, which has room for capacity numbers: double if the tensor's
/// parameters or state are SONEW_F64, otherwise float. Writes how many numbers these are to
/// *count, which may be NULL: (band + 1) L, (rank + 1) L or L L with L coordinates in a chain, and
/// 0 for a tensor that has no pooled correlations, or those of the step itself. With a capacity
/// of 0, sums is NULL, and only the count is told.
///
/// All of them are 0 where nothing is to be added up: for tensors that are whole, that took no
/// part in the last step, or of which no rows are here, and after sonew_set_reduced_sums(). So
/// the sums of all tensors may be passed on after every step, also after one that was skipped.
/// Of a shard that has some, a step or a save is refused until they are set:
/// SONEW_PARTIAL_SUMS.
///
/// While a step in stages is under way, this is possible from SONEW_NORMS on, and tells the sums
/// of that step.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_WRONG_LENGTH (capacity is less than the count),
/// SONEW_MISALIGNED, SONEW_OVERLAP (with the state), SONEW_IN_STAGES. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_partial_sums(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    sums: *mut c_void,
    capacity: usize,
    count: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result, or NULL.
        let out = unsafe { Out::optional(count) };
        let len = ask(optimizer, |owned| {
            let optimizer = &owned.optimizer;
            let len = optimizer.partial_sums_len(tensor)?;
            if capacity == 0 {
                return Ok(len);
            }
            if capacity < len {
                return Err(wrong_length(optimizer, tensor, PARTIAL, capacity, len));
            }
            let plane = plane(optimizer, tensor, PARTIAL, len);
            let spec = &optimizer.tensors()[tensor];
            let buffer = Buffer::write_plane(spec, &plane, sums, || "sums".to_owned())?;
            apart_from_state(optimizer, buffer)?;
            Output::new(count, 1, "count").apart_from(&buffer)?;
            // SAFETY: the header asks for room for so many numbers, and no one else has them.
            optimizer.partial_sums(tensor, unsafe { buffer.raw().elements_mut() })?;
            Ok(len)
        })?;
        if let Some(out) = out {
            out.write(len);
        }
        Ok(())
    })
}

/// Puts sums over all machines, which begin with those of sonew_partial_sums(), in their place:
/// count numbers, as many and of the type that it tells. Every machine must pass the same bits,
/// since each adds them to its own copy of the sums of all steps, which all must keep equal:
/// files of which this is not so do not load together. Where the numbers were 0 because nothing
/// was to be added up, nothing changes.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_WRONG_LENGTH, SONEW_MISALIGNED, SONEW_OVERLAP (with the
/// state). Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_set_reduced_sums(
    optimizer: *mut sonew_optimizer,
    tensor: usize,
    sums: *const c_void,
    count: usize,
) -> sonew_status {
    call(|| {
        with(optimizer, |owned| {
            let optimizer = &mut owned.optimizer;
            let len = optimizer.partial_sums_len(tensor)?;
            if count != len {
                return Err(wrong_length(optimizer, tensor, REDUCED, count, len));
            }
            let plane = plane(optimizer, tensor, REDUCED, len);
            let spec = &optimizer.tensors()[tensor];
            let buffer = Buffer::read_plane(spec, &plane, sums, || "sums".to_owned())?;
            apart_from_state(optimizer, buffer)?;
            let raw = buffer.raw();
            // SAFETY: the header asks for so many numbers, none of which are the optimizer's.
            optimizer.set_reduced_sums(tensor, unsafe { raw.elements() })
        })
    })
}

/// The numbers as an array of a tensor.
fn plane(optimizer: &Optimizer, tensor: usize, name: &str, len: usize) -> Plane {
    let spec = &optimizer.tensors()[tensor];
    Plane {
        name: name.to_owned(),
        dtype: spec.arithmetic(),
        dims: vec![len],
    }
}

fn wrong_length(
    optimizer: &Optimizer,
    tensor: usize,
    argument: &str,
    length: usize,
    expected: usize,
) -> Error {
    Error::WrongLength {
        tensor: optimizer.tensors()[tensor].name.clone(),
        argument: argument.to_owned(),
        length,
        expected,
    }
}

/// Refuses numbers that are in the state.
fn apart_from_state(optimizer: &Optimizer, buffer: Buffer<'_>) -> Result<()> {
    let mut all = vec![buffer];
    state(optimizer, &mut all)?;
    none_overlap(&mut all)
}
