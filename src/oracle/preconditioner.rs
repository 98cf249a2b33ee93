//! The preconditioner `X` of one tensor, from its damped statistics.

/// The solution of `argmin tr(X H^) - log det X` over matrices `X` with the
/// sparsity of the band: `X = L D L^T` with, for the coordinate `j` of a
/// chain and its next `b` neighbours `I_j`,
///
/// ```text
/// psi_j      = (H^_Ij,Ij)^-1 H^_Ij,j      L_Ij,j = -psi_j
/// 1 / D_jj   = s_j = H^_jj - psi_j . H^_Ij,j
/// ```
///
/// The window `H^_Ij,Ij` is eliminated from `j + 1` upward. If a pivot is not
/// above `gamma` times its row's diagonal, or `s_j` not above `gamma H^_jj`,
/// the coordinate loses its edges: `psi_j = 0`, `s_j = H^_jj`.
///
/// All vectors are indexed by memory index.
#[derive(Debug, Clone)]
pub struct Preconditioner {
    /// `h[k][j]` is `H^` between coordinate `j` and its `k`-th neighbour;
    /// `h[0]` is the damped diagonal.
    pub h: Vec<Vec<f64>>,
    /// `psi_j`, nearest neighbour first; empty where there are no edges.
    pub psi: Vec<Vec<f64>>,
    /// `s_j`.
    pub s: Vec<f64>,
    /// Whether the coordinate lost its edges.
    pub removed: Vec<bool>,
    /// The quotients that were compared with `gamma`: each pivot over its
    /// row's diagonal, then `s_j / H^_jj`, up to the first that failed.
    pub ratios: Vec<Vec<f64>>,
}

impl Preconditioner {
    pub(super) fn new(h: Vec<Vec<f64>>, chains: &[Vec<usize>], gamma: f64) -> Preconditioner {
        let n = h[0].len();
        let band = h.len() - 1;
        let mut x = Preconditioner {
            s: h[0].clone(),
            psi: vec![Vec::new(); n],
            removed: vec![false; n],
            ratios: vec![Vec::new(); n],
            h,
        };
        for chain in chains {
            for (position, &j) in chain.iter().enumerate() {
                let end = chain.len().min(position + 1 + band);
                x.solve(j, &chain[position + 1..end], gamma);
            }
        }
        x
    }

    /// Finds `psi_j` and `s_j`; `neighbours` are `I_j`.
    fn solve(&mut self, j: usize, neighbours: &[usize], gamma: f64) {
        if neighbours.is_empty() {
            return;
        }
        let below: Vec<f64> = (1..=neighbours.len()).map(|k| self.h[k][j]).collect();
        let window = self.window(neighbours);
        let psi = solve_window(&window, &below, gamma, &mut self.ratios[j]);
        let s = psi.as_ref().map(|psi| self.h[0][j] - dot(psi, &below));
        if let Some(s) = s {
            self.ratios[j].push(s / self.h[0][j]);
        }
        match (psi, s) {
            (Some(psi), Some(s)) if s > gamma * self.h[0][j] => {
                self.psi[j] = psi;
                self.s[j] = s;
            }
            _ => self.removed[j] = true,
        }
    }

    /// The lower triangle of `H^` between these consecutive coordinates.
    fn window(&self, coordinates: &[usize]) -> Vec<Vec<f64>> {
        let entry = |row: usize, column: usize| self.h[row - column][coordinates[column]];
        (0..coordinates.len())
            .map(|row| (0..=row).map(|column| entry(row, column)).collect())
            .collect()
    }

    /// `u = L D L^T m`. A coordinate whose damped diagonal is not finite or
    /// not positive gets zero.
    pub fn apply(&self, chains: &[Vec<usize>], m: &[f64]) -> Vec<f64> {
        let mut u = vec![0.0; m.len()];
        for chain in chains {
            for (position, &j) in chain.iter().enumerate() {
                let neighbours = &chain[position + 1..];
                let psi = &self.psi[j];
                let above: f64 = psi.iter().zip(neighbours).map(|(p, &i)| p * m[i]).sum();
                let usable = self.h[0][j] > 0.0 && self.h[0][j].is_finite();
                let z = if usable {
                    (m[j] - above) / self.s[j]
                } else {
                    0.0
                };
                u[j] += z;
                for (p, &i) in psi.iter().zip(neighbours) {
                    u[i] -= p * z;
                }
            }
        }
        u
    }

    /// The smallest distance from `gamma` of any quotient of coordinate `j`:
    /// where it is within rounding, whether the edges stay is left to chance.
    pub fn margin(&self, j: usize, gamma: f64) -> f64 {
        let distances = self.ratios[j].iter().map(|ratio| (ratio - gamma).abs());
        distances.fold(f64::INFINITY, f64::min)
    }
}

/// Solves `window x = b` by `L D L^T` without pivoting, or gives up at the
/// first pivot that is not above `gamma` times its row's diagonal. Notes each
/// pivot's quotient with that diagonal.
fn solve_window(
    window: &[Vec<f64>],
    b: &[f64],
    gamma: f64,
    ratios: &mut Vec<f64>,
) -> Option<Vec<f64>> {
    let n = b.len();
    let mut l = vec![vec![0.0; n]; n];
    let mut d = vec![0.0; n];
    for row in 0..n {
        for column in 0..row {
            let known: f64 = (0..column).map(|k| l[row][k] * d[k] * l[column][k]).sum();
            l[row][column] = (window[row][column] - known) / d[column];
        }
        let known: f64 = (0..row).map(|k| l[row][k] * d[k] * l[row][k]).sum();
        d[row] = window[row][row] - known;
        ratios.push(d[row] / window[row][row]);
        // Written so that a NaN gives up too.
        let above = d[row] > gamma * window[row][row];
        if !above {
            return None;
        }
    }
    let mut x = b.to_vec();
    for row in 0..n {
        x[row] -= (0..row).map(|k| l[row][k] * x[k]).sum::<f64>();
    }
    for row in (0..n).rev() {
        x[row] = x[row] / d[row] - (row + 1..n).map(|k| l[k][row] * x[k]).sum::<f64>();
    }
    Some(x)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
