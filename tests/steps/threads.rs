//! Results have the same bits for any number of threads, and after saving, loading
//! into a new optimizer, and continuing.

use crate::common::{
    self, correlated, elements, elements_mut, normal, options as present, rng, slices_mut, CHAINS,
};
use sonew::layout::{Plane, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Statistics, StepOptions};
use sonew::{LoadOptions, Optimizer};

/// Large enough that there is work for every thread, in every layout, with
/// small tensors in between.
fn model() -> Vec<TensorSpec> {
    let mut tensors = vec![TensorSpec::new("first", &[3])];
    for (i, chains) in CHAINS.into_iter().enumerate() {
        tensors.push(TensorSpec::new(format!("{i}.weight"), &[401, 511]).with_chains(chains));
        tensors.push(TensorSpec::new(format!("{i}.kernel"), &[31, 17, 3, 3]).with_chains(chains));
        tensors.push(TensorSpec::new(format!("{i}.bias"), &[401]).with_update(Update::Adam));
    }
    tensors.push(TensorSpec::new("tall", &[70_001, 2]).with_chains(CHAINS[3]));
    tensors.push(TensorSpec::new("adam", &[150_001]).with_update(Update::Adam));
    tensors
}

/// Options under which every stage of a step is needed, and others.
fn cases() -> Vec<Options> {
    let base = Options {
        weight_decay: 0.1,
        ..Options::default()
    };
    vec![
        base.clone(),
        Options {
            graft: Graft::NormalizedRmsprop,
            damping: Damping::Relative,
            eps: 1e-2,
            ..base.clone()
        },
        Options {
            band: 4,
            graft: Graft::None,
            statistics: Statistics::WeightedSum,
            ..base.clone()
        },
        Options {
            band: 0,
            graft: Graft::Sgd,
            damping: Damping::Relative,
            bias_correction: false,
            ..base.clone()
        },
        Options {
            band: 3,
            graft: Graft::Momentum,
            ..base
        },
    ]
}

struct Training {
    optimizer: Optimizer,
    params: Vec<Vec<f32>>,
}

impl Training {
    fn new(options: &Options, threads: usize) -> Training {
        let options = Options {
            threads,
            ..options.clone()
        };
        let mut rng = rng(11);
        Training {
            optimizer: Optimizer::new(options, &model()).unwrap(),
            params: model().iter().map(|t| normal(&mut rng, t.len())).collect(),
        }
    }

    /// Steps `from` to `to`, each with gradients of its own, one tensor left
    /// out of every step.
    fn steps(&mut self, steps: std::ops::Range<u64>) {
        for t in steps {
            let mut rng = rng(t);
            let mut grads: Vec<_> = model()
                .iter()
                .map(|tensor| Some(correlated(&mut rng, tensor.len())))
                .collect();
            grads[1 + t as usize] = None;
            let mut params = slices_mut(&mut self.params);
            self.optimizer
                .step(&StepOptions::default(), &mut params, &present(&grads))
                .unwrap();
        }
    }

    fn assert_same(&self, other: &Training, context: &str) {
        assert_eq!(self.optimizer.step_count(), other.optimizer.step_count());
        for (i, tensor) in self.optimizer.tensors().iter().enumerate() {
            let same = |a: &[f32], b: &[f32]| bytes(a) == bytes(b);
            let counts = [self, other].map(|t| t.optimizer.settings(i).unwrap().step_count);
            assert_eq!(counts[0], counts[1], "{}: {context}", tensor.name);
            assert!(
                same(&self.params[i], &other.params[i]),
                "{}: {context}",
                tensor.name
            );
            for (plane, Plane { name, .. }) in self.optimizer.planes(i).unwrap().iter().enumerate()
            {
                let a = common::plane(&self.optimizer, i, plane);
                let b = common::plane(&other.optimizer, i, plane);
                assert!(same(a, b), "{}/{name}: {context}", tensor.name);
            }
        }
    }
}

fn bytes(x: &[f32]) -> &[u8] {
    bytemuck::cast_slice(x)
}

#[test]
fn the_number_of_threads_does_not_matter() {
    for options in cases() {
        let mut one = Training::new(&options, 1);
        one.steps(0..3);
        for threads in [2, 3, 7] {
            let mut many = Training::new(&options, threads);
            many.steps(0..3);
            many.assert_same(&one, &format!("{threads} threads: {options:?}"));
        }
    }
}

#[test]
fn saving_and_loading_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    for (i, options) in cases().into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.safetensors"));
        let mut through = Training::new(&options, 2);
        through.steps(0..2);
        let params = elements(&through.params);
        through.optimizer.save(&path, Some(&params)).unwrap();
        through.steps(2..4);

        let mut resumed = Training::new(&options, 3);
        let mut params = elements_mut(&mut resumed.params);
        resumed
            .optimizer
            .load(&path, &LoadOptions::default(), Some(&mut params))
            .unwrap();
        assert_eq!(resumed.optimizer.step_count(), 2);
        resumed.steps(2..4);
        resumed.assert_same(&through, &format!("{options:?}"));
    }
}
