//! The settings that the search tries, and the ranges they come from.

use rand::{seq::SliceRandom, Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::settings::{Method, Setting};

/// From where to where, both positive; the logarithm is drawn uniformly.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Range {
    pub low: f64,
    pub high: f64,
}

impl Range {
    /// The value at a share of the way, from 0 to 1.
    fn at(self, share: f64) -> f64 {
        self.low * (self.high / self.low).powf(share)
    }

    /// How far along the range a value lies, from 0 to 1.
    pub fn share(self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }
}

/// Where the settings of an optimizer are drawn from; `None` is what it does
/// not have. The betas are ranges of `1 - beta`.
pub struct Ranges {
    pub lr: Range,
    pub far_beta1: Option<Range>,
    pub far_beta2: Option<Range>,
    pub eps: Option<Range>,
    pub gamma: Option<Range>,
}

/// The same for both data sets.
pub fn ranges(method: Method) -> Ranges {
    let range = |low, high| Range { low, high };
    let far_beta1 = Some(range(0.05, 0.6));
    let far_beta2 = Some(range(0.01, 0.2));
    match method {
        Method::Sgd => Ranges {
            lr: range(1e-2, 1.0),
            far_beta1,
            far_beta2: None,
            eps: None,
            gamma: None,
        },
        Method::Rmsprop => Ranges {
            lr: range(2e-4, 5e-3),
            far_beta1: None,
            far_beta2,
            eps: Some(range(1e-9, 1e-5)),
            gamma: None,
        },
        Method::Adamw => Ranges {
            lr: range(8e-4, 1e-2),
            far_beta1,
            far_beta2,
            eps: Some(range(1e-9, 1e-5)),
            gamma: None,
        },
        Method::Diagonal | Method::Tridiagonal | Method::Band4 => Ranges {
            lr: range(3e-3, 4e-2),
            far_beta1,
            far_beta2,
            eps: Some(range(1e-7, 1e-4)),
            gamma: Some(range(2e-3, 1e-1)),
        },
    }
}

impl Ranges {
    /// As many settings as asked for: a Latin hypercube. Each range is cut into
    /// that many parts, and each part is used once, so that few trials leave no
    /// wide gap. The shares of the way are the same for all ranges: no
    /// optimizer has luckier draws than another.
    pub fn sample(&self, trials: usize, seed: u64) -> Vec<Setting> {
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut shares = || {
            let mut parts: Vec<usize> = (0..trials).collect();
            parts.shuffle(&mut rng);
            let within = |part| (part as f64 + rng.random::<f64>()) / trials as f64;
            parts.into_iter().map(within).collect::<Vec<f64>>()
        };
        let [lr, beta1, beta2, eps, gamma] = std::array::from_fn(|_| shares());
        let value = |range: Option<Range>, share| range.map_or(0.0, |r| three_digits(r.at(share)));
        let beta = |range: Option<Range>, share| match range {
            Some(range) => four_places(1.0 - range.at(share)),
            None => 0.0,
        };
        let setting = |trial: usize| Setting {
            lr: value(Some(self.lr), lr[trial]),
            beta1: beta(self.far_beta1, beta1[trial]),
            beta2: beta(self.far_beta2, beta2[trial]),
            eps: value(self.eps, eps[trial]),
            gamma: value(self.gamma, gamma[trial]),
            weight_decay: 0.0,
        };
        (0..trials).map(setting).collect()
    }
}

/// What is written is what was used.
fn three_digits(value: f64) -> f64 {
    format!("{value:.2e}").parse().expect("a number")
}

fn four_places(value: f64) -> f64 {
    format!("{value:.4}").parse().expect("a number")
}
