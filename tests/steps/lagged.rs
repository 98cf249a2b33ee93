//! Norms and damping that are those of the step before.

use crate::common::{correlated, elements_mut, normal, rng, slices_mut, to_f64, CHAINS, GRAFTS};
use sonew::dtype::{bf16, f16, Dtype, Element, Elements};
use sonew::layout::{planes, Scalars, TensorSpec, Update};
use sonew::options::{Damping, Graft, InstructionSet, NonFinite, Options, StepOptions};
use sonew::oracle::Oracle;
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Plan, Target, TensorBuffers};

/// A tensor of every kind of chains, with a width that is no multiple of a vector, and a
/// vector with the plain Adam update, which has no graft.
fn model(dtype: Dtype) -> Vec<TensorSpec> {
    let matrix = |(i, chains)| TensorSpec::new(format!("{i}"), &[37, 45]).with_chains(chains);
    let mut tensors: Vec<_> = CHAINS.into_iter().enumerate().map(matrix).collect();
    tensors.push(TensorSpec::new("bias", &[37]).with_update(Update::Adam));
    let of = |t: TensorSpec| t.with_dtypes(dtype, dtype, dtype);
    tensors.into_iter().map(of).collect()
}

/// A plan with what its caller owns.
struct Run<T> {
    plan: Plan,
    state: Vec<Vec<Vec<T>>>,
    params: Vec<Vec<T>>,
    scalars: Vec<Scalars>,
    counts: Vec<u64>,
}

impl<T: Element> Run<T> {
    fn new(options: &Options, model: &[TensorSpec]) -> Run<T> {
        let zeros = |t: &TensorSpec| vec![vec![T::default(); t.len()]; planes(options, t).len()];
        Run {
            plan: Plan::new(options, model).unwrap(),
            state: model.iter().map(zeros).collect(),
            params: model.iter().map(|t| vec![T::default(); t.len()]).collect(),
            scalars: vec![Scalars::default(); model.len()],
            counts: vec![0; model.len()],
        }
    }

    /// In one call, or in stages.
    fn step(&mut self, step: &StepOptions, grads: &[Option<Vec<T>>], in_stages: bool) {
        let tensors = self.state.iter_mut().zip(&mut self.params).zip(grads);
        let tensors = tensors.zip(self.counts.iter_mut().zip(&self.scalars));
        let buffers = tensors.map(|(((state, params), grad), (count, &scalars))| {
            let gradient = grad.as_deref().map(Elements::new);
            *count += u64::from(gradient.is_some());
            let target = Target::Parameters(params.as_mut_slice().into());
            let mut buffers = TensorBuffers::new(target, gradient, elements_mut(state));
            (buffers.weight_decay, buffers.step_number) = (0.1, *count);
            buffers.scalars = scalars;
            buffers
        });
        let mut buffers: Vec<_> = buffers.collect();
        let number = 1;
        self.scalars = match in_stages {
            false => {
                self.plan.step(step, number, &mut buffers).unwrap();
                buffers.iter().map(|b| b.scalars).collect()
            }
            true => {
                let mut stages = self.plan.stages(step, number, &mut buffers).unwrap();
                while stages.next().unwrap().is_some() {}
                stages.scalars().collect()
            }
        };
    }
}

fn every_options() -> impl Iterator<Item = Options> {
    let bands = [0, 1, 2, 4].into_iter();
    let cases = bands.flat_map(|band| GRAFTS.map(|graft| (band, graft)));
    cases.flat_map(|(band, graft)| {
        let cases = [
            (Damping::Absolute, false, true),
            (Damping::Relative, true, true),
            (Damping::RelativeLagged, false, true),
            (Damping::RelativeLagged, true, false),
        ];
        cases.map(|(damping, nesterov, lagged_norms)| Options {
            band,
            damping,
            eps: 1e-3,
            graft,
            lagged_norms: Some(lagged_norms),
            nesterov,
            ..Options::default()
        })
    })
}

/// Gradients whose size changes from step to step; one tensor has none.
fn gradients(model: &[TensorSpec], step: usize) -> Vec<Option<Vec<f64>>> {
    let mut rng = rng(step as u64);
    let size = [1.0, 1.3, 0.7, 30.0, 1.0, 1e-3, 1.0, 0.0][step % 8];
    let gradient = |t: &TensorSpec| {
        let g = to_f64(&correlated(&mut rng, t.len()));
        Some(g.into_iter().map(|x| x * size).collect())
    };
    let mut grads: Vec<_> = model.iter().map(gradient).collect();
    grads[step % model.len()] = None;
    grads
}

fn largest_error(a: &[f64], b: &[f64]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn steps_are_those_of_the_oracle() {
    let model = model(Dtype::F64);
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for options in every_options() {
        let mut run = Run::<f64>::new(&options, &model);
        let mut oracle = Oracle::new(&options, &model);
        for tensor in 0..model.len() {
            oracle.tensor_mut(tensor).weight_decay = 0.1;
        }
        let mut expected = run.params.clone();
        for number in 0..20 {
            let grads = gradients(&model, number);
            run.step(&step, &grads, false);
            oracle.step(&step, &mut expected, &grads);
            for (tensor, expected) in expected.iter().enumerate() {
                let error = largest_error(&run.params[tensor], expected);
                assert!(error < 1e-10, "{options:?} {number} {tensor}: {error}");
            }
        }
    }
}

/// Float32 has loops of its own, with the common bands and where whole vectors of a
/// tensor are long enough.
#[test]
fn threads_instruction_sets_and_stages_change_no_bit() {
    same_bits::<f64>(&model(Dtype::F64), |x| x);
    let mut model = model(Dtype::F32);
    model.push(TensorSpec::new("long", &[5_000]));
    same_bits::<f32>(&model, |x| x as f32);
}

fn same_bits<T: Element>(model: &[TensorSpec], number: impl Fn(f64) -> T) {
    let step = StepOptions::default();
    for options in every_options() {
        let others = [
            (1, InstructionSet::Portable, false),
            (3, InstructionSet::Auto, false),
            (2, InstructionSet::Auto, true),
        ];
        let mut first = Run::<T>::new(&options, model);
        let mut others = others.map(|(threads, instruction_set, in_stages)| {
            let options = Options {
                threads,
                instruction_set,
                ..options.clone()
            };
            (Run::<T>::new(&options, model), in_stages)
        });
        for step_number in 0..6 {
            let grads = gradients(model, step_number);
            let to_t = |g: Vec<f64>| g.into_iter().map(&number).collect::<Vec<T>>();
            let grads: Vec<_> = grads.into_iter().map(|g| g.map(to_t)).collect();
            first.step(&step, &grads, false);
            for (other, in_stages) in &mut others {
                other.step(&step, &grads, *in_stages);
                assert!(first.params == other.params, "{options:?} {step_number}");
                assert!(first.scalars == other.scalars, "{options:?} {step_number}");
            }
        }
    }
}

/// With gradients of 1e-10, damping makes directions tiny beside Adam's; the next gradient
/// is of 1. The norms of the step before would make that update thousands of times too long.
#[test]
fn a_spike_moves_no_farther_than_twice_what_its_own_norms_allow() {
    let model = [TensorSpec::new("w", &[20, 50]).with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64)];
    let step = StepOptions {
        lr: 1.0,
        ..StepOptions::default()
    };
    for (small, large) in [(1e-10, 1.0), (1.0, 1e3), (1e3, 1e-6), (1e-6, 1e-3)] {
        for graft in [Graft::Adam, Graft::Sgd, Graft::Momentum] {
            let lagged = Options {
                graft,
                lagged_norms: Some(true),
                ..Options::default()
            };
            let own = Options {
                lagged_norms: Some(false),
                ..lagged.clone()
            };
            let (mut oracle, mut run) =
                (Oracle::new(&own, &model), Run::<f64>::new(&lagged, &model));
            oracle.tensor_mut(0).weight_decay = 0.1;
            let mut params = run.params.clone();
            for number in 0..12 {
                let size = if number == 6 { large } else { small };
                let g = to_f64(&correlated(&mut rng(number), 1000));
                let grads = [Some(g.iter().map(|x| x * size).collect::<Vec<_>>())];
                params.clone_from(&run.params);
                let before = params[0].clone();
                run.step(&step, &grads, false);
                oracle.step(&step, &mut params, &grads);
                let moved = |to: &[f64]| {
                    let by = |(to, from): (&f64, &f64)| to - 0.9 * from;
                    let squares = to.iter().zip(&before).map(by).map(|x| x * x);
                    squares.sum::<f64>().sqrt()
                };
                let (found, allowed) = (moved(&run.params[0]), moved(&params[0]));
                assert!(found <= 2.000_001 * allowed, "{graft:?} {small} {number}");
            }
        }
    }
}

/// The same in the types of parameters, which round: with much damping, the norms of the
/// step before are a hundred million times too large.
#[test]
fn a_spike_costs_no_parameter_its_digits() {
    moves_as_far_as_it_should(Dtype::F32, false, |x| x as f32, |x| x.into());
    moves_as_far_as_it_should(Dtype::Bf16, false, bf16::from_f64, bf16::to_f64);
    moves_as_far_as_it_should(Dtype::F16, false, f16::from_f64, f16::to_f64);
    moves_as_far_as_it_should(Dtype::Bf16, true, bf16::from_f64, bf16::to_f64);
}

fn moves_as_far_as_it_should<T: Element + PartialEq>(
    dtype: Dtype,
    master: bool,
    from: impl Fn(f64) -> T,
    to: impl Fn(T) -> f64,
) {
    let mut spec = TensorSpec::new("w", &[20, 50]).with_dtypes(dtype, Dtype::F32, Dtype::F32);
    spec.master = master;
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for eps in [1e-6, 1e-3, 1.0] {
        let own = Options {
            eps,
            ..Options::default()
        };
        let lagged = Options {
            lagged_norms: Some(true),
            ..own.clone()
        };
        let new = |options: &Options| Optimizer::new(options.clone(), &[spec.clone()]).unwrap();
        let (mut with, mut without) = (new(&lagged), new(&own));
        let start: Vec<f64> = to_f64(&normal(&mut rng(1), 1000));
        let mut params: Vec<T> = start.iter().map(|&x| from(x)).collect();
        let mut of_own = params.clone();
        for (number, size) in [1e-6, 1e-6, 1.0].into_iter().enumerate() {
            let before = params.clone();
            of_own.clone_from(&params);
            let grads = correlated(&mut rng(number as u64), 1000);
            let grads: Vec<f32> = grads.iter().map(|g| g * size as f32).collect();
            let grads = [Some(grads.as_slice())];
            with.step(&step, &mut [&mut params], &grads).unwrap();
            without.step(&step, &mut [&mut of_own], &grads).unwrap();
            if number < 2 {
                continue;
            }
            for ((before, with), own) in before.iter().zip(&params).zip(&of_own) {
                let (before, with, own) = (to(*before), to(*with), to(*own));
                let rounding = match dtype {
                    // Of an update that was taken back.
                    Dtype::F32 => 3e-4,
                    _ => 0.008 * before.abs().max(own.abs()),
                };
                let (moved, allowed) = ((with - before).abs(), 2.0 * (own - before).abs());
                assert!(
                    moved <= allowed + rounding,
                    "{dtype} {eps}: {before} {with} {own}"
                );
            }
        }
    }
}

/// Numbers that no step leaves, and what the message says of them.
#[test]
fn scalars_that_no_step_leaves_are_refused() {
    let ratio = |norm_ratio| Scalars {
        norm_ratio,
        ..Scalars::default()
    };
    let corrections = |bias_corrections| Scalars {
        bias_corrections,
        ..Scalars::default()
    };
    let largest = |largest| Scalars {
        largest,
        ..Scalars::default()
    };
    let no_norms = [-1.0, f64::NAN, f64::INFINITY];
    let mut cases: Vec<_> = no_norms.map(|x| ("norm_ratio", ratio(x))).into();
    let wrong = [[1.5, 0.5], [0.5, -0.5], [f64::NAN, 0.5]];
    cases.extend(wrong.map(|x| ("bias_corrections", corrections(x))));
    cases.extend(no_norms.map(|x| ("largest", largest(x))));
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let model = model(Dtype::F64);
    for (name, scalars) in cases {
        let mut run = Run::<f64>::new(&options, &model);
        run.scalars[2] = scalars;
        let tensors = run.state.iter_mut().zip(&mut run.params).zip(&run.scalars);
        let buffers = tensors.map(|((state, params), &scalars)| {
            let target = Target::Parameters(params.as_mut_slice().into());
            let mut buffers = TensorBuffers::new(target, None, elements_mut(state));
            buffers.scalars = scalars;
            buffers
        });
        let mut buffers: Vec<_> = buffers.collect();
        let refused = run.plan.step(&StepOptions::default(), 1, &mut buffers);
        let mut optimizer = Optimizer::new(options.clone(), &model).unwrap();
        for refused in [
            refused,
            optimizer.change_settings(2, |s| s.scalars = scalars),
        ] {
            let Err(Error::OutOfRange { argument, .. }) = refused else {
                panic!("{scalars:?} were taken");
            };
            assert_eq!(argument, format!("{name} of tensor \"2\""));
        }
        assert_eq!(optimizer.settings(2).unwrap().scalars, Scalars::default());
    }
}

/// What a step leaves to the next comes back from saved and from live files, and from a
/// copy in memory: the steps that follow are the same to the last bit.
#[test]
fn optimizers_go_on_where_their_files_end() {
    let model = model(Dtype::F32);
    let options = Options {
        lagged_norms: Some(true),
        nesterov: true,
        ..Options::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let (saved, live) = (folder.path().join("saved"), folder.path().join("live"));
    let new = || Optimizer::new(options.clone(), &model).unwrap();
    let zeros = || model.iter().map(|t| vec![0f32; t.len()]);
    let step = |optimizer: &mut Optimizer, params: &mut Vec<Vec<f32>>, number: usize| {
        let grads = gradients(&model, number).into_iter();
        let to_f32 = |g: Vec<f64>| g.into_iter().map(|x| x as f32).collect::<Vec<_>>();
        let grads: Vec<_> = grads.map(|g| g.map(to_f32)).collect();
        let options = StepOptions {
            beta1: (number % 3 == 1).then_some(0.8),
            beta2: (number == 2).then_some(0.9),
            ..StepOptions::default()
        };
        let grads: Vec<_> = grads.iter().map(Option::as_deref).collect();
        optimizer
            .step(&options, &mut slices_mut(params), &grads)
            .unwrap();
    };
    let (mut optimizer, mut params) = (new(), zeros().collect::<Vec<_>>());
    for number in 0..4 {
        step(&mut optimizer, &mut params, number);
    }
    optimizer.save(&saved, None).unwrap();
    let mut on_file = new();
    on_file.load(&saved, &LoadOptions::default(), None).unwrap();
    on_file.make_live(&live).unwrap();
    let before = params.clone();
    for number in 4..6 {
        step(&mut optimizer, &mut params, number);
    }
    let (mut resumed, mut of_resumed) = (new(), before.clone());
    resumed.load(&saved, &LoadOptions::default(), None).unwrap();
    let mut of_file = before;
    for number in 4..6 {
        step(&mut resumed, &mut of_resumed, number);
        step(&mut on_file, &mut of_file, number);
        // Closed, and opened again.
        drop(std::mem::replace(&mut on_file, new()));
        let shared = LoadOptions {
            mode: LoadMode::MapShared,
            ..LoadOptions::default()
        };
        on_file.load(&live, &shared, None).unwrap();
    }
    assert!(of_resumed == params);
    assert!(of_file == params);
    // With a count of zero, a tensor begins anew.
    let mut anew = new();
    let planes = |i: usize| 0..resumed.planes(i).unwrap().len();
    let state = (0..model.len()).map(|i| planes(i).map(|p| resumed.plane(i, p).unwrap()).collect());
    anew.set_state(0, &state.collect::<Vec<_>>()).unwrap();
    for tensor in 0..model.len() {
        resumed
            .change_settings(tensor, |s| s.step_count = 0)
            .unwrap();
    }
    step(&mut anew, &mut of_resumed, 6);
    step(&mut resumed, &mut params, 6);
    assert!(of_resumed == params);
    // State that is set goes on with its scalars.
    let planes = |i: usize| 0..resumed.planes(i).unwrap().len();
    let state = (0..model.len()).map(|i| planes(i).map(|p| resumed.plane(i, p).unwrap()).collect());
    anew.set_state(7, &state.collect::<Vec<_>>()).unwrap();
    for tensor in 0..model.len() {
        let count = resumed.settings(tensor).unwrap().step_count;
        anew.change_settings(tensor, |s| s.step_count = count)
            .unwrap();
        anew.change_settings(tensor, |s| {
            s.scalars = resumed.settings(tensor).unwrap().scalars
        })
        .unwrap();
    }
    step(&mut anew, &mut of_resumed, 7);
    step(&mut resumed, &mut params, 7);
    assert!(of_resumed == params);
}

/// A step with betas of its own is the same as one of an optimizer with these betas, and
/// bias correction divides by one minus their product.
#[test]
fn betas_of_a_step_are_corrected_by_their_product() {
    let tensor = [TensorSpec::new("w", &[3]).with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64)];
    let options = Options {
        band: 0,
        graft: Graft::None,
        eps: 0.0,
        gamma: 0.0,
        ..Options::default()
    };
    let mut optimizer = Optimizer::new(options, &tensor).unwrap();
    let (mut m, mut h) = (0.0, 0.0);
    let mut products = [1.0, 1.0];
    for (beta1, beta2, g) in [
        (0.9, 0.99, 1.0),
        (0.5, 0.99, -2.0),
        (0.9, 0.8, 3.0),
        (0.9, 0.99, 1.5),
    ] {
        let mut params = [0.0f64; 3];
        let step = StepOptions {
            lr: 1.0,
            beta1: Some(beta1),
            beta2: Some(beta2),
            ..StepOptions::default()
        };
        let grads = [Some(&[g, g, g][..])];
        optimizer.step(&step, &mut [&mut params], &grads).unwrap();
        m = beta1 * m + (1.0 - beta1) * g;
        h = beta2 * h + (1.0 - beta2) * g * g;
        products = [products[0] * beta1, products[1] * beta2];
        let exact = -(m / (1.0 - products[0])) / (h / (1.0 - products[1]));
        let found = params[1];
        assert!((found - exact).abs() < 1e-13, "{found} {exact}");
    }
    for beta in [1.0, -0.5, f64::NAN] {
        let step = StepOptions {
            beta2: Some(beta),
            ..StepOptions::default()
        };
        let grads = [Some(&[1.0f64; 3][..])];
        let refused = optimizer.step(&step, &mut [&mut [0.0; 3]], &grads);
        assert!(
            matches!(refused, Err(Error::OutOfRange { argument, .. }) if argument == "step.beta2")
        );
    }
}

/// What lagged damping is relative to: of a tensor without gradients so far it is 0, and an
/// entry that is beyond its type does not count.
#[test]
fn damping_outlives_dead_tensors_and_infinite_entries() {
    const LEN: usize = 300;
    let model = [TensorSpec::new("w", &[LEN])];
    let step = StepOptions {
        non_finite: NonFinite::Unchecked,
        ..StepOptions::default()
    };
    for band in [0, 1, 2, 4] {
        let options = Options {
            band,
            damping: Damping::RelativeLagged,
            ..Options::default()
        };
        let mut run = Run::<f32>::new(&options, &model);
        for number in 0..6 {
            let mut grad = correlated(&mut rng(number), LEN);
            match number {
                0 | 1 => grad.fill(0.0),
                // Its square is infinite.
                3 => grad[100] = 1e25,
                _ => {}
            }
            let before = run.params[0].clone();
            run.step(&step, &[Some(grad.clone())], false);
            let largest = run.scalars[0].largest;
            assert_eq!(largest > 0.0, number > 1, "{band} {number}");
            assert!(largest < 100.0, "{band} {number}: {largest}");
            let params = run.params[0].iter().zip(&before).enumerate();
            for (i, (&now, &before)) in params {
                assert!(now.is_finite());
                // Those that are no neighbours of the infinite one move on.
                if i.abs_diff(100) > 2 * band {
                    assert_eq!(now != before, number > 1, "{band} {number} {i}");
                }
            }
        }
    }
}
