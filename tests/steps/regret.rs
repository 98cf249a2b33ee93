//! The regret of the method's online-convex form: on a convex problem whose
//! examples come one at a time, the regret against the best fixed point in
//! hindsight grows no faster than the square root of the number of examples.
//!
//! The problem is logistic regression on features that correlate with their
//! neighbours, with labels that no point explains without error. As in the
//! paper's regret theorem, statistics are the sum of `g g^T / lambda_t` with `lambda_t
//! = G sqrt(t)`, where G bounds the entries of all gradients (features are at
//! most 1, and so are gradients), damped by eps; nothing is averaged, corrected
//! or grafted, and the learning rate is constant.

use crate::common::dense::inverse;
use crate::common::rng;
use rand::Rng;
use rand_distr::StandardNormal;
use sonew::layout::TensorSpec;
use sonew::options::{Graft, Options, Statistics, StepOptions};
use sonew::Optimizer;

const FEATURES: usize = 8;
/// Regret is looked at after 2^k examples, for these k.
const POWERS: std::ops::RangeInclusive<u32> = 8..=15;
/// Independent runs that regrets are the means of.
const RUNS: u64 = 4;

/// Examples: features, and a label of -1 or 1 as the factor of them.
fn examples(seed: u64) -> Vec<[f64; FEATURES]> {
    let mut rng = rng(seed);
    let truth: [f64; FEATURES] =
        std::array::from_fn(|_| 2.0 * rng.sample::<f64, _>(StandardNormal));
    let mut example = || {
        let mut last: f64 = rng.sample(StandardNormal);
        let x: [f64; FEATURES] = std::array::from_fn(|_| {
            last = 0.8 * last + 0.6 * rng.sample::<f64, _>(StandardNormal);
            last.tanh()
        });
        let positive = rng.random::<f64>() < sigmoid(dot(&truth, &x));
        x.map(|x| if positive { x } else { -x })
    };
    (0..1 << POWERS.end()).map(|_| example()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The loss of an example at a point.
fn loss(point: &[f64], example: &[f64]) -> f64 {
    (-dot(point, example)).exp().ln_1p()
}

/// The least sum of losses that a fixed point has, by Newton's method.
fn best_in_hindsight(examples: &[[f64; FEATURES]]) -> f64 {
    let mut point = vec![0.0; FEATURES];
    for _ in 0..50 {
        let mut gradient = vec![0.0; FEATURES];
        let mut hessian = vec![vec![0.0; FEATURES]; FEATURES];
        for example in examples {
            let p = sigmoid(-dot(&point, example));
            for (i, x) in example.iter().enumerate() {
                gradient[i] -= p * x;
                for (j, y) in example.iter().enumerate() {
                    hessian[i][j] += p * (1.0 - p) * x * y;
                }
            }
        }
        let inverse = inverse(&hessian);
        let step: Vec<f64> = inverse.iter().map(|row| dot(row, &gradient)).collect();
        point.iter_mut().zip(&step).for_each(|(x, s)| *x -= s);
        // The sum of losses is above its least by half of this.
        if dot(&gradient, &step) < 1e-9 {
            return examples.iter().map(|e| loss(&point, e)).sum();
        }
    }
    panic!("Newton's method did not converge");
}

/// The regret after 2^k examples, for every k; the weight of an example's
/// gradient in the statistics is a function of its number, from 1.
fn regrets(band: usize, weight: fn(f64) -> f64, seed: u64) -> Vec<f64> {
    let examples = examples(seed);
    let options = Options {
        band,
        beta1: 0.0,
        eps: 0.3,
        statistics: Statistics::WeightedSum,
        bias_correction: false,
        graft: Graft::None,
        threads: 1,
        ..Options::default()
    };
    let spec = TensorSpec::new("w", &[FEATURES]);
    let mut optimizer = Optimizer::new(options, &[spec]).unwrap();
    let mut point = [0.0f32; FEATURES];
    let (mut suffered, mut regrets) = (0.0, Vec::new());
    for (t, example) in (1usize..).zip(&examples) {
        let at = point.map(f64::from);
        suffered += loss(&at, example);
        let p = sigmoid(-dot(&at, example));
        let gradient = example.map(|x| (-p * x) as f32);
        let step = StepOptions {
            lr: 0.3,
            statistics_weight: weight(t as f64),
            ..StepOptions::default()
        };
        optimizer
            .step(&step, &mut [&mut point], &[Some(&gradient)])
            .unwrap();
        if t.is_power_of_two() && POWERS.contains(&t.ilog2()) {
            regrets.push(suffered - best_in_hindsight(&examples[..t]));
        }
    }
    regrets
}

/// Means over the runs.
fn mean_regrets(band: usize, weight: fn(f64) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; POWERS.count()];
    for seed in 0..RUNS {
        let regrets = regrets(band, weight, seed);
        sums.iter_mut().zip(regrets).for_each(|(sum, r)| *sum += r);
    }
    sums.iter().map(|sum| sum / RUNS as f64).collect()
}

/// The slope of the line that is nearest to the points (k, log2 of a regret).
fn slope(regrets: &[f64]) -> f64 {
    let n = regrets.len() as f64;
    let middle = (n - 1.0) / 2.0;
    let along = |k: usize| k as f64 - middle;
    let spread: f64 = (0..regrets.len()).map(|k| along(k) * along(k)).sum();
    let rises = regrets.iter().enumerate().map(|(k, r)| along(k) * r.log2());
    rises.sum::<f64>() / spread
}

/// The weight of the paper's theorem, `1 / (G sqrt(t))`.
fn theorem(t: f64) -> f64 {
    1.0 / t.sqrt()
}

/// Slopes are well below 1/2 where the learning rate is good for the problem;
/// what is left for noise is the distance to it.
#[test]
fn regret_grows_no_faster_than_the_square_root() {
    for band in [0, 1, 4] {
        let regrets = mean_regrets(band, theorem);
        let slope = slope(&regrets);
        assert!(slope <= 0.5, "band {band}: slope {slope}: {regrets:?}");
        // Not at the end either, where what happened at first counts least.
        let last = regrets.last_chunk::<2>().unwrap();
        assert!(last[1] <= 2f64.sqrt() * last[0], "band {band}: {regrets:?}");
    }
}

/// Checks that the test can fail: with weights that soon vanish, the step keeps its
/// size, never settles, and loses the same on every example.
#[test]
fn a_step_that_does_not_shrink_has_regret_without_bound() {
    for band in [0, 1, 4] {
        let regrets = mean_regrets(band, |t| 1.0 / (t * t));
        let slope = slope(&regrets);
        assert!(slope > 0.8, "band {band}: slope {slope}: {regrets:?}");
    }
}

/// The band helps here, because neighbouring features are correlated.
#[test]
fn a_band_has_less_regret_than_a_diagonal() {
    let [diagonal, tridiagonal] = [0, 1].map(|band| *mean_regrets(band, theorem).last().unwrap());
    assert!(
        tridiagonal < 0.9 * diagonal,
        "{tridiagonal} against {diagonal}"
    );
}
