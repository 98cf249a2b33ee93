//! The time of one step, for the same rows as `benches/compare`: `cargo bench`, or
//! `cargo bench -- 67M` for those that match. `benches/README.md` says how to read
//! the numbers.

use std::ops::Range;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    criterion_group, criterion_main, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode,
    Throughput,
};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use sonew::dtype::{Elements, ElementsMut};
use sonew::layout::{planes, Chains, TensorSpec};
use sonew::options::{Graft, NonFinite, Options, StepOptions};
use sonew::{Optimizer, Plan, Target, TensorBuffers};

/// One line of the table.
struct Row {
    name: &'static str,
    band: usize,
    graft: Graft,
    chains: Chains,
    non_finite: NonFinite,
}

const ROWS: [Row; 7] = [
    Row {
        name: "diagonal, Adam graft",
        band: 0,
        ..TRIDIAGONAL
    },
    Row {
        name: "tridiagonal, no graft",
        graft: Graft::None,
        ..TRIDIAGONAL
    },
    TRIDIAGONAL,
    Row {
        name: "band 4, Adam graft",
        band: 4,
        ..TRIDIAGONAL
    },
    Row {
        name: "tridiagonal, Adam graft, checked",
        non_finite: NonFinite::Skip,
        ..TRIDIAGONAL
    },
    Row {
        name: "tridiagonal, no graft, columns",
        graft: Graft::None,
        ..COLUMNS
    },
    COLUMNS,
];

const TRIDIAGONAL: Row = Row {
    name: "tridiagonal, Adam graft",
    band: 1,
    graft: Graft::Adam,
    chains: Chains::Contiguous,
    non_finite: NonFinite::Unchecked,
};

const COLUMNS: Row = Row {
    name: "tridiagonal, Adam graft, columns",
    chains: Chains::Strided,
    ..TRIDIAGONAL
};

impl Row {
    fn options(&self) -> Options {
        Options {
            band: self.band,
            graft: self.graft,
            ..Options::default()
        }
    }

    fn step(&self) -> StepOptions {
        StepOptions {
            lr: 1e-4,
            non_finite: self.non_finite,
            ..StepOptions::default()
        }
    }

    /// Bytes that the step moves for each parameter: the parameter, read and
    /// written, and the gradient; each state plane, read and written; with
    /// grafting the direction, written and read back; with the non-finite
    /// check the gradient once more.
    fn bytes(&self) -> usize {
        let planes = planes(&self.options(), &TensorSpec::new("", &[])).len();
        let direction = if self.graft == Graft::None { 0 } else { 2 };
        let check = if self.non_finite == NonFinite::Skip {
            1
        } else {
            0
        };
        size_of::<f32>() * (3 + 2 * planes + direction + check)
    }
}

/// Weights `[out, in]` and biases of fully connected layers of these widths.
fn layers(widths: &[usize]) -> Vec<TensorSpec> {
    let layer = |(i, pair): (usize, &[usize])| {
        let weight = TensorSpec::new(format!("{i}.weight"), &[pair[1], pair[0]]);
        [weight, TensorSpec::new(format!("{i}.bias"), &[pair[1]])]
    };
    widths.windows(2).enumerate().flat_map(layer).collect()
}

/// The models: the name in the report, and the tensors.
fn models() -> [(&'static str, Vec<TensorSpec>); 3] {
    [
        ("67M", vec![TensorSpec::new("weight", &[8192, 8192])]),
        (
            "autoencoder",
            layers(&[784, 1000, 500, 250, 30, 250, 500, 1000, 784]),
        ),
        ("small", layers(&[88, 58, 44, 35, 20, 35, 44, 58, 88])),
    ]
}

/// Gradients differ from step to step, as in training: each step reads the same
/// random numbers from an offset that is one cache line larger.
const GRADIENTS: usize = 8;
const LINE: usize = 64 / size_of::<f32>();

/// Random numbers for a model: parameters, and gradients with room to shift.
struct Numbers {
    lens: Vec<usize>,
    params: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
}

impl Numbers {
    fn new(tensors: &[TensorSpec]) -> Self {
        let lens: Vec<usize> = tensors.iter().map(TensorSpec::len).collect();
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut uniform = |len: usize, range: Range<f32>| -> Vec<f32> {
            (0..len)
                .map(|_| random.random_range(range.clone()))
                .collect()
        };
        Numbers {
            params: lens.iter().map(|&n| uniform(n, -0.1..0.1)).collect(),
            grads: lens
                .iter()
                .map(|&n| uniform(n + GRADIENTS * LINE, -0.05..0.05))
                .collect(),
            lens,
        }
    }

    fn step(&mut self, optimizer: &mut Optimizer, step: &StepOptions) {
        let shift = optimizer.step_count() as usize % GRADIENTS * LINE;
        let grads = self.grads.iter().zip(&self.lens);
        let grads: Vec<_> = grads.map(|(g, &n)| Some(&g[shift..shift + n])).collect();
        let mut params: Vec<&mut [f32]> = self.params.iter_mut().map(Vec::as_mut_slice).collect();
        optimizer
            .step(step, &mut params, &grads)
            .expect("the step is valid");
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    group
}

/// Every row on every model.
fn steps(c: &mut Criterion) {
    for (model, tensors) in models() {
        let parameters: usize = tensors.iter().map(TensorSpec::len).sum();
        let mut group = group(c, model);
        // Created by the first row that runs, because a filter may exclude all.
        let mut numbers = None;
        for row in &ROWS {
            let chains = |t: &TensorSpec| t.clone().with_chains(row.chains);
            let tensors: Vec<TensorSpec> = tensors.iter().map(chains).collect();
            let mut optimizer = None;
            group.throughput(Throughput::Bytes((row.bytes() * parameters) as u64));
            group.bench_function(row.name, |bencher| {
                let numbers = numbers.get_or_insert_with(|| Numbers::new(&tensors));
                let optimizer = optimizer.get_or_insert_with(|| {
                    Optimizer::new(row.options(), &tensors).expect("the options are valid")
                });
                bencher.iter(|| numbers.step(optimizer, &row.step()));
            });
        }
    }
}

/// State of a tensor whose gradient has been zero for many steps.
struct Faded {
    plan: Plan,
    params: Vec<f32>,
    grad: Vec<f32>,
    planes: Vec<Vec<f32>>,
}

impl Faded {
    const LEN: usize = 4 << 20;
    /// So large that bias correction has no effect.
    const NUMBER: u64 = 1_000_000;
    /// The averages decay by a thousandth of a percent in each step, so that they
    /// stay in their range during the measurement, and some numbers cross its
    /// lower end in every step.
    const DECAY: f64 = 0.99999;

    /// Momentum and band of any sign, the diagonal positive; magnitudes are
    /// spread evenly over the powers of ten in `exponents`.
    fn new(exponents: Range<f64>) -> Self {
        let (beta1, beta2) = (Self::DECAY, Self::DECAY);
        let options = Options {
            beta1,
            beta2,
            ..TRIDIAGONAL.options()
        };
        let tensor = TensorSpec::new("weight", &[Self::LEN]);
        let mut random = Pcg64Mcg::seed_from_u64(2);
        let mut plane = |name: String| -> Vec<f32> {
            let mut number = || {
                let size = 10f64.powf(random.random_range(exponents.clone()));
                let negative = name != "diagonal" && random.random();
                if negative {
                    -size as f32
                } else {
                    size as f32
                }
            };
            (0..Self::LEN).map(|_| number()).collect()
        };
        Faded {
            planes: planes(&options, &tensor)
                .into_iter()
                .map(|p| plane(p.name))
                .collect(),
            plan: Plan::new(&options, &[tensor]).expect("the options are valid"),
            params: vec![0.1; Self::LEN],
            grad: vec![0.0; Self::LEN],
        }
    }

    fn step(&mut self) {
        let buffers = TensorBuffers::new(
            Target::Parameters(ElementsMut::new(&mut self.params)),
            Some(Elements::new(&self.grad)),
            self.planes.iter_mut().map(|p| ElementsMut::new(p)),
        );
        let stepped = self
            .plan
            .step(&TRIDIAGONAL.step(), Self::NUMBER, &mut [buffers]);
        stepped.expect("the step is valid");
    }
}

/// With a gradient that stays zero, the state fades from ordinary numbers to
/// numbers whose products are subnormal, to subnormal numbers, and to zero. Steps
/// on all four must take the same time.
fn zero_gradient(c: &mut Criterion) {
    let mut group = group(c, "zero gradient");
    group.throughput(Throughput::Bytes((TRIDIAGONAL.bytes() * Faded::LEN) as u64));
    let states = [
        ("ordinary", -4.0..0.0),
        ("products subnormal", -24.0..-16.0),
        ("subnormal", -45.0..-34.0),
        ("zero", -99.0..-98.0),
    ];
    for (name, exponents) in states {
        let mut faded = None;
        group.bench_function(BenchmarkId::new("state", name), |bencher| {
            let faded = faded.get_or_insert_with(|| Faded::new(exponents.clone()));
            bencher.iter(|| faded.step());
        });
    }
}

criterion_group!(benches, steps, zero_gradient);
criterion_main!(benches);
