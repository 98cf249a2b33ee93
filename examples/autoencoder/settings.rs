//! The optimizers that are compared, and the settings of each.
//!
//! [`setting`] has the settings and says how they were found.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sonew::dtype::Dtype;
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Pooling};

use crate::data::Name;

/// An optimizer of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Stochastic gradient descent with momentum
    Sgd,
    /// RMSProp
    Rmsprop,
    /// Adam with decoupled weight decay on every tensor
    Adamw,
    /// Muon, with Adam for biases
    Muon,
    /// SONew, band 0
    Diagonal,
    /// SONew, band 1
    Tridiagonal,
    /// SONew, band 1, with the library's default of damping
    Default,
    /// SONew, band 4
    Band4,
    /// SONew whose units share a band of 32
    PooledBand32,
    /// SONew whose units share 16 directions
    PooledRank16,
    /// SONew whose units share all correlations of their inputs
    PooledAll,
}

impl Method {
    /// The name for tables and plots.
    pub fn title(self) -> &'static str {
        match self {
            Method::Sgd => "SGD, momentum",
            Method::Rmsprop => "RMSProp",
            Method::Adamw => "AdamW",
            Method::Muon => "Muon",
            Method::Diagonal => "diagonal SONew",
            Method::Tridiagonal => "tridiagonal SONew",
            Method::Default => "tridiagonal SONew, default damping",
            Method::Band4 => "band-4 SONew",
            Method::PooledBand32 => "SONew, pooled band 32",
            Method::PooledRank16 => "SONew, pooled rank 16",
            Method::PooledAll => "SONew, pooled all",
        }
    }

    /// The name on the command line and in file names.
    pub fn key(self) -> &'static str {
        match self {
            Method::Sgd => "sgd",
            Method::Rmsprop => "rmsprop",
            Method::Adamw => "adamw",
            Method::Muon => "muon",
            Method::Diagonal => "diagonal",
            Method::Tridiagonal => "tridiagonal",
            Method::Default => "default",
            Method::Band4 => "band4",
            Method::PooledBand32 => "pooled-band32",
            Method::PooledRank16 => "pooled-rank16",
            Method::PooledAll => "pooled-all",
        }
    }

    /// What the benchmark stores its state as, in turn.
    pub fn states(self) -> &'static [State] {
        match self {
            Method::Diagonal | Method::Tridiagonal | Method::Default | Method::Band4 => {
                &[State::Float32, State::Bfloat16]
            }
            _ => &[State::Float32],
        }
    }

    /// The library's options for this method; SONew has the Adam graft.
    ///
    /// SGD and RMSProp are special cases of the library's methods. RMSProp is
    /// Adam without momentum and bias correction. Momentum SGD is diagonal SONew
    /// with a damping so large that the diagonal has no effect, grafted to the
    /// norm of the momentum.
    pub fn options(self, setting: &Setting, threads: usize) -> Options {
        let options = Options {
            band: 0,
            beta1: setting.beta1,
            beta2: setting.beta2,
            // The searches were for absolute damping.
            damping: Damping::Absolute,
            eps: setting.eps,
            gamma: setting.gamma,
            graft_eps: 1e-8,
            weight_decay: setting.weight_decay,
            threads,
            ..Options::default()
        };
        // As the pooled rows of the transformer: what is not named here is at its default, and
        // norms and sums are those of the step before.
        let pooled = |pooling| Options {
            pooling,
            shrink: setting.shrink,
            gamma: Options::default().gamma,
            nesterov: true,
            ..options.clone()
        };
        match self {
            Method::Sgd => Options {
                eps: DAMPING_OF_SGD,
                graft: Graft::Momentum,
                ..options
            },
            Method::Rmsprop => Options {
                beta1: 0.0,
                bias_correction: false,
                graft_eps: setting.eps,
                ..options
            },
            Method::Adamw => Options {
                graft_eps: setting.eps,
                ..options
            },
            Method::Muon => unreachable!("Muon is not the library's"),
            Method::Diagonal => options,
            Method::Tridiagonal => Options { band: 1, ..options },
            Method::Default => Options {
                band: 1,
                damping: Options::default().damping,
                graft_eps: Options::default().graft_eps,
                ..options
            },
            Method::Band4 => Options { band: 4, ..options },
            Method::PooledBand32 => Options {
                band: 32,
                ..pooled(Pooling::Band)
            },
            Method::PooledRank16 => Options {
                rank: 16,
                ..pooled(Pooling::Rank)
            },
            Method::PooledAll => pooled(Pooling::All),
        }
    }

    /// Weights `[out, in]` in contiguous chains, which run along each unit's
    /// inputs. Biases take plain Adam: tridiagonal SONew on CURVES then ended
    /// at 49.6 and 50.6 (seeds 1 and 2), with biases as chains at 53.9 and 53.4.
    pub fn tensors(self, layers: &[usize], state: State) -> Vec<TensorSpec> {
        let (weight_update, bias_update) = match self {
            Method::Rmsprop | Method::Adamw => (Update::Adam, Update::Adam),
            Method::Sgd => (Update::Sonew, Update::Sonew),
            _ => (Update::Sonew, Update::Adam),
        };
        let dtypes = |tensor: TensorSpec| tensor.with_dtypes(Dtype::F32, Dtype::F32, state.dtype());
        let pairs = layers.windows(2).enumerate();
        pairs
            .flat_map(|(i, sizes)| {
                let layer = i + 1;
                let weight = TensorSpec::new(format!("layer{layer}.weight"), &[sizes[1], sizes[0]]);
                let bias = TensorSpec::new(format!("layer{layer}.bias"), &sizes[1..]);
                [
                    dtypes(weight.with_update(weight_update)),
                    dtypes(bias.with_update(bias_update)),
                ]
            })
            .collect()
    }
}

/// So large that adding the square of a gradient does not change it in float32,
/// and so small that a gradient divided by it does not underflow.
const DAMPING_OF_SGD: f64 = 1e10;

/// What the optimizer's state is stored as; parameters and gradients are
/// float32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Float32,
    Bfloat16,
}

impl State {
    fn dtype(self) -> Dtype {
        match self {
            State::Float32 => Dtype::F32,
            State::Bfloat16 => Dtype::Bf16,
        }
    }
}

/// Layer sizes of the benchmark's network, every hidden layer a tanh.
pub fn layers(data: Name) -> &'static [usize] {
    match data {
        Name::Curves => &[784, 400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784],
        Name::Mnist => &[784, 1000, 500, 250, 30, 250, 500, 1000, 784],
    }
}

/// Hyperparameters. The learning rate is the peak of a schedule.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Setting {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// Damping of SONew; for AdamW and RMSProp, what is added to the root.
    pub eps: f64,
    /// Edge removal of SONew.
    pub gamma: f64,
    /// By how much pooled correlations are taken to be smaller than their estimates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shrink: f64,
    /// The root mean square of an update of Muon, before the learning rate.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rms: f64,
    pub weight_decay: f64,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// The setting of a method on a data set: the best of the benchmark's search,
/// as `docs/benchmark.md` has it. On CURVES there was none for the default of damping, which
/// has that of the tridiagonal one; nor are there any yet for all correlations, which have those of
/// rank 16, and for Muon on MNIST, which has that of CURVES.
pub fn setting(data: Name, method: Method) -> Setting {
    let row = |lr, beta1, beta2, eps, gamma| Setting {
        lr,
        beta1,
        beta2,
        eps,
        gamma,
        ..Setting::default()
    };
    let pooled = |lr, beta1, beta2, eps, shrink| Setting {
        shrink,
        ..row(lr, beta1, beta2, eps, 0.0)
    };
    match (data, method) {
        (Name::Curves, Method::Default) => Setting {
            eps: Options::default().eps,
            ..setting(data, Method::Tridiagonal)
        },
        // lr, beta1, beta2, eps, gamma
        (Name::Curves, Method::Sgd) => row(0.0883, 0.8869, 0.0, 0.0, 0.0),
        (Name::Curves, Method::Rmsprop) => row(0.0017, 0.0, 0.8321, 4.75e-8, 0.0),
        (Name::Curves, Method::Adamw) => row(0.00417, 0.7888, 0.9193, 1.69e-7, 0.0),
        (Name::Curves, Method::Diagonal) => row(0.00742, 0.5979, 0.9791, 2.31e-5, 0.0174),
        (Name::Curves, Method::Tridiagonal) => row(0.00985, 0.6951, 0.9744, 7.08e-5, 0.00354),
        (Name::Curves, Method::Band4) => row(0.0119, 0.6424, 0.9425, 6.44e-5, 0.0151),
        (Name::Mnist, Method::Sgd) => row(0.0179, 0.7443, 0.0, 0.0, 0.0),
        (Name::Mnist, Method::Rmsprop) => row(0.0017, 0.0, 0.8321, 4.75e-8, 0.0),
        (Name::Mnist, Method::Adamw) => row(0.00237, 0.6424, 0.9425, 6.44e-6, 0.0),
        (Name::Mnist, Method::Diagonal) => row(0.00591, 0.7525, 0.9485, 9.51e-7, 0.00958),
        (Name::Mnist, Method::Tridiagonal) => row(0.0106, 0.7205, 0.9618, 2.72e-7, 0.00516),
        (Name::Mnist, Method::Default) => row(0.0178, 0.8308, 0.9273, 1e-3, 0.00783),
        (Name::Mnist, Method::Band4) => row(0.0145, 0.8547, 0.8578, 2.06e-7, 0.00432),
        (Name::Curves, Method::PooledBand32) => pooled(0.0208, 0.7888, 0.9193, 1.69e-6, 0.272),
        (Name::Mnist, Method::PooledAll) => pooled(0.0283, 0.8002, 0.8321, 4.75e-7, 0.0915),
        (_, Method::PooledBand32 | Method::PooledRank16 | Method::PooledAll) => {
            pooled(0.0178, 0.8308, 0.9273, 1.06e-5, 0.0413)
        }
        (Name::Curves, Method::Muon) => Setting {
            rms: 0.187,
            ..row(0.0349, 0.7622, 0.9677, 1.44e-6, 0.0)
        },
        (Name::Mnist, Method::Muon) => Setting {
            rms: 0.261,
            ..row(0.0178, 0.8308, 0.9273, 1.06e-6, 0.0)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;
    use sonew::options::StepOptions;
    use sonew::Optimizer;

    /// Compares steps of the library on random gradients of all sizes with a
    /// formula for one coordinate: it maps gradient and step number, from 1, to
    /// what is subtracted from the parameter, divided by the learning rate.
    fn check(method: Method, mut formula: impl FnMut(usize, f64, i32) -> f64) {
        const LAYERS: [usize; 2] = [40, 25];
        const LR: f64 = 0.01;
        let tensors = method.tensors(&LAYERS, State::Float32);
        let mut optimizer = Optimizer::new(method.options(&SETTING, 1), &tensors).unwrap();
        let mut rng = Pcg64::seed_from_u64(5);
        let (mut weight, mut bias) = (vec![0.0f32; 1000], vec![0.0f32; 25]);
        let mut expected = vec![0.0f64; 1025];
        for step in 1..=20 {
            let mut draw = || rng.random_range(-1.0..1.0f32) * 10f32.powi(rng.random_range(-6..2));
            let gradient: Vec<f32> = (0..1025).map(|_| draw()).collect();
            for (i, x) in expected.iter_mut().enumerate() {
                *x -= LR * formula(i, f64::from(gradient[i]), step);
            }
            let (to_weight, to_bias) = gradient.split_at(1000);
            let options = StepOptions {
                lr: LR,
                ..StepOptions::default()
            };
            let parameters: &mut [&mut [f32]] = &mut [&mut weight, &mut bias];
            optimizer
                .step(&options, parameters, &[Some(to_weight), Some(to_bias)])
                .unwrap();
        }
        for (i, (&x, expected)) in weight.iter().chain(&bias).zip(expected).enumerate() {
            let off = (f64::from(x) - expected).abs();
            assert!(off < 1e-5 * expected.abs() + 1e-7, "{i}: {x}, {expected}");
        }
    }

    const SETTING: Setting = Setting {
        lr: 0.0,
        beta1: 0.8,
        beta2: 0.9,
        eps: 1e-4,
        gamma: 0.0,
        shrink: 0.0,
        rms: 0.0,
        weight_decay: 0.0,
    };

    #[test]
    fn the_librarys_sgd_is_the_textbooks() {
        let mut momentum = vec![0.0; 1025];
        check(Method::Sgd, |i, gradient, step| {
            let beta: f64 = SETTING.beta1;
            momentum[i] = beta * momentum[i] + (1.0 - beta) * gradient;
            momentum[i] / (1.0 - beta.powi(step))
        });
    }

    #[test]
    fn the_librarys_rmsprop_is_the_textbooks() {
        let mut squares = vec![0.0; 1025];
        check(Method::Rmsprop, |i, gradient, _| {
            let beta = SETTING.beta2;
            squares[i] = beta * squares[i] + (1.0 - beta) * gradient * gradient;
            gradient / (f64::sqrt(squares[i]) + SETTING.eps)
        });
    }
}
