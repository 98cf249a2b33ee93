//! Correlations that the chains of a tensor share, in float64.

use super::Preconditioner;
use crate::layout::{Chains, TensorSpec};
use crate::options::Options;

/// The chains of a pooled tensor: they end where rows or columns do.
pub(super) fn broken(chains: Chains) -> Chains {
    match chains {
        Chains::Contiguous | Chains::ContiguousLines => Chains::ContiguousLines,
        Chains::Strided | Chains::StridedLines => Chains::StridedLines,
    }
}

/// The sums of one tensor.
#[derive(Debug, Clone)]
pub(super) struct Pooled {
    /// `P_i[j]` at `i`, then `j`.
    pub(super) sums: Vec<Vec<f64>>,
}

impl Pooled {
    pub(super) fn new(options: &Options, spec: &TensorSpec) -> Pooled {
        let chains = super::chains(&spec.dims, broken(spec.chains));
        let length = chains.first().map_or(0, Vec::len);
        Pooled {
            sums: vec![vec![0.0; length]; options.band + 1],
        }
    }

    /// `u = q^-1 R^-1 q^-1 m`, with `R` from the sums as they were before this step if they
    /// are lagged, and otherwise as they are after it.
    pub(super) fn direction(
        &mut self,
        options: &Options,
        chains: &[Vec<usize>],
        diagonal: &[f64],
        m: &[f64],
        g: &[f64],
        average: (f64, f64),
    ) -> Vec<f64> {
        let usable = |d: f64| d > 0.0 && d.is_finite();
        let over_root = |x: &[f64]| -> Vec<f64> {
            let pairs = x.iter().zip(diagonal);
            pairs
                .map(|(x, &d)| if usable(d) { x / d.sqrt() } else { 0.0 })
                .collect()
        };
        if options.is_lagged() {
            let u = self.apply(options, chains, &over_root(m));
            self.add(chains, &over_root(g), average);
            return over_root(&u);
        }
        self.add(chains, &over_root(g), average);
        over_root(&self.apply(options, chains, &over_root(m)))
    }

    fn add(&mut self, chains: &[Vec<usize>], z: &[f64], (keep, add): (f64, f64)) {
        for (apart, sums) in self.sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                let products = chains.iter().map(|chain| match chain.get(j + apart) {
                    Some(&other) => z[chain[j]] * z[other],
                    None => 0.0,
                });
                *sum = keep * *sum + add * products.sum::<f64>();
            }
        }
    }

    /// `R^-1 x`, chain by chain.
    fn apply(&self, options: &Options, chains: &[Vec<usize>], x: &[f64]) -> Vec<f64> {
        let length = self.sums[0].len();
        let correlation = |apart: usize, j: usize| {
            let of = |j: usize| self.sums[0].get(j).copied().unwrap_or(0.0);
            let root = of(j).sqrt() * of(j + apart).sqrt();
            match apart {
                0 => 1.0,
                _ if root > 0.0 => (1.0 - options.shrink) * self.sums[apart][j] / root,
                _ => 0.0,
            }
        };
        let band = |apart| (0..length).map(|j| correlation(apart, j)).collect();
        let shared: Vec<usize> = (0..length).collect();
        let h = (0..=options.band).map(band).collect();
        let inverse = Preconditioner::new(h, std::slice::from_ref(&shared), options.gamma);
        let mut u = vec![0.0; x.len()];
        for chain in chains {
            let of_chain: Vec<f64> = chain.iter().map(|&j| x[j]).collect();
            let solved = inverse.apply(std::slice::from_ref(&shared), &of_chain);
            for (&j, solved) in chain.iter().zip(solved) {
                u[j] = solved;
            }
        }
        u
    }
}
