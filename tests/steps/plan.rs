//! The stateless step, on the caller's buffers, gives the same as the optimizer's.

use crate::common::{
    self, correlated, elements_mut, normal, options as present, rng, slices_mut, CHAINS, DAMPINGS,
    GRAFTS,
};
use sonew::dtype::Elements;
use sonew::layout::{planes, Scalars, TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{Optimizer, Plan, Target, TensorBuffers};

fn model() -> Vec<TensorSpec> {
    let matrix = |(i, chains)| TensorSpec::new(format!("{i}"), &[130, 67]).with_chains(chains);
    let mut tensors: Vec<_> = CHAINS.into_iter().enumerate().map(matrix).collect();
    tensors.push(TensorSpec::new("bias", &[130]).with_update(Update::Adam));
    tensors
}

/// Every graft with bands that have loops of their own and one that has not, whose
/// directions are computed with the statistics or have to wait.
fn every_options() -> impl Iterator<Item = Options> {
    let bands = [0, 1, 2, 4].into_iter();
    let cases = bands.flat_map(|band| GRAFTS.map(|graft| (band, graft)));
    cases.flat_map(move |(band, graft)| {
        DAMPINGS.map(|damping| Options {
            band,
            damping,
            eps: 1e-3,
            graft,
            ..Options::default()
        })
    })
}

/// Caller-owned state and targets.
struct Buffers {
    plan: Plan,
    state: Vec<Vec<Vec<f32>>>,
    targets: Vec<Vec<f32>>,
    /// The steps that each tensor took part in.
    counts: [u64; 5],
    /// What their last steps left besides the planes.
    scalars: [Scalars; 5],
}

impl Buffers {
    fn new(options: &Options, targets: Vec<Vec<f32>>) -> Buffers {
        let zeros = |t: &TensorSpec| vec![vec![0.0; t.len()]; planes(options, t).len()];
        Buffers {
            plan: Plan::new(options, &model()).unwrap(),
            state: model().iter().map(zeros).collect(),
            targets,
            counts: [0; 5],
            scalars: [Scalars::default(); 5],
        }
    }

    fn step(
        &mut self,
        number: u64,
        grads: &[Option<Vec<f32>>],
        target: impl Fn(&mut [f32]) -> Target<'_>,
    ) {
        let buffers = self.state.iter_mut().zip(&mut self.targets).zip(grads);
        let buffers = buffers.zip(self.counts.iter_mut().zip(&self.scalars));
        let mut buffers: Vec<_> = buffers
            .map(|(((planes, values), g), (count, &scalars))| {
                let gradient = g.as_deref().map(Elements::new);
                let mut buffers =
                    TensorBuffers::new(target(values), gradient, elements_mut(planes));
                (buffers.lr_scale, buffers.weight_decay) = (0.5, 0.1);
                buffers.scalars = scalars;
                *count += u64::from(gradient.is_some());
                // Those of tensors that have always taken part are the call's.
                let always = *count == number || gradient.is_none();
                buffers.step_number = if always { 0 } else { *count };
                buffers
            })
            .collect();
        let step = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        self.plan.step(&step, number, &mut buffers).unwrap();
        self.scalars = std::array::from_fn(|i| buffers[i].scalars);
    }
}

/// Gradients of a step; one tensor has none.
fn gradients(step: u64) -> Vec<Option<Vec<f32>>> {
    let mut rng = rng(step);
    let mut grads: Vec<_> = model()
        .iter()
        .map(|t| Some(correlated(&mut rng, t.len())))
        .collect();
    grads[step as usize % 5] = None;
    grads
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn plan_and_optimizer_agree_bit_for_bit() {
    for options in every_options() {
        let mut rng = rng(1);
        let start: Vec<_> = model().iter().map(|t| normal(&mut rng, t.len())).collect();
        let mut buffers = Buffers::new(&options, start.clone());
        let mut params = start;
        let mut optimizer = Optimizer::new(options.clone(), &model()).unwrap();
        for tensor in 0..5 {
            optimizer
                .change_settings(tensor, |s| s.lr_scale = 0.5)
                .unwrap();
            optimizer
                .change_settings(tensor, |s| s.weight_decay = 0.1)
                .unwrap();
        }
        let step = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        for number in 1..6 {
            let grads = gradients(number);
            buffers.step(number, &grads, |p| Target::Parameters(p.into()));
            optimizer
                .step(&step, &mut slices_mut(&mut params), &present(&grads))
                .unwrap();
        }
        for (tensor, params) in params.iter().enumerate() {
            let same = bits(&buffers.targets[tensor]) == bits(params);
            assert!(same, "{options:?} {tensor}");
            for (plane, state) in buffers.state[tensor].iter().enumerate() {
                let other = common::plane(&optimizer, tensor, plane);
                assert!(bits(state) == bits(other), "{options:?} {tensor} {plane}");
            }
        }
    }
}

/// The direction is what moves the parameters: before learning rate, its
/// scale, and decay. The state does not depend on which of the two is asked.
#[test]
fn the_direction_moves_the_parameters() {
    for options in every_options() {
        let zeros: Vec<_> = model().iter().map(|t| vec![0.0; t.len()]).collect();
        let mut moving = Buffers::new(&options, zeros.clone());
        let mut directions = Buffers::new(&options, zeros);
        for number in 1..6 {
            let grads = gradients(number);
            moving.targets.iter_mut().for_each(|p| p.fill(0.0));
            let before = directions.targets.clone();
            moving.step(number, &grads, |p| Target::Parameters(p.into()));
            directions.step(number, &grads, |u| Target::Direction(u.into()));
            assert!(moving.state == directions.state, "{options:?}");
            for tensor in 0..5 {
                let (p, u) = (&moving.targets[tensor], &directions.targets[tensor]);
                if grads[tensor].is_none() {
                    assert_eq!(*u, before[tensor]);
                    continue;
                }
                assert!(u.iter().any(|&u| u != 0.0));
                for (&p, &u) in p.iter().zip(u) {
                    let expected = -0.01 * 0.5 * f64::from(u);
                    let error = (f64::from(p) - expected).abs();
                    // The scale, the product, and the direction itself.
                    assert!(
                        error <= 4.0 * common::ULP32 * expected.abs(),
                        "{p} {u} {options:?}"
                    );
                }
            }
        }
    }
}
