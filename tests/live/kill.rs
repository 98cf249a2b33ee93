//! What a killed process, a copy or a removal leaves of a live file, and how a run goes on.

use std::fs;
use std::path::Path;

use sonew::checkpoint::{self, Checkpoint};
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Result};

use crate::training::{Folder, Seen, Training};
use crate::MODES;

/// A training whose process was killed.
pub struct Killed {
    pub seen: Seen,
    params: Vec<Vec<f32>>,
    options: Options,
}

impl Killed {
    pub fn resume(&self, path: &Path, mode: LoadMode) -> Result<Training> {
        let mut next = Training::new(&self.options);
        next.params.clone_from(&self.params);
        next.load(path, mode)?;
        Ok(next)
    }
}

/// Leaves a live file as a process that is killed leaves it: the same file, with
/// what was in it at this moment.
pub fn left_by_a_kill(training: Training, path: &Path) -> Killed {
    let bytes = fs::read(path).unwrap();
    let killed = Killed {
        seen: training.see(),
        options: training.optimizer.options().clone(),
        params: training.params.clone(),
    };
    drop(training);
    fs::write(path, bytes).unwrap();
    killed
}

#[test]
fn a_live_file_without_its_last_sync_can_be_loaded_but_not_verified() {
    let folder = Folder::new();
    let path = folder.path("live");
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(&path).unwrap();
    let live = left_by_a_kill(live.steps(3), &path);
    refused!(checkpoint::verify(&path), Error::Unsynced { path: p } if p == path);
    assert!(Checkpoint::open(&path).unwrap().is_unsynced());
    for mode in MODES {
        assert!(live.resume(&path, mode).unwrap().see() == live.seen);
    }
    // The last one has closed it.
    checkpoint::verify(&path).unwrap();
}

/// A copy, made while the file is in use, has only what was synced.
#[test]
fn a_copy_of_a_live_file_in_use_has_what_was_synced_or_is_refused() {
    let folder = Folder::new();
    let [path, copy] = ["live", "copy"].map(|name| folder.path(name));
    for mode in MODES {
        let mut live = Training::new(&Options::default()).steps(2);
        live.optimizer.make_live(&path).unwrap();
        let synced = live.see();
        let mut live = live.steps(1);
        fs::copy(&path, &copy).unwrap();
        let found = live.resume(&copy, mode).unwrap();
        assert_eq!(found.see().planes, synced.planes);
        drop(found);
        checkpoint::verify(&copy).unwrap();
        live = live.steps(1);
        fs::copy(&path, &copy).unwrap();
        refused!(live.resume(&copy, mode), Error::Torn { .. });
        refused!(checkpoint::verify(&copy), Error::Torn { .. });
    }
}

#[test]
fn a_live_file_that_was_removed_cannot_be_synced() {
    let folder = Folder::new();
    let [path, moved] = ["live", "moved"].map(|name| folder.path(name));
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(&path).unwrap();
    let live = live.steps(1);
    fs::rename(&path, &moved).unwrap();
    live.optimizer.sync().unwrap();
    let live = live.steps(1);
    fs::remove_file(&moved).unwrap();
    refused!(live.optimizer.sync(), Error::Io { operation: "sync", source, .. }
        if source.kind() == std::io::ErrorKind::NotFound);
}

/// Before the first step there are no master weights in the file, and the parameters
/// are the caller's own; after a reset there are those of the last step.
#[test]
fn a_live_file_can_be_resumed_with_parameters_at_any_time() {
    let specs = [
        TensorSpec::new("w", &[300]).with_master(),
        TensorSpec::new("v", &[70])
            .with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16)
            .with_master(),
    ];
    let create = || Optimizer::new(Options::default(), &specs).unwrap();
    let step = |optimizer: &mut Optimizer, w: &mut [f32], v: &mut [bf16]| {
        let grads = [w.iter().map(|w| w - 3.0).collect(), vec![0.25f32; 70]];
        let grads = grads.each_ref().map(|g: &Vec<f32>| Some(Elements::new(g)));
        let params = &mut [ElementsMut::new(w), ElementsMut::new(v)];
        optimizer
            .step_any(&StepOptions::default(), params, &grads)
            .unwrap();
    };
    let folder = Folder::new();
    let path = folder.path("live");
    for mode in MODES {
        for steps in [0, 1, 3] {
            let (mut w, mut v) = (vec![1.5f32; 300], vec![bf16::from_f32(0.3); 70]);
            let mut optimizer = create();
            optimizer.make_live(&path).unwrap();
            (0..steps).for_each(|_| step(&mut optimizer, &mut w, &mut v));
            let (last_w, last_v) = (w.clone(), v.clone());
            if steps > 0 {
                // These are lost with the process.
                w.fill(9.0);
                optimizer.reset_master().unwrap();
            }
            let bytes = fs::read(&path).unwrap();
            drop(optimizer);
            fs::write(&path, bytes).unwrap();

            let mut optimizer = create();
            if steps > 0 {
                w.fill(0.0);
                v.fill(bf16::ZERO);
            }
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            let params = &mut [ElementsMut::new(&mut w), ElementsMut::new(&mut v)];
            optimizer.load(&path, &load, Some(params)).unwrap();
            assert!((&w, &v) == (&last_w, &last_v), "{mode:?} {steps}");
            // It goes on as one that was never interrupted.
            let mut whole = create();
            let (mut whole_w, mut whole_v) = (vec![1.5f32; 300], vec![bf16::from_f32(0.3); 70]);
            (0..steps + 2).for_each(|_| step(&mut whole, &mut whole_w, &mut whole_v));
            (0..2).for_each(|_| step(&mut optimizer, &mut w, &mut v));
            assert!((w, v) == (whole_w, whole_v), "{mode:?} {steps}");
        }
    }
}

/// Without parameters the next step begins with the caller's, as was asked for.
#[test]
fn a_reset_that_a_kill_has_followed_is_still_one() {
    let specs = [TensorSpec::new("w", &[300]).with_master()];
    let create = || Optimizer::new(Options::default(), &specs).unwrap();
    let step = |optimizer: &mut Optimizer, w: &mut Vec<f32>| {
        let options = StepOptions::default();
        optimizer
            .step(&options, &mut [w], &[Some(&vec![0.5f32; 300])])
            .unwrap();
    };
    let folder = Folder::new();
    let path = folder.path("live");
    for mode in MODES {
        let mut optimizer = create();
        let mut w = vec![1.0f32; 300];
        optimizer.make_live(&path).unwrap();
        step(&mut optimizer, &mut w);
        optimizer.reset_master().unwrap();
        let bytes = fs::read(&path).unwrap();
        drop(optimizer);
        fs::write(&path, bytes).unwrap();
        let mut optimizer = create();
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        optimizer.load(&path, &load, None).unwrap();
        w.fill(7.0);
        step(&mut optimizer, &mut w);
        assert!(
            w.iter().all(|&w| (6.9..7.0).contains(&w)),
            "{mode:?} {}",
            w[0]
        );
    }
}
