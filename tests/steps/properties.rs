//! Properties of the preconditioner for any statistics, of the oracle's and of the
//! library's. The latter is computed column by column: if the momentum is a unit
//! vector, the direction is a column of `X`.

use crate::common::dense::{inverse, pivots, unit_vectors};
use crate::common::{
    self, correlated, elements_mut, largest, rng, to_f32, to_f64, CHAINS, DAMPINGS, GRAFTS,
};
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use sonew::dtype::{Elements, ElementsMut};
use sonew::layout::{planes, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, StepOptions};
use sonew::oracle::{Oracle, Preconditioner};
use sonew::{Optimizer, Plan, Target, TensorBuffers};

/// Shapes with one and with several chains.
const SHAPES: [&[usize]; 6] = [&[1], &[2], &[9], &[24], &[4, 5], &[3, 2, 4]];

/// `(X^-1)_ij = H^_ij` on the band, where no edge was removed.
#[test]
fn the_inverse_of_x_has_the_statistics_on_the_band() {
    for_random_statistics(|case, x, columns| {
        let n = columns.len();
        for (columns, tolerance) in [(&case.oracle_columns(x), 1e-9), (columns, 2e-3)] {
            let inverse = inverse(columns);
            let size = largest(x.h[0].iter().copied());
            for chain in case.oracle.chains(0) {
                for (position, &j) in chain.iter().enumerate() {
                    // H^_ij comes from the windows of j and of the later
                    // coordinates that j's window refers to.
                    let end = chain.len().min(position + x.h.len());
                    if chain[position..].iter().any(|&i| x.removed[i]) {
                        continue;
                    }
                    for (k, &i) in chain[position..end].iter().enumerate() {
                        let error = (inverse[i][j] - x.h[k][j]).abs();
                        let mirrored = (inverse[j][i] - x.h[k][j]).abs();
                        assert!(
                            error.max(mirrored) <= tolerance * size,
                            "{n} {i} {j}: {case:?}"
                        );
                    }
                }
            }
        }
    });
}

/// Both sides give a symmetric positive definite `X`, with the sparsity of
/// the band's factor: between chains nothing.
#[test]
fn x_is_symmetric_positive_definite() {
    for_random_statistics(|case, x, columns| {
        for (columns, tolerance) in [(&case.oracle_columns(x), 1e-12), (columns, 1e-4)] {
            let size = largest(columns.iter().flatten().copied());
            for (i, column) in columns.iter().enumerate() {
                for (j, value) in column.iter().enumerate() {
                    assert!(
                        (value - columns[j][i]).abs() <= tolerance * size,
                        "{case:?}"
                    );
                }
            }
            assert!(pivots(columns).iter().all(|&d| d > 0.0), "{case:?}");
        }
    });
}

/// `D` is positive on statistics that no gradient would leave behind: of rank
/// one, zero, huge, tiny, and garbage of any sign, size and kind. What the
/// library makes of them stays finite and close to the oracle's.
#[test]
fn d_is_positive_on_any_statistics() {
    let mut compared = 0;
    for seed in 0..600 {
        let mut rng = rng(seed);
        let case = Case::garbage(&mut rng);
        let x = case.oracle.preconditioner(0);
        for (j, &diagonal) in x.h[0].iter().enumerate() {
            if diagonal.is_finite() && diagonal > 0.0 {
                assert!(x.s[j].is_finite() && x.s[j] > 0.0, "seed {seed}: {case:?}");
            }
        }
        let m: Vec<f64> = to_f64(&correlated(&mut rng, x.s.len()));
        let exact = x.apply(case.oracle.chains(0), &to_f64(&to_f32(&m)));
        let u = case.library_direction(&m);
        assert!(
            u.iter().all(|u| u.is_finite()),
            "seed {seed}: {u:?} {case:?}"
        );
        let gamma = case.options.gamma;
        let clear = (0..x.s.len()).all(|j| x.margin(j, gamma) > 1e-4);
        if clear {
            check_close(&u, &exact, &x, &format!("seed {seed}: {case:?}"));
            compared += 1;
        }
        for (u, &diagonal) in u.iter().zip(&x.h[0]) {
            let usable = diagonal.is_finite() && diagonal > 0.0;
            assert!(usable || *u == 0.0, "seed {seed}: {case:?}");
        }
    }
    assert!(compared > 500);
}

/// Each coordinate's error relative to the size of the terms that it is a sum
/// of, in units set by `sqrt(s)`: those of the garbage differ by many powers.
fn check_close(u: &[f64], exact: &[f64], x: &Preconditioner, context: &str) {
    for (j, (u, exact)) in u.iter().zip(exact).enumerate() {
        let scale = largest(
            x.s.iter()
                .filter(|s| s.is_finite() && **s > 0.0)
                .map(|s| 1.0 / (s * x.s[j].abs()).sqrt()),
        );
        let bound = 1e-2 * scale.max(exact.abs());
        assert!(
            (u - exact).abs() <= bound,
            "{j}: {u:e}, exactly {exact:e}: {context}"
        );
    }
}

/// On fresh state a zero gradient moves nothing but the decay, and with it a
/// parameter of zero stays zero.
#[test]
fn a_zero_gradient_moves_nothing_but_the_decay() {
    for seed in 0..200 {
        let mut rng = rng(1000 + seed);
        let options = Options {
            band: rng.random_range(0..=4),
            eps: *[0.0, 1e-6].choose(&mut rng).unwrap(),
            graft_eps: *[0.0, 1e-8].choose(&mut rng).unwrap(),
            graft: *GRAFTS.choose(&mut rng).unwrap(),
            damping: *DAMPINGS.choose(&mut rng).unwrap(),
            bias_correction: rng.random(),
            weight_decay: *[0.0, 0.1].choose(&mut rng).unwrap(),
            ..Options::default()
        };
        let update = *[Update::Sonew, Update::Adam].choose(&mut rng).unwrap();
        let tensor = TensorSpec::new("w", SHAPES.choose(&mut rng).unwrap())
            .with_chains(*CHAINS.choose(&mut rng).unwrap())
            .with_update(update);
        let start = correlated(&mut rng, tensor.len());
        let zero = vec![0.0f32; start.len()];
        let mut params = start.clone();
        let mut optimizer = Optimizer::new(options.clone(), std::slice::from_ref(&tensor)).unwrap();
        let step = StepOptions {
            lr: 0.5,
            ..StepOptions::default()
        };
        optimizer
            .step(&step, &mut [&mut params], &[Some(&zero)])
            .unwrap();
        for (&p, &start) in params.iter().zip(&start) {
            let expected = f64::from(start) * (1.0 - 0.5 * options.weight_decay);
            let error = (f64::from(p) - expected).abs();
            let rounding = 2.0 * common::ULP32 * expected.abs();
            assert!(
                error <= rounding,
                "seed {seed}: {p} from {start}: {options:?}"
            );
            assert!(options.weight_decay > 0.0 || p.to_bits() == start.to_bits());
        }
        for plane in 0..planes(&options, &tensor).len() {
            let state = common::plane(&optimizer, 0, plane);
            assert!(state.iter().all(|&x| x == 0.0), "seed {seed}: {options:?}");
        }
    }
}

/// Gradients of any finite size whose square does not overflow, zeros and
/// equal ones among them, never make a NaN. (Without edge removal only where
/// there is damping to speak of: equal gradients leave singular statistics.)
#[test]
fn finite_gradients_never_make_a_nan() {
    for seed in 0..300 {
        let mut rng = rng(2000 + seed);
        let (gamma, damping, eps) = *[
            (1e-2, Damping::Absolute, 0.0),
            (1e-2, Damping::Absolute, 1e-30),
            (1e-2, Damping::Absolute, 1.0),
            (1e-2, Damping::Relative, 0.0),
            (0.0, Damping::Relative, 1e-3),
            (1e-2, Damping::RelativeLagged, 0.0),
            (0.0, Damping::RelativeLagged, 1e-3),
        ]
        .choose(&mut rng)
        .unwrap();
        let options = Options {
            band: rng.random_range(0..=16),
            eps,
            gamma,
            damping,
            graft: *GRAFTS.choose(&mut rng).unwrap(),
            graft_eps: *[0.0, 1e-8].choose(&mut rng).unwrap(),
            bias_correction: rng.random(),
            ..Options::default()
        };
        let chains = *CHAINS.choose(&mut rng).unwrap();
        let update = *[Update::Sonew, Update::Sonew, Update::Adam]
            .choose(&mut rng)
            .unwrap();
        let tensor = TensorSpec::new("w", &[7, 11])
            .with_chains(chains)
            .with_update(update);
        let mut optimizer = Optimizer::new(options.clone(), &[tensor]).unwrap();
        let mut params = vec![1.0f32; 77];
        for _ in 0..6 {
            let sizes = [0.0, 1e-30, 1e-20, 1e-9, 1.0, 1e9, 1e18];
            let size = *sizes.choose(&mut rng).unwrap();
            let g: Vec<f32> = match rng.random() {
                true => vec![size; 77],
                false => correlated(&mut rng, 77).iter().map(|g| g * size).collect(),
            };
            optimizer
                .step(&StepOptions::default(), &mut [&mut params], &[Some(&g)])
                .unwrap();
            let nan = params.iter().position(|p| p.is_nan());
            assert_eq!(nan, None, "seed {seed}, |g| = {size:e}: {options:?}");
        }
    }
}

/// One tensor with statistics.
#[derive(Debug)]
struct Case {
    options: Options,
    tensor: TensorSpec,
    /// Holds the statistics; each number fits float32.
    oracle: Oracle,
}

impl Case {
    /// Statistics are taken as they stand: no bias correction, and decays
    /// that make [`Case::library_direction`] exact.
    fn new(rng: &mut Pcg64Mcg, eps: f64, gamma: f64) -> Case {
        let options = Options {
            band: rng.random_range(0..=5),
            beta1: 0.5,
            beta2: 0.5,
            eps,
            gamma,
            bias_correction: false,
            graft: Graft::None,
            threads: 1,
            ..Options::default()
        };
        let tensor = TensorSpec::new("w", SHAPES.choose(rng).unwrap())
            .with_chains(*CHAINS.choose(rng).unwrap());
        let oracle = Oracle::new(&options, std::slice::from_ref(&tensor));
        Case {
            options,
            tensor,
            oracle,
        }
    }

    /// The statistics that some steps leave behind.
    fn stepped(rng: &mut Pcg64Mcg) -> Case {
        let gamma = *[0.0, 0.05].choose(rng).unwrap();
        let mut case = Case::new(rng, 0.1, gamma);
        let n = case.tensor.len();
        for _ in 0..rng.random_range(1..6) {
            let g = to_f64(&correlated(rng, n));
            case.oracle
                .step(&StepOptions::default(), &mut [vec![0.0; n]], &[Some(g)]);
        }
        case.round();
        // The library is given state alone, and takes the largest entry from that.
        case.oracle.tensor_mut(0).largest = [0.0; 2];
        case
    }

    /// Any statistics.
    fn garbage(rng: &mut Pcg64Mcg) -> Case {
        let eps = *[0.0, 1e-6].choose(rng).unwrap();
        let gamma = *[1e-2, 0.2].choose(rng).unwrap();
        let mut case = Case::new(rng, eps, gamma);
        let n = case.tensor.len();
        let size = *[0.0, 1e-18, 1e-9, 1.0, 1e9, 1e18].choose(rng).unwrap();
        let g: Vec<f64> = to_f64(&correlated(rng, n))
            .iter()
            .map(|g| g * size)
            .collect();
        let kind = rng.random_range(0..3);
        if kind < 2 {
            // Rank one.
            case.oracle
                .step(&StepOptions::default(), &mut [vec![0.0; n]], &[Some(g)]);
        }
        let chains = case.oracle.chains(0).to_vec();
        let planes = &mut case.oracle.tensor_mut(0).planes;
        for (k, plane) in planes[1..].iter_mut().enumerate() {
            for chain in &chains {
                let inner = &chain[..chain.len().saturating_sub(k)];
                for &j in inner {
                    match kind {
                        0 => {}
                        1 if rng.random_bool(0.9) => {}
                        _ => plane[j] = anything(rng),
                    }
                }
            }
        }
        case.round();
        case
    }

    /// Rounds the state to float32, tiny numbers to zero as the library does.
    fn round(&mut self) {
        for x in self.oracle.tensor_mut(0).planes.iter_mut().flatten() {
            let rounded = *x as f32;
            *x = if rounded.abs() < f32::MIN_POSITIVE {
                0.0
            } else {
                rounded.into()
            };
        }
    }

    fn oracle_columns(&self, x: &Preconditioner) -> Vec<Vec<f64>> {
        unit_vectors(self.tensor.len())
            .map(|m| x.apply(self.oracle.chains(0), &m))
            .collect()
    }

    fn library_columns(&self) -> Vec<Vec<f64>> {
        unit_vectors(self.tensor.len())
            .map(|m| self.library_direction(&m))
            .collect()
    }

    /// `X m` by the library: a step with a zero gradient and both decays 1/2,
    /// from state that is twice what it shall become.
    fn library_direction(&self, m: &[f64]) -> Vec<f64> {
        let twice = |plane: &[f64]| plane.iter().map(|x| 2.0 * *x as f32).collect::<Vec<f32>>();
        let mut state = vec![twice(m)];
        state.extend(
            self.oracle.tensor(0).planes[1..]
                .iter()
                .map(|plane| twice(plane)),
        );
        let gradient = vec![0.0f32; m.len()];
        let mut u = vec![f32::NAN; m.len()];
        let mut buffers = [TensorBuffers::new(
            Target::Direction(ElementsMut::new(&mut u)),
            Some(Elements::new(&gradient)),
            elements_mut(&mut state),
        )];
        let mut plan = Plan::new(&self.options, std::slice::from_ref(&self.tensor)).unwrap();
        plan.step(&StepOptions::default(), 1, &mut buffers).unwrap();
        drop(buffers);
        to_f64(&u)
    }
}

/// A number of any sign and size, zero, infinite, or none at all. (Twice it
/// is still finite, if it is; its inverse, too.)
fn anything(rng: &mut Pcg64Mcg) -> f64 {
    let size = 10f64.powf(rng.random_range(-12.0..12.0));
    match rng.random_range(0..20) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => 0.0,
        4..7 => -size,
        _ => size,
    }
}

/// Checks the oracle's preconditioner and the library's columns.
fn for_random_statistics(check: impl Fn(&Case, &Preconditioner, &Vec<Vec<f64>>)) {
    let mut checked = 0;
    for seed in 0..150 {
        let case = Case::stepped(&mut rng(seed));
        let x = case.oracle.preconditioner(0);
        // An edge on the brink of removal may differ between the two sides.
        let gamma = case.options.gamma;
        let clear = gamma == 0.0 || (0..x.s.len()).all(|j| x.margin(j, gamma) > 1e-4);
        if clear {
            check(&case, &x, &case.library_columns());
            checked += 1;
        }
    }
    assert!(checked > 140);
}
