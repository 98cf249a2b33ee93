//! State
//!
//! The state of a tensor is a list of planes: "momentum", "diagonal", "band.1"
//! up to "band.b" with b = options.band, "rms" with
//! SONEW_GRAFT_NORMALIZED_RMSPROP, and "master" with master weights. With pooled
//! correlations there is "pooled" in place of the bands: sums that belong to the whole
//! tensor, whose numbers and type sonew_pooling describes. A tensor
//! with SONEW_UPDATE_ADAM has only "momentum", "diagonal" and, with master
//! weights, "master". "master" is SONEW_F32, the others but "pooled" have the tensor's
//! state_dtype. A plane but "pooled" has one number for each parameter, in the tensor's own
//! order: its element j belongs to parameter j. In "band.k" that is H[j+k][j],
//! where j+k is the coordinate k places after j in the chain; for the last k
//! coordinates of a chain it is 0.

use std::ffi::{c_char, c_void};

use super::arguments::List;
use super::buffers::{none_overlap, state, Buffer};
use super::guard::call;
use super::handles::sonew_optimizer;
use super::owned::{ask, with, Owned};
use super::status::sonew_status;
use super::tensor::{dtype_number, SONEW_MAX_DIMS};
use super::versioned::{self, Growing};
use crate::dtype::Elements;
use crate::error::{Error, Result};
use crate::Optimizer;

/// A view of a state plane, not a copy. What it points to may only be read, and
/// not by another thread during a call with the optimizer. data is the state
/// after the last step, without bias correction. A view is valid until the next
/// call that steps, loads into or frees the optimizer: request a new one then.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_view {
    /// The first element, aligned to 64 bytes.
    pub data: *const c_void,
    /// Number of elements.
    pub len: usize,
    /// The tensor's name.
    pub tensor: *const c_char,
    /// The plane's name.
    pub plane: *const c_char,
    /// Number of dimensions.
    pub ndim: usize,
    /// The plane's dimensions, slowest first: those of the tensor, but for "pooled"; 0 beyond
    /// ndim.
    pub dims: [usize; SONEW_MAX_DIMS],
    /// One of sonew_dtype: the type of data's elements.
    pub dtype: i32,
    /// How many planes the tensor has, this one included: at least two.
    pub plane_count: i32,
    /// The number of the steps that the tensor took part in: the t of its bias
    /// correction.
    pub step_count: u64,
}

// SAFETY: 14 * 8 + 2 * 4 bytes without padding.
unsafe impl Growing for sonew_view {
    const SIZES: &'static [usize] = &[size_of::<sonew_view>()];
}

/// Writes a view of a tensor's state plane to *view. Pass sizeof *view for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE, SONEW_STRUCT_SIZE.
/// Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_plane_view(
    optimizer: *const sonew_optimizer,
    tensor: usize,
    plane: usize,
    view: *mut sonew_view,
    size: usize,
) -> sonew_status {
    let value = || ask(optimizer, |owned| view_of(owned, tensor, plane));
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(view, size, "view", value) }
}

fn view_of(owned: &Owned, tensor: usize, plane: usize) -> Result<sonew_view> {
    let elements = owned.optimizer.plane(tensor, plane)?;
    let names = &owned.names[tensor];
    let shape = &owned.optimizer.planes(tensor)?[plane].dims;
    let mut dims = [0; SONEW_MAX_DIMS];
    dims[..shape.len()].copy_from_slice(shape);
    Ok(sonew_view {
        data: elements.bytes().as_ptr().cast(),
        len: elements.len(),
        tensor: names.tensor.as_ptr(),
        plane: names.list[plane],
        ndim: shape.len(),
        dims,
        dtype: dtype_number(elements.dtype()),
        // At most 20.
        plane_count: names.list.len() as i32,
        step_count: owned.optimizer.settings(tensor)?.step_count,
    })
}

/// Replaces the optimizer's state by a copy of the caller's: its step count, which becomes that
/// of every tensor, too (sonew_set_settings() changes that of one), and count state planes,
/// those of the first tensor first, each tensor's in the order of their indices. For programs
/// that kept the state in arrays of their own. "master" is taken as set, so that the next step
/// does not copy it from the parameters, and "pooled" of shards as reduced. Views of the state
/// become invalid; a live file that held the state is closed, as by sonew_free().
///
/// Errors: SONEW_PLANE_COUNT, SONEW_MISALIGNED, SONEW_SIZE_OVERFLOW,
/// SONEW_OVERLAP, SONEW_OUT_OF_MEMORY. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_set_state(
    optimizer: *mut sonew_optimizer,
    step_count: u64,
    planes: *const *const c_void,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for `count` pointers.
        let given = unsafe { List::new(planes, count, "planes") }?;
        with(optimizer, |owned| {
            // SAFETY: the header asks for planes with their tensors' lengths.
            let planes = unsafe { given_planes(&owned.optimizer, &given) }?;
            owned.optimizer.set_state(step_count, &planes)
        })
    })
}

/// Discards the master weights of all tensors that have them, so that the next
/// step copies them from the parameters again. Call this after changing
/// parameters between steps; otherwise the next step overwrites the change.
///
/// A live file keeps the master weights of the last step until the next step is
/// complete. If the process dies before that, a load with parameters continues as
/// if this had not been called; after a load without them, the next step copies
/// the caller's parameters.
///
/// Errors: in a live file, SONEW_FORKED, SONEW_IO and SONEW_OUT_OF_MEMORY. Since
/// 0.2.
#[no_mangle]
pub extern "C" fn sonew_reset_master(optimizer: *mut sonew_optimizer) -> sonew_status {
    call(|| with(optimizer, |owned| owned.optimizer.reset_master()))
}

/// # Safety
/// Planes that are not null have their tensors' lengths, and nobody writes to
/// them during `'b`.
unsafe fn given_planes<'b>(
    optimizer: &Optimizer,
    given: &List<*const c_void>,
) -> Result<Vec<Vec<Elements<'b>>>> {
    let tensors = optimizer.tensors();
    let mut places = Vec::new();
    for (i, spec) in tensors.iter().enumerate() {
        places.extend(optimizer.planes(i)?.iter().map(|plane| (i, spec, plane)));
    }
    if given.len() != places.len() {
        // The first tensor with too few planes, or the last one with too many.
        let (i, spec, _) = places[given.len().min(places.len() - 1)];
        let before = places.iter().position(|(tensor, ..)| *tensor == i);
        return Err(Error::PlaneCount {
            tensor: spec.name.clone(),
            count: given.len() - before.unwrap_or(0),
            expected: optimizer.planes(i)?.len(),
        });
    }
    let buffers = given.collect("the list of planes", |p, plane| {
        let (_, spec, place) = places[p];
        Buffer::read_plane(spec, place, plane, || format!("planes[{p}]"))
    })?;
    let mut all = buffers.clone();
    state(optimizer, &mut all)?;
    none_overlap(&mut all)?;
    let mut planes = vec![Vec::new(); tensors.len()];
    for ((i, ..), buffer) in places.iter().zip(&buffers) {
        // SAFETY: the caller's promise; none of them is the optimizer's own.
        planes[*i].push(unsafe { buffer.raw().elements() });
    }
    Ok(planes)
}
