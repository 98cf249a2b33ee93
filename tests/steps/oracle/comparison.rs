//! Checks whether one tensor of a problem is close enough.
//!
//! # How close
//!
//! Each number of the state is a sum of at most one term per step, so its error
//! is that of a few roundings per step. The direction amplifies the error by the
//! condition number of `X`, which is about the inverse of the smallest quotient
//! of a pivot or Schur complement and its diagonal entry: those are differences
//! of numbers as large as the diagonal. So if `r` is the smallest quotient of a
//! kept edge, the error of a parameter may be about `roundings ULP32 / r` times
//! the largest movement. Damping is chosen so that `r` is seldom below 1e-3.
//!
//! # Edge removal
//!
//! Edge removal is discontinuous: if a quotient is within rounding of gamma,
//! float32 and float64 may correctly differ. Most problems first move gamma
//! into the widest gap between the quotients that will occur, which the oracle
//! computes beforehand. If no gap is wide enough, these coordinates, and the
//! neighbours that their edges reach, are not compared; never with grafting
//! (which would spread the difference over the tensor), and never more than one
//! in fifty.

use sonew::layout::{Plane, TensorSpec};
use sonew::options::Graft;
use sonew::oracle::Oracle;
use sonew::Optimizer;

use super::problem::Problem;
use crate::common::{self, largest, ULP32};

/// Roundings of the state, three per step, and of the elimination.
fn roundings(steps: usize, band: usize) -> f64 {
    (3 * steps + 2 * band + 8) as f64
}

/// The data that the comparison of one tensor needs, over the steps so far.
pub struct Comparison {
    steps: usize,
    /// The largest gradient.
    gradient: f64,
    /// The largest movement.
    moved: f64,
    /// The smallest quotient of a kept edge.
    quotient: f64,
    /// Coordinates that are left out.
    excluded: Vec<bool>,
}

impl Comparison {
    pub fn new(tensor: &TensorSpec) -> Comparison {
        Comparison {
            steps: 0,
            gradient: 0.0,
            moved: 0.0,
            quotient: 1.0,
            excluded: vec![false; tensor.len()],
        }
    }

    pub fn gradient(&mut self, g: &[f64], scale: f64) {
        self.steps += 1;
        self.gradient = largest([self.gradient, scale * largest(g.iter().copied())]);
    }

    /// Looks for quotients within rounding of gamma.
    pub fn exclude_marginal(&mut self, problem: &Problem, oracle: &Oracle, i: usize) {
        let gamma = problem.options.gamma;
        // With gamma zero, damping keeps the quotients far enough from it.
        let margin = match gamma {
            0.0 => 1e-4,
            _ => roundings(self.steps, problem.options.band) * ULP32 / gamma,
        };
        let x = oracle.preconditioner(i);
        let reach = x.h.len();
        for chain in oracle.chains(i) {
            for (position, &j) in chain.iter().enumerate() {
                if x.margin(j, gamma) < margin {
                    let end = chain.len().min(position + reach);
                    chain[position..end]
                        .iter()
                        .for_each(|&k| self.excluded[k] = true);
                } else if !x.removed[j] {
                    self.quotient = x.ratios[j].iter().copied().fold(self.quotient, f64::min);
                }
            }
        }
        let excluded = self.excluded.iter().filter(|&&excluded| excluded).count();
        let allowed = match problem.options.graft {
            // One coordinate takes all with it that its edges reach.
            Graft::None => (self.excluded.len() / 50).max(2 * reach),
            _ => 0,
        };
        assert!(
            excluded <= allowed,
            "{excluded} coordinates left out: {problem:?}"
        );
    }

    pub fn params(&mut self, problem: &Problem, params: &[f32], exact: &[f64], start: &[f32]) {
        let all = 0..exact.len();
        let moved = all.clone().map(|j| exact[j] - f64::from(start[j]));
        self.moved = largest([self.moved, largest(moved)]);
        let compared = all.filter(|&j| !self.excluded[j]);
        let error = largest(compared.map(|j| f64::from(params[j]) - exact[j]));
        let relative = roundings(self.steps, problem.options.band) * ULP32 / self.quotient;
        // An update that is brought back has the rounding errors of the longer one.
        let longer = if problem.options.is_lagged() {
            10.0
        } else {
            1.0
        };
        let direction = longer * relative * self.moved;
        // Two more per step: of the decay and of the parameter itself.
        let rounding = 2.0 * self.steps as f64 * ULP32 * largest(exact.iter().copied());
        let bound = direction + rounding;
        assert!(
            error <= bound,
            "parameters are off by {error:.1e}, at most {bound:.1e}: {problem:?}"
        );
    }

    /// All sub-diagonals are bounded by the diagonal (Cauchy-Schwarz).
    pub fn state(&self, problem: &Problem, optimizer: &Optimizer, oracle: &Oracle, i: usize) {
        let exact = &oracle.tensor(i).planes;
        let planes = optimizer.planes(i).unwrap();
        assert_eq!(planes.len(), exact.len());
        for (plane, Plane { name, .. }) in planes.iter().enumerate() {
            let size = match name.as_str() {
                "momentum" => self.gradient,
                "rms" => largest(exact[plane].iter().copied()),
                _ => largest(exact[1].iter().copied()),
            };
            let bound = (3 * self.steps + 6) as f64 * ULP32 * size;
            let got = common::plane(optimizer, i, plane);
            for (j, (&got, &exact)) in got.iter().zip(&exact[plane]).enumerate() {
                let error = (f64::from(got) - exact).abs();
                // Exactly zero, too: behind the end of a chain.
                let close = error <= bound && (exact != 0.0 || got == 0.0);
                assert!(
                    close,
                    "{name}[{j}] is {got:e}, exactly {exact:e}: {problem:?}"
                );
            }
        }
    }
}
