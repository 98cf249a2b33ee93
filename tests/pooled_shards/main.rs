//! Tensors with pooled correlations that are cut between chains: each of several processes has
//! some rows, and the sums of products are added up between steps. Results are those of the
//! oracle, which has the whole tensors, wherever they are cut.

#[macro_use]
#[path = "../common/refusal.rs"]
mod refusal;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod refused;

use std::ops::{AddAssign, Range};

use common::{correlated, elements, elements_mut, normal, rng, to_f64};
use sonew::dtype::{Dtype, Element, Elements, ElementsMut};
use sonew::layout::{planes, Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Pooling, StepOptions};
use sonew::oracle::Oracle;
use sonew::{Optimizer, Plan, Stage, Target, TensorBuffers};

fn structures() -> [Options; 6] {
    let band = |band| Options {
        band,
        pooling: Pooling::Band,
        ..Options::default()
    };
    let rank = |rank| Options {
        rank,
        pooling: Pooling::Rank,
        ..Options::default()
    };
    let all = Options {
        pooling: Pooling::All,
        ..Options::default()
    };
    [band(0), band(4), band(33), rank(3), rank(40), all]
}

fn lines(name: &str, dims: &[usize]) -> TensorSpec {
    TensorSpec::new(name, dims).with_chains(Chains::ContiguousLines)
}

/// Whole tensors, up to 256 chains, above that, and above 1024; of several dimensions; one
/// that all processes have whole, and one without correlations.
fn model() -> Vec<TensorSpec> {
    vec![
        lines("few", &[40, 45]),
        lines("many", &[700, 21]),
        lines("more", &[1300, 9]),
        TensorSpec::new("deep", &[30, 14, 12]),
        lines("on all", &[300, 7]),
        TensorSpec::new("bias", &[40]).with_update(Update::Adam),
    ]
}

const ON_ALL: &str = "on all";

/// The rows of each process, in parts of a tensor: of one process, of two, of four of which one
/// has none.
const CUTS: [&[f64]; 3] = [&[], &[0.37], &[0.1, 0.1, 0.88]];

/// What a process has of a tensor.
fn rows(spec: &TensorSpec, cuts: &[f64], process: usize) -> Range<usize> {
    if spec.name == ON_ALL {
        return 0..spec.dims[0];
    }
    let edge = |i: usize| match i {
        0 => 0,
        i if i > cuts.len() => spec.dims[0],
        i => (cuts[i - 1] * spec.dims[0] as f64) as usize,
    };
    edge(process)..edge(process + 1)
}

fn part(spec: &TensorSpec, rows: &Range<usize>) -> TensorSpec {
    let mut part = spec.clone().with_shard(rows.start, spec.dims[0]);
    part.dims[0] = rows.len();
    part
}

/// The numbers of some rows.
fn own<T: Clone>(spec: &TensorSpec, rows: &Range<usize>, all: &[T]) -> Vec<T> {
    let len = all.len() / spec.dims[0];
    all[rows.start * len..rows.end * len].to_vec()
}

/// Numbers that tensors have.
trait Number: Element + From<f32> + Into<f64> + AddAssign {}
impl Number for f32 {}
impl Number for f64 {}

/// One of several processes.
struct Process<T> {
    rows: Vec<Range<usize>>,
    optimizer: Optimizer,
    params: Vec<Vec<T>>,
}

/// All of them.
struct Group<T> {
    model: Vec<TensorSpec>,
    processes: Vec<Process<T>>,
}

impl<T: Number> Group<T> {
    fn new(options: &Options, model: &[TensorSpec], cuts: &[f64], params: &[Vec<T>]) -> Self {
        let process = |process: usize| {
            let rows: Vec<_> = model.iter().map(|t| rows(t, cuts, process)).collect();
            let parts = model.iter().zip(&rows);
            let specs: Vec<_> = parts.clone().map(|(t, rows)| part(t, rows)).collect();
            Process {
                optimizer: Optimizer::new(options.clone(), &specs).unwrap(),
                params: parts
                    .zip(params)
                    .map(|((t, rows), params)| own(t, rows, params))
                    .collect(),
                rows,
            }
        };
        Group {
            model: model.to_vec(),
            processes: (0..=cuts.len()).map(process).collect(),
        }
    }

    /// A step in stages of all processes, whose numbers are reduced.
    fn step(&mut self, step: &StepOptions, grads: &[Option<Vec<T>>]) -> sonew::Result<()> {
        let counted =
            |process: usize, tensor: usize| process == 0 || self.model[tensor].name != ON_ALL;
        let lent: Vec<Vec<Option<Vec<T>>>> = self
            .processes
            .iter()
            .map(|process| {
                let of = |(i, grad): (usize, &Option<Vec<T>>)| {
                    let (spec, rows) = (&self.model[i], &process.rows[i]);
                    grad.as_ref().map(|grad| own(spec, rows, grad))
                };
                grads.iter().enumerate().map(of).collect()
            })
            .collect();
        let lent: Vec<Vec<Option<Elements<'_>>>> = lent
            .iter()
            .map(|grads| {
                grads
                    .iter()
                    .map(|g| g.as_deref().map(Elements::new))
                    .collect()
            })
            .collect();
        let (mut params, optimizers): (Vec<Vec<ElementsMut<'_>>>, Vec<&mut Optimizer>) = self
            .processes
            .iter_mut()
            .map(|process| {
                let params = process.params.iter_mut().map(|p| ElementsMut::new(p));
                (params.collect(), &mut process.optimizer)
            })
            .unzip();
        let each = optimizers.into_iter().zip(&mut params).zip(&lent);
        let mut stages: Vec<_> = each
            .map(|((optimizer, params), grads)| optimizer.stages(step, params, grads).unwrap())
            .collect();
        loop {
            let reached: Vec<_> = stages.iter_mut().map(|stages| stages.next()).collect();
            let mut reached = reached.into_iter().collect::<sonew::Result<Vec<_>>>()?;
            let stage = reached.pop().unwrap();
            assert!(reached.iter().all(|other| *other == stage));
            let Some(stage) = stage else {
                return Ok(());
            };
            for tensor in 0..grads.len() {
                for i in 0..2 {
                    let all: Vec<f64> = stages
                        .iter_mut()
                        .enumerate()
                        .filter(|(process, _)| counted(*process, tensor))
                        .map(|(_, stages)| stages.numbers()[tensor][i])
                        .collect();
                    let number = match stage {
                        Stage::LargestL1 => all.into_iter().fold(0.0, f64::max),
                        _ => all.into_iter().sum(),
                    };
                    for stages in &mut stages {
                        stages.numbers()[tensor][i] = number;
                    }
                }
            }
        }
    }

    /// Adds the partial sums of all tensors up, as a program does after every step. Returns
    /// whether any were there.
    fn reduce(&mut self) -> bool {
        let mut any = false;
        for tensor in 0..self.model.len() {
            let mut total = Vec::new();
            for process in &self.processes {
                let len = process.optimizer.partial_sums_len(tensor).unwrap();
                let mut own = vec![T::from(f32::NAN); len];
                let to = ElementsMut::new(&mut own);
                process.optimizer.partial_sums(tensor, to).unwrap();
                total.resize(len, T::from(0.0));
                total.iter_mut().zip(own).for_each(|(total, x)| *total += x);
            }
            any |= total.iter().any(|x| *x != T::from(0.0));
            for process in &mut self.processes {
                let total = Elements::new(&total);
                process.optimizer.set_reduced_sums(tensor, total).unwrap();
            }
        }
        any
    }

    /// The whole parameters.
    fn params(&self) -> Vec<Vec<f64>> {
        let of = |tensor: usize| {
            let is_on_all = self.model[tensor].name == ON_ALL;
            let count = if is_on_all { 1 } else { self.processes.len() };
            let parts = self.processes[..count].iter();
            parts
                .flat_map(|p| p.params[tensor].iter().map(|&x| x.into()))
                .collect()
        };
        (0..self.model.len()).map(of).collect()
    }
}

fn double(model: Vec<TensorSpec>) -> Vec<TensorSpec> {
    let of = |t: TensorSpec| t.with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64);
    model.into_iter().map(of).collect()
}

fn of<T: Number>(numbers: Vec<f32>) -> Vec<T> {
    numbers.into_iter().map(T::from).collect()
}

fn start<T: Number>(model: &[TensorSpec]) -> Vec<Vec<T>> {
    let mut rng = rng(7);
    let one = |t: &TensorSpec| of(normal(&mut rng, t.len()));
    model.iter().map(one).collect()
}

fn gradients<T: Number>(model: &[TensorSpec], seed: u64) -> Vec<Option<Vec<T>>> {
    let mut rng = rng(100 + seed);
    let one = |t: &TensorSpec| Some(of(correlated(&mut rng, t.len())));
    model.iter().map(one).collect()
}

fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>], most: f64, what: &str) {
    for (tensor, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        let errors = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let error = errors.fold(0.0, f64::max);
        assert!(error < most, "{error:e} in tensor {tensor}: {what}");
    }
}

/// Among the steps are one in which two tensors have no gradient, and one that is skipped,
/// after which there is nothing to be added up.
#[test]
fn steps_of_shards_are_those_of_the_oracle() {
    let model = double(model());
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for (i, structure) in structures().into_iter().enumerate() {
        let options = Options {
            graft: [Graft::Adam, Graft::NormalizedRmsprop, Graft::Sgd][i % 3],
            nesterov: i % 2 == 0,
            damping: [
                Damping::Absolute,
                Damping::Relative,
                Damping::RelativeLagged,
            ][i / 2 % 3],
            eps: 1e-4,
            ..structure
        };
        let mut oracle = Oracle::new(&options, &model);
        let mut exact = start(&model);
        let mut groups = CUTS.map(|cuts| Group::new(&options, &model, cuts, &exact));
        for number in 0..8 {
            let mut grads = gradients(&model, number);
            match number {
                2 => (grads[1], grads[3]) = (None, None),
                5 => grads[2].as_mut().unwrap()[9 * 1299] = f64::INFINITY,
                _ => {}
            }
            let is_skipped = number == 5;
            if !is_skipped {
                oracle.step(&step, &mut exact, &grads);
            }
            for (group, cuts) in groups.iter_mut().zip(CUTS) {
                let stepped = group.step(&step, &grads);
                assert_eq!(stepped.is_err(), is_skipped, "{number}: {stepped:?}");
                assert_eq!(group.reduce(), !is_skipped && !cuts.is_empty());
                assert!(!group.reduce());
                let what = format!("step {number}, cut at {cuts:?}: {options:?}");
                assert_close(&group.params(), &exact, 1e-10, &what);
            }
        }
    }
}

/// Of float32 and of bfloat16 state, beside the oracle, whose state is not rounded.
#[test]
fn types_of_few_bits_are_near_the_oracle() {
    for (state, most) in [(Dtype::F32, 2e-5), (Dtype::Bf16, 2e-3)] {
        let of = |t: TensorSpec| t.with_dtypes(Dtype::F32, Dtype::F32, state);
        let model: Vec<_> = model().into_iter().map(of).collect();
        let step = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        for options in structures() {
            let options = Options {
                eps: 1e-4,
                ..options
            };
            let mut oracle = Oracle::new(&options, &model);
            let first = start::<f32>(&model);
            let mut exact: Vec<_> = first.iter().map(|p| to_f64(p)).collect();
            let mut groups = CUTS.map(|cuts| Group::new(&options, &model, cuts, &first));
            for number in 0..6 {
                let grads = gradients::<f32>(&model, number);
                let all: Vec<_> = grads.iter().map(|g| g.as_deref().map(to_f64)).collect();
                oracle.step(&step, &mut exact, &all);
                for group in &mut groups {
                    group.step(&step, &grads).unwrap();
                    group.reduce();
                    let what = format!("step {number}, {state:?}: {options:?}");
                    assert_close(&group.params(), &exact, most, &what);
                }
            }
        }
    }
}

/// Where the planes are a program's own, it adds up the part of each that the documentation of
/// `planes` names.
#[test]
fn planes_of_a_program_are_added_up_in_place() {
    let spec = double(vec![lines("w", &[600, 11])]).remove(0);
    let cuts = [0..100, 100..100, 100..391, 391..600];
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for structure in structures() {
        let options = Options {
            graft: Graft::None,
            damping: Damping::Absolute,
            eps: 1e-4,
            ..structure
        };
        // (band + 1) L, (rank + 1) L and L L.
        let numbers = 11
            * match options.pooling {
                Pooling::Rank => options.rank.min(11) + 1,
                Pooling::All => 11,
                _ => options.band + 1,
            };
        let specs = cuts.clone().map(|rows| part(&spec, &rows));
        let mut plans = specs.each_ref().map(|spec| {
            let spec = std::slice::from_ref(spec);
            Plan::new(&options, spec).unwrap()
        });
        let mut state = specs.each_ref().map(|spec| {
            let planes = planes(&options, spec).into_iter();
            planes.map(|p| vec![0f64; p.len()]).collect::<Vec<_>>()
        });
        let mut exact = start::<f64>(std::slice::from_ref(&spec));
        let mut params = cuts.clone().map(|rows| own(&spec, &rows, &exact[0]));
        let mut oracle = Oracle::new(&options, std::slice::from_ref(&spec));
        for number in 1..6 {
            let grads = gradients::<f64>(std::slice::from_ref(&spec), number);
            oracle.step(&step, &mut exact, &grads);
            for (i, rows) in cuts.iter().enumerate() {
                let grad = own(&spec, rows, grads[0].as_ref().unwrap());
                let planes = state[i].iter_mut().map(|plane| ElementsMut::new(plane));
                let target = Target::Parameters(ElementsMut::new(&mut params[i]));
                let buffers = TensorBuffers::new(target, Some(Elements::new(&grad)), planes);
                plans[i].step(&step, number, &mut [buffers]).unwrap();
            }
            let last = numbers..2 * numbers;
            let mut total = vec![0.0; numbers];
            for (state, rows) in state.iter().zip(&cuts) {
                let own = state[2][last.clone()].iter();
                // A process without rows takes part in no step.
                let own = own.map(|x| if rows.is_empty() { 0.0 } else { *x });
                total.iter_mut().zip(own).for_each(|(total, x)| *total += x);
            }
            for state in &mut state {
                state[2][last.clone()].copy_from_slice(&total);
            }
            let what = format!("step {number}: {options:?}");
            assert_close(&[params.concat()], &exact, 1e-10, &what);
        }
    }
}
