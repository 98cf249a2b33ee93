//! Each tensor counts the steps that it took part in, and its bias correction follows
//! that count.

use crate::common::typed::Numbers;
use crate::common::{self, correlated, rng, CHAINS, DAMPINGS, GRAFTS};
use sonew::dtype::{Dtype, Elements};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Graft, Options, Rounding, Statistics, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Result};

/// Bands with loops of their own.
const BANDS: [usize; 3] = [0, 1, 4];

/// Every graft with every such band, and other options in turn.
fn cases() -> Vec<Options> {
    let all = BANDS
        .into_iter()
        .flat_map(|band| GRAFTS.map(|graft| (band, graft)));
    let case = |(i, (band, graft)): (usize, (usize, Graft))| Options {
        band,
        graft,
        eps: 1e-3,
        damping: DAMPINGS[i % 3],
        rounding: [Rounding::Nearest, Rounding::Stochastic][i / 2 % 2],
        statistics: match i % 7 {
            3 => Statistics::WeightedSum,
            _ => Statistics::MovingAverage,
        },
        graft_bias_correction: i % 3 != 1,
        lagged_norms: Some(i % 5 < 2),
        nesterov: i % 4 == 3,
        ..Options::default()
    };
    all.enumerate().map(case).collect()
}

/// All layouts, both updates, and types that are rounded.
fn model() -> Vec<TensorSpec> {
    let matrix = |(i, chains)| TensorSpec::new(format!("{i}"), &[70, 67]).with_chains(chains);
    let mut tensors: Vec<_> = CHAINS.into_iter().enumerate().map(matrix).collect();
    let few = [
        TensorSpec::new("few bits", &[30, 41]).with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16),
        TensorSpec::new("few bits of state", &[517])
            .with_update(Update::Adam)
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16),
        TensorSpec::new("master", &[90])
            .with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::F32)
            .with_master(),
        TensorSpec::new("double", &[33]).with_dtypes(Dtype::F64, Dtype::F32, Dtype::F64),
    ];
    tensors.extend(few);
    tensors
}

struct Training {
    optimizer: Optimizer,
    params: Vec<Numbers>,
}

impl Training {
    fn new(options: &Options) -> Training {
        let start = |t: &TensorSpec| Numbers::new(t.params, &vec![0.5; t.len()]);
        Training {
            optimizer: Optimizer::new(options.clone(), &model()).unwrap(),
            params: model().iter().map(start).collect(),
        }
    }

    fn step(&mut self, grads: &[Option<Vec<f32>>]) -> Result<()> {
        let mut params: Vec<_> = self.params.iter_mut().map(Numbers::elements_mut).collect();
        self.optimizer
            .step_any(&options(), &mut params, &lent(grads))
    }

    /// The same step in stages, aborted after so many of them.
    fn step_in_stages(&mut self, grads: &[Option<Vec<f32>>], most: usize) -> Result<()> {
        let mut params: Vec<_> = self.params.iter_mut().map(Numbers::elements_mut).collect();
        let grads = lent(grads);
        let mut stages = self.optimizer.stages(&options(), &mut params, &grads)?;
        for _ in 0..most {
            if stages.next()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Bits of parameters and state, and the step count, of every tensor.
    fn bits(&self) -> Vec<(u64, Vec<Vec<u8>>)> {
        let of_one = |(tensor, params): (usize, &Numbers)| {
            let planes = 0..self.optimizer.planes(tensor).unwrap().len();
            let plane = |p| self.optimizer.plane(tensor, p).unwrap().bytes().to_vec();
            let mut bits: Vec<Vec<u8>> = planes.map(plane).collect();
            bits.push(params.elements().bytes().to_vec());
            (self.optimizer.settings(tensor).unwrap().step_count, bits)
        };
        self.params.iter().enumerate().map(of_one).collect()
    }

    fn counts(&self) -> Vec<u64> {
        self.bits().into_iter().map(|(count, _)| count).collect()
    }
}

fn lent(grads: &[Option<Vec<f32>>]) -> Vec<Option<Elements<'_>>> {
    let lent = grads.iter().map(Option::as_deref);
    lent.map(|g| g.map(Elements::new)).collect()
}

fn options() -> StepOptions {
    StepOptions {
        lr: 0.01,
        statistics_weight: 1.0,
        ..StepOptions::default()
    }
}

/// The gradients of step `t`, in which one tensor in three takes no part.
fn gradients(t: usize) -> Vec<Option<Vec<f32>>> {
    let mut rng = rng(t as u64);
    let gradient = |(i, tensor): (usize, &TensorSpec)| {
        let g = correlated(&mut rng, tensor.len());
        (!(t + i).is_multiple_of(3)).then_some(g)
    };
    model().iter().enumerate().map(gradient).collect()
}

/// The same gradients one at a time.
fn one_by_one(grads: &[Option<Vec<f32>>]) -> Vec<Vec<Option<Vec<f32>>>> {
    let one = |tensor: usize| {
        let mut alone = vec![None; grads.len()];
        alone[tensor].clone_from(&grads[tensor]);
        alone
    };
    let there = (0..grads.len()).filter(|&tensor| grads[tensor].is_some());
    there.map(one).collect()
}

/// Two tensors, of which only the first takes part at first: the other one's first
/// step is that of a fresh optimizer.
#[test]
fn the_first_step_of_a_tensor_is_that_of_a_fresh_optimizer() {
    for options in cases() {
        let tensors = ["a", "b"].map(|name| TensorSpec::new(name, &[5, 7]));
        let g = correlated(&mut rng(1), 35);
        let step = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        let mut optimizer = Optimizer::new(options.clone(), &tensors).unwrap();
        let (mut a, mut b) = (vec![1.0f32; 35], vec![1.0f32; 35]);
        for _ in 0..1000 {
            optimizer
                .step(&step, &mut [&mut a, &mut b], &[Some(&g[..]), None])
                .unwrap();
        }
        assert_eq!(b, [1.0; 35]);
        optimizer
            .step(&step, &mut [&mut a, &mut b], &[Some(&g[..]), Some(&g)])
            .unwrap();
        assert_eq!(optimizer.step_count(), 1001);
        assert_eq!(optimizer.settings(0).unwrap().step_count, 1001);
        assert_eq!(optimizer.settings(1).unwrap().step_count, 1);

        let mut fresh = Optimizer::new(options.clone(), &tensors).unwrap();
        let (mut c, mut d) = (vec![1.0f32; 35], vec![1.0f32; 35]);
        fresh
            .step(&step, &mut [&mut c, &mut d], &[None, Some(&g[..])])
            .unwrap();
        assert!(b == d && b != [1.0; 35], "{options:?}");
    }
}

#[test]
fn tensors_in_separate_calls_get_the_bits_of_one_call_for_all() {
    let folder = tempfile::tempdir().unwrap();
    for options in cases() {
        let [mut together, mut alone, mut staged, mut live] =
            [(); 4].map(|()| Training::new(&options));
        let path = folder.path().join("live");
        live.optimizer.make_live(&path).unwrap();
        let mut calls = 0;
        for t in 0..6 {
            let grads = gradients(t);
            together.step(&grads).unwrap();
            // Some of them in reverse.
            let mut each = one_by_one(&grads);
            if t % 2 == 1 {
                each.reverse();
            }
            for grads in &each {
                alone.step(grads).unwrap();
                staged.step_in_stages(grads, usize::MAX).unwrap();
                live.step(grads).unwrap();
            }
            calls += each.len() as u64;
        }
        for other in [&alone, &staged, &live] {
            assert!(other.bits() == together.bits(), "{options:?}");
            assert_eq!(other.optimizer.step_count(), calls);
        }
        assert_eq!(together.optimizer.step_count(), 6);
        assert_eq!(together.counts(), [4; 8]);
    }
}

#[test]
fn a_step_that_is_refused_or_aborted_is_not_counted() {
    let mut training = Training::new(&Options::default());
    training.step(&gradients(1)).unwrap();
    let before = training.bits();
    assert_eq!(training.counts(), [1, 1, 0, 1, 1, 0, 1, 1]);

    let mut grads = gradients(2);
    training.step_in_stages(&grads, 1).unwrap();
    assert!(training.bits() == before);

    grads[3].as_mut().unwrap()[5] = f32::NAN;
    for refused in [
        training.step(&grads),
        training.step_in_stages(&grads, usize::MAX),
    ] {
        assert!(matches!(refused, Err(Error::NonFiniteGradient { .. })));
        assert!(training.bits() == before);
    }
    assert!(matches!(
        training.optimizer.settings(8),
        Err(Error::UnknownTensor { index: 8, count: 8 })
    ));
}

/// A run that goes on from a file, of which each tensor has a count of its own, has the
/// bits of one that was not interrupted.
#[test]
fn counts_come_back_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, live) = (folder.path().join("saved"), folder.path().join("live"));
    for options in cases() {
        let mut training = Training::new(&options);
        training.step(&gradients(1)).unwrap();
        training.step(&gradients(1)).unwrap();
        training.optimizer.make_live(&live).unwrap();
        training.step(&gradients(2)).unwrap();
        let params: Vec<_> = training.params.iter().map(Numbers::elements).collect();
        training.optimizer.save(&saved, Some(&params)).unwrap();
        let at_save = training.bits();
        training.step(&gradients(3)).unwrap();
        let whole = training.bits();
        let params: Vec<_> = training.params.iter().map(Numbers::to_f64).collect();
        drop(training);

        for (path, mode) in [
            (&saved, LoadMode::Read),
            (&saved, LoadMode::MapPrivate),
            (&live, LoadMode::MapShared),
        ] {
            let mut next = Training::new(&options);
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            if mode == LoadMode::MapShared {
                next.optimizer.load(path, &load, None).unwrap();
                let numbers = model().into_iter().zip(&params);
                next.params = numbers.map(|(t, p)| Numbers::new(t.params, p)).collect();
            } else {
                let params = next.params.iter_mut().map(Numbers::elements_mut);
                let params: &mut Vec<_> = &mut params.collect();
                next.optimizer.load(path, &load, Some(params)).unwrap();
                assert!(next.bits() == at_save, "{mode:?} {options:?}");
                next.step(&gradients(3)).unwrap();
            }
            assert!(next.bits() == whole, "{mode:?} {options:?}");
        }
    }
}

/// Of tensors that are loaded among others, each has its own count.
#[test]
fn common_tensors_bring_their_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let tensors = ["a", "b", "c"].map(|name| TensorSpec::new(name, &[3]));
    let take = |optimizer: &mut Optimizer, parts: &[bool]| {
        let mut params = vec![vec![0.0f32; 3]; parts.len()];
        let g = [0.5f32; 3];
        let grads: Vec<_> = parts.iter().map(|&part| part.then_some(&g[..])).collect();
        let params = &mut common::slices_mut(&mut params);
        optimizer.step(&options(), params, &grads).unwrap();
    };
    let mut first = Optimizer::new(Options::default(), &tensors[..2]).unwrap();
    (0..5).for_each(|_| take(&mut first, &[true, false]));
    take(&mut first, &[true, true]);
    first.save(&path, None).unwrap();

    let mut second = Optimizer::new(Options::default(), &tensors[1..]).unwrap();
    (0..9).for_each(|_| take(&mut second, &[true, true]));
    let common = LoadOptions {
        common_tensors_only: true,
        ..LoadOptions::default()
    };
    second.load(&path, &common, None).unwrap();
    assert_eq!(second.step_count(), 6);
    assert_eq!(second.settings(0).unwrap().step_count, 1);
    assert_eq!(second.settings(1).unwrap().step_count, 9);
}

#[test]
fn a_count_can_be_set() {
    let mut training = Training::new(&Options::default());
    let mut other = Training::new(&Options::default());
    for t in 0..3 {
        training.step(&gradients(t)).unwrap();
        other.step(&gradients(t)).unwrap();
    }
    let planes = |training: &Training| -> Vec<Vec<Vec<u8>>> {
        training
            .bits()
            .into_iter()
            .map(|(_, planes)| planes)
            .collect()
    };
    let before = planes(&training);
    training
        .optimizer
        .change_settings(1, |s| s.step_count = 9)
        .unwrap();
    assert_eq!(training.counts(), [2, 9, 2, 2, 2, 2, 2, 2]);
    assert!(planes(&training) == before);
    training
        .optimizer
        .change_settings(1, |s| s.step_count = 2)
        .unwrap();
    // At the end of all counts nothing overflows.
    other
        .optimizer
        .change_settings(2, |s| s.step_count = u64::MAX)
        .unwrap();
    training.step(&gradients(4)).unwrap();
    other.step(&gradients(4)).unwrap();
    let (training_bits, other_bits) = (training.bits(), other.bits());
    assert_eq!(other_bits[2].0, u64::MAX);
    for tensor in [0, 1, 3, 4, 5, 6, 7] {
        assert!(training_bits[tensor] == other_bits[tensor]);
    }
    assert!(matches!(
        training.optimizer.change_settings(8, |s| s.step_count = 1),
        Err(Error::UnknownTensor { index: 8, count: 8 })
    ));
}
