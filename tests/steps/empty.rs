//! Tensors without elements: they take part in nothing, and appear in files.

use crate::common::{normal, rng, slices_mut, CHAINS, DAMPINGS, GRAFTS};
use sonew::layout::TensorSpec;
use sonew::options::{Graft, Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

/// Empty ones between others, in every layout.
fn model() -> Vec<TensorSpec> {
    let shapes: [&[usize]; 6] = [
        &[0, 4],
        &[30, 20],
        &[5, 0, 3],
        &[7],
        &[0],
        &[1 << 20, 0, 1 << 20],
    ];
    let shapes = shapes.iter().enumerate();
    let spec = |(i, dims): (usize, &&[usize])| {
        TensorSpec::new(format!("{i}"), dims).with_chains(CHAINS[i % CHAINS.len()])
    };
    shapes.map(spec).collect()
}

/// Takes steps with an optimizer, and returns the parameters of tensors with elements.
fn step(optimizer: &mut Optimizer, params: &mut [Vec<f32>], numbers: std::ops::Range<u64>) {
    for number in numbers {
        let tensors = optimizer.tensors();
        let gradient = |t: &TensorSpec| match t.is_empty() {
            true => Vec::new(),
            false => normal(&mut rng(100 * number + t.len() as u64), t.len()),
        };
        let grads: Vec<Vec<f32>> = tensors.iter().map(gradient).collect();
        let grads: Vec<_> = grads.iter().map(|g| Some(g.as_slice())).collect();
        let step = StepOptions {
            clip_norm: Some(2.0),
            ..StepOptions::default()
        };
        optimizer
            .step(&step, &mut slices_mut(params), &grads)
            .unwrap();
    }
}

fn zeros(model: &[TensorSpec]) -> Vec<Vec<f32>> {
    model.iter().map(|t| vec![0.0; t.len()]).collect()
}

#[test]
fn others_are_updated_as_without_them() {
    let model = model();
    let others: Vec<_> = model.iter().filter(|t| !t.is_empty()).cloned().collect();
    assert_eq!(others.len(), 2);
    for graft in GRAFTS {
        for damping in DAMPINGS {
            let options = Options {
                graft,
                damping,
                lagged_norms: Some(graft == Graft::Sgd),
                ..Options::default()
            };
            let (mut with, mut without) = (zeros(&model), zeros(&others));
            let mut optimizer = Optimizer::new(options.clone(), &model).unwrap();
            step(&mut optimizer, &mut with, 0..3);
            step(
                &mut Optimizer::new(options, &others).unwrap(),
                &mut without,
                0..3,
            );
            with.retain(|params| !params.is_empty());
            assert!(with == without);
            let counts = (0..model.len()).map(|i| optimizer.settings(i).unwrap().step_count);
            assert_eq!(counts.collect::<Vec<_>>(), [0, 3, 0, 3, 0, 0]);
        }
    }
}

#[test]
fn they_come_back_from_files_of_every_kind() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let (saved, live) = (folder.path().join("saved"), folder.path().join("live"));
    let new = || Optimizer::new(Options::default(), &model).unwrap();
    let (mut optimizer, mut params) = (new(), zeros(&model));
    step(&mut optimizer, &mut params, 0..2);
    optimizer.save(&saved, None).unwrap();
    let before = params.clone();
    step(&mut optimizer, &mut params, 2..4);
    for mode in [LoadMode::Read, LoadMode::MapPrivate] {
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        let (mut resumed, mut of_resumed) = (new(), before.clone());
        resumed.load(&saved, &load, None).unwrap();
        step(&mut resumed, &mut of_resumed, 2..4);
        assert!(of_resumed == params);
    }
    let (mut on_file, mut of_file) = (new(), before);
    on_file.load(&saved, &LoadOptions::default(), None).unwrap();
    on_file.make_live(&live).unwrap();
    step(&mut on_file, &mut of_file, 2..3);
    on_file.sync().unwrap();
    drop(on_file);
    let shared = LoadOptions {
        mode: LoadMode::MapShared,
        ..LoadOptions::default()
    };
    let mut on_file = new();
    on_file.load(&live, &shared, None).unwrap();
    step(&mut on_file, &mut of_file, 3..4);
    assert!(of_file == params);
}

#[test]
fn dimensions_around_nothing_are_limited_as_others() {
    let wrong = [TensorSpec::new("a", &[1 << 40, 0, 1 << 40])];
    let refused = Optimizer::new(Options::default(), &wrong);
    assert!(matches!(refused, Err(Error::SizeOverflow { .. })));
}

/// Also where there are no others.
#[test]
fn an_optimizer_may_have_none_but_empty_ones() {
    let model = [TensorSpec::new("a", &[0]), TensorSpec::new("b", &[3, 0])];
    let folder = tempfile::tempdir().unwrap();
    let (saved, live) = (folder.path().join("saved"), folder.path().join("live"));
    let mut optimizer = Optimizer::new(Options::default(), &model).unwrap();
    step(&mut optimizer, &mut zeros(&model), 0..2);
    assert_eq!(optimizer.step_count(), 2);
    optimizer.save(&saved, None).unwrap();
    optimizer
        .load(&saved, &LoadOptions::default(), None)
        .unwrap();
    optimizer.make_live(&live).unwrap();
    step(&mut optimizer, &mut zeros(&model), 2..3);
    optimizer.sync().unwrap();
    drop(optimizer);
    let mut again = Optimizer::new(Options::default(), &model).unwrap();
    again.load(&live, &LoadOptions::default(), None).unwrap();
    assert_eq!(again.step_count(), 3);
}
