//! The autoencoder: forward and backward passes over a batch of images.
//!
//! Every hidden layer, the code layer included, is `tanh(x W^T + b)` with `W`
//! stored `[out, in]`; the output layer is a sigmoid. The loss is the
//! cross-entropy in nats, summed over the pixels, averaged over the batch.
//! Results do not depend on the number of threads.

use ndarray::{Array1, Array2, Axis};
use rand::Rng;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

use crate::math::{sigmoid, tanh};
use crate::products::multiply;

/// Factor of a tanh layer's initial weights, which compensates for the saturation
/// of tanh.
const GAIN: f32 = 5.0 / 3.0;
/// Rows of a batch that one thread takes at a time in element-wise work.
const ROWS_AT_ONCE: usize = 32;

/// One weight matrix and one bias per layer; or their gradient.
#[derive(Clone)]
pub struct Parameters {
    weights: Vec<Array2<f32>>,
    biases: Vec<Array1<f32>>,
}

impl Parameters {
    fn zeros(sizes: &[usize]) -> Self {
        Parameters {
            weights: sizes
                .windows(2)
                .map(|s| Array2::zeros((s[1], s[0])))
                .collect(),
            biases: sizes[1..].iter().map(|&s| Array1::zeros(s)).collect(),
        }
    }

    /// Zero biases and normal weights of deviation `5/3 / sqrt(in)` (He et
    /// al., 2015, with the usual gain for tanh). Glorot's rule gives smaller
    /// weights, and AdamW then ends at 80.5 on CURVES instead of 62.9.
    fn random(sizes: &[usize], rng: &mut impl Rng) -> Self {
        let mut parameters = Self::zeros(sizes);
        for weight in &mut parameters.weights {
            let deviation = GAIN / (weight.ncols() as f32).sqrt();
            let normal = Normal::new(0.0, deviation).expect("positive deviation");
            weight.mapv_inplace(|_| normal.sample(rng));
        }
        parameters
    }

    /// The tensors in order: weight and bias of each layer in turn.
    pub fn slices(&self) -> Vec<&[f32]> {
        let layers = self.weights.iter().zip(&self.biases);
        layers
            .flat_map(|(w, b)| [w.as_slice(), b.as_slice()])
            .map(|slice| slice.expect("contiguous"))
            .collect()
    }

    /// The same tensors, to be changed.
    pub fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let layers = self.weights.iter_mut().zip(&mut self.biases);
        layers
            .flat_map(|(w, b)| [w.as_slice_mut(), b.as_slice_mut()])
            .map(|slice| slice.expect("contiguous"))
            .collect()
    }
}

/// An autoencoder with the buffers of one batch.
pub struct Network {
    pub parameters: Parameters,
    pub gradient: Parameters,
    /// The output of each layer, `[batch, units]`.
    outputs: Vec<Array2<f32>>,
    /// The derivative of the loss by each layer's input to its non-linearity.
    deltas: Vec<Array2<f32>>,
}

impl Network {
    /// A network with layers of these sizes, the image first and last, and
    /// random weights.
    pub fn new(sizes: &[usize], batch: usize, rng: &mut impl Rng) -> Self {
        let buffers = || -> Vec<_> {
            sizes[1..]
                .iter()
                .map(|&units| Array2::zeros((batch, units)))
                .collect()
        };
        Network {
            parameters: Parameters::random(sizes, rng),
            gradient: Parameters::zeros(sizes),
            outputs: buffers(),
            deltas: buffers(),
        }
    }

    /// Computes the gradient of the mean loss over a batch; returns the loss
    /// in nats per image.
    pub fn backpropagate(&mut self, images: &Array2<f32>) -> f64 {
        self.forward(images);
        let loss = self.compare(images);
        self.backward(images);
        loss
    }

    /// Fills `outputs`; the last one without bias and sigmoid.
    fn forward(&mut self, images: &Array2<f32>) {
        let last = self.outputs.len() - 1;
        for layer in 0..=last {
            let (before, from) = self.outputs.split_at_mut(layer);
            let input = before.last().unwrap_or(images);
            let output = &mut from[0];
            multiply(
                input.view(),
                self.parameters.weights[layer].t(),
                &mut *output,
            );
            if layer < last {
                activate(output, &self.parameters.biases[layer]);
            }
        }
    }

    /// Compares the last output with the images: fills the last delta and
    /// returns the mean loss. The last output is used up.
    fn compare(&mut self, images: &Array2<f32>) -> f64 {
        let batch = images.nrows();
        let pixels = images.ncols();
        let bias = slice(self.parameters.biases.last().expect("a layer"));
        let output = rows_mut(self.outputs.last_mut().expect("a layer"));
        let delta = rows_mut(self.deltas.last_mut().expect("a layer"));
        let image = slice(images).par_chunks_exact(pixels);
        let losses: Vec<f64> = output
            .zip(delta)
            .zip(image)
            .with_min_len(ROWS_AT_ONCE)
            .map(|((output, delta), image)| {
                cross_entropy(output, bias, image, delta, 1.0 / batch as f32)
            })
            .collect();
        losses.iter().sum::<f64>() / batch as f64
    }

    /// Fills `gradient`, and the deltas of all layers but the last.
    fn backward(&mut self, images: &Array2<f32>) {
        for layer in (0..self.deltas.len()).rev() {
            let (before, from) = self.deltas.split_at_mut(layer);
            let delta = &from[0];
            let input = match layer {
                0 => images,
                _ => &self.outputs[layer - 1],
            };
            let weight_gradient = &mut self.gradient.weights[layer];
            multiply(delta.t(), input.view(), weight_gradient);
            self.gradient.biases[layer].assign(&delta.sum_axis(Axis(0)));
            if let Some(previous) = before.last_mut() {
                multiply(
                    delta.view(),
                    self.parameters.weights[layer].view(),
                    previous,
                );
                through_tanh(previous, input);
            }
        }
    }
}

/// `x = tanh(x + bias)` in every row.
fn activate(output: &mut Array2<f32>, bias: &Array1<f32>) {
    let bias = slice(bias);
    rows_mut(output).with_min_len(ROWS_AT_ONCE).for_each(|row| {
        for (x, b) in row.iter_mut().zip(bias) {
            *x = tanh(*x + b);
        }
    });
}

/// Multiplies by the derivative of tanh, given its value.
fn through_tanh(delta: &mut Array2<f32>, output: &Array2<f32>) {
    let units = output.ncols();
    let outputs = slice(output).par_chunks_exact(units);
    rows_mut(delta)
        .zip(outputs)
        .with_min_len(ROWS_AT_ONCE)
        .for_each(|(delta, output)| {
            for (d, y) in delta.iter_mut().zip(output) {
                *d *= 1.0 - y * y;
            }
        });
}

/// The cross-entropy of one image in nats, and its derivative by `z`, times
/// `scale`. `z` comes without its bias and is overwritten.
///
/// With `p = sigmoid(z)` a pixel of intensity x costs
/// `-x ln p - (1-x) ln(1-p) = max(z, 0) - x z - ln max(p, 1-p)`; the
/// logarithms of a row are one logarithm of a product. Its factors are at
/// least 1/2, so up to a thousand of them fit into a double.
fn cross_entropy(z: &mut [f32], bias: &[f32], image: &[f32], delta: &mut [f32], scale: f32) -> f64 {
    for (((z, b), x), p) in z.iter_mut().zip(bias).zip(image).zip(delta.iter_mut()) {
        let logit = *z + b;
        *p = sigmoid(logit);
        *z = 0.5 * (logit + logit.abs()) - x * logit;
    }
    let mut sum = 0.0;
    let mut product = 1.0;
    for (&linear, &p) in z.iter().zip(delta.iter()) {
        sum += f64::from(linear);
        product *= f64::from(if p > 0.5 { p } else { 1.0 - p });
    }
    for (d, x) in delta.iter_mut().zip(image) {
        *d = (*d - x) * scale;
    }
    sum - product.ln()
}

fn slice<D: ndarray::Dimension>(array: &ndarray::Array<f32, D>) -> &[f32] {
    array.as_slice().expect("contiguous")
}

fn rows_mut(array: &mut Array2<f32>) -> rayon::slice::ChunksExactMut<'_, f32> {
    let units = array.ncols();
    array
        .as_slice_mut()
        .expect("contiguous")
        .par_chunks_exact_mut(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    const SIZES: [usize; 5] = [12, 9, 3, 9, 12];
    const BATCH: usize = 5;

    fn small() -> (Network, Array2<f32>) {
        let mut rng = Pcg64::seed_from_u64(7);
        let mut network = Network::new(&SIZES, BATCH, &mut rng);
        for bias in &mut network.parameters.biases {
            bias.mapv_inplace(|_| rng.random_range(-0.5..0.5));
        }
        let images = Array2::from_shape_simple_fn((BATCH, SIZES[0]), || rng.random_range(0.0..1.0));
        (network, images)
    }

    /// The loss written down from its definition, in double precision.
    fn textbook_loss(parameters: &Parameters, images: &Array2<f32>) -> f64 {
        let mut x = images.mapv(f64::from);
        for (layer, (w, b)) in parameters
            .weights
            .iter()
            .zip(&parameters.biases)
            .enumerate()
        {
            let z = x.dot(&w.t().mapv(f64::from)) + b.mapv(f64::from);
            x = match layer + 1 < parameters.weights.len() {
                true => z.mapv(f64::tanh),
                false => z.mapv(|z| 1.0 / (1.0 + (-z).exp())),
            };
        }
        let pixels = x.iter().zip(images);
        pixels
            .map(|(p, &t)| -f64::from(t) * p.ln() - f64::from(1.0 - t) * (1.0 - p).ln())
            .sum::<f64>()
            / images.nrows() as f64
    }

    #[test]
    fn loss_matches_its_definition() {
        let (mut network, images) = small();
        let loss = network.backpropagate(&images);
        let expected = textbook_loss(&network.parameters, &images);
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    }

    #[test]
    fn gradient_matches_finite_differences() {
        let (mut network, images) = small();
        network.backpropagate(&images);
        let gradient = network.gradient.clone();
        for (tensor, gradient) in gradient.slices().into_iter().enumerate() {
            for (i, &analytic) in gradient.iter().enumerate() {
                // A power of two: parameter +- h is exact enough in float32.
                let h = 1.0 / 512.0;
                let at = |shift: f32| {
                    let mut moved = network.parameters.clone();
                    moved.slices_mut()[tensor][i] += shift;
                    let exact = f64::from(moved.slices()[tensor][i]);
                    (textbook_loss(&moved, &images), exact)
                };
                let ((up, above), (down, below)) = (at(h), at(-h));
                let numeric = (up - down) / (above - below);
                assert!(
                    (f64::from(analytic) - numeric).abs() < 2e-5,
                    "tensor {tensor}, element {i}: {analytic} against {numeric}"
                );
            }
        }
        // The test itself needs gradients that are not all zero.
        assert!(gradient
            .slices()
            .iter()
            .all(|g| g.iter().any(|x| x.abs() > 1e-3)));
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let sizes = [784, 130, 6, 130, 784];
        let result = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let mut rng = Pcg64::seed_from_u64(1);
                let mut network = Network::new(&sizes, 101, &mut rng);
                let images = Array2::from_shape_simple_fn((101, 784), || rng.random());
                let loss = network.backpropagate(&images);
                let bits: Vec<u32> = network
                    .gradient
                    .slices()
                    .concat()
                    .iter()
                    .map(|g| g.to_bits())
                    .collect();
                (loss, bits)
            })
        };
        let one = result(1);
        for threads in [2, 3, 7] {
            assert!(result(threads) == one, "{threads} threads");
        }
    }
}
