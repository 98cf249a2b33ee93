//! Training runs of several kinds, and all that can be seen of them.

use std::fs;
use std::path::{Path, PathBuf};

use sonew::dtype::Dtype;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Rounding, StepOptions};
use sonew::{LoadMode, LoadOptions, Optimizer, Result};

use crate::common::{self, normal, rng};

pub fn tensors() -> Vec<TensorSpec> {
    let spec = |name: &str, dims: &[usize], chains| TensorSpec::new(name, dims).with_chains(chains);
    vec![
        spec("rows", &[10, 300], Chains::ContiguousLines),
        spec("columns", &[75, 90], Chains::StridedLines),
        spec("column-major", &[90, 75], Chains::Strided).with_master(),
        spec("tiny", &[], Chains::Contiguous),
        spec("adam", &[700], Chains::Contiguous).with_update(Update::Adam),
        spec("few bits", &[60, 51], Chains::Contiguous)
            .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16)
            .with_master(),
    ]
}

pub fn variants() -> Vec<Options> {
    vec![
        Options::default(),
        Options {
            band: 3,
            damping: Damping::Relative,
            graft: Graft::NormalizedRmsprop,
            ..Options::default()
        },
        Options {
            graft: Graft::None,
            rounding: Rounding::Stochastic,
            seed: 5,
            ..Options::default()
        },
    ]
}

/// An optimizer with parameters; gradients depend on the step alone.
pub struct Training {
    pub optimizer: Optimizer,
    pub params: Vec<Vec<f32>>,
}

/// The complete state of a training run.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub step: u64,
    pub params: Vec<Vec<u8>>,
    pub planes: Vec<Vec<u8>>,
    pub settings: Vec<(f64, f64, u64)>,
}

impl Training {
    pub fn new(options: &Options) -> Training {
        let tensors = tensors();
        let mut random = rng(3);
        let params = tensors.iter().map(|t| normal(&mut random, t.len()));
        Training {
            params: params.collect(),
            optimizer: Optimizer::new(options.clone(), &tensors).unwrap(),
        }
    }

    pub fn step(&mut self) -> Result<()> {
        let step = self.optimizer.step_count();
        let mut random = rng(100 + step);
        // One tensor in six takes no part, and in every fourth step half of
        // them, twice in a row.
        let takes_part =
            |tensor: u64| tensor != step % 6 && (step % 4 < 2 || tensor.is_multiple_of(2));
        let grads: Vec<_> = (0..)
            .zip(&self.params)
            .map(|(i, p)| {
                let grad = normal(&mut random, p.len());
                takes_part(i).then_some(grad)
            })
            .collect();
        let options = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        self.optimizer.step(
            &options,
            &mut common::slices_mut(&mut self.params),
            &common::options(&grads),
        )
    }

    pub fn steps(mut self, count: u64) -> Training {
        for _ in 0..count {
            self.step().unwrap();
        }
        self
    }

    pub fn see(&self) -> Seen {
        let optimizer = &self.optimizer;
        let tensors = 0..self.params.len();
        let planes = tensors.clone().flat_map(|tensor| {
            let planes = 0..optimizer.planes(tensor).unwrap().len();
            planes.map(move |plane| optimizer.plane(tensor, plane).unwrap().bytes().to_vec())
        });
        let setting = |tensor| {
            let decay = optimizer.settings(tensor).unwrap().weight_decay;
            let count = optimizer.settings(tensor).unwrap().step_count;
            (optimizer.settings(tensor).unwrap().lr_scale, decay, count)
        };
        Seen {
            step: optimizer.step_count(),
            params: self
                .params
                .iter()
                .map(|p| bytemuck::cast_slice(p).to_vec())
                .collect(),
            planes: planes.collect(),
            settings: tensors.map(setting).collect(),
        }
    }

    /// A new optimizer that continues from a file, with these parameters.
    pub fn resume(&self, path: &Path, mode: LoadMode) -> Result<Training> {
        let mut next = Training {
            optimizer: Optimizer::new(self.optimizer.options().clone(), self.optimizer.tensors())?,
            params: self.params.clone(),
        };
        next.load(path, mode)?;
        Ok(next)
    }

    pub fn load(&mut self, path: &Path, mode: LoadMode) -> Result<()> {
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        self.optimizer.load(path, &load, None)
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let params = common::elements(&self.params);
        self.optimizer.save(path, Some(&params))
    }
}

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
        names.sort();
        names
    }
}
