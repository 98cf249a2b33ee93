//! Compares the library in float32 with the oracle in float64 on random problems:
//! every length, band, option and layout. `comparison.rs` says how close they must
//! be.

mod comparison;
mod problem;

use crate::common::{correlated, normal, rng, slices_mut, CHAINS, DAMPINGS, GRAFTS};
use problem::Problem;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::Rng;
use sonew::dtype::Dtype;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Statistics, StepOptions, MAX_BAND};
use sonew::Optimizer;

/// Three vectors of the widest instruction set, and one.
#[test]
fn every_length_up_to_three_vectors_and_every_band() {
    for n in 1..=49 {
        for band in 0..=MAX_BAND {
            let seed = (100 * n + band) as u64;
            let mut problem = Problem::random(seed, band, vec![TensorSpec::new("w", &[n])]);
            problem.tensors[0].chains = CHAINS[(n + band) % 4];
            problem.check();
        }
    }
}

#[test]
fn matrices_of_every_width_and_every_layout() {
    for n in 1..=49 {
        for (i, chains) in CHAINS.into_iter().enumerate() {
            let seed = (10_000 + 10 * n + i) as u64;
            let band = rng(seed).random_range(0..=MAX_BAND);
            let tensors = vec![
                TensorSpec::new("wide", &[5, n]).with_chains(chains),
                TensorSpec::new("tall", &[n, 7]).with_chains(chains),
            ];
            Problem::random(seed, band, tensors).check();
        }
    }
}

/// Scalars to 8 dimensions, all layouts, both updates.
#[test]
fn every_combination_of_options() {
    let mut seed = 20_000;
    let mut each = |statistics, damping, graft, correct: (bool, bool), gamma| {
        seed += 1;
        let band = [1, 0, 2, 3, 4, 7, 16][seed as usize % 7];
        let mut problem = Problem::random(seed, band, small_model(seed));
        problem.options.statistics = statistics;
        problem.options.bias_correction = correct.0;
        problem.options.graft_bias_correction = correct.1;
        problem.options.gamma = gamma;
        problem.set_graft(graft);
        problem.set_damping(damping);
        problem.check();
    };
    for statistics in [Statistics::MovingAverage, Statistics::WeightedSum] {
        for damping in DAMPINGS {
            for graft in GRAFTS {
                for correct in [(true, true), (true, false), (false, true), (false, false)] {
                    for gamma in [0.0, 1e-2, 0.2] {
                        each(statistics, damping, graft, correct, gamma);
                    }
                }
            }
        }
    }
}

/// Primes, and the lengths around those at which a step is cut into pieces.
#[test]
fn odd_lengths() {
    let primes = [101, 257, 499, 997, 1999, 3989, 5003];
    let around = [1024, 2048, 4096, 8192].map(|n| [n - 1, n, n + 1, n + 17]);
    let large = [65_535, 65_553, 131_073, 262_143];
    let lengths = around.into_iter().flatten().chain(large);
    for (i, n) in primes.into_iter().chain(lengths).enumerate() {
        let seed = 30_000 + i as u64;
        // All bands, but wide ones on the shorter lengths only: the oracle is slow.
        let widest = if n < 10_000 { MAX_BAND } else { 3 };
        let band = rng(seed).random_range(1..=widest);
        Problem::random(seed, band, vec![TensorSpec::new("w", &[n])]).check_large();
    }
}

/// Shapes of 2 to 5 dimensions around the sizes at which a step is cut into
/// pieces across memory, among them chains shorter than the band.
#[test]
fn odd_shapes() {
    let sizes = [
        1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 65, 127, 129, 255, 257, 300, 1025,
    ];
    for seed in 40_000..40_160 {
        let mut rng = rng(seed);
        let mut dims = vec![1; rng.random_range(2..=5)];
        for d in 0..dims.len() {
            let most = 16_000 / dims.iter().product::<usize>();
            let fits = sizes.iter().take_while(|&&size| size <= most).count();
            dims[d] = sizes[rng.random_range(0..fits)];
        }
        dims.shuffle(&mut rng);
        let chains = *CHAINS.choose(&mut rng).unwrap();
        let tensor = TensorSpec::new("w", &dims).with_chains(chains);
        let bands: &[usize] = match tensor.len() {
            0..2000 => &[0, 1, 2, 3, 4, 5, 9, 16],
            _ => &[1, 1, 2, 4, 5],
        };
        let band = *bands.choose(&mut rng).unwrap();
        Problem::random(seed, band, vec![tensor]).check_large();
    }
}

#[test]
fn large_matrices_in_every_layout() {
    for (i, chains) in CHAINS.into_iter().enumerate() {
        for (k, dims) in [[1031, 67], [3, 40_009]].iter().enumerate() {
            let seed = (50_000 + 10 * i + k) as u64;
            let band = 1 + (i + k) % 4;
            let tensors = vec![TensorSpec::new("w", dims).with_chains(chains)];
            Problem::random(seed, band, tensors).check_large();
        }
    }
}

/// Where no number belongs to a whole tensor, lines that are chains have the bits of tensors of
/// their own, however long they are: 2048 and 4096 once were refused as an internal error.
#[test]
fn lines_are_tensors_of_their_own() {
    let around = [256, 1024, 2048, 3072, 4096, 8192];
    let around = around.into_iter().flat_map(|n| [n - 17, n - 1, n, n + 1]);
    for (i, length) in around
        .chain([40, 129, 400, 5000, 33_000, 65_536])
        .enumerate()
    {
        let lines = (20_000 / length).max(3);
        for band in [1, 2, 4] {
            let mut rng = rng(70_000 + i as u64);
            let options = Options {
                band,
                graft: Graft::None,
                damping: Damping::Absolute,
                threads: 1,
                ..Options::default()
            };
            let whole = [TensorSpec::new("w", &[lines, length])
                .with_chains(Chains::ContiguousLines)
                .with_dtypes(Dtype::F32, Dtype::F32, [Dtype::F32, Dtype::Bf16][i % 2])];
            let line = |number: usize| TensorSpec {
                name: format!("line {number}"),
                dims: vec![length],
                ..whole[0].clone()
            };
            let apart: Vec<_> = (0..lines).map(line).collect();
            let mut whole = Optimizer::new(options.clone(), &whole).unwrap();
            let mut apart = Optimizer::new(options, &apart).unwrap();
            let mut params = vec![normal(&mut rng, lines * length)];
            let mut lines: Vec<_> = params[0].chunks(length).map(<[f32]>::to_vec).collect();
            for _ in 0..3 {
                let gradient = correlated(&mut rng, params[0].len());
                let step = StepOptions {
                    lr: 0.1,
                    ..StepOptions::default()
                };
                whole
                    .step(&step, &mut slices_mut(&mut params), &[Some(&gradient)])
                    .unwrap();
                let gradients: Vec<_> = gradient.chunks(length).map(Some).collect();
                apart
                    .step(&step, &mut slices_mut(&mut lines), &gradients)
                    .unwrap();
                assert_eq!(params[0], lines.concat(), "{length}, band {band}");
            }
        }
    }
}

#[test]
fn a_million() {
    let whole = TensorSpec::new("w", &[1_000_000]);
    Problem::random(60_000, 1, vec![whole]).check_large();
    let columns = TensorSpec::new("w", &[1000, 1000]).with_chains(Chains::Strided);
    Problem::random(60_001, 1, vec![columns]).check_large();
}

/// A tensor of every number of dimensions.
fn small_model(seed: u64) -> Vec<TensorSpec> {
    let dims: [&[usize]; 9] = [
        &[],
        &[19],
        &[6, 9],
        &[3, 4, 5],
        &[2, 3, 1, 7],
        &[3, 1, 2, 2, 3],
        &[2, 2, 2, 2, 2, 2],
        &[1, 2, 3, 1, 2, 1, 2],
        &[2, 1, 2, 2, 1, 2, 1, 3],
    ];
    let mut rng = rng(seed);
    let mut tensor = |dims: &[usize]| {
        let adam = rng.random_bool(0.2);
        TensorSpec::new(format!("{}d", dims.len()), dims)
            .with_chains(*CHAINS.choose(&mut rng).unwrap())
            .with_update(if adam { Update::Adam } else { Update::Sonew })
    };
    dims.iter().map(|dims| tensor(dims)).collect()
}
