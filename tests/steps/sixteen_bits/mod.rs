//! State, parameters and gradients of 16 bits against the oracle in float64.
//!
//! # How close
//!
//! Rounding to nearest has a relative error of at most the unit roundoff `u`, which
//! is 2^-8 for bfloat16 and 2^-11 for float16; stochastic rounding has one of less
//! than `2 u`, and of zero on average. A state plane is rounded once per step, so
//! that after `t` steps its error is at most about `min(t, 1 / (1 - beta)) u` times
//! the largest number that it has held. The direction amplifies that by the
//! condition number of `X`, as in `tests/steps/oracle/comparison.rs`; a 16-bit parameter
//! is rounded once per step as well. Gradients add no error, because the library
//! and the oracle read the same numbers.
//!
//! The textbook's formulas, applied to numbers with error bounds (`ball.rs`), give
//! the bound for each parameter of a problem. It is the worst case, which grows
//! with `t`, while independent errors grow with its square root.

mod ball;
mod drift;

use crate::common::typed::{widen, Numbers};
use crate::common::{correlated, largest, normal, rng, to_f64};
use ball::Ball;
use sonew::dtype::Dtype::{self, Bf16, F16, F32, F64};
use sonew::layout::{Chains, TensorSpec};
use sonew::options::{Damping, Graft, Options, Rounding, StepOptions};
use sonew::oracle::Oracle;
use sonew::Optimizer;

const STEPS: usize = 6;
const DIMS: [usize; 2] = [12, 40];

/// The largest relative error of rounding to a type.
fn unit(dtype: Dtype, rounding: Rounding) -> f64 {
    let nearest = match dtype {
        Bf16 => 2f64.powi(-8),
        F16 => 2f64.powi(-11),
        // Included in the error of the arithmetic.
        F32 | F64 => 0.0,
    };
    match rounding {
        Rounding::Nearest => nearest,
        Rounding::Stochastic => 2.0 * nearest,
    }
}

/// The textbook for tridiagonal SONew with chains along the rows.
struct Textbook {
    options: Options,
    step: StepOptions,
    tensor: TensorSpec,
    params: Vec<Ball>,
    /// Momentum, diagonal and sub-diagonal.
    planes: [Vec<Ball>; 3],
    count: i32,
}

impl Textbook {
    fn round(&self, x: Ball, dtype: Dtype) -> Ball {
        x.rounded(unit(dtype, self.options.rounding))
    }

    fn step(&mut self, g: &[f64]) {
        let Options { beta1, beta2, .. } = self.options;
        self.count += 1;
        let len = DIMS[1];
        for j in 0..g.len() {
            let g_j = Ball::exact(g[j]);
            let next = (j + 1) % len != 0;
            let g_next = Ball::exact(if next { g[j + 1] } else { 0.0 });
            let news = [(beta1, g_j), (beta2, g_j * g_j), (beta2, g_j * g_next)];
            for (k, (beta, new)) in news.into_iter().enumerate() {
                let average = beta * self.planes[k][j] + (1.0 - beta) * new;
                self.planes[k][j] = self.round(average, self.tensor.state);
            }
        }
        let u = self.direction();
        for (j, u) in u.into_iter().enumerate() {
            let stepped = self.params[j] - self.step.lr * u;
            self.params[j] = match self.tensor.master {
                true => stepped,
                false => self.round(stepped, self.tensor.params),
            };
        }
    }

    fn direction(&self) -> Vec<Ball> {
        let Options { beta1, beta2, .. } = self.options;
        let len = DIMS[1];
        let corrected = |plane: usize, beta: f64| -> Vec<Ball> {
            let correction = 1.0 / (1.0 - beta.powi(self.count));
            let plane = self.planes[plane].iter();
            plane.map(|&x| correction * x).collect()
        };
        let (m, v) = (corrected(0, beta1), corrected(1, beta2));
        let band = corrected(2, beta2);
        let h: Vec<Ball> = v
            .iter()
            .map(|&v| v + Ball::exact(self.options.eps))
            .collect();
        let mut u = Vec::new();
        // psi and D L^T m of the coordinate before; none where a chain begins.
        let mut before = None;
        for j in 0..m.len() {
            let last = (j + 1) % len == 0;
            let (mut w, mut s, mut psi) = (m[j], h[j], Ball::exact(0.0));
            if !last {
                psi = band[j] / h[j + 1];
                w = w - psi * m[j + 1];
                s = s - psi * band[j];
                let gamma = self.options.gamma * (h[j].exact + h[j].error);
                assert!(s.least() > gamma, "an edge may be removed");
            }
            let z = w / s;
            u.push(match before {
                Some((psi, z_before)) => z - psi * z_before,
                None => z,
            });
            before = (!last).then_some((psi, z));
        }
        if self.options.graft == Graft::Adam {
            let eps = Ball::exact(self.options.graft_eps);
            let adam = m.iter().zip(&v).map(|(&m, &v)| m / (v.sqrt() + eps));
            let scale = Ball::length(&adam.collect::<Vec<_>>()) / Ball::length(&u);
            u.iter_mut().for_each(|u| *u = scale * *u);
        }
        u
    }
}

/// The results are within their bounds, and the textbook agrees with the oracle.
fn assert_close(got: &[f64], bounds: &[Ball], oracle: &[f64], what: &str) {
    let size = largest(oracle.iter().copied());
    for (j, (&got, ball)) in got.iter().zip(bounds).enumerate() {
        assert!((ball.exact - oracle[j]).abs() <= 1e-12 * size, "{what}");
        let error = (got - oracle[j]).abs();
        assert!(
            error <= ball.error,
            "{what}, {j}: {got} is off by {error:.1e}, at most {:.1e}",
            ball.error
        );
    }
}

/// Runs a trajectory; returns how large the bound and the error are at the end,
/// relative to the movement (root mean squares).
fn follow(tensor: TensorSpec, options: Options) -> [f64; 2] {
    let what = format!(
        "{}, {:?}, {:?}",
        tensor.name, options.rounding, options.graft
    );
    let mut rng = rng(3);
    let start = to_f64(&normal(&mut rng, tensor.len()));
    let mut params = Numbers::new(tensor.params, &start);
    let start = params.to_f64();
    let mut optimizer = Optimizer::new(options.clone(), std::slice::from_ref(&tensor)).unwrap();
    let mut oracle = Oracle::new(&options, std::slice::from_ref(&tensor));
    let mut exact = vec![start.clone()];
    let zeros = vec![Ball::exact(0.0); tensor.len()];
    let step = StepOptions {
        lr: 0.1,
        ..StepOptions::default()
    };
    let mut textbook = Textbook {
        params: start.iter().map(|&p| Ball::exact(p)).collect(),
        planes: [zeros.clone(), zeros.clone(), zeros],
        count: 0,
        options,
        step: step.clone(),
        tensor,
    };
    for _ in 0..STEPS {
        let g = to_f64(&correlated(&mut rng, start.len()));
        let g = Numbers::new(textbook.tensor.grads, &g);
        let grads = [Some(g.elements())];
        let mut buffers = [params.elements_mut()];
        optimizer.step_any(&step, &mut buffers, &grads).unwrap();
        oracle.step(&step, &mut exact, &[Some(g.to_f64())]);
        textbook.step(&g.to_f64());
        for (k, plane) in textbook.planes.iter().enumerate() {
            let got = widen(optimizer.plane(0, k).unwrap());
            assert_close(
                &got,
                plane,
                &oracle.tensor(0).planes[k],
                &format!("{what}, plane {k}"),
            );
        }
        // With master weights, the parameters are a rounded copy.
        let shown = textbook.params.iter();
        let shown: Vec<Ball> = match textbook.tensor.master {
            true => shown
                .map(|&p| textbook.round(p, textbook.tensor.params))
                .collect(),
            false => shown.copied().collect(),
        };
        assert_close(&params.to_f64(), &shown, &exact[0], &what);
    }
    let rms = |x: &dyn Fn(usize) -> f64| {
        let squares = (0..start.len()).map(|j| x(j).powi(2));
        (squares.sum::<f64>() / start.len() as f64).sqrt()
    };
    let got = params.to_f64();
    let moved = rms(&|j| exact[0][j] - start[j]);
    [
        rms(&|j| textbook.params[j].error) / moved,
        rms(&|j| got[j] - exact[0][j]) / moved,
    ]
}

#[test]
fn state_and_parameters_are_as_close_as_their_rounding_allows() {
    let mixes = [
        ([F32, F32, Bf16], false),
        ([F32, Bf16, Bf16], false),
        ([F64, F64, Bf16], false),
        ([Bf16, Bf16, F32], false),
        ([F16, F16, F32], false),
        ([Bf16, Bf16, Bf16], false),
        ([F16, F16, Bf16], false),
        ([Bf16, Bf16, Bf16], true),
    ];
    for (dtypes, master) in mixes {
        for rounding in [Rounding::Nearest, Rounding::Stochastic] {
            for graft in [Graft::None, Graft::Adam] {
                let [params, grads, state] = dtypes;
                let mut tensor = TensorSpec::new(format!("{params} {grads} {state}"), &DIMS)
                    .with_chains(Chains::ContiguousLines)
                    .with_dtypes(params, grads, state);
                tensor.master = master;
                let options = Options {
                    // Quotients of pivots stay above a half: see the assertion.
                    eps: 1.0,
                    damping: Damping::Absolute,
                    rounding,
                    graft,
                    ..Options::default()
                };
                let what = format!("{} master {master} {rounding:?} {graft:?}", tensor.name);
                let [bound, error] = follow(tensor, options);
                println!("{what}: bound {bound:.3}, error {error:.4} of the movement");
                // The bound must not be too loose; and float32 would be much closer.
                assert!(bound < 1.0 && error > 1e-4, "{what}: {bound} {error}");
            }
        }
    }
}
