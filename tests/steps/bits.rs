//! The same bits from every instruction set, in every mix of element types,
//! and from every processor: `SONEW_BITS=FILE` writes a checksum of each result
//! to a file, which is to be the same file wherever this runs. `tests/aarch64`
//! compares two of them.

use std::fmt::Write;

use crate::common::rng;
use crate::common::typed::Numbers;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use sonew::dtype::Dtype::{self, Bf16, F16, F32, F64};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{
    Damping, Graft, InstructionSet, NonFinite, Options, Pooling, Rounding, Statistics, StepOptions,
};
use sonew::{Error, Optimizer};

const STEPS: u64 = 3;

/// One tensor for each mix of parameters, gradients and state, in all layouts.
fn model() -> Vec<TensorSpec> {
    let tensor = |dims: &[usize], chains, [params, grads, state]: [Dtype; 3]| {
        TensorSpec::new(format!("{params} {grads} {state} {chains:?}"), dims)
            .with_chains(chains)
            .with_dtypes(params, grads, state)
    };
    vec![
        tensor(&[3, 211], Chains::Contiguous, [F32, F32, F32]),
        tensor(&[30, 23], Chains::Strided, [F32, Bf16, F32]),
        tensor(&[5, 77], Chains::ContiguousLines, [F32, Bf16, Bf16]),
        tensor(&[41, 18], Chains::StridedLines, [F32, F32, Bf16]),
        tensor(&[19, 21], Chains::Contiguous, [Bf16, Bf16, Bf16]),
        tensor(&[19, 35], Chains::Strided, [Bf16, F16, F32]).with_master(),
        tensor(&[401], Chains::Contiguous, [F16, F16, Bf16]),
        tensor(&[33, 17], Chains::StridedLines, [F16, F32, F32]),
        tensor(&[7, 50], Chains::Contiguous, [F64, F64, F64]),
        tensor(&[50, 33], Chains::Strided, [F64, F32, F64]),
        tensor(&[9, 40], Chains::ContiguousLines, [F64, Bf16, Bf16]),
        tensor(&[123], Chains::Contiguous, [Bf16, F32, F32]).with_update(Update::Adam),
    ]
}

fn cases() -> Vec<(Options, NonFinite)> {
    let mut cases = Vec::new();
    let mut case = |band, graft, change: fn(&mut Options)| {
        let mut options = Options {
            band,
            graft,
            threads: 1,
            seed: 5,
            ..Options::default()
        };
        change(&mut options);
        // A gradient that is no number is then taken in like any other.
        for non_finite in [NonFinite::Skip, NonFinite::Unchecked] {
            cases.push((options.clone(), non_finite));
        }
    };
    case(0, Graft::Adam, |_| ());
    case(1, Graft::Adam, |_| ());
    case(1, Graft::None, |o| o.rounding = Rounding::Stochastic);
    case(2, Graft::NormalizedRmsprop, |o| {
        o.rounding = Rounding::Stochastic
    });
    case(3, Graft::Momentum, |o| o.damping = Damping::Relative);
    case(4, Graft::Adam, |o| o.rounding = Rounding::Stochastic);
    case(5, Graft::Sgd, |o| o.statistics = Statistics::WeightedSum);
    case(16, Graft::None, |o| o.gamma = 0.0);
    case(3, Graft::Adam, |o| o.damping = Damping::RelativeLagged);
    case(4, Graft::Adam, |o| o.pooling = Pooling::Band);
    case(5, Graft::Adam, |o| {
        o.pooling = Pooling::Band;
        o.damping = Damping::RelativeLagged;
    });
    case(33, Graft::NormalizedRmsprop, |o| {
        o.pooling = Pooling::Band;
        o.lagged_norms = Some(false);
        o.rounding = Rounding::Stochastic;
    });
    case(1, Graft::Adam, |o| {
        o.pooling = Pooling::Rank;
        o.rank = 5;
    });
    case(1, Graft::None, |o| {
        o.pooling = Pooling::Rank;
        o.rank = 33;
        o.lagged_norms = Some(false);
        o.damping = Damping::Relative;
    });
    case(1, Graft::Adam, |o| o.pooling = Pooling::All);
    case(1, Graft::None, |o| {
        o.pooling = Pooling::Band;
        o.damping = Damping::Relative;
        o.nesterov = true;
    });
    cases
}

/// Numbers over many magnitudes, subnormal ones among them; made from random
/// bits alone, so that they are the same on every processor.
fn gradient(random: &mut Pcg64Mcg, len: usize, wild: bool) -> Vec<f64> {
    let mut number = || match random.random_range(0..60) {
        0 if wild => f64::NAN,
        1 if wild => f64::INFINITY,
        2 if wild => f64::NEG_INFINITY,
        3 => 0.0,
        4 => -0.0,
        _ => {
            let exponent = random.random_range(127 - 80..127 + 4);
            let fraction = random.random_range(0..1 << 23);
            let sign = random.random_range(0..=1) << 31;
            f32::from_bits(sign | exponent << 23 | fraction).into()
        }
    };
    (0..len).map(|_| number()).collect()
}

/// What some steps leave behind: of each tensor the parameters and the planes.
fn run(options: &Options, non_finite: NonFinite) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let tensors = model();
    let mut optimizer = Optimizer::new(options.clone(), &tensors)?;
    let mut random = rng(9);
    let start = |t: &TensorSpec| Numbers::new(t.params, &gradient(&mut random, t.len(), false));
    let mut params: Vec<Numbers> = tensors.iter().map(start).collect();
    let step = StepOptions {
        lr: 0.01,
        grad_scale: 0.7,
        non_finite,
        ..StepOptions::default()
    };
    let wild = non_finite == NonFinite::Unchecked;
    for _ in 0..STEPS {
        let gradient =
            |t: &TensorSpec| Numbers::new(t.grads, &gradient(&mut random, t.len(), wild));
        let grads: Vec<Numbers> = tensors.iter().map(gradient).collect();
        let grads: Vec<_> = grads.iter().map(|g| Some(g.elements())).collect();
        let mut params: Vec<_> = params.iter_mut().map(Numbers::elements_mut).collect();
        optimizer.step_any(&step, &mut params, &grads)?;
    }
    let mut left = Vec::new();
    for (i, (tensor, params)) in tensors.iter().zip(&params).enumerate() {
        left.push((tensor.name.clone(), params.elements().bytes().to_vec()));
        for (k, plane) in optimizer.planes(i)?.iter().enumerate() {
            let bytes = optimizer.plane(i, k)?.bytes().to_vec();
            left.push((format!("{}/{}", tensor.name, plane.name), bytes));
        }
    }
    Ok(left)
}

#[test]
fn instruction_sets_agree_in_every_mix_of_types() {
    let mut report = String::new();
    for (options, non_finite) in cases() {
        let on = |instruction_set| {
            let options = Options {
                instruction_set,
                ..options.clone()
            };
            run(&options, non_finite)
        };
        let expected = on(InstructionSet::Portable).unwrap();
        for set in [
            InstructionSet::Avx2,
            InstructionSet::Avx512,
            InstructionSet::Neon,
        ] {
            match on(set) {
                Ok(left) => {
                    for ((name, left), (_, expected)) in left.iter().zip(&expected) {
                        let same = left == expected;
                        assert!(same, "{name} on {}: {options:?}", set.name());
                    }
                }
                Err(Error::InstructionSet { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        for (name, bytes) in &expected {
            let checksum = crc32fast::hash(bytes);
            let Options {
                band,
                graft,
                pooling,
                ..
            } = options;
            writeln!(
                report,
                "band {band}, {pooling:?}, {graft:?}, {non_finite:?}: {name}: {checksum:08x}"
            )
            .unwrap();
        }
    }
    if let Some(file) = std::env::var_os("SONEW_BITS") {
        std::fs::write(file, report).unwrap();
    }
}
