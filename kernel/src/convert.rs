//! State of one type becomes state of another.

use bytemuck::Zeroable;

use super::dtype::{Dtype, Elements, ElementsMut};
use super::element::{chunks_mut, with_state, Stored};
use super::isa::{Isa, Scalar};
use super::noise::{Random, Stochastic};
use super::simd::{Kernel, Vector, LANES};

/// Converts numbers of state as a step would store them: to nearest, or with the random
/// bits of a step and a plane to 16 bits; from float64, 16 bits are reached by way of
/// float32; what is smaller than the smallest normal number becomes zero. `first` is the
/// index that the first of them has in its plane.
///
/// Returns the first number that has become infinite, if one has.
///
/// # Panics
/// If the lengths differ, or a type is none that state can have.
pub fn convert(
    from: Elements<'_>,
    to: ElementsMut<'_>,
    rounding: Option<(Stochastic, usize)>,
    first: usize,
) -> Option<f64> {
    assert_eq!(from.len(), to.len());
    assert!(from.dtype() != Dtype::F16 && to.dtype() != Dtype::F16);
    let noise = rounding.map(|(rounding, plane)| (rounding.noise(plane), first));
    match from.dtype() == Dtype::F64 || to.dtype() == Dtype::F64 {
        true => convert_in::<f64>(from, to, noise),
        false => convert_in::<f32>(from, to, noise),
    }
}

fn convert_in<T: Scalar>(
    from: Elements<'_>,
    mut to: ElementsMut<'_>,
    noise: Random,
) -> Option<f64> {
    let to_dtype = to.dtype();
    with_state!(T, from.dtype(), F => with_state!(T, to_dtype, E => {
        let (whole, rest) = bytemuck::cast_slice::<u8, F>(from.bytes()).as_chunks();
        let bytes = to.bytes_mut();
        let (to, end) = bytes.split_at_mut(whole.len() * LANES * size_of::<E>());
        let best = Isa::best();
        let to = chunks_mut(to);
        let found = T::run(best, Convert::<F, E> { from: whole, to, noise });
        if rest.is_empty() {
            return found;
        }
        // What is ragged is padded.
        let (mut padded, mut stored) = ([F::zeroed(); LANES], [[E::zeroed(); LANES]]);
        padded[..rest.len()].copy_from_slice(rest);
        let from = std::slice::from_ref(&padded);
        let noise = noise.map(|(noise, index)| (noise, index + whole.len() * LANES));
        let last = T::run(best, Convert::<F, E> { from, to: &mut stored, noise });
        end.copy_from_slice(bytemuck::cast_slice(&stored[0][..rest.len()]));
        found.or(last)
    }))
}

struct Convert<'a, F, E> {
    from: &'a [[F; LANES]],
    to: &'a mut [[E; LANES]],
    noise: Random,
}

impl<T: Scalar, F: Stored, E: Stored> Kernel<T> for Convert<'_, F, E> {
    type Output = Option<f64>;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> Option<f64> {
        let least = V::number(isa, E::LEAST_NORMAL);
        let mut found = None;
        for ((i, to), from) in self.to.iter_mut().enumerate().zip(self.from) {
            let number = F::load::<V>(isa, from).canonical(isa);
            let noise = self.noise.map(|(noise, index)| (noise, index + i * LANES));
            let stored = E::store(number.flush(least), isa, to, noise);
            if !stored.is_finite(isa) && found.is_none() {
                let (mut before, mut after) = ([T::ZERO; LANES], [T::ZERO; LANES]);
                number.store(&mut before);
                stored.store(&mut after);
                let pairs = before.iter().zip(&after);
                let mut pairs = pairs.map(|(before, after)| (before.to_f64(), after.to_f64()));
                found = pairs
                    .find(|(before, after)| before.is_finite() && !after.is_finite())
                    .map(|(before, _)| before);
            }
        }
        found
    }
}
