//! Correlations that the chains of a tensor share, in float64.

use super::Preconditioner;
use crate::layout::{Chains, TensorSpec};
use crate::options::{Options, Pooling};

/// The chains of a pooled tensor: they end where rows or columns do.
pub(super) fn broken(chains: Chains) -> Chains {
    match chains {
        Chains::Contiguous | Chains::ContiguousLines => Chains::ContiguousLines,
        Chains::Strided | Chains::StridedLines => Chains::StridedLines,
    }
}

/// The chains whose products are added up in a tensor's step of this number: of every 256
/// chains, each takes its turn, where there are more, at least every fourth step.
fn in_turn(chains: &[Vec<usize>], step: u64) -> Vec<Vec<usize>> {
    let groups = chains.chunks(256);
    let turns = groups.len().clamp(1, 4);
    let turn = (step % turns as u64) as usize;
    groups
        .skip(turn)
        .step_by(turns)
        .flatten()
        .cloned()
        .collect()
}

/// The sums of one tensor.
#[derive(Debug, Clone)]
pub(super) enum Pooled {
    /// A band: `P_i[j]` at `i`, then `j`.
    Band(Vec<Vec<f64>>),
    /// Along some directions.
    Rank(Directions),
    /// All: `P_ij` at `i`, then `j`.
    All(Vec<Vec<f64>>),
}

impl Pooled {
    pub(super) fn new(options: &Options, spec: &TensorSpec) -> Pooled {
        let chains = super::chains(&spec.dims, broken(spec.chains));
        let length = chains.first().map_or(0, Vec::len);
        let zeros = |rows: usize| vec![vec![0.0; length]; rows];
        match options.pooling {
            Pooling::None | Pooling::Band => Pooled::Band(zeros(options.band + 1)),
            Pooling::Rank => Pooled::Rank(Directions::new(options.rank, length)),
            Pooling::All => Pooled::All(zeros(length)),
        }
    }

    /// `u = q^-1 R^-1 q^-1 m`, with `R` from the sums as they were before this step if they
    /// are lagged, and otherwise as they are after it.
    #[allow(clippy::too_many_arguments)] // Each is a thing of its own.
    pub(super) fn direction(
        &mut self,
        options: &Options,
        chains: &[Vec<usize>],
        diagonal: &[f64],
        m: &[f64],
        g: &[f64],
        average: (f64, f64),
        step: u64,
    ) -> Vec<f64> {
        let usable = |d: f64| d > 0.0 && d.is_finite();
        let over_root = |x: &[f64]| -> Vec<f64> {
            let pairs = x.iter().zip(diagonal);
            pairs
                .map(|(x, &d)| if usable(d) { x / d.sqrt() } else { 0.0 })
                .collect()
        };
        let adding = in_turn(chains, step);
        if options.is_lagged() {
            let u = self.apply(options, chains, &over_root(m));
            self.add(&adding, &over_root(g), average);
            return over_root(&u);
        }
        self.add(&adding, &over_root(g), average);
        over_root(&self.apply(options, chains, &over_root(m)))
    }

    fn add(&mut self, chains: &[Vec<usize>], z: &[f64], (keep, add): (f64, f64)) {
        let product = |chain: &Vec<usize>, i: usize, j: usize| match chain.get(j) {
            Some(&other) => z[chain[i]] * z[other],
            None => 0.0,
        };
        let sum = |i, j| chains.iter().map(|chain| product(chain, i, j)).sum::<f64>();
        match self {
            Pooled::Band(sums) => {
                for (apart, sums) in sums.iter_mut().enumerate() {
                    for (j, p) in sums.iter_mut().enumerate() {
                        *p = keep * *p + add * sum(j, j + apart);
                    }
                }
            }
            Pooled::All(sums) => {
                for (i, row) in sums.iter_mut().enumerate() {
                    for (j, p) in row.iter_mut().enumerate() {
                        *p = keep * *p + add * sum(i, j);
                    }
                }
            }
            Pooled::Rank(directions) => {
                directions.add(chains, z, (keep, add));
                directions.turn();
            }
        }
    }

    /// `R^-1 x`, chain by chain.
    fn apply(&self, options: &Options, chains: &[Vec<usize>], x: &[f64]) -> Vec<f64> {
        let mut u = vec![0.0; x.len()];
        let mut each = |solve: &dyn Fn(&[f64]) -> Vec<f64>| {
            for chain in chains {
                let of_chain: Vec<f64> = chain.iter().map(|&j| x[j]).collect();
                for (&j, solved) in chain.iter().zip(solve(&of_chain)) {
                    u[j] = solved;
                }
            }
        };
        match self {
            Pooled::Band(sums) => {
                let length = sums[0].len();
                let of = |j: usize| sums[0].get(j).copied().unwrap_or(0.0);
                let rho = |apart: usize, j: usize| match apart {
                    0 => 1.0,
                    _ => correlation(options, sums[apart][j], of(j), of(j + apart)),
                };
                let band = |apart| (0..length).map(|j| rho(apart, j)).collect();
                let shared: Vec<usize> = (0..length).collect();
                let shared = std::slice::from_ref(&shared);
                let h = (0..=options.band).map(band).collect();
                let inverse = Preconditioner::new(h, shared, options.gamma);
                each(&|x| inverse.apply(shared, x));
            }
            Pooled::Rank(directions) => {
                let inverse = directions.inverse(options);
                each(&inverse);
            }
            Pooled::All(sums) => {
                let rho = |i: usize, j: usize| match i == j {
                    true => 1.0,
                    false => correlation(options, sums[i][j], sums[i][i], sums[j][j]),
                };
                let all = 0..sums.len();
                let row = |i| all.clone().map(|j| rho(i, j)).collect();
                let r: Vec<Vec<f64>> = all.clone().map(row).collect();
                let l = cholesky(&r, options.gamma);
                each(&|x| solve(&l, x));
            }
        }
        u
    }
}

fn correlation(options: &Options, product: f64, a: f64, b: f64) -> f64 {
    let root = a.sqrt() * b.sqrt();
    match root > 0.0 {
        true => (1.0 - options.shrink) * product / root,
        false => 0.0,
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The lower factor of `R = L L^T`, row by row. A position whose Schur complement is not above
/// gamma loses its correlations with those before it.
fn cholesky(r: &[Vec<f64>], gamma: f64) -> Vec<Vec<f64>> {
    let mut l: Vec<Vec<f64>> = Vec::new();
    for (i, row) in r.iter().enumerate() {
        let mut own: Vec<f64> = Vec::new();
        for j in 0..i {
            own.push((row[j] - dot(&own, &l[j][..j])) / l[j][j]);
        }
        let schur = 1.0 - dot(&own, &own);
        if schur > gamma {
            own.push(schur.sqrt());
        } else {
            own = vec![0.0; i];
            own.push(1.0);
        }
        l.push(own);
    }
    l
}

/// `(L L^T)^-1 x`
fn solve(l: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    let mut y: Vec<f64> = Vec::new();
    for (row, x) in l.iter().zip(x) {
        let before = dot(row, &y);
        y.push((x - before) / row[row.len() - 1]);
    }
    for i in (0..y.len()).rev() {
        let behind: f64 = (i + 1..y.len()).map(|k| l[k][i] * y[k]).sum();
        y[i] = (y[i] - behind) / l[i][i];
    }
    y
}

/// Directions that follow the leading eigenvectors of `P`.
#[derive(Debug, Clone)]
pub(super) struct Directions {
    /// The directions, orthonormal.
    u: Vec<Vec<f64>>,
    /// The average of `P` times each.
    y: Vec<Vec<f64>>,
    /// The average of the sum of squares of each position.
    squares: Vec<f64>,
    rank: usize,
    length: usize,
}

impl Directions {
    fn new(rank: usize, length: usize) -> Directions {
        let rank = rank.min(length);
        let mut state = 0u64;
        let mut row = || (0..length).map(|_| chance(&mut state)).collect();
        let numbers: Vec<Vec<f64>> = (0..rank).map(|_| row()).collect();
        let units: Vec<Vec<f64>> = (0..rank).map(|r| unit(r, length)).collect();
        Directions {
            u: orthonormal(&numbers, &units),
            y: vec![vec![0.0; length]; rank],
            squares: vec![0.0; length],
            rank,
            length,
        }
    }

    /// After the products of a step have been added.
    fn turn(&mut self) {
        let next = orthonormal(&self.y, &self.u);
        // Y U' U2, column by column.
        let column = |u2: &Vec<f64>| {
            let mut column = vec![0.0; self.length];
            for (y, u) in self.y.iter().zip(&self.u) {
                let along = dot(u, u2);
                column.iter_mut().zip(y).for_each(|(c, y)| *c += y * along);
            }
            column
        };
        self.y = next.iter().map(column).collect();
        self.u = next;
    }

    fn add(&mut self, chains: &[Vec<usize>], z: &[f64], (keep, add): (f64, f64)) {
        self.squares.iter_mut().for_each(|square| *square *= keep);
        self.y.iter_mut().flatten().for_each(|y| *y *= keep);
        for chain in chains {
            let z: Vec<f64> = chain.iter().map(|&j| z[j]).collect();
            let squares = self.squares.iter_mut().zip(&z);
            squares.for_each(|(square, z)| *square += add * z * z);
            for (y, u) in self.y.iter_mut().zip(&self.u) {
                let along = add * dot(&z, u);
                y.iter_mut().zip(&z).for_each(|(y, z)| *y += along * z);
            }
        }
    }

    /// `(I - U (1 - rest / lambda) U') x / rest`, for any x.
    fn inverse(&self, options: &Options) -> impl Fn(&[f64]) -> Vec<f64> + '_ {
        let others = self.length - self.rank;
        let trace = self.squares.iter().sum::<f64>();
        let mean = trace / self.length as f64;
        let shrunk = |x: f64| (1.0 - options.shrink) * x / mean + options.shrink;
        let pairs = self.u.iter().zip(&self.y);
        let estimates: Vec<f64> = pairs.map(|(u, y)| dot(u, y).max(0.0)).collect();
        let mut lambda: Vec<f64> = estimates.iter().map(|&x| shrunk(x)).collect();
        let mut rest = match others {
            0 => lambda.iter().copied().fold(f64::INFINITY, f64::min),
            _ => shrunk((trace - estimates.iter().sum::<f64>()).max(0.0) / others as f64),
        };
        if mean <= 0.0 || rest <= options.gamma {
            rest = 1.0;
            lambda.fill(1.0);
        }
        move |x: &[f64]| {
            let mut solved = x.to_vec();
            for (u, lambda) in self.u.iter().zip(&lambda) {
                let along = dot(u, x) * (1.0 - rest / lambda.max(rest));
                for ((x, u), square) in solved.iter_mut().zip(u).zip(&self.squares) {
                    // A position without products has no part in it.
                    *x -= if *square > 0.0 { along * u } else { 0.0 };
                }
            }
            solved.iter_mut().for_each(|x| *x /= rest);
            solved
        }
    }
}

fn unit(r: usize, length: usize) -> Vec<f64> {
    let mut unit = vec![0.0; length];
    unit[r] = 1.0;
    unit
}

/// The next number of SplitMix64, as one in `[-1, 1)`.
fn chance(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    2.0 * ((z >> 11) as f64 / 2f64.powi(53)) - 1.0
}

/// Gram and Schmidt's, each column twice. One that was, to rounding, a combination of those
/// before it is replaced by that of `instead` of the same number, or by the first of which
/// enough is left.
fn orthonormal(columns: &[Vec<f64>], instead: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = Vec::new();
    for (r, column) in columns.iter().enumerate() {
        let left = |column: &[f64]| {
            let mut left = column.to_vec();
            for other in all.iter().chain(&all) {
                let along = dot(other, &left);
                left.iter_mut()
                    .zip(other)
                    .for_each(|(x, u)| *x -= along * u);
            }
            let norm = dot(&left, &left).sqrt();
            (left, norm)
        };
        let norm = dot(column, column).sqrt();
        let (mut own, mut length) = left(column);
        if norm == 0.0 || length <= f64::EPSILON.sqrt() * norm {
            let mut candidates = vec![&instead[r]];
            candidates.extend(
                instead
                    .iter()
                    .enumerate()
                    .filter(|&(i, _)| i != r)
                    .map(|x| x.1),
            );
            let enough = 1.0 / (2.0 * columns.len() as f64);
            let mut found = candidates.into_iter().map(|candidate| left(candidate));
            (own, length) = found.find(|x| x.1 * x.1 >= enough).expect("one is left");
        }
        all.push(own.iter().map(|x| x / length).collect());
    }
    all
}
