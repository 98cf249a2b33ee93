//! Steps, stateless steps, settings and views.

use sonew::dtype::{bf16, f16, Dtype, Elements, ElementsMut};
use sonew::layout::TensorSpec;
use sonew::options::{Graft, NonFinite, Options, Statistics, StepOptions};
use sonew::{Error, Plan, Result, Target, TensorBuffers};

use crate::{create, specs, World};

#[test]
fn step_options_out_of_range() {
    type Change = fn(&mut StepOptions);
    let changes: [(&str, Change); 15] = [
        ("step.lr", |s| s.lr = -0.1),
        ("step.lr", |s| s.lr = f64::NAN),
        ("step.lr", |s| s.lr = f64::INFINITY),
        ("step.grad_scale", |s| s.grad_scale = 0.0),
        ("step.grad_scale", |s| s.grad_scale = -1.0),
        ("step.grad_scale", |s| s.grad_scale = f64::NAN),
        ("step.grad_scale", |s| s.grad_scale = f64::INFINITY),
        ("step.clip_norm", |s| s.clip_norm = Some(0.0)),
        ("step.clip_norm", |s| s.clip_norm = Some(-1.0)),
        ("step.clip_norm", |s| s.clip_norm = Some(f64::NAN)),
        ("step.clip_norm", |s| s.clip_norm = Some(f64::INFINITY)),
        ("step.clip_norm", |s| s.clip_norm = Some(1e-60)),
        ("step.statistics_weight", |s| s.statistics_weight = -1.0),
        ("step.statistics_weight", |s| s.statistics_weight = f64::NAN),
        ("step.statistics_weight", |s| s.statistics_weight = 0.5),
    ];
    let mut world = World::new();
    for (name, change) in changes {
        let mut step = StepOptions::default();
        change(&mut step);
        refused!(
            world.unchanged(|w| w.step(&step)),
            Error::OutOfRange { argument, .. } if argument == name
        );
    }
}

#[test]
fn any_weight_goes_with_the_weighted_sum() {
    let mut optimizer = create(|o| o.statistics = Statistics::WeightedSum).unwrap();
    let (mut a, mut b) = ([0.0f32; 6], [0.0f32; 3]);
    let step = StepOptions {
        statistics_weight: 0.5,
        ..StepOptions::default()
    };
    let grads = [Some(&[1.0f32; 6][..]), None];
    optimizer
        .step(&step, &mut [&mut a, &mut b], &grads)
        .unwrap();
}

#[test]
fn buffers_that_do_not_fit() {
    let mut world = World::new();
    let step = StepOptions::default();
    let (g, h) = ([0.5f32; 6], [0.5f32; 3]);
    let mut take = |params: &mut [&mut [f32]], grads: &[Option<&[f32]>]| {
        world.unchanged(|w| w.optimizer.step(&step, params, grads))
    };
    let (mut a, mut b, mut long) = ([0.0; 6], [0.0; 3], [0.0; 4]);
    refused!(
        take(&mut [&mut a], &[Some(&g), Some(&h)]),
        Error::TensorCount {
            argument: "params",
            count: 1,
            expected: 2
        }
    );
    refused!(
        take(&mut [&mut a, &mut b], &[Some(&g), Some(&h), None]),
        Error::TensorCount {
            argument: "grads",
            count: 3,
            expected: 2
        }
    );
    refused!(
        take(&mut [&mut a, &mut long], &[Some(&g), Some(&h)]),
        Error::WrongLength { tensor, length: 4, expected: 3, .. } if tensor == "b"
    );
    refused!(
        take(&mut [&mut a, &mut b], &[Some(&g[..5]), Some(&h)]),
        Error::WrongLength { argument, length: 5, .. } if argument == "the gradient"
    );
    // Also where the tensor takes no part.
    refused!(
        take(&mut [&mut a, &mut []], &[Some(&g), None]),
        Error::WrongLength { .. }
    );
    assert_eq!((a, b, long), ([0.0; 6], [0.0; 3], [0.0; 4]));
}

#[test]
fn buffers_of_another_type() {
    let mut world = World::new();
    let step = StepOptions::default();
    let (mut a, mut b) = ([0.0f64; 6], [0.0f64; 3]);
    let (g, h) = ([bf16::ONE; 6], [bf16::ONE; 3]);
    refused!(
        world.unchanged(|w| w
            .optimizer
            .step(&step, &mut [&mut a, &mut b], &[Some(&g), Some(&h)])),
        Error::WrongDtype { tensor, argument, dtype: Dtype::F64, expected: Dtype::F32 }
            if tensor == "a" && argument == "the parameter"
    );
    let (mut a, mut b) = ([0.0f32; 6], [0.0f32; 3]);
    let good = [0.1f32; 6];
    let mut mixed = |grads: [Option<Elements<'_>>; 2]| {
        let params = &mut [ElementsMut::new(&mut a), ElementsMut::new(&mut b)];
        world.unchanged(|w| w.optimizer.step_any(&step, params, &grads))
    };
    refused!(
        mixed([Some(Elements::new(&good)), Some(Elements::new(&h))]),
        Error::WrongDtype { tensor, argument, dtype: Dtype::Bf16, expected: Dtype::F32 }
            if tensor == "b" && argument == "the gradient"
    );
}

#[test]
fn gradients_that_are_not_finite() {
    let mut world = World::new();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e20, -3e38] {
        let good = std::mem::replace(&mut world.grad_b[1], value);
        refused!(
            world.unchanged(|w| w.step(&StepOptions::default())),
            Error::NonFiniteGradient { tensor } if tensor == "b"
        );
        // What matters is the gradient after scaling.
        if value == 1e20 {
            let step = StepOptions {
                grad_scale: 1e-10,
                ..StepOptions::default()
            };
            world.step(&step).unwrap();
        }
        world.grad_b[1] = good;
    }
    world.grad_b[1] = f32::NAN;
    let step = StepOptions {
        non_finite: NonFinite::Unchecked,
        ..StepOptions::default()
    };
    world.step(&step).unwrap();
}

#[test]
fn tensors_and_planes_that_are_not_there() {
    let mut world = World::new();
    refused!(
        world.optimizer.settings(2),
        Error::UnknownTensor { index: 2, count: 2 }
    );
    refused!(world.optimizer.planes(2), Error::UnknownTensor { .. });
    refused!(world.optimizer.plane(2, 0), Error::UnknownTensor { .. });
    refused!(
        world.optimizer.plane(1, 3),
        Error::UnknownPlane { tensor, plane: 3, count: 3 } if tensor == "b"
    );
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        refused!(
            world.unchanged(|w| w.optimizer.change_settings(0, |s| s.lr_scale = value)),
            Error::OutOfRange { argument, .. } if argument == "lr_scale of tensor \"a\""
        );
        refused!(
            world.unchanged(|w| w.optimizer.change_settings(1, |s| s.weight_decay = value)),
            Error::OutOfRange { argument, .. } if argument == "weight_decay of tensor \"b\""
        );
    }
    refused!(
        world.unchanged(|w| w.optimizer.change_settings(2, |s| s.lr_scale = 1.0)),
        Error::UnknownTensor { .. }
    );
}

#[test]
fn there_is_no_step_after_the_last_number() {
    let (mut world, other) = (World::new(), World::new());
    let planes = |tensor| {
        (0..3)
            .map(|plane| other.optimizer.plane(tensor, plane).unwrap())
            .collect()
    };
    let state = [planes(0), planes(1)];
    world.optimizer.set_state(u64::MAX, &state).unwrap();
    refused!(
        world.unchanged(|w| w.step(&StepOptions::default())),
        Error::OutOfRange { argument, .. } if argument == "the step count"
    );
    world.optimizer.set_state(u64::MAX - 1, &state).unwrap();
    world.step(&StepOptions::default()).unwrap();
}

/// Planes that are exchanged for longer ones would be read beyond the end of what is read.
#[test]
#[should_panic(expected = "planes are read where there are others than where they are written")]
fn planes_that_are_not_those_that_are_read() {
    let spec = TensorSpec::new("w", &[64]);
    let mut plan = Plan::new(&Options::default(), &[spec]).unwrap();
    let (mut p, mut short, mut long) = ([1.0f32; 64], [[0.0f32; 16]; 3], [[0.0f32; 64]; 3]);
    let before = [[0.0f32; 16]; 3];
    let mut buffers = TensorBuffers::new(
        Target::Parameters(ElementsMut::new(&mut p)),
        Some(Elements::new(&[1.0f32; 64])),
        short.each_mut().map(|plane| ElementsMut::new(plane)),
    );
    buffers.read_from(before.each_ref().map(|plane| Elements::new(plane)));
    for (plane, long) in buffers.planes.iter_mut().zip(&mut long) {
        *plane = ElementsMut::new(long);
    }
    let _ = plan.step(&StepOptions::default(), 1, &mut [buffers]);
}

/// A stateless step in which one thing is wrong.
fn plan_step(number: u64, count: usize, change: impl FnOnce(&mut TensorBuffers<'_>)) -> Result<()> {
    let options = Options {
        graft: Graft::Sgd,
        ..Options::default()
    };
    let mut plan = Plan::new(&options, &specs()[..1]).unwrap();
    let mut p = [1.0f32; 6];
    let mut state = [[0.0f32; 6]; 3];
    let mut buffers = Vec::new();
    let [m, h, e] = &mut state;
    buffers.push(TensorBuffers::new(
        Target::Parameters(ElementsMut::new(&mut p)),
        Some(Elements::new(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])),
        [m, h, e].map(|p| ElementsMut::new(p)),
    ));
    change(&mut buffers[0]);
    buffers.truncate(count);
    // With a beta of its own, a step looks at the step before it.
    let step = StepOptions {
        beta1: Some(0.5),
        ..StepOptions::default()
    };
    let result = plan.step(&step, number, &mut buffers);
    drop(buffers);
    let untouched = p == [1.0; 6] && state == [[0.0; 6]; 3];
    assert_eq!(untouched, result.is_err());
    result
}

#[test]
fn stateless_steps_that_do_not_fit() {
    plan_step(1, 1, |_| {}).unwrap();
    refused!(
        plan_step(0, 1, |_| {}),
        Error::OutOfRange { argument, .. } if argument == "the step number"
    );
    refused!(
        plan_step(1, 0, |_| {}),
        Error::TensorCount {
            argument: "buffers",
            count: 0,
            expected: 1
        }
    );
    refused!(
        plan_step(1, 1, |b| b.target = Target::Direction(ElementsMut::new::<f32>(&mut []))),
        Error::WrongLength { argument, length: 0, .. } if argument == "the direction"
    );
    refused!(
        plan_step(1, 1, |b| b.planes.truncate(2)),
        Error::PlaneCount {
            count: 2,
            expected: 3,
            ..
        }
    );
    refused!(
        plan_step(1, 1, |b| b.planes[1] = ElementsMut::new::<f32>(&mut [])),
        Error::WrongLength { argument, .. } if argument == "diagonal"
    );
    refused!(
        plan_step(1, 1, |b| b.target = Target::Direction(ElementsMut::new::<f64>(&mut []))),
        Error::WrongDtype { argument, dtype: Dtype::F64, expected: Dtype::F32, .. }
            if argument == "the direction"
    );
    refused!(
        plan_step(1, 1, |b| b.planes[2] = ElementsMut::new::<bf16>(&mut [])),
        Error::WrongDtype { argument, dtype: Dtype::Bf16, expected: Dtype::F32, .. }
            if argument == "band.1"
    );
    refused!(
        plan_step(1, 1, |b| b.gradient = Some(Elements::new(&[f16::ONE; 6]))),
        Error::WrongDtype { argument, dtype: Dtype::F16, expected: Dtype::F32, .. }
            if argument == "the gradient"
    );
    // Each fits into float32, their product does not.
    refused!(
        plan_step(1, 1, |b| (b.lr_scale, b.weight_decay) = (1e30, 1e30)),
        Error::OutOfRange { argument, .. }
            if argument == "lr times lr_scale times weight_decay of tensor \"a\""
    );
    refused!(
        plan_step(1, 1, |b| b.lr_scale = -1.0),
        Error::OutOfRange { argument, .. } if argument == "lr_scale of tensor \"a\""
    );
    refused!(
        plan_step(1, 1, |b| b.weight_decay = f64::NAN),
        Error::OutOfRange { argument, .. } if argument == "weight_decay of tensor \"a\""
    );
    refused!(
        plan_step(1, 1, |b| b.gradient = Some(Elements::new(&[f32::NAN; 6]))),
        Error::NonFiniteGradient { .. }
    );
}
