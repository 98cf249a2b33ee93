//! Muon (Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon/>): the momentum of a
//! weight matrix, with all of its singular values brought near 1. Biases take Adam.
//!
//! It is what `optax.contrib.muon` computes with `consistent_rms`: Nesterov momentum with bias
//! correction, five Newton-Schulz iterations, and an update of a given root mean square.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Result};
use ndarray::{Array2, ArrayView2};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::products::{add_product, add_square};
use crate::settings::Setting;

/// Of an iteration: a singular value `x` becomes `a x + b x^3 + c x^5`.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// The optimizer, with its state.
pub struct Muon {
    setting: Setting,
    /// Weight and bias of each layer in turn.
    tensors: Vec<Tensor>,
}

struct Tensor {
    /// Of a weight matrix.
    shape: Option<(usize, usize)>,
    momentum: Vec<f32>,
    /// Adam's, of a bias.
    squares: Vec<f32>,
}

impl Muon {
    /// Before the first step, for layers of these sizes.
    pub fn new(layers: &[usize], setting: Setting) -> Self {
        let pairs = layers.windows(2).flat_map(|sizes| {
            let weight = Tensor {
                shape: Some((sizes[1], sizes[0])),
                momentum: vec![0.0; sizes[0] * sizes[1]],
                squares: Vec::new(),
            };
            let bias = Tensor {
                shape: None,
                momentum: vec![0.0; sizes[1]],
                squares: vec![0.0; sizes[1]],
            };
            [weight, bias]
        });
        Muon {
            setting,
            tensors: pairs.collect(),
        }
    }

    pub fn state_bytes(&self) -> usize {
        self.state().map(size_of_val).sum()
    }

    /// Updates the parameters; steps count from 0.
    pub fn step(
        &mut self,
        step: usize,
        lr: f64,
        parameters: Vec<&mut [f32]>,
        gradients: Vec<&[f32]>,
    ) -> Result<()> {
        // As the library's optimizers, it stops before anything has changed.
        if let Some(i) = gradients.iter().position(|g| !squares(*g).is_finite()) {
            let tensor = format!("tensor {i}");
            return Err(sonew::Error::NonFiniteGradient { tensor }.into());
        }
        for ((tensor, parameter), gradient) in
            self.tensors.iter_mut().zip(parameters).zip(gradients)
        {
            let update = tensor.update(&self.setting, step, gradient);
            for (p, u) in parameter.iter_mut().zip(update) {
                *p -= lr as f32 * u;
            }
        }
        Ok(())
    }

    /// Saves parameters and state.
    pub fn save(&self, path: &Path, parameters: Vec<&[f32]>) -> Result<()> {
        let arrays = parameters.into_iter().chain(self.state()).enumerate();
        let views = arrays.map(|(i, array)| {
            let bytes = bytemuck::cast_slice(array);
            let view = TensorView::new(Dtype::F32, vec![array.len()], bytes)?;
            Ok((i.to_string(), view))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        safetensors::serialize_to_file(views, None, path)?;
        Ok(())
    }

    /// The reverse.
    pub fn load(&mut self, path: &Path, parameters: Vec<&mut [f32]>) -> Result<()> {
        let bytes = fs::read(path)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let state = self.tensors.iter_mut();
        let state = state.flat_map(|t| [t.momentum.as_mut_slice(), t.squares.as_mut_slice()]);
        for (i, array) in parameters.into_iter().chain(state).enumerate() {
            let view = file.tensor(&i.to_string())?;
            ensure!(view.shape() == [array.len()], "it is of another network");
            bytemuck::cast_slice_mut(array).copy_from_slice(view.data());
        }
        Ok(())
    }

    fn state(&self) -> impl Iterator<Item = &[f32]> {
        let tensors = self.tensors.iter();
        tensors.flat_map(|t| [t.momentum.as_slice(), t.squares.as_slice()])
    }
}

impl Tensor {
    /// Takes in a gradient; returns what the learning rate multiplies.
    fn update(&mut self, setting: &Setting, step: usize, gradient: &[f32]) -> Vec<f32> {
        let (beta1, beta2) = (setting.beta1, setting.beta2);
        let step = step as i32 + 1;
        // Nesterov: the momentum of the next step, if its gradient were this one.
        let of_momentum = (beta1 / (1.0 - beta1.powi(step + 1))) as f32;
        let of_gradient = ((1.0 - beta1) / (1.0 - beta1.powi(step))) as f32;
        let mut momentum = Vec::with_capacity(gradient.len());
        for (m, g) in self.momentum.iter_mut().zip(gradient) {
            *m += (1.0 - beta1) as f32 * (g - *m);
            momentum.push(of_momentum * *m + of_gradient * g);
        }
        if let Some((rows, columns)) = self.shape {
            let matrix = Array2::from_shape_vec((rows, columns), momentum).expect("its shape");
            let scale = setting.rms * (rows.max(columns) as f64).sqrt();
            let direction = orthogonalized(matrix.view(), setting.eps);
            return direction.iter().map(|x| scale as f32 * x).collect();
        }
        let correction = 1.0 - beta2.powi(step);
        for ((m, s), g) in momentum.iter_mut().zip(&mut self.squares).zip(gradient) {
            *s += (1.0 - beta2) as f32 * (g * g - *s);
            *m /= (*s / correction as f32).sqrt() + setting.eps as f32;
        }
        momentum
    }
}

/// The matrix with its singular values between about 0.7 and 1.2. Those below about a thousandth
/// of its norm do not get there.
fn orthogonalized(matrix: ArrayView2<f32>, eps: f64) -> Array2<f32> {
    let [a, b, c] = COEFFICIENTS;
    let is_tall = matrix.nrows() > matrix.ncols();
    let wide = if is_tall { matrix.t() } else { matrix };
    let norm = squares(matrix.iter()).sqrt() + eps;
    let mut x = wide.mapv(|value| (f64::from(value) / norm) as f32);
    let mut next = x.clone();
    let mut square = Array2::zeros((x.nrows(), x.nrows()));
    for _ in 0..ITERATIONS {
        add_square(1.0, x.view(), 0.0, &mut square);
        let mut factor = square.clone();
        add_square(c, square.view(), b, &mut factor);
        next.assign(&x);
        add_product(1.0, factor.view(), x.view(), a, &mut next);
        std::mem::swap(&mut x, &mut next);
    }
    if is_tall {
        x = x.reversed_axes();
    }
    x
}

/// Their sum.
fn squares<'a>(numbers: impl IntoIterator<Item = &'a f32>) -> f64 {
    numbers
        .into_iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array1;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    /// Orthonormal columns, by Gram and Schmidt's method, each column twice.
    fn orthonormal(rows: usize, columns: usize, rng: &mut Pcg64) -> Array2<f64> {
        let draw = || rng.random_range(-1.0..1.0f64);
        let mut q = Array2::from_shape_simple_fn((rows, columns), draw);
        for j in 0..columns {
            for i in (0..j).chain(0..j) {
                let before = q.column(i).to_owned();
                let part = before.dot(&q.column(j));
                q.column_mut(j).scaled_add(-part, &before);
            }
            let norm = q.column(j).dot(&q.column(j)).sqrt();
            q.column_mut(j).mapv_inplace(|x| x / norm);
        }
        q
    }

    /// Singular vectors stay, and each singular value goes the way of a number.
    #[test]
    fn singular_values_come_near_1() {
        let mut rng = Pcg64::seed_from_u64(2);
        for (rows, columns) in [(12, 150), (150, 12)] {
            let left = orthonormal(rows, 12, &mut rng);
            let right = orthonormal(columns, 12, &mut rng);
            let values = Array1::from_iter((0..12).map(|i| 3.0 * 0.66f64.powi(i)));
            let matrix = (&left * &values).dot(&right.t());
            let found = orthogonalized(matrix.mapv(|x| x as f32).view(), 0.0);

            let norm = values.dot(&values).sqrt();
            let expected = values.mapv(|value| {
                let iteration = |x: f64, _| 3.4445 * x - 4.775 * x.powi(3) + 2.0315 * x.powi(5);
                (0..5).fold(value / norm, iteration)
            });
            assert!(
                expected.iter().all(|x| (0.68..1.21).contains(x)),
                "{expected}"
            );
            let expected = (&left * &expected).dot(&right.t());
            let off = found.mapv(f64::from) - expected;
            assert!(off.iter().all(|x| x.abs() < 1e-5), "{off}");
        }
    }

    /// Three steps of a tall matrix and a wide one, with biases, beside the parameters that
    /// `optax.contrib.muon` 0.2.8 computes from 0 in float32, with `nesterov`.
    #[test]
    fn steps_are_those_of_optax() {
        let setting = Setting {
            beta1: 0.8,
            beta2: 0.9,
            eps: 1e-3,
            rms: 0.3,
            ..Setting::default()
        };
        let expected: [&[f32]; 4] = [
            &[
                -0.0217307, -0.0242928, 0.0222754, -0.009673, 0.0464608, -0.0163117, 0.0451905,
                -0.0194085, -0.0232129, -0.009107, -0.0245685, -0.0266947, -0.0343794, -0.0086271,
                -0.0386903,
            ],
            &[-0.1449357, -0.1404999, 0.1420835, 0.1453588, 0.1444443],
            &[
                -0.0301687, 0.0092064, -0.0024912, 0.0409253, 0.0215852, -0.0319646, -0.0261147,
                -0.0379156, 0.0156994, -0.0422567,
            ],
            &[0.1679209, 0.1454406],
        ];
        let mut muon = Muon::new(&[3, 5, 2], setting);
        assert_eq!(muon.state_bytes(), 4 * (15 + 2 * 5 + 10 + 2 * 2));
        let mut parameters = expected.map(|array| vec![0.0f32; array.len()]);
        for step in 0..3 {
            let mut tensor = 0;
            let gradients = expected.map(|array| {
                let start = (1 + 7 * tensor + 3 * step) as f64;
                tensor += 1;
                let elements = (0..array.len()).map(|k| (start + (k * k) as f64).sin() as f32);
                elements.collect::<Vec<f32>>()
            });
            let slices = parameters.iter_mut().map(Vec::as_mut_slice);
            let gradients = gradients.iter().map(Vec::as_slice);
            muon.step(step, 0.1, slices.collect(), gradients.collect())
                .unwrap();
        }
        for (found, expected) in parameters.iter().zip(expected) {
            for (x, y) in found.iter().zip(expected) {
                assert!((x - y).abs() < 2e-6, "{found:?} {expected:?}");
            }
        }
    }
}
