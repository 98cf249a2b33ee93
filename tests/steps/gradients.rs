//! Gradients that are not finite skip the step, by default, and change
//! nothing; gradients that are left out leave their tensors alone.

use crate::common::{self, normal, options as present, rng, slices_mut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, NonFinite, Options, StepOptions};
use sonew::{Error, Optimizer};

/// Small and big tensors, both updates, in all layouts.
fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("small", &[5]),
        TensorSpec::new("big", &[300, 401]).with_chains(Chains::Strided),
        TensorSpec::new("bias", &[33]).with_update(Update::Adam),
        TensorSpec::new("rows", &[70, 65]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("columns", &[65, 70]).with_chains(Chains::StridedLines),
        TensorSpec::new("scalar", &[]),
    ]
}

/// A model in training.
struct Training {
    tensors: Vec<TensorSpec>,
    optimizer: Optimizer,
    params: Vec<Vec<f32>>,
    grads: Vec<Option<Vec<f32>>>,
}

impl Training {
    /// One ordinary step has been taken, so that the state is not zero.
    fn new(options: Options) -> Training {
        let tensors = model();
        let mut rng = rng(7);
        let mut random = || {
            tensors
                .iter()
                .map(|t| normal(&mut rng, t.len()))
                .collect::<Vec<_>>()
        };
        let params = random();
        let grads = random().into_iter().map(Some).collect();
        let optimizer = Optimizer::new(options, &tensors).unwrap();
        let mut training = Training {
            tensors,
            optimizer,
            params,
            grads,
        };
        training.step(&StepOptions::default()).unwrap();
        training
    }

    fn step(&mut self, step: &StepOptions) -> sonew::Result<()> {
        let mut params = slices_mut(&mut self.params);
        self.optimizer
            .step(step, &mut params, &present(&self.grads))
    }

    /// Puts a value into a gradient for one step.
    fn step_with(
        &mut self,
        step: &StepOptions,
        tensor: usize,
        j: usize,
        value: f32,
    ) -> sonew::Result<()> {
        let gradient = self.grads[tensor].as_mut().unwrap();
        let before = std::mem::replace(&mut gradient[j], value);
        let result = self.step(step);
        self.grads[tensor].as_mut().unwrap()[j] = before;
        result
    }

    /// All bits of one tensor's parameters and state, and its step count.
    fn bits_of(&self, tensor: usize) -> (u64, Vec<u32>) {
        let planes = self.optimizer.planes(tensor).unwrap().len();
        let state = (0..planes).flat_map(|p| common::plane(&self.optimizer, tensor, p));
        let bits = self.params[tensor].iter().chain(state).map(|x| x.to_bits());
        let count = self.optimizer.settings(tensor).unwrap().step_count;
        (count, bits.collect())
    }

    /// All bits of parameters and state, and the step counts.
    fn bits(&self) -> (u64, Vec<(u64, Vec<u32>)>) {
        let tensors = 0..self.tensors.len();
        (
            self.optimizer.step_count(),
            tensors.map(|i| self.bits_of(i)).collect(),
        )
    }

    /// First, middle and last position of a tensor.
    fn positions(&self, tensor: usize) -> [usize; 3] {
        let n = self.tensors[tensor].len();
        [0, n / 2, n - 1]
    }
}

fn assert_names(result: sonew::Result<()>, expected: &str) {
    match result {
        Err(Error::NonFiniteGradient { tensor }) => assert_eq!(tensor, expected),
        other => panic!("expected a refusal that names {expected}, got {other:?}"),
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for graft in [Graft::None, Graft::Adam, Graft::NormalizedRmsprop] {
        let mut training = Training::new(Options {
            graft,
            ..Options::default()
        });
        let before = training.bits();
        for tensor in 0..training.tensors.len() {
            for j in training.positions(tensor) {
                // The square of the last two overflows.
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -2e19] {
                    let result = training.step_with(&StepOptions::default(), tensor, j, value);
                    assert_names(result, &training.tensors[tensor].name);
                    assert!(training.bits() == before, "tensor {tensor}[{j}] = {value}");
                }
            }
        }
        training.step(&StepOptions::default()).unwrap();
        assert_eq!(training.optimizer.step_count(), before.0 + 1);
    }
}

#[test]
fn the_first_tensor_is_named() {
    let mut training = Training::new(Options::default());
    for tensor in [4, 2, 1] {
        training.grads[tensor].as_mut().unwrap()[3] = f32::NAN;
        let result = training.step(&StepOptions::default());
        assert_names(result, &training.tensors[tensor].name);
    }
}

#[test]
fn the_largest_square_passes() {
    let mut training = Training::new(Options::default());
    // Its square is just below the largest float32.
    training
        .step_with(&StepOptions::default(), 1, 77, 1.8446e19)
        .unwrap();
    assert!(training.params.iter().flatten().all(|p| p.is_finite()));
}

#[test]
fn the_check_can_be_turned_off() {
    let unchecked = StepOptions {
        non_finite: NonFinite::Unchecked,
        ..StepOptions::default()
    };
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        let mut training = Training::new(Options::default());
        let mut clean = Training::new(Options::default());
        training.step_with(&unchecked, 1, 1000, value).unwrap();
        clean.step(&unchecked).unwrap();
        assert_eq!(training.optimizer.step_count(), 2);
        assert!(!common::plane(&training.optimizer, 1, 1)[1000].is_finite());
        // The other tensors do not notice.
        for tensor in [0, 2, 3, 4, 5] {
            assert!(
                training.bits_of(tensor) == clean.bits_of(tensor),
                "tensor {tensor}, {value}"
            );
        }
    }
}

#[test]
fn unchecked_is_the_same_on_finite_gradients() {
    let mut checked = Training::new(Options::default());
    let mut unchecked = Training::new(Options::default());
    checked.step(&StepOptions::default()).unwrap();
    let step = StepOptions {
        non_finite: NonFinite::Unchecked,
        ..StepOptions::default()
    };
    unchecked.step(&step).unwrap();
    assert!(checked.bits() == unchecked.bits());
}

#[test]
fn the_scale_is_applied_before_the_check() {
    let scaled = |grad_scale| StepOptions {
        grad_scale,
        ..StepOptions::default()
    };
    for tensor in 0..model().len() {
        let mut training = Training::new(Options::default());
        let [_, middle, _] = training.positions(tensor);
        let before = training.bits();
        let result = training.step_with(&scaled(1e10), tensor, middle, 1e15);
        assert_names(result, &training.tensors[tensor].name);
        assert!(training.bits() == before);
        training
            .step_with(&scaled(1e-15), tensor, middle, 1e30)
            .unwrap();
        assert_eq!(training.optimizer.step_count(), 2);
    }
}

#[test]
fn a_tensor_without_gradient_takes_no_part() {
    let mut training = Training::new(Options::default());
    let mut all = Training::new(Options::default());
    all.step(&StepOptions::default()).unwrap();
    let before = training.bits();
    training.grads[1] = None;
    training.grads[4] = None;
    training.step(&StepOptions::default()).unwrap();
    assert_eq!(training.optimizer.step_count(), 2);
    for (tensor, before) in before.1.iter().enumerate() {
        if training.grads[tensor].is_none() {
            assert!(training.bits_of(tensor) == *before, "tensor {tensor}");
        } else {
            // Neither do the others notice that it stays out.
            assert!(
                training.bits_of(tensor) == all.bits_of(tensor),
                "tensor {tensor}"
            );
        }
    }
}

#[test]
fn a_step_without_any_gradient_counts() {
    let mut training = Training::new(Options::default());
    let before = training.bits();
    training.grads.iter_mut().for_each(|g| *g = None);
    training.step(&StepOptions::default()).unwrap();
    assert_eq!(training.bits(), (before.0 + 1, before.1));
}
