//! Files of one small model, in a folder.

use std::fs;
use std::path::PathBuf;

use sonew::checkpoint::{merge, Checkpoint};
use sonew::dtype::{Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec};
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadOptions, Optimizer, Result, TensorSettings};

/// Rows of a matrix of 8 rows, and a vector that everyone has whole.
pub fn specs(first: usize, rows: usize) -> Vec<TensorSpec> {
    let mut specs = vec![
        TensorSpec::new("w", &[rows, 3]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("common", &[5]),
    ];
    if rows < 8 {
        specs[0] = specs[0].clone().with_shard(first, 8);
    }
    specs
}

/// Steps of an optimizer of these rows, whose gradients follow from the element.
pub fn step(optimizer: &mut Optimizer, params: &mut [Vec<f32>], first: usize) {
    let wave = |i: usize| (i as f32 + 1.5).sin();
    let w = (3 * first..3 * first + params[0].len())
        .map(wave)
        .collect::<Vec<_>>();
    let common: Vec<f32> = (0..5).map(wave).collect();
    let [a, b] = params else {
        panic!("two tensors");
    };
    let options = StepOptions::default();
    optimizer
        .step(&options, &mut [a, b], &[Some(&w), Some(&common)])
        .unwrap();
}

pub fn options() -> Options {
    Options {
        graft: sonew::options::Graft::None,
        // Parts are stepped without stages, and know no number of the whole tensor.
        damping: sonew::options::Damping::Absolute,
        threads: 1,
        ..Options::default()
    }
}

/// Files of optimizers in a folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Saves rows after so many steps, of an optimizer that was changed before.
    pub fn save_changed(
        &self,
        name: &str,
        (first, rows): (usize, usize),
        steps: usize,
        options: &Options,
        change: impl FnOnce(&mut Optimizer),
    ) {
        let mut optimizer = Optimizer::new(options.clone(), &specs(first, rows)).unwrap();
        let mut params = vec![vec![1.0; 3 * rows], vec![1.0; 5]];
        (0..steps).for_each(|_| step(&mut optimizer, &mut params, first));
        change(&mut optimizer);
        let params = [Elements::new(&params[0]), Elements::new(&params[1])];
        optimizer.save(self.path(name), Some(&params)).unwrap();
    }

    pub fn save(&self, name: &str, rows: (usize, usize), steps: usize) {
        self.save_changed(name, rows, steps, &options(), |_| ());
    }

    /// Both merges the files and loads them, into an optimizer that has been used: both are
    /// refused with the same error, and change nothing.
    pub fn refused(&self, names: &[&str]) -> Error {
        let refused = self.merged(names).unwrap_err();
        assert!(!self.path("merged").exists());
        let mut optimizer = Optimizer::new(options(), &specs(0, 8)).unwrap();
        let mut params = vec![vec![1.0; 24], vec![1.0; 5]];
        step(&mut optimizer, &mut params, 0);
        let before = (held(&optimizer), params.clone());
        let error = self.load_into(&mut optimizer, &mut params, names, |_| ());
        assert_eq!(error.unwrap_err().to_string(), refused.to_string());
        assert!((held(&optimizer), params) == before);
        // Nor do they change one that has not been used.
        let mut fresh = Optimizer::new(options(), &specs(0, 8)).unwrap();
        let zero = held(&fresh);
        let mut params = vec![vec![1.0; 24], vec![1.0; 5]];
        let error = self.load_into(&mut fresh, &mut params, names, |_| ());
        assert_eq!(error.unwrap_err().to_string(), refused.to_string());
        assert!(held(&fresh) == zero && params == [vec![1.0; 24], vec![1.0; 5]]);
        refused
    }

    pub fn merged(&self, names: &[&str]) -> Result<()> {
        merge(&self.open(names), self.path("merged"), &mut |_| ())
    }

    pub fn open(&self, names: &[&str]) -> Vec<Checkpoint<'static>> {
        let open = |name: &&str| Checkpoint::open(self.path(name)).unwrap();
        names.iter().map(open).collect()
    }

    pub fn load_into(
        &self,
        optimizer: &mut Optimizer,
        params: &mut [Vec<f32>],
        names: &[&str],
        change: impl FnOnce(&mut LoadOptions),
    ) -> Result<()> {
        let mut load = LoadOptions {
            paths: names[1..].iter().map(|name| self.path(name)).collect(),
            ..LoadOptions::default()
        };
        change(&mut load);
        let mut params: Vec<_> = params.iter_mut().map(|p| ElementsMut::new(p)).collect();
        optimizer.load(self.path(names[0]), &load, Some(&mut params))
    }

    /// Loads rows from files, and saves them again.
    pub fn saved_again(&self, rows: (usize, usize), names: &[&str]) -> Vec<u8> {
        let mut optimizer = Optimizer::new(options(), &specs(rows.0, rows.1)).unwrap();
        let mut params = vec![vec![0.0; 3 * rows.1], vec![0.0; 5]];
        self.load_into(&mut optimizer, &mut params, names, |_| ())
            .unwrap();
        let params = [Elements::new(&params[0]), Elements::new(&params[1])];
        optimizer.save(self.path("again"), Some(&params)).unwrap();
        fs::read(self.path("again")).unwrap()
    }
}

/// What an optimizer holds: its step count, its planes, and the settings of each tensor.
type Held = (u64, Vec<Vec<u8>>, Vec<TensorSettings>);

pub fn held(optimizer: &Optimizer) -> Held {
    let mut planes = Vec::new();
    let mut settings = Vec::new();
    for tensor in 0..optimizer.tensors().len() {
        for plane in 0..optimizer.planes(tensor).unwrap().len() {
            planes.push(optimizer.plane(tensor, plane).unwrap().bytes().to_vec());
        }
        settings.push(optimizer.settings(tensor).unwrap());
    }
    (optimizer.step_count(), planes, settings)
}
