//! The trajectories of the authors' own programs, which `tests/golden/README.md`
//! describes: the oracle and the library must follow each of them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::common::{self, largest, options as present, slices_mut, to_f32, to_f64, ULP32};
use safetensors::SafeTensors;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Statistics, StepOptions};
use sonew::oracle::Oracle;
use sonew::Optimizer;

/// Every file with the largest error that the README allows in float32 and in
/// float64.
const FILES: [(&str, f64, f64); 19] = [
    ("jax_band2_graft0", 3e-5, 1e-11),
    ("jax_band2_graft1", 3e-5, 1e-11),
    ("jax_band3_graft0", 3e-5, 1e-11),
    ("jax_band3_graft1", 3e-5, 1e-11),
    ("jax_band4_graft0", 3e-5, 1e-11),
    ("jax_band4_graft1", 3e-5, 1e-11),
    ("jax_band8_graft0", 3e-5, 1e-11),
    ("jax_band8_graft1", 3e-5, 1e-11),
    ("jax_tds_absolute", 3e-5, 1e-11),
    ("jax_tds_graft0", 3e-5, 1e-11),
    ("jax_tds_graft1", 3e-5, 1e-11),
    ("jax_tds_graft2", 3e-5, 1e-11),
    ("jax_tds_graft3", 3e-5, 1e-11),
    ("jax_tds_graft4", 3e-5, 1e-11),
    ("torch_tds_many", 3e-5, 1e-11),
    ("torch_tds_matrix_decay", 6e-2, 2e-10),
    ("torch_tds_thousand", 3e-5, 1e-11),
    ("torch_tds_two", 5e-4, 1e-11),
    ("torch_tds_vector", 3e-4, 1e-11),
];

#[test]
fn every_file_is_tested() {
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let tested = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(found, tested);
}

#[test]
fn the_oracle_follows() {
    for (name, _, bound) in FILES {
        let file = Trajectory::read(name);
        let mut oracle = Oracle::new(&file.options, &file.tensors);
        let mut params = file.start.clone();
        let error = file.largest_error(|_, step, grads| {
            let grads: Vec<_> = grads.into_iter().map(Some).collect();
            oracle.step(step, &mut params, &grads);
            params.clone()
        });
        assert!(
            error <= bound,
            "{name}: error {error:.1e}, at most {bound:.0e}"
        );
        file.check_state(ULP32 * ULP32, |tensor, plane| {
            oracle.tensor(tensor).planes[plane].clone()
        });
    }
}

#[test]
fn the_library_follows() {
    for (name, bound, _) in FILES {
        let file = Trajectory::read(name);
        let mut optimizer = Optimizer::new(file.options.clone(), &file.tensors).unwrap();
        let mut params: Vec<_> = file.start.iter().map(|p| to_f32(p)).collect();
        let error = file.largest_error(|_, step, grads| {
            let grads: Vec<_> = grads.iter().map(|g| Some(to_f32(g))).collect();
            optimizer
                .step(step, &mut slices_mut(&mut params), &present(&grads))
                .unwrap();
            params.iter().map(|p| to_f64(p)).collect()
        });
        assert!(
            error <= bound,
            "{name}: error {error:.1e}, at most {bound:.0e}"
        );
        file.check_state(ULP32, |tensor, plane| {
            to_f64(common::plane(&optimizer, tensor, plane))
        });
    }
}

/// One file.
struct Trajectory {
    name: String,
    options: Options,
    step: StepOptions,
    tensors: Vec<TensorSpec>,
    start: Vec<Vec<f64>>,
    /// `grads[step][tensor]`, and the same for the parameters after the step.
    grads: Vec<Vec<Vec<f64>>>,
    params: Vec<Vec<Vec<f64>>>,
    /// Final momentum, diagonal and sub-diagonal of each tensor, in some files.
    state: Vec<Vec<Vec<f64>>>,
}

impl Trajectory {
    fn read(name: &str) -> Trajectory {
        let bytes = std::fs::read(folder().join(name).with_extension("safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let settings = Settings(header.metadata().as_ref().unwrap());
        let steps: usize = settings.number("steps");
        let count = file
            .names()
            .iter()
            .filter(|n| n.starts_with("param0."))
            .count();
        let all = |what: &str| -> Vec<Vec<f64>> {
            (0..count)
                .map(|i| values(&file, &format!("{what}.{i}")))
                .collect()
        };
        let state = match file.names().iter().any(|n| n.starts_with("exp_avg.")) {
            true => (0..count).map(|i| final_state(&file, i)).collect(),
            false => Vec::new(),
        };
        let tensors: Vec<TensorSpec> = (0..count)
            .map(|i| settings.tensor(i, file.tensor(&format!("param0.{i}")).unwrap().shape()))
            .collect();
        let listed: Vec<_> = tensors.iter().map(|t| t.dims.clone()).collect();
        assert_eq!(format!("{listed:?}"), settings.text("shapes"), "{name}");
        Trajectory {
            name: name.to_owned(),
            options: settings.options(),
            step: StepOptions {
                lr: settings.number("lr"),
                ..StepOptions::default()
            },
            tensors,
            start: all("param0"),
            grads: by_step(&all("grads"), steps),
            params: by_step(&all("params"), steps),
            state,
        }
    }

    /// Runs all steps; the largest distance from the file's parameters, over
    /// the largest distance that those move.
    fn largest_error(
        &self,
        mut step: impl FnMut(usize, &StepOptions, Vec<Vec<f64>>) -> Vec<Vec<f64>>,
    ) -> f64 {
        let mut error = 0.0;
        let mut moved = 0.0;
        for (t, (grads, reference)) in self.grads.iter().zip(&self.params).enumerate() {
            let params = step(t, &self.step, grads.clone());
            error = largest([error, distance(&params, reference)]);
            moved = largest([moved, distance(reference, &self.start)]);
        }
        error / moved
    }

    /// Compares the final state. Each plane is a sum over the steps, with
    /// weights that add up to at most 1, of gradients or of products of two:
    /// per step three roundings (the weight, the product, the sum), and in
    /// the end those of the gradients themselves.
    fn check_state(&self, ulp: f64, plane: impl Fn(usize, usize) -> Vec<f64>) {
        for (tensor, expected) in self.state.iter().enumerate() {
            let g = largest(self.grads.iter().flat_map(|g| g[tensor].iter().copied()));
            for (index, expected) in expected.iter().enumerate() {
                let power = if index == 0 { 1 } else { 2 };
                let bound = (3 * self.grads.len() + 4) as f64 * ulp * g.powi(power);
                let got = [plane(tensor, index)];
                let error = distance(&got, std::slice::from_ref(expected));
                assert!(
                    error <= bound,
                    "{}: tensor {tensor}, plane {index}: error {error:.1e}, at most {bound:.1e}",
                    self.name
                );
            }
        }
    }
}

/// A file's settings, which say partly in words what the program does. A word
/// that is not known here fails the test.
struct Settings<'a>(&'a HashMap<String, String>);

impl Settings<'_> {
    fn text(&self, key: &str) -> &str {
        self.0
            .get(key)
            .unwrap_or_else(|| panic!("no setting {key}"))
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, key: &str) -> T {
        self.text(key).parse().unwrap()
    }

    fn options(&self) -> Options {
        let (graft, graft_bias_correction) = match self.text("graft") {
            "none" => (Graft::None, true),
            "sgd, |g|" => (Graft::Sgd, true),
            "momentum, |m_hat|" => (Graft::Momentum, true),
            "adam, |m_hat/(sqrt(v_hat)+graft_eps)|" => (Graft::Adam, true),
            "adam, |m_hat/(sqrt(v_uncorrected)+1e-8)|, per tensor" => (Graft::Adam, false),
            "normalized rmsprop: n=g/|g|, s=EMA(n^2), |n/(sqrt(s)+graft_eps)|" => {
                (Graft::NormalizedRmsprop, true)
            }
            other => panic!("unknown graft: {other}"),
        };
        let eps_mode = self.text("eps_mode");
        let optional = |key: &str, default: f64| match self.0.contains_key(key) {
            true => self.number(key),
            false => default,
        };
        Options {
            band: self.number("band"),
            beta1: self.number("beta1"),
            beta2: self.number("beta2"),
            eps: self.number("eps"),
            gamma: 0.0,
            statistics: Statistics::MovingAverage,
            damping: match eps_mode.split(':').next().unwrap() {
                "absolute" => Damping::Absolute,
                "relative" => Damping::Relative,
                _ => panic!("unknown eps_mode: {eps_mode}"),
            },
            bias_correction: true,
            graft,
            // The PyTorch files give it in the words of "graft" only.
            graft_eps: optional("graft_eps", 1e-8),
            graft_bias_correction,
            weight_decay: optional("weight_decay", 0.0),
            ..Options::default()
        }
    }

    fn tensor(&self, index: usize, dims: &[usize]) -> TensorSpec {
        let chains = match self.text("chain") {
            "flattened row-major, whole tensor" => Chains::Contiguous,
            "transposed flatten (column-major), whole tensor" => Chains::Strided,
            other => panic!("unknown chain: {other}"),
        };
        let update = match self.0.get("one_dim").map(String::as_str) {
            Some("1-d tensors take the Adam update") if dims.len() == 1 => Update::Adam,
            None | Some("1-d tensors take the Adam update") => Update::Sonew,
            Some(other) => panic!("unknown one_dim: {other}"),
        };
        TensorSpec::new(index.to_string(), dims)
            .with_chains(chains)
            .with_update(update)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn values(file: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::F64);
    let bytes = tensor.data().chunks_exact(8);
    bytes
        .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Momentum, diagonal and sub-diagonal of a tensor, the latter with the zero
/// that a state plane has behind its last entry.
fn final_state(file: &SafeTensors, i: usize) -> Vec<Vec<f64>> {
    let mut planes = ["exp_avg", "diag", "sub1"].map(|p| values(file, &format!("{p}.{i}")));
    planes[2].push(0.0);
    planes.to_vec()
}

/// From `[tensor][step, element]` to `[step][tensor][element]`.
fn by_step(tensors: &[Vec<f64>], steps: usize) -> Vec<Vec<Vec<f64>>> {
    let part = |all: &Vec<f64>, t: usize| {
        let n = all.len() / steps;
        all[t * n..(t + 1) * n].to_vec()
    };
    (0..steps)
        .map(|t| tensors.iter().map(|all| part(all, t)).collect())
        .collect()
}

/// The largest absolute difference of corresponding elements.
fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    largest(a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a - b)
    }))
}
