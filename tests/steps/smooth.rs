//! The defaults on smooth functions of a few numbers, whose gradients have no noise: none
//! stalls, and multiplying the function by a number does not change where steps lead.

use crate::common::{normal, rng, to_f64};
use sonew::dtype::Dtype;
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Graft, Options, StepOptions};
use sonew::Optimizer;

/// Some result from some numbers.
type Of<T> = Box<dyn Fn(&[f64]) -> T>;

/// A function of some numbers with its gradient, and where steps begin.
struct Smooth {
    name: String,
    dims: Vec<usize>,
    start: Vec<f64>,
    value: Of<f64>,
    gradient: Of<Vec<f64>>,
    /// With learning rate 0.01.
    steps: usize,
}

impl Smooth {
    fn new(
        name: &str,
        dims: &[usize],
        start: Vec<f64>,
        value: impl Fn(&[f64]) -> f64 + 'static,
        gradient: impl Fn(&[f64]) -> Vec<f64> + 'static,
    ) -> Smooth {
        Smooth {
            name: name.to_owned(),
            dims: dims.to_vec(),
            start,
            value: Box::new(value),
            gradient: Box::new(gradient),
            steps: 20_000,
        }
    }

    /// The value at the end of all steps, of the function times `scale`, divided by that.
    fn minimize(&self, options: &Options, update: Update, scale: f64) -> f64 {
        let spec = TensorSpec::new(&self.name, &self.dims).with_update(update);
        let spec = spec.with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64);
        let mut optimizer = Optimizer::new(options.clone(), &[spec]).unwrap();
        let step = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        let mut x = self.start.clone();
        for _ in 0..self.steps {
            let mut gradient = (self.gradient)(&x);
            gradient.iter_mut().for_each(|g| *g *= scale);
            let (x, gradient) = (&mut [&mut x[..]], [Some(&gradient[..])]);
            optimizer.step(&step, x, &gradient).unwrap();
        }
        (self.value)(&x)
    }
}

/// `sum (x + x')^2` of a matrix, far from its minimum.
fn symmetric(seed: u64) -> Smooth {
    let at = |i: usize, j: usize| 8 * i + j;
    let pairs = move |x: &[f64], f: &mut dyn FnMut(f64)| {
        for i in 0..8 {
            for j in 0..8 {
                f(x[at(i, j)] + x[at(j, i)]);
            }
        }
    };
    let start = to_f64(&normal(&mut rng(seed), 64));
    Smooth::new(
        &format!("symmetric, from {seed}"),
        &[8, 8],
        start.iter().map(|x| 50.0 * x).collect(),
        move |x| {
            let mut sum = 0.0;
            pairs(x, &mut |y| sum += y * y);
            sum
        },
        move |x| {
            let mut gradient = Vec::new();
            pairs(x, &mut |y| gradient.push(4.0 * y));
            gradient
        },
    )
}

/// A quadratic whose curvatures differ by `10^decades`; along the axes, or along others.
fn quadratic(decades: f64, n: usize, rotated: bool, from: f64) -> Smooth {
    let mut rng = rng(n as u64);
    let power = |j: usize| 10f64.powf(decades * (j as f64 / (n - 1) as f64 - 0.5));
    let curvatures: Vec<f64> = (0..n).map(power).collect();
    let v = to_f64(&normal(&mut rng, n));
    let norm: f64 = v.iter().map(|x| x * x).sum();
    // A reflection: its own inverse.
    let turn = move |x: &[f64]| -> Vec<f64> {
        let dot: f64 = x.iter().zip(&v).map(|(a, b)| a * b).sum();
        let by = if rotated { 2.0 * dot / norm } else { 0.0 };
        x.iter().zip(&v).map(|(x, v)| x - by * v).collect()
    };
    let (also, weights) = (turn.clone(), curvatures.clone());
    let start = to_f64(&normal(&mut rng, n));
    Smooth::new(
        &format!("10^{decades} {n} {rotated} {from}"),
        &[n],
        start.iter().map(|x| from * x).collect(),
        move |x| {
            let squares = turn(x).into_iter().zip(&curvatures);
            squares.map(|(x, c)| 0.5 * c * x * x).sum()
        },
        move |x| {
            let mut y = also(x);
            y.iter_mut().zip(&weights).for_each(|(y, c)| *y *= c);
            also(&y)
        },
    )
}

/// Those of the usual test functions of optimizers that are smooth and have one minimum,
/// with the value 0 there.
fn usual() -> Vec<Smooth> {
    let sphere = |x: &[f64]| x.iter().map(|x| x * x).sum();
    let booth = |x: &[f64]| [x[0] + 2.0 * x[1] - 7.0, 2.0 * x[0] + x[1] - 5.0];
    vec![
        Smooth::new("sphere", &[4], vec![100.0, -3.0, 0.1, 7.0], sphere, |x| {
            x.iter().map(|x| 2.0 * x).collect()
        }),
        Smooth::new(
            "Booth",
            &[2],
            vec![-9.0, -9.0],
            move |x| booth(x).iter().map(|a| a * a).sum(),
            move |x| {
                let [a, b] = booth(x);
                vec![2.0 * a + 4.0 * b, 4.0 * a + 2.0 * b]
            },
        ),
        Smooth::new(
            "Matyas",
            &[2],
            vec![10.0, -8.0],
            |x| 0.26 * (x[0] * x[0] + x[1] * x[1]) - 0.48 * x[0] * x[1],
            |x| vec![0.52 * x[0] - 0.48 * x[1], 0.52 * x[1] - 0.48 * x[0]],
        ),
        Smooth::new(
            "Rosenbrock",
            &[2],
            vec![-1.2, 1.0],
            |x| 100.0 * (x[1] - x[0] * x[0]).powi(2) + (1.0 - x[0]).powi(2),
            |x| {
                let a = x[1] - x[0] * x[0];
                vec![-400.0 * x[0] * a - 2.0 * (1.0 - x[0]), 200.0 * a]
            },
        ),
        Smooth::new(
            "fourth powers",
            &[10],
            (1..=10).map(f64::from).collect(),
            |x| x.iter().map(|x| x.powi(4)).sum(),
            |x| x.iter().map(|x| 4.0 * x.powi(3)).collect(),
        ),
        Smooth::new(
            "log cosh",
            &[10],
            (0..10).map(|j| 20.0 * f64::from(j) - 90.0).collect(),
            |x| x.iter().map(|x| x.cosh().ln()).sum(),
            |x| x.iter().map(|x| x.tanh()).collect(),
        ),
    ]
}

fn all() -> Vec<Smooth> {
    let mut all = usual();
    all.extend((1..=4).map(symmetric));
    for decades in [4.0, 8.0] {
        for n in [4, 64] {
            for (rotated, from) in [(false, 1.0), (false, 30.0), (true, 1.0)] {
                all.push(quadratic(decades, n, rotated, from));
            }
        }
    }
    all
}

/// The defaults, but for what is varied.
fn variants() -> Vec<Options> {
    let band = |band| Options {
        band,
        threads: 1,
        ..Options::default()
    };
    let lagged = Options {
        lagged_norms: Some(true),
        ..band(1)
    };
    vec![band(0), band(1), band(4), lagged]
}

/// Adam, which moves every coordinate alike, has just enough steps for the farthest starts.
/// Circling around the minimum in steps of 0.01 leaves about as much of a function as Adam
/// leaves, or a small part of where it began.
#[test]
fn no_smooth_function_stalls() {
    let mut failed = Vec::new();
    for function in all() {
        let start = (function.value)(&function.start);
        let adam = function.minimize(&Options::default(), Update::Adam, 1.0);
        for options in variants() {
            let end = function.minimize(&options, Update::Sonew, 1.0);
            let bound = (10.0 * adam).max(1e-3 * start);
            if end.is_nan() || end > bound {
                let (name, band) = (&function.name, options.band);
                failed.push(format!(
                    "{name}, band {band}: {start:e} to {end:e}, Adam to {adam:e}"
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Of the grafts that do not themselves depend on the scale.
#[test]
fn the_scale_of_a_function_changes_no_bit() {
    for mut function in [symmetric(1), quadratic(6.0, 16, true, 1.0)] {
        function.steps = 300;
        for options in variants() {
            for graft in [Graft::Adam, Graft::NormalizedRmsprop] {
                for update in [Update::Sonew, Update::Adam] {
                    let options = Options {
                        graft,
                        ..options.clone()
                    };
                    let end = |scale| function.minimize(&options, update, scale);
                    // A power of two is exact in every number that depends on it.
                    let (less, more) = (2f64.powi(-20), 2f64.powi(20));
                    assert_eq!(end(1.0).to_bits(), end(less).to_bits(), "{options:?}");
                    assert_eq!(end(1.0).to_bits(), end(more).to_bits(), "{options:?}");
                }
            }
        }
    }
}
