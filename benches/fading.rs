//! Times steps while the state fades to zero: the gradient of a small tensor,
//! which stays in the cache, is zero for 100,000 steps, and each thousand of them
//! is timed. `cargo bench --bench fading`.

use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use sonew::dtype::Dtype;
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::Optimizer;

const LEN: usize = 4096;
const STEPS: usize = 100_000;
const PART: usize = 1000;
/// Only the fastest steps of a part count, this many of them, because the others
/// may have been interrupted.
const UNDISTURBED: usize = 100;

/// Nanoseconds per step with one gradient, for each part of this many steps.
fn parts(
    optimizer: &mut Optimizer,
    params: &mut [f32],
    mut gradient: impl FnMut(usize) -> Vec<f32>,
) -> Vec<f64> {
    let step = StepOptions {
        lr: 1e-4,
        ..StepOptions::default()
    };
    let mut part = |k| {
        let g = gradient(k);
        let mut fastest = f64::INFINITY;
        for _ in 0..PART / UNDISTURBED {
            let start = Instant::now();
            for _ in 0..UNDISTURBED {
                let stepped = optimizer.step(&step, &mut [&mut *params], &[Some(&g)]);
                stepped.expect("the step is valid");
            }
            fastest = fastest.min(start.elapsed().as_nanos() as f64 / UNDISTURBED as f64);
        }
        fastest
    };
    (0..STEPS / PART).map(&mut part).collect()
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

fn main() {
    println!("ns per step    ordinary gradient   then zero: median, and slowest thousand");
    for state in [Dtype::F32, Dtype::Bf16] {
        let options = Options {
            threads: 1,
            ..Options::default()
        };
        let tensor = TensorSpec::new("w", &[LEN]).with_dtypes(Dtype::F32, Dtype::F32, state);
        let mut optimizer = Optimizer::new(options, &[tensor]).expect("the options are valid");
        let mut params = vec![0.1; LEN];
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let ordinary = parts(&mut optimizer, &mut params, |_| {
            (0..LEN).map(|_| random.random_range(-1.0..1.0)).collect()
        });
        let zero = parts(&mut optimizer, &mut params, |_| vec![0.0; LEN]);
        let slowest = zero.iter().copied().fold(0.0, f64::max);
        let (ordinary, zero) = (median(ordinary), median(zero));
        let more = |x: f64| 100.0 * (x / ordinary - 1.0);
        println!(
            "{:4} state {ordinary:22.0} {zero:16.0} ({:+.1} %) {slowest:16.0} ({:+.1} %)",
            state.name(),
            more(zero),
            more(slowest),
        );
    }
}
