//! The settings that the search tries, and the ranges they come from.

use rand::{seq::SliceRandom, Rng, SeedableRng};
use rand_pcg::Pcg64;

use sonew::options::Options;

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
}

/// Where the settings of an optimizer are drawn from; `None` is what it does
/// not have. The betas are ranges of `1 - beta`.
pub struct Ranges {
    pub lr: Range,
    pub far_beta1: Option<Range>,
    pub far_beta2: Option<Range>,
    pub eps: Option<Range>,
    /// What only some have.
    pub own: Option<(Own, Range)>,
}

/// A number of a setting that only some optimizers have, none of them two.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Own {
    Gamma,
    Shrink,
    Rms,
}

impl Own {
    pub fn name(self) -> &'static str {
        match self {
            Own::Gamma => "gamma",
            Own::Shrink => "shrink",
            Own::Rms => "rms",
        }
    }

    /// Its value in a setting.
    pub fn of(self, setting: &Setting) -> f64 {
        match self {
            Own::Gamma => setting.gamma,
            Own::Shrink => setting.shrink,
            Own::Rms => setting.rms,
        }
    }
}

/// The same for both data sets. Learning rates of all but SGD are one decade,
/// what SONew and Adam damp with is three, around what was found by hand before
/// (AdamW 2.5e-3, SONew 1.2e-2). SGD's rates are a decade and a half: its best are
/// far apart on the two data sets.
pub fn ranges(method: Method) -> Ranges {
    let range = |low, high| Range { low, high };
    let far_beta1 = Some(range(0.1, 0.5));
    let far_beta2 = Some(range(0.02, 0.2));
    match method {
        Method::Sgd => Ranges {
            lr: range(5e-3, 0.15),
            far_beta1: Some(range(0.02, 0.5)),
            far_beta2: None,
            eps: None,
            own: None,
        },
        Method::Rmsprop => Ranges {
            lr: range(3e-4, 3e-3),
            far_beta1: None,
            far_beta2,
            eps: Some(range(1e-8, 1e-5)),
            own: None,
        },
        Method::Adamw => Ranges {
            lr: range(1e-3, 1e-2),
            far_beta1,
            far_beta2,
            eps: Some(range(1e-8, 1e-5)),
            own: None,
        },
        // Rates as SONew, since rms multiplies them.
        Method::Muon => Ranges {
            lr: range(5e-3, 5e-2),
            own: Some((Own::Rms, range(0.1, 1.0))),
            ..ranges(Method::Adamw)
        },
        // Its damping is not searched, but everything else from the same draws.
        Method::Default => Ranges {
            eps: Some(range(Options::default().eps, Options::default().eps)),
            ..ranges(Method::Tridiagonal)
        },
        Method::PooledBand32 | Method::PooledRank16 | Method::PooledAll => Ranges {
            own: Some((Own::Shrink, range(1e-2, 0.3))),
            ..ranges(Method::Tridiagonal)
        },
        Method::Diagonal | Method::Tridiagonal | Method::Band4 => Ranges {
            lr: range(5e-3, 5e-2),
            far_beta1,
            far_beta2,
            eps: Some(range(1e-7, 1e-4)),
            own: Some((Own::Gamma, range(3e-3, 3e-2))),
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
        let [lr, beta1, beta2, eps, of_its_own] = std::array::from_fn(|_| shares());
        let value = |range: Option<Range>, share| range.map_or(0.0, |r| three_digits(r.at(share)));
        let beta = |range: Option<Range>, share| match range {
            Some(range) => four_places(1.0 - range.at(share)),
            None => 0.0,
        };
        let own = |of: Own, share| match self.own {
            Some((own, range)) if own == of => three_digits(range.at(share)),
            _ => 0.0,
        };
        let setting = |trial: usize| Setting {
            lr: value(Some(self.lr), lr[trial]),
            beta1: beta(self.far_beta1, beta1[trial]),
            beta2: beta(self.far_beta2, beta2[trial]),
            eps: value(self.eps, eps[trial]),
            gamma: own(Own::Gamma, of_its_own[trial]),
            shrink: own(Own::Shrink, of_its_own[trial]),
            rms: own(Own::Rms, of_its_own[trial]),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How far along a range a value lies, from 0 to 1.
    fn share(range: Range, value: f64) -> f64 {
        (value / range.low).ln() / (range.high / range.low).ln()
    }

    #[test]
    fn every_part_of_a_range_is_used_once() {
        let ranges = ranges(Method::Band4);
        let settings = ranges.sample(10, 7);
        let parts = |value: fn(&Setting) -> f64, range: Range| {
            let part = |s| (10.0 * share(range, value(s))).floor() as usize;
            let mut parts: Vec<usize> = settings.iter().map(part).collect();
            parts.sort_unstable();
            parts
        };
        let all: Vec<usize> = (0..10).collect();
        assert_eq!(parts(|s| s.lr, ranges.lr), all);
        assert_eq!(parts(|s| 1.0 - s.beta1, ranges.far_beta1.unwrap()), all);
        assert_eq!(parts(|s| 1.0 - s.beta2, ranges.far_beta2.unwrap()), all);
        assert_eq!(parts(|s| s.eps, ranges.eps.unwrap()), all);
        assert_eq!(parts(|s| s.gamma, ranges.own.unwrap().1), all);
        assert_eq!(settings, ranges.sample(10, 7));
        assert_ne!(settings, ranges.sample(10, 8));
    }

    #[test]
    fn no_optimizer_has_luckier_draws() {
        let draws = |method| {
            let ranges = ranges(method);
            let settings = ranges.sample(10, 0);
            let draw = move |s: Setting| share(ranges.lr, s.lr);
            settings.into_iter().map(draw).collect::<Vec<f64>>()
        };
        // Rates are rounded to three digits.
        let near = |(a, b): (f64, f64)| (a - b).abs() < 0.005;
        for method in [
            Method::Sgd,
            Method::Rmsprop,
            Method::Tridiagonal,
            Method::PooledAll,
            Method::Muon,
        ] {
            let mut pairs = draws(method).into_iter().zip(draws(Method::Adamw));
            assert!(pairs.all(near), "{}", method.key());
        }
    }
}
