//! A step in stages gives the same as a step in one call, stops at the documented
//! stages, and with reduced numbers gives the step of whole tensors of which each
//! machine has a part.

use crate::common::{self, correlated, elements_mut, normal, rng, slices_mut, DAMPINGS, GRAFTS};
use sonew::dtype::{Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, NonFinite, Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Stage};

fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("rows", &[40, 67]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("whole", &[33, 20]),
        TensorSpec::new("bias", &[40]).with_update(Update::Adam),
        TensorSpec::new("master", &[50])
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16)
            .with_master(),
    ]
}

/// Every graft, damping, clipping, and check of gradients.
fn settings() -> impl Iterator<Item = (Options, StepOptions)> {
    let grafts = GRAFTS.into_iter();
    let dampings = DAMPINGS.into_iter().zip([1e-6, 1e-3, 1e-3]);
    let options = grafts.flat_map(move |graft| {
        dampings.clone().map(move |(damping, eps)| Options {
            graft,
            damping,
            eps,
            ..Options::default()
        })
    });
    options.flat_map(|options| {
        let clips = [None, Some(0.5), Some(1e6)];
        let step = |clip_norm| {
            [NonFinite::Skip, NonFinite::Unchecked].map(|non_finite| StepOptions {
                lr: 0.01,
                grad_scale: 0.5,
                clip_norm,
                non_finite,
                ..StepOptions::default()
            })
        };
        clips
            .into_iter()
            .flat_map(step)
            .map(move |step| (options.clone(), step))
            .collect::<Vec<_>>()
    })
}

/// The stages that these options need, as their documentation says.
fn expected(options: &Options, step: &StepOptions) -> Vec<Stage> {
    let looks = step.non_finite == NonFinite::Skip
        || step.clip_norm.is_some()
        || options.graft == Graft::NormalizedRmsprop;
    let relative = options.damping != Damping::Absolute;
    // The Adam update of the bias has no graft.
    let grafted = options.graft != Graft::None;
    [
        (looks, Stage::GradientSquares),
        (relative, Stage::LargestL1),
        (grafted, Stage::Norms),
    ]
    .into_iter()
    .filter_map(|(is, stage)| is.then_some(stage))
    .collect()
}

fn optimizer(options: &Options) -> Optimizer {
    Optimizer::new(options.clone(), &model()).unwrap()
}

fn start(model: &[TensorSpec]) -> Vec<Vec<f32>> {
    let mut rng = rng(1);
    model.iter().map(|t| normal(&mut rng, t.len())).collect()
}

fn gradients(model: &[TensorSpec], step: u64) -> Vec<Option<Vec<f32>>> {
    let mut rng = rng(step);
    let one = |t: &TensorSpec| Some(correlated(&mut rng, t.len()));
    model.iter().map(one).collect()
}

fn lent(grads: &[Option<Vec<f32>>]) -> Vec<Option<Elements<'_>>> {
    grads
        .iter()
        .map(|g| g.as_deref().map(Elements::new))
        .collect()
}

/// Parameters and state, bit by bit.
fn everything(optimizer: &Optimizer, params: &[Vec<f32>]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = params
        .iter()
        .map(|p| Elements::new(p).bytes().to_vec())
        .collect();
    for tensor in 0..params.len() {
        for plane in 0..optimizer.planes(tensor).unwrap().len() {
            all.push(optimizer.plane(tensor, plane).unwrap().bytes().to_vec());
        }
    }
    all
}

fn step(
    optimizer: &mut Optimizer,
    step: &StepOptions,
    params: &mut [Vec<f32>],
    grads: &[Option<Vec<f32>>],
) {
    optimizer
        .step_any(step, &mut elements_mut(params), &lent(grads))
        .unwrap();
}

/// Takes a step in stages without reducing; returns the stages that it had.
fn staged(
    optimizer: &mut Optimizer,
    step: &StepOptions,
    params: &mut [Vec<f32>],
    grads: &[Option<Vec<f32>>],
) -> Vec<Stage> {
    let (mut params, grads) = (elements_mut(params), lent(grads));
    let mut stages = optimizer.stages(step, &mut params, &grads).unwrap();
    let mut reached = Vec::new();
    while let Some(stage) = stages.next().unwrap() {
        reached.push(stage);
        assert!(stages
            .numbers()
            .iter()
            .flatten()
            .any(|&number| number > 0.0));
    }
    assert!(matches!(stages.next(), Err(Error::NoStages)));
    assert!(stages.numbers().is_empty());
    reached
}

#[test]
fn a_step_in_stages_is_the_step_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (i, (options, how)) in settings().enumerate() {
        let mut one = (optimizer(&options), start(&model()));
        let mut other = (optimizer(&options), start(&model()));
        for number in 1..5 {
            let mut grads = gradients(&model(), number);
            grads[number as usize % 4] = None;
            // Half of them in a live file.
            if number == 3 && i % 2 == 1 {
                other.0.make_live(folder.path().join("live")).unwrap();
            }
            step(&mut one.0, &how, &mut one.1, &grads);
            let stages = staged(&mut other.0, &how, &mut other.1, &grads);
            assert_eq!(stages, expected(&options, &how), "{options:?} {how:?}");
            let same = everything(&one.0, &one.1) == everything(&other.0, &other.1);
            assert!(same, "{options:?} {how:?}");
            assert_eq!(other.0.step_count(), number);
            assert_eq!(one.0.gradient_norm(), other.0.gradient_norm());
        }
    }
}

/// The rows of cut tensors that each of three machines has: the last one has none.
const ROWS: [std::ops::Range<usize>; 3] = [0..13, 13..40, 40..40];

/// A matrix and its bias, which are cut; a matrix that all machines have whole; and one
/// that only the last machine has.
fn of_machine(rows: usize, alone: usize) -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("w", &[rows, 67]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("bias", &[rows]).with_update(Update::Adam),
        TensorSpec::new("whole", &[12, 30]),
        TensorSpec::new("alone", &[alone, 9]),
    ]
}

/// The position of the tensor that all machines have whole.
const WHOLE: usize = 2;

/// What a machine has of each tensor.
fn parts(all: &[Vec<f32>], machine: usize) -> Vec<Vec<f32>> {
    let rows = ROWS[machine].clone();
    let [w, bias, whole, alone] = all else {
        panic!("four tensors");
    };
    let alone = if machine == 2 { &alone[..] } else { &[] };
    vec![
        w[67 * rows.start..67 * rows.end].to_vec(),
        bias[rows].to_vec(),
        whole.clone(),
        alone.to_vec(),
    ]
}

/// As the sample loop of the header reduces them.
fn reduce(stage: Stage, numbers: &mut [&mut [[f64; 2]]]) {
    for tensor in 0..numbers[0].len() {
        for i in 0..2 {
            let of = |(machine, numbers): (usize, &&mut [[f64; 2]])| {
                let is_counted = machine == 0 || tensor != WHOLE || stage == Stage::LargestL1;
                if is_counted {
                    numbers[tensor][i]
                } else {
                    0.0
                }
            };
            let all: Vec<f64> = numbers.iter().enumerate().map(of).collect();
            let reduced = match stage {
                Stage::LargestL1 => all.into_iter().fold(0.0, f64::max),
                _ => all.into_iter().sum(),
            };
            numbers
                .iter_mut()
                .for_each(|numbers| numbers[tensor][i] = reduced);
        }
    }
}

#[test]
fn machines_with_parts_of_the_tensors_are_one() {
    let whole = of_machine(40, 20);
    for (options, how) in settings() {
        let create = |model: &[TensorSpec]| Optimizer::new(options.clone(), model).unwrap();
        let mut one = (create(&whole), start(&whole));
        let mut machines = [0, 1, 2].map(|machine| {
            let alone = if machine == 2 { 20 } else { 0 };
            let model = of_machine(ROWS[machine].len(), alone);
            (create(&model), parts(&start(&whole), machine))
        });
        for number in 1..5 {
            let grads = gradients(&whole, number);
            step(&mut one.0, &how, &mut one.1, &grads);
            let all: Vec<_> = grads.into_iter().flatten().collect();
            let of = |machine| {
                parts(&all, machine)
                    .into_iter()
                    .map(Some)
                    .collect::<Vec<_>>()
            };
            let grads = [0, 1, 2].map(of);
            let grads = grads.each_ref().map(|grads| lent(grads));
            let [a, b, c] = &mut machines;
            let mut params = [&mut a.1, &mut b.1, &mut c.1].map(|params| elements_mut(params));
            let [p, q, r] = &mut params;
            let mut a = a.0.stages(&how, p, &grads[0]).unwrap();
            let mut b = b.0.stages(&how, q, &grads[1]).unwrap();
            let mut c = c.0.stages(&how, r, &grads[2]).unwrap();
            let mut reached = Vec::new();
            while let Some(stage) = a.next().unwrap() {
                assert_eq!(b.next().unwrap(), Some(stage));
                assert_eq!(c.next().unwrap(), Some(stage));
                reduce(stage, &mut [a.numbers(), b.numbers(), c.numbers()]);
                reached.push(stage);
            }
            assert_eq!(b.next().unwrap(), None);
            assert_eq!(c.next().unwrap(), None);
            assert_eq!(reached, expected(&options, &how));
        }
        // Largest values are exact; sums of parts may differ in the last bit of a
        // float64, and what is made of them in that of a float32, four steps long.
        let exact = options.graft == Graft::None && how.clip_norm != Some(0.5);
        let bound = if exact { 0.0 } else { 8.0 * common::ULP32 };
        for (machine, (_, params)) in machines.iter().enumerate() {
            for (part, whole) in params.iter().zip(parts(&one.1, machine)) {
                let error = part.iter().zip(&whole).map(|(p, w)| f64::from(p - w));
                let size = common::largest(common::to_f64(&whole));
                let error = common::largest(error);
                assert!(error <= bound * size, "{error} {options:?} {how:?}");
            }
        }
    }
}

/// Machines with different tensors stop at the same stages, whatever these need.
#[test]
fn stages_follow_from_the_options_alone() {
    let adam = [TensorSpec::new("bias", &[40]).with_update(Update::Adam)];
    let empty = [TensorSpec::new("w", &[0, 4])];
    for model in [&adam, &empty] {
        for (options, how) in settings() {
            let mut optimizer = Optimizer::new(options.clone(), model).unwrap();
            let mut params = start(model);
            for grads in [gradients(model, 1), vec![None]] {
                let (mut params, grads) = (elements_mut(&mut params), lent(&grads));
                let mut stages = optimizer.stages(&how, &mut params, &grads).unwrap();
                let reached = std::iter::from_fn(|| stages.next().unwrap());
                assert_eq!(reached.collect::<Vec<_>>(), expected(&options, &how));
            }
        }
    }
}

/// Calls that need a state between two steps.
fn refused_in_stages(optimizer: &mut Optimizer, params: &mut [Vec<f32>]) {
    let path = std::env::temp_dir().join("never-written.safetensors");
    let grads = gradients(&model(), 9);
    let (how, load) = (StepOptions::default(), LoadOptions::default());
    let outcomes = [
        optimizer.step_any(&how, &mut elements_mut(params), &lent(&grads)),
        optimizer
            .stages(&how, &mut elements_mut(params), &lent(&grads))
            .map(drop),
        optimizer.save(&path, None),
        optimizer.save_begin(&path, None).map(drop),
        optimizer.load(&path, &load, None),
        optimizer.make_live(&path),
        optimizer.sync(),
        optimizer.change_settings(0, |s| s.lr_scale = 1.0),
        optimizer.change_settings(0, |s| s.weight_decay = 1.0),
        optimizer.reset_master(),
        optimizer.set_state(0, &[]),
    ];
    for (i, outcome) in outcomes.into_iter().enumerate() {
        assert!(matches!(outcome, Err(Error::InStages)), "{i} {outcome:?}");
    }
    assert!(!path.exists());
}

/// Options with all three stages.
fn all_stages() -> (Options, StepOptions) {
    let options = Options {
        damping: Damping::Relative,
        eps: 1e-3,
        ..Options::default()
    };
    (options, StepOptions::default())
}

/// Drops a step in stages after so many of them.
fn drop_after(stages: usize, optimizer: &mut Optimizer, params: &mut [Vec<f32>]) {
    let grads = gradients(&model(), 8);
    let (mut params, grads) = (elements_mut(params), lent(&grads));
    let mut step = optimizer
        .stages(&all_stages().1, &mut params, &grads)
        .unwrap();
    for _ in 0..stages {
        step.next().unwrap().unwrap();
    }
}

#[test]
fn a_step_that_is_dropped_leaves_everything_or_is_known() {
    let (options, how) = all_stages();
    for before in [0, 2] {
        for stages in 0..=3 {
            let mut optimizer = optimizer(&options);
            let mut params = start(&model());
            for number in 0..before {
                step(
                    &mut optimizer,
                    &how,
                    &mut params,
                    &gradients(&model(), number),
                );
            }
            let was = everything(&optimizer, &params);
            drop_after(stages, &mut optimizer, &mut params);
            assert_eq!(optimizer.step_count(), before);
            if stages >= 2 {
                // The parameters at least have not moved.
                assert!(everything(&optimizer, &params)[..4] == was[..4]);
                refused_in_stages(&mut optimizer, &mut params);
            } else {
                assert!(everything(&optimizer, &params) == was, "{stages}");
                step(&mut optimizer, &how, &mut params, &gradients(&model(), 5));
            }
        }
    }
}

/// Nobody has to wait for what the last stage reduces: all parameters are updated before it.
#[test]
fn lagged_norms_update_parameters_before_the_stage_of_norms() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let how = StepOptions::default();
    let (mut whole, mut dropped) = (optimizer(&options), optimizer(&options));
    let (mut params, mut until_norms) = (start(&model()), start(&model()));
    for (optimizer, params) in [(&mut whole, &mut params), (&mut dropped, &mut until_norms)] {
        step(optimizer, &how, params, &gradients(&model(), 1));
    }
    let before = params.clone();
    // The same gradients have the same norms, so that no update is too long.
    let grads = gradients(&model(), 1);
    staged(&mut whole, &how, &mut params, &grads);
    {
        let (mut params, grads) = (elements_mut(&mut until_norms), lent(&grads));
        let mut stages = dropped.stages(&how, &mut params, &grads).unwrap();
        while stages.next().unwrap() != Some(Stage::Norms) {}
    }
    for ((before, at_norms), after) in before.iter().zip(&until_norms).zip(&params) {
        assert!(at_norms == after && at_norms != before);
    }
}

#[test]
fn in_a_live_file_a_step_can_be_dropped_at_any_time() {
    let (options, how) = all_stages();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.safetensors");
    for stages in 0..=3 {
        let mut never = (optimizer(&options), start(&model()));
        let mut dropping = (optimizer(&options), start(&model()));
        dropping.0.make_live(&path).unwrap();
        for number in 1..5 {
            drop_after(stages, &mut dropping.0, &mut dropping.1);
            let mut grads = gradients(&model(), number);
            // A tensor that takes no part is copied, over what was dropped.
            grads[number as usize % 4] = None;
            step(&mut never.0, &how, &mut never.1, &grads);
            step(&mut dropping.0, &how, &mut dropping.1, &grads);
            let same = everything(&never.0, &never.1) == everything(&dropping.0, &dropping.1);
            assert!(same, "{stages} {number}");
        }
        // If it is freed in the middle, too, the file is at the last step.
        drop_after(stages, &mut dropping.0, &mut dropping.1);
        let params = dropping.1;
        drop(dropping.0);
        let mut again = optimizer(&options);
        let load = LoadOptions {
            mode: LoadMode::MapShared,
            ..LoadOptions::default()
        };
        again.load(&path, &load, None).unwrap();
        assert!(everything(&never.0, &never.1) == everything(&again, &params));
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused_and_can_be_put_right() {
    let (options, how) = all_stages();
    let mut params = start(&model());
    let mut optimizer = optimizer(&options);
    let grads = gradients(&model(), 1);
    let mut expected = (Optimizer::new(options, &model()).unwrap(), params.clone());
    step(&mut expected.0, &how, &mut expected.1, &grads);
    {
        let (mut params, grads) = (elements_mut(&mut params), lent(&grads));
        let mut stages = optimizer.stages(&how, &mut params, &grads).unwrap();
        let messages = [
            "squares of the gradient",
            "largest l1",
            "squares of the norms",
        ];
        for message in messages {
            stages.next().unwrap().unwrap();
            let own = stages.numbers()[1];
            stages.numbers()[1] = [-1.0, 0.0];
            let error = stages.next().unwrap_err().to_string();
            let expected = format!("the {message} of tensor \"whole\" is -1, must be not negative");
            assert_eq!(error, expected);
            stages.numbers()[1] = own;
        }
        assert_eq!(stages.next().unwrap(), None);
    }
    assert!(everything(&optimizer, &params) == everything(&expected.0, &expected.1));
}

#[test]
fn a_gradient_that_is_not_finite_elsewhere_skips_the_step_here() {
    let (options, how) = all_stages();
    let mut optimizer = optimizer(&options);
    let mut params = start(&model());
    let was = everything(&optimizer, &params);
    let grads = gradients(&model(), 1);
    {
        let (mut params, grads) = (elements_mut(&mut params), lent(&grads));
        let mut stages = optimizer.stages(&how, &mut params, &grads).unwrap();
        assert_eq!(stages.next().unwrap(), Some(Stage::GradientSquares));
        stages.numbers()[2][0] = f64::NAN;
        match stages.next() {
            Err(Error::NonFiniteGradient { tensor }) => assert_eq!(tensor, "bias"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(stages.next(), Err(Error::NoStages)));
    }
    assert!(everything(&optimizer, &params) == was);
    optimizer
        .step(&how, &mut slices_mut(&mut params), &common::options(&grads))
        .unwrap();
}

#[test]
fn what_does_not_fit_begins_nothing() {
    let (options, how) = all_stages();
    let mut optimizer = optimizer(&options);
    let mut params = start(&model());
    let grads = gradients(&model(), 1);
    let short = lent(&grads[..3]);
    let begun = optimizer
        .stages(&how, &mut elements_mut(&mut params), &short)
        .map(drop);
    assert!(matches!(begun, Err(Error::TensorCount { .. })));
    let wrong = StepOptions {
        lr: -1.0,
        ..how.clone()
    };
    let begun = optimizer
        .stages(&wrong, &mut elements_mut(&mut params), &lent(&grads))
        .map(drop);
    assert!(matches!(begun, Err(Error::OutOfRange { .. })));
    let mut swapped: Vec<ElementsMut<'_>> = elements_mut(&mut params);
    swapped.swap(0, 1);
    let begun = optimizer
        .stages(&how, &mut swapped, &lent(&grads))
        .map(drop);
    assert!(matches!(begun, Err(Error::WrongLength { .. })));
    step(&mut optimizer, &how, &mut params, &grads);
}
