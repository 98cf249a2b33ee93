//! A random problem, run by the library and by the oracle.

use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use sonew::layout::TensorSpec;
use sonew::options::{Damping, Graft, NonFinite, Options, Statistics, StepOptions};
use sonew::oracle::Oracle;
use sonew::Optimizer;

use super::comparison::Comparison;
use crate::common::{
    correlated, normal, options as present, rng, slices_mut, to_f64, DAMPINGS, GRAFTS,
};

/// A model, its options, and the seed of its gradients.
#[derive(Debug, Clone)]
pub struct Problem {
    seed: u64,
    pub options: Options,
    pub tensors: Vec<TensorSpec>,
    steps: usize,
    lr: f64,
    /// Size of the gradients after scaling.
    sigma: f64,
}

/// What happens in one step.
pub struct Event {
    step: StepOptions,
    grads: Vec<Option<Vec<f32>>>,
    lr_scale: Vec<f64>,
    weight_decay: Vec<f64>,
}

impl Problem {
    pub fn random(seed: u64, band: usize, tensors: Vec<TensorSpec>) -> Problem {
        let mut rng = rng(seed);
        let options = Options {
            band,
            beta1: *[0.0, 0.5, 0.9, 0.95].choose(&mut rng).unwrap(),
            beta2: *[0.0, 0.9, 0.99].choose(&mut rng).unwrap(),
            eps: 0.0, // set_damping below
            gamma: *[0.0, 1e-2, 0.2].choose(&mut rng).unwrap(),
            statistics: *[Statistics::MovingAverage, Statistics::WeightedSum]
                .choose(&mut rng)
                .unwrap(),
            damping: Damping::Absolute,
            bias_correction: rng.random(),
            graft: Graft::None,
            lagged_norms: Some(rng.random_bool(0.3)),
            nesterov: rng.random_bool(0.3),
            graft_eps: *[1e-8, 0.1].choose(&mut rng).unwrap(),
            graft_bias_correction: rng.random(),
            weight_decay: *[0.0, 0.3].choose(&mut rng).unwrap(),
            threads: rng.random_range(1..=2),
            ..Options::default()
        };
        let mut problem = Problem {
            seed,
            options,
            tensors,
            steps: rng.random_range(2..=5),
            lr: 0.0, // set_graft below
            sigma: 10f64.powf(rng.random_range(-1.5..1.5)),
        };
        problem.set_graft(*GRAFTS.choose(&mut rng).unwrap());
        problem.set_damping(*DAMPINGS.choose(&mut rng).unwrap());
        problem
    }

    /// Also chooses a learning rate at which parameters of size 1 move enough
    /// for their own rounding not to hide an error.
    pub fn set_graft(&mut self, graft: Graft) {
        self.options.graft = graft;
        self.lr = match graft {
            Graft::None => 0.1 * self.sigma,
            Graft::Sgd | Graft::Momentum => 0.1 / self.sigma,
            Graft::Adam | Graft::NormalizedRmsprop => 0.1,
        };
    }

    /// Also chooses eps for a moderate condition number.
    pub fn set_damping(&mut self, damping: Damping) {
        self.options.damping = damping;
        self.options.eps = match damping {
            Damping::Absolute => 0.1 * self.sigma * self.sigma,
            Damping::Relative => 0.01,
            // Statistics may have grown since.
            Damping::RelativeLagged => 0.05,
        };
    }

    /// `check`, on a problem with too many coordinates for a gap around
    /// gamma: without grafting; or with more damping than it takes to keep
    /// every quotient above gamma.
    pub fn check_large(mut self) {
        if self.options.gamma > 0.0 && self.options.graft != Graft::None {
            match self.seed % 2 {
                0 => self.set_graft(Graft::None),
                _ => {
                    self.options.gamma = 1e-2;
                    self.options.eps *= 5.0;
                }
            }
        }
        self.check();
    }

    /// Runs both sides and compares parameters and state after every step.
    pub fn check(mut self) {
        let (start, events) = self.events();
        if self.options.gamma > 0.0 {
            self.options.gamma = self.clear_gamma(&events);
        }
        let mut oracle = Oracle::new(&self.options, &self.tensors);
        let mut optimizer = Optimizer::new(self.options.clone(), &self.tensors).unwrap();
        let mut params = start.clone();
        let mut exact: Vec<_> = start.iter().map(|p| to_f64(p)).collect();
        let mut comparisons: Vec<_> = self.tensors.iter().map(Comparison::new).collect();
        for event in &events {
            for i in 0..self.tensors.len() {
                oracle.tensor_mut(i).lr_scale = event.lr_scale[i];
                oracle.tensor_mut(i).weight_decay = event.weight_decay[i];
                optimizer
                    .change_settings(i, |s| s.lr_scale = event.lr_scale[i])
                    .unwrap();
                optimizer
                    .change_settings(i, |s| s.weight_decay = event.weight_decay[i])
                    .unwrap();
            }
            let grads = widen(&event.grads);
            oracle.step(&event.step, &mut exact, &grads);
            optimizer
                .step(
                    &event.step,
                    &mut slices_mut(&mut params),
                    &present(&event.grads),
                )
                .unwrap_or_else(|e| panic!("{e}: {self:?}"));
            for (i, comparison) in comparisons.iter_mut().enumerate() {
                let Some(g) = &grads[i] else { continue };
                comparison.gradient(g, event.step.grad_scale);
                comparison.exclude_marginal(&self, &oracle, i);
                comparison.params(&self, &params[i], &exact[i], &start[i]);
                comparison.state(&self, &optimizer, &oracle, i);
            }
        }
        assert_eq!(optimizer.step_count(), oracle.step_count());
        for i in 0..self.tensors.len() {
            let own = optimizer.settings(i).unwrap().step_count;
            assert_eq!(own, oracle.tensor(i).step_count);
        }
    }

    /// The parameters before the first step, and the steps.
    fn events(&self) -> (Vec<Vec<f32>>, Vec<Event>) {
        let mut rng = rng(self.seed);
        let start = self
            .tensors
            .iter()
            .map(|t| normal(&mut rng, t.len()))
            .collect();
        (
            start,
            (0..self.steps).map(|_| self.event(&mut rng)).collect(),
        )
    }

    fn event(&self, rng: &mut Pcg64Mcg) -> Event {
        let grad_scale = *[1.0, 0.5, 0.3, 1000.0].choose(rng).unwrap();
        let weights: &[f64] = match self.options.statistics {
            Statistics::MovingAverage => &[1.0],
            Statistics::WeightedSum => &[0.0, 0.3, 0.5, 1.0],
        };
        let step = StepOptions {
            lr: self.lr * rng.random_range(0.5..1.0),
            grad_scale,
            statistics_weight: *weights.choose(rng).unwrap(),
            non_finite: match rng.random() {
                true => NonFinite::Skip,
                false => NonFinite::Unchecked,
            },
            beta1: rng.random_bool(0.1).then_some(0.7),
            beta2: rng.random_bool(0.1).then_some(0.8),
            ..StepOptions::default()
        };
        let scale = (self.sigma / grad_scale) as f32;
        let mut gradient = |tensor: &TensorSpec| {
            let g = correlated(rng, tensor.len());
            let left_out = rng.random_bool(0.15);
            (!left_out).then(|| g.iter().map(|g| g * scale).collect())
        };
        Event {
            step,
            grads: self.tensors.iter().map(&mut gradient).collect(),
            lr_scale: self
                .tensors
                .iter()
                .map(|_| *[1.0, 0.5, 2.0].choose(rng).unwrap())
                .collect(),
            weight_decay: self
                .tensors
                .iter()
                .map(|_| *[self.options.weight_decay, 0.1].choose(rng).unwrap())
                .collect(),
        }
    }

    /// The middle of the widest gap between the quotients that occur, within
    /// a factor of two of gamma.
    fn clear_gamma(&self, events: &[Event]) -> f64 {
        let (low, high) = (self.options.gamma / 2.0, self.options.gamma * 2.0);
        let keep_all = Options {
            gamma: 0.0,
            ..self.options.clone()
        };
        let mut oracle = Oracle::new(&keep_all, &self.tensors);
        let mut params: Vec<_> = self.tensors.iter().map(|t| vec![0.0; t.len()]).collect();
        let mut quotients = vec![low, high];
        for event in events {
            oracle.step(&event.step, &mut params, &widen(&event.grads));
            for i in 0..self.tensors.len() {
                let all = oracle.preconditioner(i).ratios.into_iter().flatten();
                quotients.extend(all.filter(|q| (low..high).contains(q)));
            }
        }
        quotients.sort_by(f64::total_cmp);
        let gap = |pair: &&[f64]| pair[1] - pair[0];
        let widest = quotients
            .windows(2)
            .max_by(|a, b| gap(a).total_cmp(&gap(b)))
            .unwrap();
        (widest[0] + widest[1]) / 2.0
    }
}

fn widen(grads: &[Option<Vec<f32>>]) -> Vec<Option<Vec<f64>>> {
    grads
        .iter()
        .map(|g| g.as_ref().map(|g| to_f64(g)))
        .collect()
}
