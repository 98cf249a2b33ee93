//! Files of shards with pooled correlations: sets of any number of processes load on any other,
//! become one file, and are split again.

use std::fs;
use std::path::{Path, PathBuf};

use sonew::checkpoint::{merge, split, Checkpoint, SplitBy};
use sonew::dtype::Elements;
use sonew::layout::TensorSpec;
use sonew::options::StepOptions;
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

use crate::{elements, elements_mut, gradients, model, part, start, structures, Group};

/// How tensors are cut, from one process to three, of which one may have no rows.
const CUTS: [&[f64]; 4] = [&[], &[0.5], &[0.3, 0.3], &[0.2, 0.9]];

/// The tensors that are cut, or have no correlations.
fn cut_model() -> Vec<TensorSpec> {
    model()
        .into_iter()
        .filter(|t| t.name != crate::ON_ALL)
        .collect()
}

fn train(group: &mut Group<f32>, steps: std::ops::Range<u64>) {
    for number in steps {
        let grads = gradients(&group.model, number);
        group.step(&StepOptions::default(), &grads).unwrap();
        group.reduce();
    }
}

impl Group<f32> {
    fn save(&self, folder: &Path, name: &str) -> Vec<PathBuf> {
        let processes = self.processes.iter().enumerate();
        processes
            .map(|(i, process)| {
                let path = folder.join(format!("{name}-{i}"));
                let params = elements(&process.params);
                process.optimizer.save(&path, Some(&params)).unwrap();
                path
            })
            .collect()
    }

    fn load(&mut self, paths: &[PathBuf]) {
        let load = LoadOptions {
            paths: paths[1..].to_vec(),
            ..LoadOptions::default()
        };
        for process in &mut self.processes {
            let params = &mut elements_mut(&mut process.params);
            process
                .optimizer
                .load(&paths[0], &load, Some(params))
                .unwrap();
        }
    }
}

/// Every number of a set is in the set that another number of processes saves after it has
/// loaded it, and in the one file that each of them becomes.
#[test]
fn any_number_of_processes_goes_on_from_a_set() {
    let folder = tempfile::tempdir().unwrap();
    for options in structures() {
        let model = cut_model();
        let group = |cuts: &[f64]| Group::<f32>::new(&options, &model, cuts, &start(&model));
        let merged = |paths: &[PathBuf]| {
            let files: Vec<_> = paths.iter().map(|p| Checkpoint::open(p).unwrap()).collect();
            let path = folder.path().join("merged");
            merge(&files, &path, &mut |_| ()).unwrap();
            (fs::read(&path).unwrap(), path)
        };
        for from in CUTS {
            let mut saving = group(from);
            train(&mut saving, 0..3);
            let set = saving.save(folder.path(), "set");
            let (one, path) = merged(&set);
            for to in CUTS {
                let mut loading = group(to);
                train(&mut loading, 7..8);
                loading.load(&set);
                let again = loading.save(folder.path(), "again");
                assert!(merged(&again).0 == one, "{from:?} {to:?} {options:?}");
                // The sums go on from where they were.
                train(&mut loading, 3..6);
                let mut whole = group(&[]);
                whole.load(std::slice::from_ref(&path));
                train(&mut whole, 3..6);
                let what = format!("from {from:?} to {to:?}: {options:?}");
                crate::assert_close(&loading.params(), &whole.params(), 1e-5, &what);
                loading.load(&again);
            }
            // A split is what optimizers of these rows save.
            let parts = ["x", "y", "z"].map(|name| folder.path().join(name));
            let merged = Checkpoint::open(&path).unwrap();
            split(merged, SplitBy::Rows, &parts, &mut |_| ()).unwrap();
            for part in &parts {
                let header = Checkpoint::open(part).unwrap().header().clone();
                let specs: Vec<_> = header.tensors.iter().map(|t| t.spec.clone()).collect();
                let mut own = Optimizer::new(options.clone(), &specs).unwrap();
                let mut params: Vec<_> = specs.iter().map(|t| vec![0f32; t.len()]).collect();
                let load = LoadOptions::default();
                own.load(&path, &load, Some(&mut elements_mut(&mut params)))
                    .unwrap();
                let saved = folder.path().join("saved");
                own.save(&saved, Some(&elements(&params))).unwrap();
                assert!(fs::read(&saved).unwrap() == fs::read(part).unwrap());
            }
        }
    }
}

/// A rank's own file is mapped, and goes on with the same bits as if it was read.
#[test]
fn a_shard_is_mapped_from_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = cut_model();
    let new = || Group::<f32>::new(&structures()[1], &model, &[0.4], &start(&model));
    let mut saving = new();
    train(&mut saving, 0..3);
    let set = saving.save(folder.path(), "set");
    let [read, mapped] = [LoadMode::Read, LoadMode::MapPrivate].map(|mode| {
        let mut group = new();
        for (process, path) in group.processes.iter_mut().zip(&set) {
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            let params = &mut elements_mut(&mut process.params);
            process.optimizer.load(path, &load, Some(params)).unwrap();
        }
        train(&mut group, 3..6);
        group.params()
    });
    assert!(read == mapped);
}

/// Sums that were set to other numbers on each process, or to those of a process alone, do not
/// belong together, nor do two trainings.
#[test]
fn files_with_other_sums_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let w = || crate::lines("w", &[10, 6]);
    let options = structures()[1].clone();
    let path = |name: &str| folder.path().join(name);
    let save = |name: &str, rows: std::ops::Range<usize>, sum: f32| {
        let spec = part(&w(), &rows);
        let mut optimizer = Optimizer::new(options.clone(), &[spec]).unwrap();
        let mut params = vec![0f32; 6 * rows.len()];
        let grads = vec![1f32; 6 * rows.len()];
        optimizer
            .step(&StepOptions::default(), &mut [&mut params], &[Some(&grads)])
            .unwrap();
        let len = optimizer.partial_sums_len(0).unwrap();
        let sums = vec![sum; len];
        optimizer.set_reduced_sums(0, Elements::new(&sums)).unwrap();
        optimizer
            .change_settings(0, |s| s.scalars.norm_ratio = 1.0)
            .unwrap();
        optimizer.save(path(name), None).unwrap();
    };
    save("a", 0..4, 2.0);
    save("b", 4..10, 2.0);
    save("c", 4..10, 3.0);
    let open = |names: [&str; 2]| names.map(|name| Checkpoint::open(path(name)).unwrap());
    merge(&open(["a", "b"]), path("merged"), &mut |_| ()).unwrap();
    fs::remove_file(path("merged")).unwrap();
    let message = format!(
        "tensor \"w\": its pooled sums are not the same in {:?} and in {:?}: those of the last step \
         have to be added up over all shards before these are saved",
        path("a"),
        path("c")
    );
    let refused = merge(&open(["a", "c"]), path("merged"), &mut |_| ());
    assert_eq!(refused.as_ref().unwrap_err().to_string(), message);
    refused!(
        refused,
        Error::SumsDiffer { tensor, first, second }
            if tensor == "w" && *first == *path("a") && *second == *path("c")
    );
    assert!(!path("merged").exists());
    let load = LoadOptions {
        paths: vec![path("c")],
        ..LoadOptions::default()
    };
    for rows in [0..10, 0..4, 2..8, 10..10] {
        let mut optimizer = Optimizer::new(options.clone(), &[part(&w(), &rows)]).unwrap();
        refused!(
            optimizer.load(path("a"), &load, None),
            Error::SumsDiffer { tensor, .. } if tensor == "w"
        );
        let planes = optimizer.planes(0).unwrap().len();
        for plane in 0..planes {
            let bytes = optimizer.plane(0, plane).unwrap();
            assert!(bytes.bytes().iter().all(|byte| *byte == 0));
        }
        assert_eq!(optimizer.step_count(), 0);
    }
}
