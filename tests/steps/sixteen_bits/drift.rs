//! Why there is stochastic rounding: rounding to nearest loses all small changes,
//! while stochastic rounding keeps them on average.

use sonew::dtype::{bf16, Dtype, Elements};
use sonew::layout::TensorSpec;
use sonew::options::{Graft, Options, Rounding, StepOptions};
use sonew::Optimizer;

use crate::common::typed::widen;

/// Number of coordinates, which differ only in their random bits.
const LEN: usize = 4096;

/// A deviation of a mean by this many standard deviations is significant.
const SIGMAS: f64 = 5.0;

/// The standard deviation of the mean, where one step's rounding has this one
/// and `weights` is the sum of the squares of how much of it is left.
fn deviation(one: f64, weights: f64) -> f64 {
    one * (weights / LEN as f64).sqrt()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Parameters from 1 and the state, after steps with a gradient of 1.
fn run(rounding: Rounding, beta2: f64, lr: f64, steps: usize) -> (Vec<bf16>, Optimizer) {
    let options = Options {
        band: 1,
        beta1: 0.0,
        beta2,
        eps: 0.0,
        bias_correction: false,
        // The direction of a constant gradient is a whole number without it.
        graft: Graft::None,
        gamma: 0.5,
        rounding,
        ..Options::default()
    };
    let tensor = TensorSpec::new("w", &[LEN]).with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16);
    let mut optimizer = Optimizer::new(options, &[tensor]).unwrap();
    let mut params = vec![bf16::ONE; LEN];
    let g = vec![1f32; LEN];
    let step = StepOptions {
        lr,
        ..StepOptions::default()
    };
    for _ in 0..steps {
        optimizer
            .step(&step, &mut [&mut params], &[Some(&g)])
            .unwrap();
    }
    (params, optimizer)
}

/// An average that goes from 0 to 1 by a thousandth of the remaining distance per
/// step. At 0.25, where neighbouring numbers are 2^-9 apart, the change is less
/// than half of that: with rounding to nearest it stops there.
#[test]
fn a_slow_average_stalls_under_nearest_rounding_only() {
    const BETA: f64 = 0.999;
    const STEPS: usize = 3000;
    let diagonal = |rounding| {
        let (_, optimizer) = run(rounding, BETA, 0.0, STEPS);
        widen(optimizer.plane(0, 1).unwrap())
    };
    assert!(diagonal(Rounding::Nearest).iter().all(|&h| h == 0.25));

    let exact = 1.0 - BETA.powi(STEPS as i32);
    // Below 1 neighbours are at most 2^-8 apart, and a choice between two
    // deviates by half of that at most.
    let deviation = deviation(2f64.powi(-9), 1.0 / (1.0 - BETA * BETA));
    let mean = mean(&diagonal(Rounding::Stochastic));
    let off = (mean - exact).abs();
    assert!(off <= SIGMAS * deviation, "{mean}, exactly {exact}");
}

/// Steps of a sixteenth of the distance to the next number.
#[test]
fn a_parameter_stays_under_nearest_rounding_only() {
    const STEPS: usize = 1024;
    let lr = 2f64.powi(-12);
    // With beta2 zero the statistics are 1 and 1, the edges are removed, and
    // the direction is 1.
    let params = |rounding| {
        let (params, _) = run(rounding, 0.0, lr, STEPS);
        widen(Elements::new(&params))
    };
    assert!(params(Rounding::Nearest).iter().all(|&p| p == 1.0));

    let exact = 1.0 - lr * STEPS as f64;
    let (gap, chance) = (2f64.powi(-8), 1.0 / 16.0);
    let one = gap * f64::sqrt(chance * (1.0 - chance));
    let mean = mean(&params(Rounding::Stochastic));
    let off = (mean - exact).abs();
    let most = SIGMAS * deviation(one, STEPS as f64);
    assert!(off <= most, "{mean}, exactly {exact}");
}
