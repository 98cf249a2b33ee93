//! Shards: files of processes that each have some rows of the tensors, loaded by other
//! numbers of processes, merged into one file, and split again.

#[macro_use]
#[path = "../common/refusal.rs"]
mod refusal;
#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod folder;
mod refused;
mod sets;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{correlated, elements, elements_mut, normal, options, rng, slices_mut};
use sonew::checkpoint::{merge, Checkpoint};
use sonew::dtype::Dtype;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, StepOptions};
use sonew::{LoadOptions, Optimizer};

/// Steps of each part of the training.
const STEPS: u64 = 3;

/// The whole tensors: chains end with the rows, so that no cut loses anything. The last
/// one is on every process whole.
fn whole() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("weight", &[7, 40]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("small", &[7, 40])
            .with_chains(Chains::ContiguousLines)
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16)
            .with_master(),
        TensorSpec::new("bias", &[7]).with_update(Update::Adam),
        TensorSpec::new("scale", &[]),
    ]
}

/// The rows of process `index` of `count`.
fn rows(rows: usize, index: usize, count: usize) -> std::ops::Range<usize> {
    rows * index / count..rows * (index + 1) / count
}

/// One of several processes that train, without norms of whole tensors.
struct Process {
    optimizer: Optimizer,
    params: Vec<Vec<f32>>,
    index: usize,
    count: usize,
}

impl Process {
    fn new(index: usize, count: usize) -> Process {
        let spec = |spec: TensorSpec| match spec.dims.first() {
            Some(&all) => {
                let own = rows(all, index, count);
                let mut part = spec.clone().with_shard(own.start, all);
                part.dims[0] = own.len();
                part
            }
            None => spec,
        };
        let specs: Vec<_> = whole().into_iter().map(spec).collect();
        let options = Options {
            band: 3,
            graft: Graft::None,
            damping: Damping::Absolute,
            threads: 1,
            ..Options::default()
        };
        let mut rng = rng(1);
        let start: Vec<_> = whole().iter().map(|t| normal(&mut rng, t.len())).collect();
        let mut process = Process {
            optimizer: Optimizer::new(options, &specs).unwrap(),
            params: Vec::new(),
            index,
            count,
        };
        process.params = process.own(start);
        process
    }

    /// What this process has of whole arrays.
    fn own(&self, arrays: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let pairs = whole().into_iter().zip(arrays);
        let part = |(spec, array): (TensorSpec, Vec<f32>)| match spec.dims.first() {
            Some(&all) => {
                let (own, len) = (rows(all, self.index, self.count), array.len() / all);
                array[own.start * len..own.end * len].to_vec()
            }
            None => array,
        };
        pairs.map(part).collect()
    }

    fn step(&mut self) {
        let mut rng = rng(100 + self.optimizer.step_count());
        let grads = whole().into_iter();
        let grads = grads.map(|t| correlated(&mut rng, t.len())).collect();
        let grads: Vec<_> = self.own(grads).into_iter().map(Some).collect();
        let params = &mut slices_mut(&mut self.params);
        let step = StepOptions::default();
        self.optimizer
            .step(&step, params, &options(&grads))
            .unwrap();
    }

    fn load(&mut self, paths: &[PathBuf]) {
        let load = LoadOptions {
            paths: paths[1..].to_vec(),
            ..LoadOptions::default()
        };
        self.params.iter_mut().for_each(|p| p.fill(0.0));
        let params = &mut elements_mut(&mut self.params);
        self.optimizer.load(&paths[0], &load, Some(params)).unwrap();
    }

    fn save(&self, path: &Path) {
        let params = elements(&self.params);
        self.optimizer.save(path, Some(&params)).unwrap();
    }
}

/// The files of a group of processes.
fn paths(folder: &Path, name: &str, count: usize) -> Vec<PathBuf> {
    let path = |index| folder.join(format!("{name}-{index}-of-{count}"));
    (0..count).map(path).collect()
}

/// One process of a group: loads what another group has saved, if there was one, trains,
/// and saves its shards. The test below runs it in processes of its own.
#[test]
#[ignore = "a child of another test"]
fn trains_a_part() {
    let Some(folder) = env::var_os("SONEW_SHARDS").map(PathBuf::from) else {
        return;
    };
    let number = |name: &str| env::var(name).unwrap().parse::<usize>().unwrap();
    let (index, count, before) = (number("INDEX"), number("COUNT"), number("BEFORE"));
    let mut process = Process::new(index, count);
    if before > 0 {
        process.load(&paths(&folder, "saved", before));
    }
    (0..STEPS).for_each(|_| process.step());
    process.save(&paths(&folder, "saved", count)[index]);
}

/// Runs a group of processes at once.
fn train(folder: &Path, count: usize, before: usize) {
    let start = |index: usize| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "--ignored", "trains_a_part"])
            .env("SONEW_SHARDS", folder)
            .env("INDEX", index.to_string())
            .env("COUNT", count.to_string())
            .env("BEFORE", before.to_string())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..count).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

fn opened(paths: &[PathBuf]) -> Vec<Checkpoint<'static>> {
    paths.iter().map(|p| Checkpoint::open(p).unwrap()).collect()
}

#[test]
fn two_processes_save_three_load_and_one_merges() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone = Process::new(0, 1);
    let path = |name: &str| folder.path().join(name);
    let mut before = 0;
    // Ten processes are more than there are rows.
    for count in [2, 3, 1, 10] {
        train(folder.path(), count, before);
        before = count;
        (0..STEPS).for_each(|_| alone.step());
        alone.save(&path("alone"));
        let saved = paths(folder.path(), "saved", count);
        merge(&opened(&saved), path("merged"), &mut |_| ()).unwrap();
        let [alone, merged] = ["alone", "merged"].map(|name| std::fs::read(path(name)).unwrap());
        assert!(alone == merged, "{count} processes");
    }
    // And one loads what ten have saved.
    let mut one = Process::new(0, 1);
    one.load(&paths(folder.path(), "saved", 10));
    one.save(&path("one"));
    assert!(std::fs::read(path("one")).unwrap() == std::fs::read(path("alone")).unwrap());
}
