//! Helpers that several integration tests share.
#![allow(dead_code)] // each test binary uses some of them

pub mod dense;
pub mod typed;

use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use sonew::dtype::{Element, Elements, ElementsMut};
use sonew::layout::Chains;
use sonew::options::{Damping, Graft};
use sonew::Optimizer;

/// Half a unit in the last place of 1: the relative rounding error of one
/// float32 operation.
pub const ULP32: f64 = 5.960464477539063e-8;

/// All chain layouts.
pub const CHAINS: [Chains; 4] = [
    Chains::Contiguous,
    Chains::Strided,
    Chains::ContiguousLines,
    Chains::StridedLines,
];

/// All kinds of damping.
pub const DAMPINGS: [Damping; 3] = [
    Damping::Absolute,
    Damping::Relative,
    Damping::RelativeLagged,
];

/// All choices of grafting.
pub const GRAFTS: [Graft; 5] = [
    Graft::None,
    Graft::Sgd,
    Graft::Momentum,
    Graft::Adam,
    Graft::NormalizedRmsprop,
];

pub fn rng(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Independent standard normal numbers.
pub fn normal(rng: &mut Pcg64Mcg, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.sample(StandardNormal)).collect()
}

/// Normal numbers whose neighbours in memory correlate, as those of real
/// gradients do.
pub fn correlated(rng: &mut Pcg64Mcg, n: usize) -> Vec<f32> {
    let mut last: f32 = rng.sample(StandardNormal);
    let mut next = || {
        let fresh: f32 = rng.sample(StandardNormal);
        last = 0.6 * last + 0.8 * fresh;
        last
    };
    (0..n).map(|_| next()).collect()
}

pub fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

pub fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// The largest absolute value; NaN if there is one.
pub fn largest(x: impl IntoIterator<Item = f64>) -> f64 {
    x.into_iter().fold(0.0, |largest, x| match x.is_nan() {
        true => f64::NAN,
        false if largest.is_nan() => largest,
        false => x.abs().max(largest),
    })
}

/// Mutable slices of all parameters, as [`sonew::Optimizer::step`] wants them.
pub fn slices_mut(params: &mut [Vec<f32>]) -> Vec<&mut [f32]> {
    params.iter_mut().map(Vec::as_mut_slice).collect()
}

/// Buffers of all parameters, as [`sonew::Optimizer::save`] wants them.
pub fn elements<T: Element>(params: &[Vec<T>]) -> Vec<Elements<'_>> {
    params.iter().map(|p| Elements::new(p)).collect()
}

/// Buffers of all parameters, as [`sonew::Optimizer::load`] wants them.
pub fn elements_mut<T: Element>(params: &mut [Vec<T>]) -> Vec<ElementsMut<'_>> {
    params.iter_mut().map(|p| ElementsMut::new(p)).collect()
}

/// A float32 state plane.
pub fn plane(optimizer: &Optimizer, tensor: usize, plane: usize) -> &[f32] {
    let elements = optimizer.plane(tensor, plane).unwrap();
    elements.as_slice().unwrap()
}

/// Slices of all gradients, as [`sonew::Optimizer::step`] wants them.
pub fn options<T>(grads: &[Option<Vec<T>>]) -> Vec<Option<&[T]>> {
    grads.iter().map(Option::as_deref).collect()
}
