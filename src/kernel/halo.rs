//! Packing of what lies around a block.

use super::case::Again;
use super::element::{Bf16, Stored, F32, F64};
use super::lines::{Cursor, State};
use super::source::{Denominator, Source};
use super::vector::Vector;
use super::workspace::{Array, Arrays, Workspace};
use super::MAX_BAND;
use crate::dtype::Dtype;

/// Packs state that lies beside the block's own, at position `at`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack<V: Vector>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match state.dtype {
            Dtype::Bf16 => pack_stored::<V, Bf16>(work, state, at, denominator),
            Dtype::F64 if size_of::<V::Scalar>() == 8 => {
                pack_stored::<V, F64>(work, state, at, denominator)
            }
            _ => pack_stored::<V, F32>(work, state, at, denominator),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn pack_stored<V: Vector, S: Stored>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match work.shape().band {
            1 => pack_banded::<V, S, 1>(work, state, at, denominator),
            4 => pack_banded::<V, S, 4>(work, state, at, denominator),
            _ => pack_banded::<V, S, MAX_BAND>(work, state, at, denominator),
        }
    }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn pack_banded<V: Vector, S: Stored, const BAND: usize>(
    work: &mut Workspace,
    state: &State<'_>,
    at: usize,
    denominator: Denominator,
) {
    let end = at + state.lines.positions();
    let shape = work.shape();
    assert!(end <= work.array::<V::Scalar>(Array::Momentum).len());
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: positions are inside the arrays, as checked above, and nothing
    // but the state is looked at without a gradient to take in; the caller has
    // the instructions of `V`.
    unsafe {
        let mut source = Source::<V, S>::new(state, denominator, None, 0, shape);
        let mut cursor = Cursor::new::<V>(state.lines);
        for at in (at..end).step_by(V::LANES) {
            let place = cursor.place();
            let taken = match place.is_whole::<V>() {
                true => source.take::<Again, BAND, true>(true, false, &arrays, at, place, None),
                false => source.take::<Again, BAND, false>(true, false, &arrays, at, place, None),
            };
            taken.packed.store(&arrays, at, shape.band);
            cursor.advance(V::LANES);
        }
    }
}
