//! Correlations that the chains of a tensor share.

use crate::common::{correlated, normal, rng, slices_mut, to_f64};
use rand::Rng;
use sonew::dtype::{Dtype, Elements, ElementsMut};
use sonew::layout::{planes, Chains, TensorSpec, Update};
use sonew::options::{
    Damping, Graft, InstructionSet, NonFinite, Options, Pooling, Statistics, StepOptions,
};
use sonew::oracle::Oracle;
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Plan, Target, TensorBuffers};

fn pooled(band: usize) -> Options {
    Options {
        band,
        pooling: Pooling::Band,
        ..Options::default()
    }
}

fn pooled_rank(rank: usize) -> Options {
    Options {
        rank,
        pooling: Pooling::Rank,
        ..Options::default()
    }
}

fn pooled_all() -> Options {
    Options {
        pooling: Pooling::All,
        ..Options::default()
    }
}

/// Steps of the library in float64, and of the oracle.
fn check(options: &Options, tensors: &[TensorSpec], steps: usize) {
    let of = |t: &TensorSpec| t.clone().with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64);
    let tensors: Vec<_> = tensors.iter().map(of).collect();
    let mut optimizer = Optimizer::new(options.clone(), &tensors).unwrap();
    let mut oracle = Oracle::new(options, &tensors);
    let mut rng = rng(7);
    let mut exact: Vec<_> = tensors
        .iter()
        .map(|t| to_f64(&normal(&mut rng, t.len())))
        .collect();
    let mut params = exact.clone();
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for number in 0..steps {
        let gradient = |t: &TensorSpec| Some(to_f64(&correlated(&mut rng, t.len())));
        let mut grads: Vec<_> = tensors.iter().map(gradient).collect();
        if tensors.len() > 1 && number == 2 {
            grads[0] = None;
        }
        oracle.step(&step, &mut exact, &grads);
        let given: Vec<_> = grads
            .iter()
            .map(|g| g.as_deref().map(Elements::new))
            .collect();
        let mut targets: Vec<_> = params.iter_mut().map(|p| ElementsMut::new(p)).collect();
        optimizer.step_any(&step, &mut targets, &given).unwrap();
        for (tensor, (own, exact)) in tensors.iter().zip(params.iter().zip(&exact)) {
            let error = own.iter().zip(exact).map(|(a, b)| (a - b).abs());
            let error = error.fold(0.0, f64::max);
            assert!(
                error < 1e-10,
                "{error:e} after {number} of {}: {options:?}",
                tensor.name
            );
        }
    }
}

#[test]
fn steps_are_those_of_the_oracle() {
    let layouts = [
        Chains::ContiguousLines,
        Chains::StridedLines,
        Chains::Contiguous,
        Chains::Strided,
    ];
    for (i, chains) in layouts.into_iter().enumerate() {
        let bands = [0, 1, 3, 4, 16, 17, 40, 64].map(pooled);
        let ranks = [1, 3, 4, 16, 17, 40, 64].map(pooled_rank);
        for structure in bands.into_iter().chain(ranks).chain([pooled_all()]) {
            for lagged in [None, Some(false)] {
                let shapes: [&[usize]; 7] = [
                    &[37, 45],
                    &[5, 3, 19],
                    &[300, 7],
                    &[7, 700],
                    &[6, 30, 25],
                    &[21],
                    &[],
                ];
                let tensors: Vec<_> = shapes
                    .iter()
                    .enumerate()
                    .map(|(i, dims)| TensorSpec::new(format!("{i}"), dims).with_chains(chains))
                    .chain([TensorSpec::new("bias", &[37]).with_update(Update::Adam)])
                    .collect();
                let options = Options {
                    lagged_norms: lagged,
                    graft: [
                        Graft::Adam,
                        Graft::None,
                        Graft::NormalizedRmsprop,
                        Graft::Sgd,
                    ][i],
                    nesterov: i % 2 == 0,
                    ..structure.clone()
                };
                check(&options, &tensors, 5);
            }
        }
    }
}

/// Columns of several groups go through a panel together, and groups take turns in products.
#[test]
fn wide_columns_are_those_of_the_oracle() {
    for (dims, structure) in [
        ([9, 4230], pooled(3)),
        ([70, 1500], pooled(40)),
        ([33, 4100], pooled(17)),
        ([1100, 300], pooled_rank(4)),
        ([20, 4100], pooled_rank(4)),
    ] {
        let tensor = TensorSpec::new("wide", &dims).with_chains(Chains::StridedLines);
        for lagged in [None, Some(false)] {
            let options = Options {
                lagged_norms: lagged,
                ..structure.clone()
            };
            check(&options, std::slice::from_ref(&tensor), 5);
        }
    }
}

/// So they are on several threads and with every instruction set, to the bit.
#[test]
fn wide_columns_have_the_same_bits_everywhere() {
    let wide = |name: &str, dims| TensorSpec::new(name, dims).with_chains(Chains::StridedLines);
    let model = [
        wide("float32", &[9, 4230]),
        wide("bfloat16", &[21, 4100]).with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16),
        wide("long", &[1100, 70]),
    ];
    for structure in [pooled(3), pooled(33), pooled_rank(4)] {
        let run = |threads, instruction_set| {
            let options = Options {
                threads,
                instruction_set,
                ..structure.clone()
            };
            let mut optimizer = Optimizer::new(options, &model)?;
            let mut params: Vec<_> = model.iter().map(|t| vec![1f32; t.len()]).collect();
            for number in 0..5 {
                let grads = model.iter().map(|t| correlated(&mut rng(number), t.len()));
                let grads: Vec<_> = grads.collect();
                let grads: Vec<_> = grads.iter().map(|g| Some(&g[..])).collect();
                let step = StepOptions::default();
                optimizer.step(&step, &mut slices_mut(&mut params), &grads)?;
            }
            Ok((params, everything(&optimizer)))
        };
        let expected = run(1, InstructionSet::Portable).unwrap();
        for set in [
            InstructionSet::Portable,
            InstructionSet::Avx2,
            InstructionSet::Avx512,
            InstructionSet::Neon,
        ] {
            match run(3, set) {
                Ok(same) => assert!(same == expected, "{}: {structure:?}", set.name()),
                Err(Error::InstructionSet { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Chains that are too long for a panel come twice.
#[test]
fn long_chains_are_those_of_the_oracle() {
    for (dims, chains) in [
        ([3, 5003], Chains::ContiguousLines),
        ([30, 2051], Chains::ContiguousLines),
        ([5003, 40], Chains::StridedLines),
    ] {
        let tensor = TensorSpec::new("long", &dims).with_chains(chains);
        for lagged in [None, Some(false)] {
            let options = Options {
                lagged_norms: lagged,
                nesterov: true,
                ..pooled_rank(3)
            };
            check(&options, std::slice::from_ref(&tensor), 3);
        }
    }
}

/// Weighted sums, relative damping and no bias correction.
#[test]
fn other_statistics_are_those_of_the_oracle() {
    for (statistics, damping) in [
        (Statistics::WeightedSum, Damping::Absolute),
        (Statistics::MovingAverage, Damping::Relative),
        (Statistics::WeightedSum, Damping::Relative),
        (Statistics::MovingAverage, Damping::RelativeLagged),
        (Statistics::WeightedSum, Damping::RelativeLagged),
    ] {
        for lagged in [true, false] {
            let options = Options {
                statistics,
                damping,
                eps: 1e-3,
                bias_correction: damping == Damping::Absolute,
                lagged_norms: Some(lagged),
                ..pooled(5)
            };
            let rows = TensorSpec::new("rows", &[70, 33]).with_chains(Chains::ContiguousLines);
            let columns = TensorSpec::new("columns", &[33, 70]).with_chains(Chains::StridedLines);
            for pooling in [Pooling::Band, Pooling::Rank, Pooling::All] {
                let options = Options {
                    pooling,
                    rank: 6,
                    ..options.clone()
                };
                check(&options, &[rows.clone(), columns.clone()], 5);
            }
        }
    }
}

/// For one chain of two coordinates and one step, from the formulas by hand: the correlation
/// of the products of one gradient is 1, or -1, before it is shrunk. A rank of 2, which is all
/// directions, finds the eigenvectors of that, and so gives the same.
#[test]
fn a_step_by_hand() {
    for options in [pooled(1), pooled_rank(2), pooled_all()] {
        step_by_hand(&Options {
            eps: 0.0,
            graft: Graft::None,
            lagged_norms: Some(false),
            ..options
        });
    }
}

fn step_by_hand(options: &Options) {
    let spec = TensorSpec::new("w", &[2]).with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64);
    let mut optimizer = Optimizer::new(options.clone(), &[spec]).unwrap();
    let g = [3.0, -0.5];
    let mut w = [0.0; 2];
    let step = StepOptions {
        lr: 1.0,
        ..StepOptions::default()
    };
    optimizer.step(&step, &mut [&mut w], &[Some(&g)]).unwrap();
    // With bias correction, m = g and q = |g|, so that x = m / q is (1, -1), and
    // R = [1 -r; -r 1] with r = 1 - shrink has the inverse [1 r; r 1] / (1 - r^2).
    let r = 1.0 - options.shrink;
    let solved = (1.0 - r) / (1.0 - r * r);
    let expected = [-solved / 3.0, solved / 0.5];
    for (w, expected) in w.iter().zip(expected) {
        assert!(
            (w - expected).abs() < 1e-12 * expected.abs(),
            "{w} {expected}"
        );
    }
}

fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("rows", &[70, 90]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("columns", &[40, 300]).with_chains(Chains::StridedLines),
        TensorSpec::new("few bits", &[130, 33])
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16)
            .with_master(),
        TensorSpec::new("adam", &[100]).with_update(Update::Adam),
    ]
}

fn step(optimizer: &mut Optimizer, params: &mut [Vec<f32>], number: u64) {
    let grads: Vec<_> = model()
        .iter()
        .enumerate()
        .map(|(i, t)| (i as u64 != number % 5).then(|| correlated(&mut rng(number), t.len())))
        .collect();
    let grads: Vec<_> = grads.iter().map(Option::as_deref).collect();
    optimizer
        .step(&StepOptions::default(), &mut slices_mut(params), &grads)
        .unwrap();
}

fn everything(optimizer: &Optimizer) -> Vec<Vec<u8>> {
    let tensors = 0..optimizer.tensors().len();
    tensors
        .flat_map(|t| (0..optimizer.planes(t).unwrap().len()).map(move |p| (t, p)))
        .map(|(t, p)| optimizer.plane(t, p).unwrap().bytes().to_vec())
        .collect()
}

/// Of each kind, with sums of the step before, and of the step itself.
fn structures(size: usize) -> impl Iterator<Item = (Options, Option<bool>)> {
    let all = [pooled(size), pooled_rank(size), pooled_all()];
    let both = |options: Options| [None, Some(false)].map(|lagged| (options.clone(), lagged));
    all.into_iter().flat_map(both)
}

#[test]
fn resuming_from_a_file_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (options, lagged) in structures(7) {
        let options = Options {
            lagged_norms: lagged,
            ..options
        };
        let new = || Optimizer::new(options.clone(), &model()).unwrap();
        let start: Vec<Vec<f32>> = model().iter().map(|t| vec![1.0; t.len()]).collect();
        let (mut whole, mut params) = (new(), start.clone());
        for number in 1..=6 {
            step(&mut whole, &mut params, number);
        }
        let [saved, live] = ["saved", "live"].map(|name| folder.path().join(name));
        for mode in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
            let (mut first, mut own) = (new(), start.clone());
            if mode == LoadMode::MapShared {
                first.make_live(&live).unwrap();
            }
            for number in 1..=3 {
                step(&mut first, &mut own, number);
            }
            let path = match mode {
                LoadMode::MapShared => &live,
                _ => {
                    first.save(&saved, None).unwrap();
                    &saved
                }
            };
            drop(first);
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            let mut second = new();
            second.load(path, &load, None).unwrap();
            for number in 4..=6 {
                step(&mut second, &mut own, number);
            }
            assert!(own == params, "{mode:?}");
            assert!(everything(&second) == everything(&whole), "{mode:?}");
            drop(second);
            let _ = std::fs::remove_file(&live);
        }
        let other = Options {
            lagged_norms: Some(!options.is_lagged()),
            ..options.clone()
        };
        let mut other = Optimizer::new(other, &model()).unwrap();
        let refused = other.load(&saved, &LoadOptions::default(), None);
        assert!(matches!(
            refused,
            Err(Error::OptionDiffers {
                option: "lagged_norms",
                ..
            })
        ));
    }
}

/// Sums and directions of float32 become those of float64, and go on.
#[test]
fn state_of_another_type_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    for (options, lagged) in structures(5) {
        let options = Options {
            lagged_norms: lagged,
            ..options
        };
        let single = TensorSpec::new("w", &[30, 20]);
        let double = single
            .clone()
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::F64);
        let mut first = Optimizer::new(options.clone(), &[single]).unwrap();
        let mut second = Optimizer::new(options, &[double]).unwrap();
        let mut params = vec![vec![1f32; 600]];
        let step = |optimizer: &mut Optimizer, params: &mut [Vec<f32>], seed| {
            let grads = correlated(&mut rng(seed), 600);
            let step = StepOptions::default();
            let params = &mut slices_mut(params);
            optimizer.step(&step, params, &[Some(&grads)]).unwrap();
        };
        for seed in 0..4 {
            step(&mut first, &mut params, seed);
        }
        first.save(&path, None).unwrap();
        let load = LoadOptions {
            convert_state: true,
            ..LoadOptions::default()
        };
        second.load(&path, &load, None).unwrap();
        for plane in 0..3 {
            let (from, to) = (
                first.plane(0, plane).unwrap(),
                second.plane(0, plane).unwrap(),
            );
            let from: &[f32] = bytemuck::cast_slice(from.bytes());
            let from = from.iter().map(|&x| f64::from(x).to_bits());
            let to: &[f64] = bytemuck::cast_slice(to.bytes());
            assert!(from.eq(to.iter().map(|x| x.to_bits())));
        }
        let mut other = params.clone();
        step(&mut first, &mut params, 4);
        step(&mut second, &mut other, 4);
        let apart = params[0].iter().zip(&other[0]).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-6);
    }
}

/// In one call, and in stages; the planes are the caller's own.
#[test]
fn stages_change_no_bit() {
    for (options, lagged) in structures(3) {
        let options = Options {
            lagged_norms: lagged,
            ..options
        };
        let run = |in_stages: bool| {
            let mut plan = Plan::new(&options, &model()).unwrap();
            let zeros = |t: &TensorSpec| -> Vec<Vec<u8>> {
                let planes = planes(&options, t).into_iter();
                planes.map(|p| vec![0; p.len() * p.dtype.size()]).collect()
            };
            let mut state: Vec<_> = model().iter().map(zeros).collect();
            let mut params: Vec<_> = model().iter().map(|t| vec![0f32; t.len()]).collect();
            let mut scalars = vec![Default::default(); params.len()];
            for number in 1..=5 {
                let grads: Vec<_> = model()
                    .iter()
                    .map(|t| correlated(&mut rng(number), t.len()))
                    .collect();
                let tensors = model();
                let each = tensors.iter().zip(&mut state).zip(&mut params).zip(&grads);
                let mut buffers: Vec<_> = each
                    .zip(&scalars)
                    .map(|((((t, state), params), grads), &scalars)| {
                        let kinds = planes(&options, t).into_iter();
                        let planes = kinds.zip(state);
                        let planes = planes.map(|(p, b)| ElementsMut::from_bytes(p.dtype, b));
                        let target = Target::Parameters(ElementsMut::new(params));
                        let mut buffers =
                            TensorBuffers::new(target, Some(Elements::new(grads)), planes);
                        buffers.scalars = scalars;
                        buffers
                    })
                    .collect();
                let step = StepOptions::default();
                scalars = match in_stages {
                    false => {
                        plan.step(&step, number, &mut buffers).unwrap();
                        buffers.iter().map(|b| b.scalars).collect()
                    }
                    true => {
                        let mut stages = plan.stages(&step, number, &mut buffers).unwrap();
                        while stages.next().unwrap().is_some() {}
                        stages.scalars().collect()
                    }
                };
            }
            (params, state)
        };
        assert!(run(true) == run(false));
    }
}

/// Whatever gradients are, parameters stay numbers: of every magnitude, always zero at some
/// inputs, the same in every step, or not finite.
#[test]
fn no_gradient_makes_a_nan() {
    let tensors = [
        TensorSpec::new("rows", &[9, 40]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("columns", &[40, 9]).with_chains(Chains::StridedLines),
        TensorSpec::new("one chain", &[40]),
        TensorSpec::new("chains of one", &[40, 1]).with_chains(Chains::ContiguousLines),
    ];
    let mut rng = rng(3);
    for case in 0..600 {
        let structure = match case / 3 % 3 {
            0 => pooled([1, 4, 64][case % 3]),
            1 => pooled_rank([1, 4, 64][case % 3]),
            _ => pooled_all(),
        };
        let options = Options {
            eps: [0.0, 1e-6, 1e-30][case / 9 % 3],
            gamma: [0.0, 1e-2][case % 2],
            shrink: [0.0, 0.04, 0.9][case / 27 % 3],
            lagged_norms: [None, Some(false)][case / 7 % 2],
            graft: [Graft::Adam, Graft::None][case / 5 % 2],
            ..structure
        };
        let mut optimizer = Optimizer::new(options.clone(), &tensors).unwrap();
        let mut params = vec![
            vec![1f32; 360],
            vec![1.0; 360],
            vec![1.0; 40],
            vec![1.0; 40],
        ];
        let constant = normal(&mut rng, 360);
        for _ in 0..6 {
            let exponent = rng.random_range(-148..127);
            let dead = rng.random_range(0..40);
            let grads: Vec<Vec<f32>> = params
                .iter()
                .map(|p| {
                    let number = |i: usize| match case % 4 {
                        0 => constant[i],
                        1 => constant[i] * 2f32.powi(exponent),
                        2 if rng.random_bool(0.02) => f32::NAN,
                        2 if rng.random_bool(0.02) => f32::INFINITY,
                        _ if i % 40 == dead || i % 40 == 7 => 0.0,
                        _ => rng.random_range(-1.0..1.0) * 2f32.powi(rng.random_range(-148..127)),
                    };
                    (0..p.len()).map(number).collect()
                })
                .collect();
            let grads: Vec<_> = grads.iter().map(|g| Some(&g[..])).collect();
            let step = StepOptions {
                non_finite: NonFinite::Unchecked,
                ..StepOptions::default()
            };
            optimizer
                .step(&step, &mut slices_mut(&mut params), &grads)
                .unwrap();
            let all = params.iter().flatten();
            assert!(all.clone().all(|p| p.is_finite()), "{options:?}");
        }
    }
}

/// Inputs that are always 0, and gradients that are the same in all chains and all steps:
/// parameters without a gradient stay, and all others move in each step. The signs of the
/// gradients are an eigenvector of the correlations, but for a band: where these are all known,
/// or known along their leading eigenvectors, an update is as without any, but for its length:
/// `m / q^2`.
#[test]
fn dead_inputs_and_constant_gradients_leave_directions_of_use() {
    for (options, lagged) in structures(4).chain(structures(40)) {
        let options = Options {
            lagged_norms: lagged,
            damping: Damping::Absolute,
            eps: 1e-6,
            ..options
        };
        let tensors = [
            TensorSpec::new("rows", &[9, 40]).with_chains(Chains::ContiguousLines),
            TensorSpec::new("one chain", &[40]),
        ];
        let mut optimizer = Optimizer::new(options.clone(), &tensors).unwrap();
        let mut params = vec![vec![0f32; 360], vec![0.0; 40]];
        let input = |i: usize| match i % 40 {
            7 | 23 => 0.0,
            i => i as f32 - 17.5,
        };
        let grads: [Vec<f32>; 2] = [360, 40].map(|n| (0..n).map(input).collect());
        let grads: Vec<_> = grads.iter().map(|g| Some(&g[..])).collect();
        for _ in 0..20 {
            let before = params.clone();
            optimizer
                .step(
                    &StepOptions::default(),
                    &mut slices_mut(&mut params),
                    &grads,
                )
                .unwrap();
            for (now, before) in params.iter().zip(&before) {
                let moved = now.iter().zip(before).map(|(now, before)| now - before);
                let moved: Vec<f32> = moved.map(|moved| moved.abs() / 1e-3).collect();
                let of_first = moved[0] * input(0).abs();
                for (j, moved) in moved.into_iter().enumerate() {
                    let expected = of_first / input(j).abs();
                    let allowed = match (input(j) == 0.0, options.pooling) {
                        (true, _) => 0.0..=0.0,
                        (false, Pooling::Band) => 1e-4..=10.0,
                        (false, _) => (0.99 * expected).max(1e-3)..=1.01 * expected,
                    };
                    assert!(allowed.contains(&moved), "{j}: {moved} {options:?}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_pooled_is_refused() {
    let create = |options, spec: TensorSpec| Optimizer::new(options, &[spec]).err().unwrap();
    let w = || TensorSpec::new("w", &[4, 3]);
    for rank in [0, 65] {
        let error = create(pooled_rank(rank), w());
        assert!(matches!(&error, Error::OutOfRange { argument, .. } if argument == "options.rank"));
    }
    let long = TensorSpec::new("w", &[2, 4097]);
    let error = create(pooled_all(), long.clone());
    assert!(matches!(
        &error,
        Error::PooledLength { tensor, length: 4097, most: 4096 } if tensor == "w"
    ));
    assert_eq!(
        error.to_string(),
        "tensor \"w\" has chains of 4097 coordinates; all correlations can be pooled of chains of \
         at most 4096"
    );
    Optimizer::new(
        pooled_all(),
        &[long.clone().with_chains(Chains::StridedLines)],
    )
    .unwrap();
    Optimizer::new(pooled_all(), &[long.with_update(Update::Adam)]).unwrap();
    let wide = create(pooled(65), w());
    assert!(matches!(&wide, Error::OutOfRange { argument, .. } if argument == "options.band"));
    for shrink in [-0.1, 1.0, f64::NAN] {
        let options = Options {
            shrink,
            ..pooled(1)
        };
        let error = create(options, w());
        assert!(
            matches!(&error, Error::OutOfRange { argument, .. } if argument == "options.shrink")
        );
    }
}
