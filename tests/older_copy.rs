//! The older of the two copies in a live file.

mod common;

use std::path::Path;

use common::{normal, rng, slices_mut};
use sonew::dtype::Elements;
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("a", &[40, 30]).with_master(),
        TensorSpec::new("sometimes", &[9]),
    ]
}

fn new() -> Optimizer {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    Optimizer::new(options, &model()).unwrap()
}

/// The second tensor takes part in every third step.
fn step(optimizer: &mut Optimizer, params: &mut [Vec<f32>], number: u64) -> sonew::Result<()> {
    let grads = model().into_iter().enumerate().map(|(i, t)| {
        let takes_part = i == 0 || number.is_multiple_of(3);
        takes_part.then(|| normal(&mut rng(10 * number + i as u64), t.len()))
    });
    let grads: Vec<_> = grads.collect();
    let grads: Vec<_> = grads.iter().map(Option::as_deref).collect();
    optimizer.step(&StepOptions::default(), &mut slices_mut(params), &grads)
}

fn open(path: &Path, mode: LoadMode, older_copy: bool) -> sonew::Result<Optimizer> {
    let load = LoadOptions {
        mode,
        older_copy,
        ..LoadOptions::default()
    };
    let mut optimizer = new();
    optimizer.load(path, &load, None)?;
    Ok(optimizer)
}

/// All planes, and the counts of steps.
fn state(optimizer: &Optimizer) -> (Vec<Vec<u8>>, Vec<u64>) {
    let (mut planes, mut counts) = (Vec::new(), vec![optimizer.step_count()]);
    for tensor in 0..model().len() {
        counts.push(optimizer.settings(tensor).unwrap().step_count);
        for plane in 0..optimizer.planes(tensor).unwrap().len() {
            planes.push(optimizer.plane(tensor, plane).unwrap().bytes().to_vec());
        }
    }
    (planes, counts)
}

fn is_not_whole(opened: sonew::Result<Optimizer>) -> bool {
    matches!(opened, Err(Error::NoOlderCopy { .. }))
}

/// Another process killed its step 6, so this one, which has completed it, goes back to 5.
#[test]
fn training_goes_on_from_the_step_before_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    let (mut optimizer, mut params) = (new(), vec![vec![1.0; 1200], vec![2.0; 9]]);
    optimizer.make_live(&path).unwrap();
    let mut before = Vec::new();
    for number in 1..=6 {
        before.push((state(&optimizer), params.clone()));
        step(&mut optimizer, &mut params, number).unwrap();
    }
    let after = (state(&optimizer), params.clone());
    drop(optimizer);
    for mode in [LoadMode::Read, LoadMode::MapPrivate] {
        assert!(state(&open(&path, mode, true).unwrap()) == before[5].0);
        assert!(state(&open(&path, mode, false).unwrap()) == after.0);
    }
    let mut optimizer = open(&path, LoadMode::MapShared, true).unwrap();
    assert!(state(&optimizer) == before[5].0);
    let mut params = before[5].1.clone();
    // It is the current copy now, and what is later is not older.
    drop(optimizer);
    assert!(state(&open(&path, LoadMode::Read, false).unwrap()) == before[5].0);
    assert!(is_not_whole(open(&path, LoadMode::MapShared, true)));
    optimizer = open(&path, LoadMode::MapShared, false).unwrap();
    step(&mut optimizer, &mut params, 6).unwrap();
    assert!((state(&optimizer), params) == after);
}

#[test]
fn a_copy_that_is_not_whole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    let (mut optimizer, mut params) = (new(), vec![vec![1.0; 1200], vec![2.0; 9]]);
    optimizer.make_live(&path).unwrap();
    drop(optimizer);
    // Before the first step there is none.
    assert!(is_not_whole(open(&path, LoadMode::Read, true)));
    let mut optimizer = open(&path, LoadMode::MapShared, false).unwrap();
    step(&mut optimizer, &mut params, 1).unwrap();
    step(&mut optimizer, &mut params, 2).unwrap();
    // A step that is refused writes nothing.
    let nan = [vec![f32::NAN; 1200], vec![0.0; 9]];
    let grads = [Some(&nan[0][..]), Some(&nan[1][..])];
    let refused = optimizer.step(
        &StepOptions::default(),
        &mut slices_mut(&mut params),
        &grads,
    );
    assert!(matches!(refused, Err(Error::NonFiniteGradient { .. })));
    drop(optimizer);
    assert_eq!(open(&path, LoadMode::Read, true).unwrap().step_count(), 1);
    // One that is aborted has written it.
    let mut optimizer = open(&path, LoadMode::MapShared, false).unwrap();
    let grads: Vec<_> = model().iter().map(|t| vec![0.5f32; t.len()]).collect();
    let grads: Vec<_> = grads.iter().map(|g| Some(Elements::new(g))).collect();
    let mut lent: Vec<_> = params.iter_mut().map(|p| p.as_mut_slice().into()).collect();
    let mut stages = optimizer
        .stages(&StepOptions::default(), &mut lent, &grads)
        .unwrap();
    stages.next().unwrap();
    stages.next().unwrap();
    drop(stages);
    drop(optimizer);
    assert!(is_not_whole(open(&path, LoadMode::Read, true)));
    // A copy of the file was verified only as far as it is current, and a file that is not
    // live has one copy.
    let mut optimizer = open(&path, LoadMode::MapShared, false).unwrap();
    step(&mut optimizer, &mut params, 3).unwrap();
    let saved = folder.path().join("saved");
    optimizer.save(&saved, None).unwrap();
    drop(optimizer);
    let copied = folder.path().join("copied");
    std::fs::copy(&path, &copied).unwrap();
    assert_eq!(
        open(&copied, LoadMode::Read, false).unwrap().step_count(),
        3
    );
    assert!(is_not_whole(open(&copied, LoadMode::Read, true)));
    assert_eq!(open(&path, LoadMode::Read, true).unwrap().step_count(), 2);
    let opened = open(&saved, LoadMode::Read, true);
    assert!(matches!(opened, Err(Error::NotALiveFile { .. })));
}
