//! State in a live file, or mapped privately from a file.

#[macro_use]
#[path = "../common/refusal.rs"]
mod refusal;

#[path = "../common/mod.rs"]
mod common;
mod kill;
mod training;

use std::fs;
use std::path::Path;

use kill::left_by_a_kill;
use sonew::checkpoint;
use sonew::dtype::{Elements, ElementsMut};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};
use training::{tensors, variants, Folder, Training};

const MODES: [LoadMode; 3] = [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared];

#[test]
fn training_on_a_live_file_has_the_bits_of_training_in_memory() {
    for options in variants() {
        let folder = Folder::new();
        let path = folder.path("live");
        for start in [0, 3] {
            let mut live = Training::new(&options).steps(start);
            live.optimizer.make_live(&path).unwrap();
            assert_eq!(live.optimizer.live_file(), Some(&path as &Path));
            for step in start..12 {
                assert!(
                    live.see() == Training::new(&options).steps(step).see(),
                    "{step}"
                );
                live.step().unwrap();
            }
            assert!(live.see() == Training::new(&options).steps(12).see());
        }
    }
}

#[test]
fn a_closed_live_file_opens_in_every_mode_and_goes_on() {
    for options in variants() {
        let folder = Folder::new();
        let path = folder.path("live");
        for steps in [1, 4, 5] {
            let mut live = Training::new(&options);
            live.optimizer.make_live(&path).unwrap();
            let live = live.steps(steps);
            let seen = live.see();
            let params = Training {
                optimizer: Optimizer::new(options.clone(), &tensors()).unwrap(),
                params: live.params.clone(),
            };
            drop(live);
            checkpoint::verify(&path).unwrap();
            for mode in MODES {
                let resumed = params.resume(&path, mode).unwrap();
                assert!(resumed.see() == seen, "{mode:?}");
                let whole = Training::new(&options).steps(steps + 3);
                // What is mapped shared comes last: it moves the file.
                assert!(resumed.steps(3).see() == whole.see(), "{mode:?}");
            }
        }
    }
}

#[test]
fn a_checkpoint_that_is_mapped_privately_goes_on_and_is_never_changed() {
    let folder = Folder::new();
    let path = folder.path("saved");
    let whole = Training::new(&Options::default()).steps(7);
    let saved = Training::new(&Options::default()).steps(4);
    saved.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mapped = saved.resume(&path, LoadMode::MapPrivate).unwrap().steps(3);
    assert!(mapped.see() == whole.see());
    assert!(fs::read(&path).unwrap() == bytes);

    // Saved onto the very file: a new one of its name, and the mapping stays.
    mapped.save(&path).unwrap();
    assert!(mapped.see() == whole.see());
    let again = mapped.resume(&path, LoadMode::Read).unwrap();
    assert!(again.see() == whole.see());
    assert!(mapped.steps(1).see() == again.steps(1).see());
    assert_eq!(folder.names(), ["saved"]);
}

#[test]
fn one_private_mapping_knows_nothing_of_another() {
    let folder = Folder::new();
    let path = folder.path("saved");
    let saved = Training::new(&Options::default()).steps(2);
    saved.save(&path).unwrap();
    let one = saved.resume(&path, LoadMode::MapPrivate).unwrap().steps(5);
    let other = saved.resume(&path, LoadMode::MapPrivate).unwrap();
    assert!(other.see() == saved.see());
    drop(one);
    fs::remove_file(&path).unwrap();
    assert!(other.see() == saved.see());
}

#[test]
fn a_live_file_in_use_is_for_nobody_else() {
    let folder = Folder::new();
    let path = folder.path("live");
    let other = folder.path("other");
    let mut live = Training::new(&Options::default()).steps(1);
    live.optimizer.make_live(&path).unwrap();
    let mut second = Training::new(&Options::default()).steps(2);
    second.save(&other).unwrap();
    let seen = (live.see(), second.see());
    for mode in MODES {
        refused!(second.load(&path, mode), Error::FileLocked { path: p } if p == path);
        refused!(live.load(&path, mode), Error::FileLocked { .. });
    }
    refused!(second.save(&path), Error::FileLocked { .. });
    refused!(second.optimizer.make_live(&path), Error::FileLocked { .. });
    let begun = second.optimizer.save_begin(&path, None).unwrap();
    refused!(begun.finish(), Error::FileLocked { .. });
    refused!(checkpoint::verify(&path), Error::FileLocked { .. });
    assert!(seen == (live.see(), second.see()));
    assert_eq!(folder.names(), ["live", "other"]);

    // Readers do not keep each other out, but do a writer.
    drop(live);
    let reader = second.resume(&path, LoadMode::MapPrivate).unwrap();
    checkpoint::verify(&path).unwrap();
    refused!(
        second.load(&path, LoadMode::MapShared),
        Error::FileLocked { .. }
    );
    drop(reader);
    second.load(&path, LoadMode::MapShared).unwrap();
    assert_eq!(second.see().planes, seen.0.planes);
}

#[test]
fn a_live_file_may_be_saved_beside_moved_and_left() {
    let folder = Folder::new();
    let [first, second, beside] = ["first", "second", "beside"].map(|name| folder.path(name));
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(&first).unwrap();
    let live = live.steps(2);
    live.save(&beside).unwrap();
    assert!(live.resume(&beside, LoadMode::Read).unwrap().see() == live.see());
    let mut live = live.steps(1);
    live.optimizer.make_live(&second).unwrap();
    // The first is closed at its last step.
    checkpoint::verify(&first).unwrap();
    assert!(live.resume(&first, LoadMode::MapShared).unwrap().see() == live.see());
    // A load leaves the file.
    let mut live = live.steps(1);
    let last = live.see();
    live.load(&beside, LoadMode::Read).unwrap();
    assert_eq!((live.optimizer.live_file(), live.see().step), (None, 2));
    assert_eq!(live.resume(&second, LoadMode::Read).unwrap().see(), last);
    refused!(live.optimizer.sync(), Error::NotLive);
}

#[test]
fn a_file_of_some_of_the_tensors_can_be_loaded_into_live_state() {
    let folder = Folder::new();
    let [path, some] = ["live", "some"].map(|name| folder.path(name));
    let fewer = &tensors()[..2];
    let optimizer = Optimizer::new(Options::default(), fewer).unwrap();
    optimizer.save(&some, None).unwrap();
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(&path).unwrap();
    let mut live = live.steps(3);
    let before = live.see();
    let load = LoadOptions {
        common_tensors_only: true,
        ..LoadOptions::default()
    };
    live.optimizer.load(&some, &load, None).unwrap();
    let after = live.see();
    assert_eq!(live.optimizer.live_file(), None);
    assert!(after.planes[..6].iter().flatten().all(|&byte| byte == 0));
    assert_eq!(after.planes[6..], before.planes[6..]);
    live.optimizer.make_live(&path).unwrap();
    assert!(live.see() == after);
}

#[test]
fn saving_onto_the_own_live_file_is_a_sync() {
    let folder = Folder::new();
    let path = folder.path("live");
    let specs = [TensorSpec::new("w", &[100]).with_master()];
    let mut optimizer = Optimizer::new(Options::default(), &specs).unwrap();
    let mut w = vec![1.0f32; 100];
    optimizer.make_live(&path).unwrap();
    let step = StepOptions::default();
    optimizer
        .step(&step, &mut [&mut w], &[Some(&vec![0.5f32; 100])])
        .unwrap();
    let link = folder.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    optimizer.save(&link, Some(&[Elements::new(&w)])).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    optimizer.save_begin(&path, None).unwrap().finish().unwrap();
    assert_eq!(folder.names(), ["link", "live"]);
    // A copy of it is a whole checkpoint.
    let copy = folder.path("copy");
    fs::copy(&path, &copy).unwrap();
    checkpoint::verify(&copy).unwrap();
    let mut loaded = vec![0.0f32; 100];
    for mode in MODES {
        let mut other = Optimizer::new(Options::default(), &specs).unwrap();
        loaded.fill(0.0);
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        let params = &mut [ElementsMut::new(&mut loaded)];
        other.load(&copy, &load, Some(params)).unwrap();
        assert_eq!(loaded, w);
    }
    drop(optimizer);

    // Parameters that only a save would keep are not dropped silently.
    let mut plain = Optimizer::new(Options::default(), &[TensorSpec::new("w", &[100])]).unwrap();
    plain.make_live(&path).unwrap();
    plain.save(&path, None).unwrap();
    refused!(
        plain.save(&path, Some(&[Elements::new(&w)])),
        Error::PlaneMissing { plane, .. } if plane == "parameter"
    );
}

#[test]
fn settings_are_in_the_live_file_at_once() {
    let folder = Folder::new();
    let path = folder.path("live");
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(&path).unwrap();
    let mut live = live.steps(1);
    live.optimizer.sync().unwrap();
    live.optimizer
        .change_settings(1, |s| s.lr_scale = 0.25)
        .unwrap();
    live.optimizer
        .change_settings(4, |s| s.weight_decay = 0.5)
        .unwrap();
    live.optimizer
        .change_settings(2, |s| s.step_count = 77)
        .unwrap();
    refused!(
        live.optimizer.change_settings(1, |s| s.lr_scale = -1.0),
        Error::OutOfRange { .. }
    );
    refused!(
        live.optimizer
            .change_settings(1, |s| s.step_count = 1 << 47),
        Error::OutOfRange { .. }
    );
    let live = left_by_a_kill(live, &path);
    let resumed = live.resume(&path, LoadMode::MapShared).unwrap();
    assert!(resumed.see() == live.seen);
    assert_eq!(resumed.optimizer.settings(1).unwrap().lr_scale, 0.25);
    assert_eq!(resumed.optimizer.settings(2).unwrap().step_count, 77);
    // And stay there.
    let live = left_by_a_kill(resumed.steps(2), &path);
    let resumed = live.resume(&path, LoadMode::Read).unwrap();
    assert!(resumed.see() == live.seen);
}

#[test]
fn a_skipped_step_leaves_the_live_state() {
    let folder = Folder::new();
    let mut live = Training::new(&Options::default());
    live.optimizer.make_live(folder.path("live")).unwrap();
    let mut live = live.steps(2);
    let before = live.see();
    let mut grads: Vec<_> = live
        .params
        .iter()
        .map(|p| Some(vec![1.0f32; p.len()]))
        .collect();
    grads[5].as_mut().unwrap()[7] = f32::NAN;
    let skipped = live.optimizer.step(
        &StepOptions::default(),
        &mut common::slices_mut(&mut live.params),
        &common::options(&grads),
    );
    refused!(skipped, Error::NonFiniteGradient { .. });
    assert!(live.see() == before);
    let whole = Training::new(&Options::default()).steps(4);
    assert!(live.steps(2).see() == whole.see());
}

#[test]
fn master_weights_are_forgotten_in_a_live_file_too() {
    let folder = Folder::new();
    let run = |live: bool| {
        let mut training = Training::new(&Options::default());
        if live {
            training.optimizer.make_live(folder.path("live")).unwrap();
        }
        let mut training = training.steps(3);
        training.params[2].fill(0.5);
        training.optimizer.reset_master().unwrap();
        let reset = training.see();
        (reset, training.steps(3).see())
    };
    assert!(run(true) == run(false));
}

#[test]
fn what_a_shared_mapping_refuses() {
    let folder = Folder::new();
    let [path, saved] = ["live", "saved"].map(|name| folder.path(name));
    let mut training = Training::new(&Options::default()).steps(1);
    training.save(&saved).unwrap();
    let before = training.see();
    refused!(training.load(&saved, LoadMode::MapShared), Error::NotALiveFile { path } if path == saved);
    Training::new(&Options::default())
        .optimizer
        .make_live(&path)
        .unwrap();
    type Change = fn(&mut LoadOptions);
    let changes: [(&str, Change); 3] = [
        ("override_options", |l| l.override_options = true),
        ("common_tensors_only", |l| l.common_tensors_only = true),
        ("rename", |l| l.rename.push(("rows".into(), "rows".into()))),
    ];
    for (name, change) in changes {
        let mut load = LoadOptions {
            mode: LoadMode::MapShared,
            ..LoadOptions::default()
        };
        change(&mut load);
        refused!(
            training.optimizer.load(&path, &load, None),
            Error::SharedOption { option } if option == name
        );
    }
    let other = Options {
        beta1: 0.5,
        ..Options::default()
    };
    refused!(
        Training::new(&other).load(&path, LoadMode::MapShared),
        Error::OptionDiffers {
            option: "beta1",
            ..
        }
    );
    assert!(training.see() == before);
    training.load(&path, LoadMode::MapShared).unwrap();
}

#[test]
fn tensors_in_another_order_are_found_in_a_live_file() {
    let folder = Folder::new();
    let path = folder.path("live");
    let specs = [
        TensorSpec::new("a", &[40]).with_master(),
        TensorSpec::new("b", &[30, 2]).with_update(Update::Adam),
    ];
    let backwards = [specs[1].clone(), specs[0].clone()];
    let grads = [vec![0.5f32; 40], vec![-0.25f32; 60]];
    let step = StepOptions::default();
    let run = |live: bool| {
        let mut params = [vec![1.0f32; 40], vec![2.0f32; 60]];
        let mut one = Optimizer::new(Options::default(), &specs).unwrap();
        if live {
            one.make_live(&path).unwrap();
        }
        one.change_settings(0, |s| s.lr_scale = 0.5).unwrap();
        let [a, b] = &mut params;
        one.step(
            &step,
            &mut [&mut a[..], b],
            &[Some(&grads[0][..]), Some(&grads[1])],
        )
        .unwrap();
        if live {
            drop(one);
            let mut two = Optimizer::new(Options::default(), &backwards).unwrap();
            let load = LoadOptions {
                mode: LoadMode::MapShared,
                ..LoadOptions::default()
            };
            two.load(&path, &load, None).unwrap();
            two.step(
                &step,
                &mut [&mut b[..], a],
                &[Some(&grads[1][..]), Some(&grads[0])],
            )
            .unwrap();
            drop(two);
            one = Optimizer::new(Options::default(), &specs).unwrap();
            one.load(&path, &load, None).unwrap();
        } else {
            one.step(
                &step,
                &mut [&mut a[..], b],
                &[Some(&grads[0][..]), Some(&grads[1])],
            )
            .unwrap();
        }
        let planes: Vec<_> = (0..4)
            .map(|p| one.plane(0, p).unwrap().bytes().to_vec())
            .collect();
        (
            params,
            planes,
            one.settings(0).unwrap().lr_scale,
            one.step_count(),
        )
    };
    assert!(run(true) == run(false));
}

#[test]
fn a_background_save_is_of_the_moment_in_which_it_began() {
    let folder = Folder::new();
    let path = folder.path("saved");
    let mut training = Training::new(&Options::default()).steps(2);
    let then = training.see();
    let params = common::elements(&training.params);
    let saving = training.optimizer.save_begin(&path, Some(&params)).unwrap();
    training = training.steps(3);
    let mut restored = Training::new(&Options::default());
    // It outlives the optimizer.
    drop(training);
    saving.finish().unwrap();
    let params = &mut common::elements_mut(&mut restored.params);
    restored
        .optimizer
        .load(&path, &LoadOptions::default(), Some(params))
        .unwrap();
    assert!(restored.see() == then);

    let nowhere = folder.path("none/file");
    let saving = restored.optimizer.save_begin(&nowhere, None).unwrap();
    refused!(saving.finish(), Error::Io { .. });
    let wrong = &[Elements::new(&[1.0f32])];
    refused!(
        restored.optimizer.save_begin(&path, Some(wrong)),
        Error::TensorCount { .. }
    );
    assert_eq!(folder.names(), ["saved"]);
}

#[test]
fn what_is_mapped_is_no_memory_of_the_optimizer() {
    let folder = Folder::new();
    let [path, saved] = ["live", "saved"].map(|name| folder.path(name));
    let mut training = Training::new(&Options::default()).steps(1);
    training.save(&saved).unwrap();
    let (state, memory) = (
        training.optimizer.state_bytes(),
        training.optimizer.memory_bytes(),
    );
    assert!(memory > state);
    training.load(&saved, LoadMode::MapPrivate).unwrap();
    assert_eq!(training.optimizer.state_bytes(), state);
    assert_eq!(training.optimizer.memory_bytes(), memory - state);
    training.optimizer.make_live(&path).unwrap();
    assert_eq!(training.optimizer.state_bytes(), state);
    assert_eq!(training.optimizer.memory_bytes(), memory - state);
    // Its space is there, of both copies.
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 >= metadata.len());
    assert!(metadata.len() > 2 * state as u64);
}
