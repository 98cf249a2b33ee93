//! Finite gradients of every size, from the smallest subnormal number to the largest, in
//! every kind of step. `SONEW_EXTREMES=20000` sets the number of random cases.

mod random;

use crate::common::typed::Numbers;
use crate::common::{self, elements_mut, GRAFTS};
use sonew::dtype::Dtype::{Bf16, F16, F32, F64};
use sonew::dtype::{Element, Elements, ElementsMut};
use sonew::layout::TensorSpec;
use sonew::options::{Damping, Graft, Options, StepOptions};
use sonew::oracle::Oracle;
use sonew::{Optimizer, Plan, Target, TensorBuffers};

const LR: f64 = 1e-3;

/// The parameters after each step, from zero.
fn train<T: Element + Default>(options: &Options, gradients: &[Vec<T>]) -> Vec<Vec<T>> {
    let len = gradients[0].len();
    let dtype = Elements::new(&gradients[0]).dtype();
    let tensor = TensorSpec::new("w", &[len]).with_dtypes(dtype, dtype, dtype);
    let mut optimizer = Optimizer::new(options.clone(), &[tensor]).unwrap();
    let mut params = vec![T::default(); len];
    let step = |gradient: &Vec<T>| {
        let gradient = [Some(&gradient[..])];
        let step = StepOptions::default();
        optimizer
            .step(&step, &mut [&mut params], &gradient)
            .unwrap();
        params.clone()
    };
    gradients.iter().map(step).collect()
}

/// The same by the oracle.
fn exactly(options: &Options, gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let tensor = TensorSpec::new("w", &[gradients[0].len()]);
    let mut oracle = Oracle::new(options, &[tensor]);
    let mut params = [vec![0.0; gradients[0].len()]];
    let step = |gradient: &Vec<f64>| {
        oracle.step(
            &StepOptions::default(),
            &mut params,
            &[Some(gradient.clone())],
        );
        params[0].clone()
    };
    gradients.iter().map(step).collect()
}

/// What the numbers of these tests were worked out for.
fn absolute() -> Options {
    Options {
        damping: Damping::Absolute,
        eps: 1e-6,
        graft_eps: 1e-8,
        ..Options::default()
    }
}

fn rmsprop() -> Options {
    Options {
        graft: Graft::NormalizedRmsprop,
        ..absolute()
    }
}

fn assert_near(found: f64, exact: f64, tolerance: f64, context: &str) {
    let error = (found - exact).abs();
    assert!(
        error <= tolerance * exact.abs(),
        "{found:e} instead of {exact:e}: {context}"
    );
}

/// Both trajectories, each step within a thousandth of what it moves.
fn follows(options: &Options, gradients: &[Vec<f64>]) {
    let rounded: Vec<Vec<f32>> = gradients.iter().map(|g| common::to_f32(g)).collect();
    let widened: Vec<Vec<f64>> = rounded.iter().map(|g| common::to_f64(g)).collect();
    let (found, exact) = (train(options, &rounded), exactly(options, &widened));
    let mut moved = 0.0;
    let zero = vec![0.0; gradients[0].len()];
    for (t, exact_after) in exact.iter().enumerate() {
        let before = if t == 0 { &zero } else { &exact[t - 1] };
        let change = exact_after.iter().zip(before).map(|(a, b)| (a - b).abs());
        moved += change.fold(0.0, f64::max);
        for (found, exact) in found[t].iter().zip(exact_after) {
            let error = (f64::from(*found) - exact).abs();
            assert!(
                error <= 1e-3 * moved,
                "step {t}: {found} instead of {exact}"
            );
        }
    }
}

#[test]
fn gradients_that_fade_follow_the_oracle() {
    let gradient = |t| [1.0, 2.0, -1.0, 1.0].map(|g| 0.5f64.powi(t) * g).to_vec();
    let gradients: Vec<_> = (1..200).map(gradient).collect();
    follows(&rmsprop(), &gradients);
}

#[test]
fn a_drop_from_large_to_tiny_follows_the_oracle() {
    let gradient = |t| {
        let size = if t < 20 { 1e6 } else { 1e-37 };
        [1.0, 2.0, -1.0, 1.0].map(|g| size * g).to_vec()
    };
    let gradients: Vec<_> = (0..1000).map(gradient).collect();
    follows(&rmsprop(), &gradients);
}

/// Momentum that is not kept does not move, but is no obstacle to later steps.
#[test]
fn a_first_gradient_below_the_state_is_no_obstacle() {
    let tiny = f32::from_bits(3);
    let found = train(&rmsprop(), &[vec![tiny, -tiny], vec![1.0, 2.0]]);
    assert_eq!(found[0], [0.0, 0.0]);
    assert!(found[1].iter().all(|&p| p < 0.0), "{found:?}");
}

#[test]
fn norms_of_float64_have_squares_beyond_its_range() {
    // |q| is 1, whatever the norm of g.
    let by_rmsprop = LR / ((1.0 - 0.99f64).sqrt() + 1e-8);
    for size in [1e-161, 5e-200, 3e-300] {
        let found = train(&rmsprop(), &[vec![size, 0.0]]);
        assert_near(found[0][0], -by_rmsprop, 1e-12, &format!("{size:e}"));
        assert_eq!(found[0][1], 0.0);
    }
    for graft in [Graft::Sgd, Graft::Momentum] {
        let options = Options {
            graft,
            ..absolute()
        };
        for size in [1e78, 1e-78, 1e150] {
            for gradient in [vec![size], vec![size, 0.0]] {
                let found = train(&options, &[gradient]);
                assert_near(
                    found[0][0],
                    -LR * size,
                    1e-12,
                    &format!("{graft:?} {size:e}"),
                );
                assert_eq!(found[0].get(1).copied().unwrap_or(0.0), 0.0);
            }
        }
    }
}

/// Every square is finite, but not their sum.
#[test]
fn a_norm_whose_square_overflows_is_clipped() {
    let tensor = TensorSpec::new("w", &[4]).with_dtypes(F64, F64, F64);
    let options = Options {
        graft: Graft::Sgd,
        ..absolute()
    };
    let mut optimizer = Optimizer::new(options, &[tensor]).unwrap();
    let mut params = [0.0f64; 4];
    let step = StepOptions {
        clip_norm: Some(3.0),
        ..StepOptions::default()
    };
    let gradient = [1e154f64, -1e154, 1e154, 1e154];
    let step = optimizer.step(&step, &mut [&mut params], &[Some(&gradient)]);
    step.unwrap();
    assert_near(optimizer.gradient_norm().unwrap(), 2e154, 1e-12, "the norm");
    let norm = params.iter().map(|p| p * p).sum::<f64>().sqrt();
    assert_near(norm, LR * 3.0, 1e-12, "what is clipped");
}

/// The scale is a subnormal number of float32, or less.
#[test]
fn a_gradient_is_scaled_by_less_than_its_type_holds() {
    for (size, clip) in [(1e18f64, 1e-22), (1e15, 1e-30), (3e18, 1e-18)] {
        let options = Options {
            graft: Graft::Sgd,
            ..absolute()
        };
        let gradient: Vec<f32> = (0..40)
            .map(|j| [1, -2][j % 2] as f32 * size as f32)
            .collect();
        for len in [1, 16, 40] {
            let tensor = TensorSpec::new("w", &[len]);
            let mut optimizer = Optimizer::new(options.clone(), &[tensor]).unwrap();
            let mut params = vec![0.0f32; len];
            let step = StepOptions {
                lr: 1.0,
                clip_norm: Some(clip),
                ..StepOptions::default()
            };
            let gradient = [Some(&gradient[..len])];
            optimizer
                .step(&step, &mut [&mut params], &gradient)
                .unwrap();
            let norm = params.iter().map(|p| f64::from(*p).powi(2)).sum::<f64>();
            assert_near(norm.sqrt(), clip, 1e-5, &format!("{len} of {size:e}"));
        }
    }
}

/// What remains of statistics is the least damping: the direction is beyond float32.
#[test]
fn a_direction_beyond_its_type_takes_its_norm_or_stays() {
    for graft in GRAFTS {
        let options = Options {
            beta2: 0.0,
            damping: Damping::Relative,
            gamma: 1e-2,
            graft,
            ..absolute()
        };
        let found = train(&options, &[vec![1e16f32], vec![0.0]]);
        let change = f64::from(found[1][0]) - f64::from(found[0][0]);
        let momentum = 0.09 * 1e16 / (1.0 - 0.81);
        let size = match graft {
            Graft::None | Graft::Sgd | Graft::NormalizedRmsprop => {
                assert_eq!(change, 0.0, "{graft:?}");
                continue;
            }
            Graft::Momentum => momentum,
            Graft::Adam => momentum / 1e-8,
        };
        assert_near(change, -LR * size, 1e-5, &format!("{graft:?}"));
    }
}

/// A result that its type does not hold leaves the parameter, or the direction is zero.
#[test]
fn results_beyond_their_type_stay() {
    let options = Options {
        graft: Graft::Sgd,
        ..absolute()
    };
    for dtype in [F32, F64, F16, Bf16] {
        let largest = match dtype {
            F16 => 65504.0,
            Bf16 => 3.38e38,
            F32 => f64::from(f32::MAX),
            F64 => f64::MAX,
        };
        let state = if dtype == F64 { F64 } else { F32 };
        let tensor = TensorSpec::new("w", &[3]).with_dtypes(dtype, F32, state);
        let start = Numbers::new(dtype, &[-largest, 0.0, largest]).to_f64();
        let mut optimizer = Optimizer::new(options.clone(), &[tensor]).unwrap();
        let mut params = Numbers::new(dtype, &start);
        let step = StepOptions {
            lr: 1e38,
            ..StepOptions::default()
        };
        let gradient = [1e18f32, 0.0, 1e18];
        for _ in 0..3 {
            let params = &mut [params.elements_mut()];
            let gradient = [Some(Elements::new(&gradient))];
            optimizer.step_any(&step, params, &gradient).unwrap();
        }
        let found = params.to_f64();
        assert!(found.iter().all(|p| p.is_finite()), "{dtype}: {found:?}");
        assert_eq!(found[1], 0.0);
        if dtype != F64 {
            assert_eq!(found, start, "{dtype}");
        }
    }
    let options = Options {
        graft: Graft::None,
        band: 0,
        eps: 1e-30,
        beta2: 0.0,
        ..absolute()
    };
    let mut state = vec![vec![1e15f32, 1.0], vec![0.0, 1.0]];
    let (gradient, mut direction) = ([0.0f32, 1.0], [f32::NAN; 2]);
    let mut buffers = [TensorBuffers::new(
        Target::Direction(ElementsMut::new(&mut direction)),
        Some(Elements::new(&gradient)),
        elements_mut(&mut state),
    )];
    let mut plan = Plan::new(&options, &[TensorSpec::new("w", &[2])]).unwrap();
    plan.step(&StepOptions::default(), 1, &mut buffers).unwrap();
    drop(buffers);
    assert_eq!(direction[0], 0.0);
    assert!(direction[1].is_finite() && direction[1] > 0.0);
}
