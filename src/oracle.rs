//! The whole method once more, in float64 and as naive as it can be: the
//! oracle that the kernels are tested against.
//!
//! Nothing here is fast, and nothing is shared with the kernels but the
//! options and the tensor specifications. It is believed because it follows
//! the trajectories of the authors' own programs to the last digits
//! (`tests/steps/golden.rs`). For a tensor, its gradient `g` after scaling, and the
//! number `t` of the steps that it took part in, this one included:
//!
//! ```text
//! m      <- beta1 m + (1 - beta1) g                            momentum
//! H_ij   <- beta2 H_ij + (1 - beta2) g_i g_j    |i - j| <= b   moving average
//! H_ij   <- H_ij + w_t g_i g_j                                 weighted sum
//! q       = g / |g|,  r <- beta2 r + (1 - beta2) q^2           rms
//! m       = beta1 m + (1 - beta1) g, not stored                if Nesterov's
//! m^      = m / (1 - beta1 beta1 ...), the product of t steps  if corrected
//! H^      = H / (1 - beta2 beta2 ...) + damping I              average, if corrected
//! u       = X m^,  then  u <- u |a| / |u|                      see `graft_norm`
//! p      <- p - lr lr_scale (u + weight_decay p)
//! ```
//!
//! [`Preconditioner`] holds `X`; [`chains()`] says which coordinates are
//! neighbours. Unlike the library, the oracle never flushes tiny numbers to
//! zero.

mod chains;
mod pooled;
mod preconditioner;

pub use chains::chains;
use pooled::{broken, Pooled};
pub use preconditioner::Preconditioner;

use crate::layout::{planes, TensorSpec, Update};
use crate::options::{Damping, Graft, Options, Statistics, StepOptions};

/// Relative damping is never below this.
const LEAST_RELATIVE_DAMPING: f64 = 1e-24;

/// An optimizer in float64.
#[derive(Debug, Clone)]
pub struct Oracle {
    options: Options,
    tensors: Vec<TensorState>,
    step_count: u64,
}

/// One tensor: what the caller may set for it, and its state.
#[derive(Debug, Clone)]
pub struct TensorState {
    spec: TensorSpec,
    chains: Vec<Vec<usize>>,
    /// If its chains share their correlations.
    pooled: Option<Pooled>,
    /// In the order of [`planes`](crate::layout::planes), without bias correction. That
    /// of pooled sums stays zero: they are in `pooled`.
    pub planes: Vec<Vec<f64>>,
    /// Multiplies the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `|a| / |u|` of its last step; 0 if there was none.
    pub norm_ratio: f64,
    /// The largest entry of its bias-corrected diagonal after its last step, and after the one
    /// before: that is what lagged damping is relative to. 0 where there was none.
    pub largest: [f64; 2],
    /// The products of the `beta1` and of the `beta2` of its steps.
    pub beta_products: [f64; 2],
    /// The steps that it took part in.
    pub step_count: u64,
}

impl Oracle {
    /// A fresh optimizer, all state zero.
    pub fn new(options: &Options, tensors: &[TensorSpec]) -> Oracle {
        let tensors = tensors.iter().map(|spec| TensorState {
            chains: match spec.update.is_pooled(options) {
                true => chains(&spec.dims, broken(spec.chains)),
                false => chains(&spec.dims, spec.chains),
            },
            pooled: spec
                .update
                .is_pooled(options)
                .then(|| Pooled::new(options, spec)),
            planes: planes(options, spec)
                .iter()
                .map(|plane| vec![0.0; plane.len()])
                .collect(),
            spec: spec.clone(),
            lr_scale: 1.0,
            weight_decay: options.weight_decay,
            step_count: 0,
            norm_ratio: 0.0,
            largest: [0.0; 2],
            beta_products: [1.0; 2],
        });
        Oracle {
            options: options.clone(),
            tensors: tensors.collect(),
            step_count: 0,
        }
    }

    /// One step. A tensor whose gradient is `None` is left as it is.
    pub fn step(
        &mut self,
        step: &StepOptions,
        params: &mut [Vec<f64>],
        grads: &[Option<Vec<f64>>],
    ) {
        assert_eq!(
            (params.len(), grads.len()),
            (self.tensors.len(), self.tensors.len())
        );
        self.step_count += 1;
        for (i, g) in grads.iter().enumerate() {
            let Some(g) = g else { continue };
            self.tensors[i].step_count += 1;
            let g: Vec<f64> = g.iter().map(|x| step.grad_scale * x).collect();
            let betas = step.betas(&self.options);
            self.accumulate(i, &g, betas, step.statistics_weight);
            let diagonal = self.corrected(i).swap_remove(0);
            let tensor = &mut self.tensors[i];
            tensor.largest = [largest_finite(&diagonal), tensor.largest[0]];
            let u = self.direction(i, &g, betas, step.statistics_weight);
            let tensor = &self.tensors[i];
            let lr = step.lr * tensor.lr_scale;
            for (p, u) in params[i].iter_mut().zip(u) {
                *p -= lr * (u + tensor.weight_decay * *p);
            }
        }
    }

    /// Number of steps taken; a tensor's own is [`TensorState::step_count`].
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// The state of tensor `i`.
    pub fn tensor(&self, i: usize) -> &TensorState {
        &self.tensors[i]
    }

    /// The state of tensor `i`, to be changed.
    pub fn tensor_mut(&mut self, i: usize) -> &mut TensorState {
        &mut self.tensors[i]
    }

    /// The chains of tensor `i`, see [`chains`].
    pub fn chains(&self, i: usize) -> &[Vec<usize>] {
        &self.tensors[i].chains
    }

    /// What multiplies the statistics that are there, and what comes in.
    fn average(&self, beta2: f64, weight: f64) -> (f64, f64) {
        match self.options.statistics {
            Statistics::MovingAverage => (beta2, 1.0 - beta2),
            Statistics::WeightedSum => (1.0, weight),
        }
    }

    /// Lets the scaled gradient `g` into the state planes of tensor `i`.
    fn accumulate(&mut self, i: usize, g: &[f64], [beta1, beta2]: [f64; 2], weight: f64) {
        let (keep, add) = self.average(beta2, weight);
        let norm_of_g = norm(g);
        let tensor = &mut self.tensors[i];
        tensor.beta_products[0] *= beta1;
        tensor.beta_products[1] *= beta2;
        let band = tensor.spec.update.band(&self.options);
        for (m, g) in tensor.planes[0].iter_mut().zip(g) {
            *m = beta1 * *m + (1.0 - beta1) * g;
        }
        for chain in &tensor.chains {
            for k in 0..=band {
                let h = &mut tensor.planes[1 + k];
                // The last k entries of a chain have no k-th neighbour.
                for (&j, &neighbour) in chain.iter().zip(chain.iter().skip(k)) {
                    h[j] = keep * h[j] + add * g[j] * g[neighbour];
                }
            }
        }
        if self.options.graft == Graft::NormalizedRmsprop && tensor.spec.update == Update::Sonew {
            let rms = &mut tensor.planes[2 + band];
            for (r, g) in rms.iter_mut().zip(g) {
                *r = beta2 * *r + (1.0 - beta2) * divide(*g, norm_of_g).powi(2);
            }
        }
    }

    /// What momentum is divided by.
    fn correction1(&self, tensor: &TensorState) -> f64 {
        match self.options.bias_correction {
            true => 1.0 - tensor.beta_products[0],
            false => 1.0,
        }
    }

    /// What the diagonal and the sub-diagonals are divided by.
    fn correction2(&self, tensor: &TensorState) -> f64 {
        let average = self.options.statistics == Statistics::MovingAverage;
        match self.options.bias_correction && average {
            true => 1.0 - tensor.beta_products[1],
            false => 1.0,
        }
    }

    /// `u` of tensor `i` from its state planes, grafted; before learning rate and
    /// weight decay.
    fn direction(
        &mut self,
        i: usize,
        g: &[f64],
        [beta1, beta2]: [f64; 2],
        weight: f64,
    ) -> Vec<f64> {
        let tensor = &self.tensors[i];
        let mut m = tensor.planes[0].clone();
        if self.options.nesterov {
            for (m, g) in m.iter_mut().zip(g) {
                *m = beta1 * *m + (1.0 - beta1) * g;
            }
        }
        for m in &mut m {
            *m /= self.correction1(tensor);
        }
        if tensor.spec.update == Update::Adam {
            let correction = self.correction2(tensor);
            return self.adam(&m, &tensor.planes[1], correction);
        }
        let u = match &self.tensors[i].pooled {
            Some(_) => self.pooled_direction(i, g, &m, beta2, weight),
            None => self.preconditioner(i).apply(&tensor.chains, &m),
        };
        let tensor = &self.tensors[i];
        let Some(target) = self.graft_norm(i, &m, g) else {
            return u;
        };
        let own = divide(target, norm(&u));
        let before = tensor.norm_ratio;
        let scale = match self.options.is_lagged() && before > 0.0 && before <= 2.0 * own {
            true => before,
            false => own,
        };
        self.tensors[i].norm_ratio = own;
        u.iter().map(|u| u * scale).collect()
    }

    /// `u` of tensor `i` with the correlations that its chains share, after their sums have
    /// taken in the gradient.
    fn pooled_direction(
        &mut self,
        i: usize,
        g: &[f64],
        m: &[f64],
        beta2: f64,
        weight: f64,
    ) -> Vec<f64> {
        let average = self.average(beta2, weight);
        // Without a band, this is the damped diagonal.
        let diagonal = self.preconditioner(i).h.swap_remove(0);
        let tensor = &mut self.tensors[i];
        let pooled = tensor.pooled.as_mut().expect("it is pooled");
        let (chains, step) = (&tensor.chains, tensor.step_count);
        pooled.direction(&self.options, chains, &diagonal, m, g, average, step)
    }

    /// `|a|`: the norm that the direction of tensor `i` takes.
    fn graft_norm(&self, i: usize, m: &[f64], g: &[f64]) -> Option<f64> {
        let tensor = &self.tensors[i];
        let planes = &tensor.planes;
        let correction = match self.options.graft_bias_correction {
            true => self.correction2(tensor),
            false => 1.0,
        };
        Some(match self.options.graft {
            Graft::None => return None,
            Graft::Sgd => norm(g),
            Graft::Momentum => norm(m),
            Graft::Adam => norm(&self.adam(m, &planes[1], correction)),
            Graft::NormalizedRmsprop => {
                let norm_of_g = norm(g);
                let q: Vec<f64> = g.iter().map(|g| divide(*g, norm_of_g)).collect();
                norm(&self.adam(&q, &planes[2 + tensor.spec.update.band(&self.options)], 1.0))
            }
        })
    }

    /// `m / (sqrt(v / correction) + graft_eps)`, element by element.
    fn adam(&self, m: &[f64], v: &[f64], correction: f64) -> Vec<f64> {
        m.iter()
            .zip(v)
            .map(|(m, v)| divide(*m, (v / correction).sqrt() + self.options.graft_eps))
            .collect()
    }

    /// The diagonal and the sub-diagonals of tensor `i`, bias-corrected.
    fn corrected(&self, i: usize) -> Vec<Vec<f64>> {
        let tensor = &self.tensors[i];
        let band = tensor.spec.update.band(&self.options);
        let correction = self.correction2(tensor);
        let correct = |plane: &Vec<f64>| plane.iter().map(|h| h / correction).collect();
        tensor.planes[1..=1 + band].iter().map(correct).collect()
    }

    /// `X` of tensor `i` from its state planes, as its last step had it.
    pub fn preconditioner(&self, i: usize) -> Preconditioner {
        let tensor = &self.tensors[i];
        let mut h = self.corrected(i);
        let damping = match self.options.damping {
            Damping::Absolute => self.options.eps,
            Damping::Relative => {
                (self.options.eps * largest_row(&h, &tensor.chains)).max(LEAST_RELATIVE_DAMPING)
            }
            Damping::RelativeLagged => {
                let [_, before] = tensor.largest;
                let largest = if before > 0.0 {
                    before
                } else {
                    largest_finite(&h[0])
                };
                (self.options.eps * largest).max(LEAST_RELATIVE_DAMPING)
            }
        };
        h[0].iter_mut().for_each(|h| *h += damping);
        Preconditioner::new(h, &tensor.chains, self.options.gamma)
    }
}

/// `l1`, the largest `t_j = H_jj + |H_j,j-1|`, the first coordinate of a
/// chain taking its entry with the second. `h[k][j]` belongs to coordinate
/// `j` and its `k`-th neighbour.
fn largest_row(h: &[Vec<f64>], chains: &[Vec<usize>]) -> f64 {
    let mut largest = 0.0f64;
    for chain in chains {
        for (position, &j) in chain.iter().enumerate() {
            // At the end of a chain the entry with the next one is zero.
            let lower = chain[position.saturating_sub(1)];
            let off_diagonal = h.get(1).map_or(0.0, |h| h[lower].abs());
            largest = largest.max(h[0][j] + off_diagonal);
        }
    }
    largest
}

fn largest_finite(x: &[f64]) -> f64 {
    let finite = x.iter().copied().filter(|x| x.is_finite());
    finite.fold(0.0, f64::max)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// `a / b`, and zero where `b` is zero: a zero gradient moves nothing.
fn divide(a: f64, b: f64) -> f64 {
    if b == 0.0 {
        0.0
    } else {
        a / b
    }
}
