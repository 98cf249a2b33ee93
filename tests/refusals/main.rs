//! Calls that the Rust API refuses: each returns exactly its error and changes
//! nothing.

#[macro_use]
#[path = "../common/refusal.rs"]
mod refusal;
mod create;
mod files;
mod step;

use std::path::PathBuf;

use sonew::dtype::{Elements, ElementsMut};
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::{LoadOptions, Optimizer, Result};

fn specs() -> Vec<TensorSpec> {
    vec![TensorSpec::new("a", &[2, 3]), TensorSpec::new("b", &[3])]
}

fn create(change: impl FnOnce(&mut Options)) -> Result<Optimizer> {
    let mut options = Options::default();
    change(&mut options);
    Optimizer::new(options, &specs())
}

fn create_with(tensors: &[TensorSpec]) -> Result<Optimizer> {
    Optimizer::new(Options::default(), tensors)
}

/// An optimizer after a step, with its parameters and gradients.
struct World {
    optimizer: Optimizer,
    a: Vec<f32>,
    b: Vec<f32>,
    grad_a: Vec<f32>,
    grad_b: Vec<f32>,
    folder: tempfile::TempDir,
}

/// Everything that a refused call must not change.
#[derive(Debug, PartialEq)]
struct Seen {
    parameters: Vec<Vec<u32>>,
    planes: Vec<Vec<u8>>,
    settings: Vec<(f64, f64)>,
    step_count: u64,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

impl World {
    fn new() -> Self {
        let mut world = World {
            optimizer: create(|_| {}).unwrap(),
            a: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            b: vec![-1.0, 0.5, 0.0],
            grad_a: vec![0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
            grad_b: vec![1.0, 0.0, -1.0],
            folder: tempfile::tempdir().unwrap(),
        };
        world.step(&StepOptions::default()).unwrap();
        world
    }

    fn step(&mut self, step: &StepOptions) -> Result<()> {
        let params = &mut [&mut self.a[..], &mut self.b[..]];
        let grads = [Some(&self.grad_a[..]), Some(&self.grad_b[..])];
        self.optimizer.step(step, params, &grads)
    }

    fn see(&self) -> Seen {
        let optimizer = &self.optimizer;
        let tensors = 0..optimizer.tensors().len();
        let planes = |i| 0..optimizer.planes(i).unwrap().len();
        let setting = |i| {
            (
                optimizer.settings(i).unwrap().lr_scale,
                optimizer.settings(i).unwrap().weight_decay,
            )
        };
        Seen {
            parameters: vec![bits(&self.a), bits(&self.b)],
            planes: tensors
                .clone()
                .flat_map(|i| {
                    planes(i).map(move |p| optimizer.plane(i, p).unwrap().bytes().to_vec())
                })
                .collect(),
            settings: tensors.map(setting).collect(),
            step_count: optimizer.step_count(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Saves to a file with the parameters.
    fn save(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let params = [&self.a, &self.b].map(|p| Elements::new(p));
        self.optimizer.save(&path, Some(&params)).unwrap();
        path
    }

    fn load(&mut self, path: &PathBuf) -> Result<()> {
        let params = &mut [&mut self.a, &mut self.b].map(|p| ElementsMut::new(p));
        self.optimizer
            .load(path, &LoadOptions::default(), Some(params))
    }

    /// Runs a call that is to be refused and looks whether anything changed.
    fn unchanged<R>(&mut self, call: impl FnOnce(&mut World) -> Result<R>) -> Result<R> {
        let before = self.see();
        let result = call(self);
        assert_eq!(before, self.see());
        result
    }
}
