//! Every file operation of every function that uses a file is made to fail in
//! turn.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::checkpoint::{test_double, Checkpoint, Master};
use crate::dtype::Elements;
use crate::error::Error;
use crate::layout::{TensorSpec, Update};
use crate::optimizer::{LoadMode, LoadOptions};
use crate::options::{Options, StepOptions};

/// No space, an I/O error, no permission.
const ERRORS: [ErrorKind; 3] = [
    ErrorKind::StorageFull,
    ErrorKind::Other,
    ErrorKind::PermissionDenied,
];

struct World {
    folder: TempDir,
    optimizer: Optimizer,
    params: [Vec<f32>; 2],
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    step: u64,
    planes: Vec<Vec<u8>>,
    params: [Vec<f32>; 2],
    lr_scale: f64,
}

impl World {
    /// An optimizer after two steps, with a checkpoint "saved" and a closed live
    /// file "closed" of the same state.
    fn new() -> World {
        let specs = [
            TensorSpec::new("a", &[9, 5]).with_master(),
            TensorSpec::new("b", &[7])
                .with_update(Update::Adam)
                .with_master(),
        ];
        let mut world = World {
            folder: tempfile::tempdir().unwrap(),
            optimizer: Optimizer::new(Options::default(), &specs).unwrap(),
            params: [vec![1.0; 45], vec![2.0; 7]],
        };
        world.step().unwrap();
        world.step().unwrap();
        world.optimizer.make_live(world.path("closed")).unwrap();
        world.optimizer.save(world.path("saved"), None).unwrap();
        let (path, load) = (world.path("saved"), LoadOptions::default());
        world.optimizer.load(path, &load, None).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn step(&mut self) -> Result<()> {
        let step = self.optimizer.step_count() as f32;
        let grads = self
            .params
            .clone()
            .map(|p| p.iter().map(|p| p + step).collect());
        let [a, b]: &[Vec<f32>; 2] = &grads;
        let [pa, pb] = &mut self.params;
        let options = StepOptions::default();
        let optimizer = &mut self.optimizer;
        optimizer.step(&options, &mut [&mut pa[..], pb], &[Some(&a[..]), Some(b)])
    }

    fn see(&self) -> Seen {
        Seen {
            step: self.optimizer.step_count(),
            planes: self
                .optimizer
                .state
                .iter()
                .flat_map(|state| state.elements.iter().map(|bytes| bytes.to_vec()))
                .collect(),
            params: self.params.clone(),
            lr_scale: self.optimizer.settings(0).unwrap().lr_scale,
        }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The step count and the planes that another optimizer loads from a file.
    fn found(&self, name: &str) -> (u64, Vec<Vec<u8>>) {
        let mut other = Optimizer::new(self.optimizer.options().clone(), &self.optimizer.specs);
        let other = other.as_mut().unwrap();
        let path = self.path(name);
        other.load(path, &LoadOptions::default(), None).unwrap();
        let planes = other.state.iter().flat_map(|state| &state.elements);
        let planes = planes.map(|bytes| bytes.to_vec()).collect();
        (other.step_count(), planes)
    }
}

/// Runs `call` in a world that `prepare` has made, once for each of its file
/// operations with that operation failing, and at last without a failure.
/// `after` is told whether one failed.
fn every_operation(
    prepare: impl Fn() -> World,
    call: impl Fn(&mut World) -> Result<()>,
    after: impl Fn(&mut World, &Seen, bool),
) -> usize {
    let mut operations = 0;
    for error in ERRORS {
        operations = 0;
        loop {
            let mut world = prepare();
            let before = world.see();
            test_double::fail_after(operations, error);
            let outcome = call(&mut world);
            let all_done = test_double::clear();
            match &outcome {
                Ok(()) => {}
                Err(Error::Io { source, .. }) if !all_done => assert_eq!(source.kind(), error),
                Err(error) => panic!("{operations}: {error:?}"),
            }
            after(&mut world, &before, outcome.is_err());
            if all_done {
                break;
            }
            operations += 1;
        }
    }
    operations
}

fn live() -> World {
    let mut world = World::new();
    world.optimizer.make_live(world.path("live")).unwrap();
    world
}

/// A world that has stepped since it was synced.
fn stepped() -> World {
    let mut world = live();
    world.step().unwrap();
    world
}

#[test]
fn a_file_that_cannot_be_made_live_leaves_all_as_it_was() {
    let operations = every_operation(
        World::new,
        |world| world.optimizer.make_live(world.path("saved")),
        |world, before, failed| {
            assert_eq!(&world.see(), before);
            assert_eq!(world.names(), ["closed", "saved"]);
            if failed {
                let found = world.found("saved");
                assert_eq!(found, (before.step, before.planes.clone()));
            }
            world.step().unwrap();
            world.optimizer.make_live(world.path("saved")).unwrap();
            assert_eq!(world.names(), ["closed", "saved"]);
        },
    );
    assert!(operations > 20, "{operations}");
}

#[test]
fn a_live_file_that_cannot_be_opened_leaves_all_as_it_was() {
    let operations = every_operation(
        || {
            let mut world = World::new();
            world.step().unwrap();
            world
        },
        |world| {
            let load = LoadOptions {
                mode: LoadMode::MapShared,
                ..LoadOptions::default()
            };
            world.optimizer.load(world.path("closed"), &load, None)
        },
        |world, before, failed| {
            if failed {
                assert_eq!(&world.see(), before);
                let found = world.found("closed");
                assert_eq!(found.0, before.step - 1);
            }
            assert_eq!(world.names(), ["closed", "saved"]);
            world.step().unwrap();
        },
    );
    assert!(operations >= 15, "{operations}");
}

#[test]
fn a_file_that_cannot_be_mapped_leaves_all_as_it_was() {
    let operations = every_operation(
        || {
            let mut world = live();
            world.step().unwrap();
            world
        },
        |world| {
            let load = LoadOptions {
                mode: LoadMode::MapPrivate,
                ..LoadOptions::default()
            };
            world.optimizer.load(world.path("saved"), &load, None)
        },
        |world, before, failed| {
            if failed {
                assert_eq!(&world.see(), before);
                assert!(world.optimizer.live_file().is_some());
            }
            world.step().unwrap();
        },
    );
    assert!(operations > 6, "{operations}");
}

/// The first step after a sync is the one that writes to the disk that the file
/// is in use.
#[test]
fn a_live_step_that_cannot_be_noted_changes_nothing() {
    let operations = every_operation(live, World::step, |world, before, failed| {
        if failed {
            assert_eq!(&world.see(), before);
            world.step().unwrap();
        }
        let mut other = World::new();
        other.step().unwrap();
        assert_eq!(world.see(), other.see());
        assert_eq!(
            world.optimizer.live_file(),
            Some(world.path("live").as_path())
        );
    });
    assert_eq!(operations, 1);
}

#[test]
fn a_setting_that_cannot_be_noted_changes_nothing() {
    let operations = every_operation(
        live,
        |world| world.optimizer.change_settings(0, |s| s.lr_scale = 0.5),
        |world, before, failed| {
            let expected = if failed { before.lr_scale } else { 0.5 };
            assert_eq!(world.see().lr_scale, expected);
        },
    );
    assert_eq!(operations, 1);
    every_operation(
        live,
        |world| world.optimizer.reset_master(),
        |world, before, failed| {
            // The planes stay until the next step is complete.
            assert_eq!(&world.see(), before);
            let reset = world.optimizer.state[0].master == Master::Reset;
            assert_eq!(reset, !failed);
        },
    );
}

#[test]
fn a_sync_that_fails_can_be_made_again() {
    let calls: [fn(&World) -> Result<()>; 2] = [
        |world| world.optimizer.sync(),
        |world| world.optimizer.save(world.path("live"), None),
    ];
    for call in calls {
        let operations = every_operation(
            stepped,
            |world| call(world),
            |world, before, _| {
                assert_eq!(&world.see(), before);
                world.optimizer.sync().unwrap();
                let copy = world.path("copy");
                fs::copy(world.path("live"), &copy).unwrap();
                Checkpoint::open(&copy).unwrap().verify().unwrap();
                assert_eq!(world.found("copy"), (before.step, before.planes.clone()));
            },
        );
        assert_eq!(operations, 3);
    }
}

/// Freeing an optimizer reports no error; the file can still be opened.
#[test]
fn a_close_that_fails_leaves_a_file_that_opens() {
    let operations = every_operation(
        stepped,
        |world| {
            let fresh = Optimizer::new(Options::default(), &world.optimizer.specs)?;
            drop(std::mem::replace(&mut world.optimizer, fresh));
            Ok(())
        },
        |world, before, _| {
            assert_eq!(world.found("live").0, before.step);
        },
    );
    // Whether it has a name, the state, and that it is not in use.
    assert_eq!(operations, 3);
}

#[test]
fn a_save_of_live_state_that_fails_leaves_the_older_file() {
    let operations = every_operation(
        stepped,
        |world| {
            let params = [&world.params[0], &world.params[1]].map(|p| Elements::new(p));
            world.optimizer.save(world.path("saved"), Some(&params))
        },
        |world, before, failed| {
            assert_eq!(&world.see(), before);
            assert_eq!(world.names(), ["closed", "live", "saved"]);
            let step = world.found("saved").0;
            assert!(step == before.step || failed && step == before.step - 1);
        },
    );
    assert!(operations > 12, "{operations}");
}
