//! Processes whose shards are cut between blocks, and that reduce the numbers of a step block
//! by block, get the bits of one process that has the whole tensors, however many they are.

use std::ops::Range;

use crate::common::{correlated, elements_mut, normal, rng, DAMPINGS, GRAFTS};
use rand_pcg::Pcg64Mcg;
use sonew::dtype::{Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{NonFinite, Options, StepOptions};
use sonew::{Error, Optimizer, Stage, StagedStep};

/// Lines whose length is a power of two, odd, and longer than a block; a vector; and a matrix
/// that the first process holds whole, since all of its blocks are one.
fn whole() -> Vec<TensorSpec> {
    let lines = |name: &str, dims: &[usize]| {
        TensorSpec::new(name, dims).with_chains(Chains::ContiguousLines)
    };
    vec![
        lines("even", &[512, 64]),
        lines("odd", &[300, 67]),
        lines("kernels", &[200, 3, 48]),
        lines("long", &[5, 9008]),
        lines("small", &[300, 67]).with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16),
        TensorSpec::new("bias", &[20_000]).with_update(Update::Adam),
        TensorSpec::new("one", &[30, 20]),
    ]
}

/// The rows of a block of each of them, as `block_rows` documents: lines that fill 8192
/// elements, of which every block begins at a multiple of 16.
const BLOCK_ROWS: [usize; 7] = [128, 112, 170, 1, 112, 8192, 30];

/// The rows of process `index` of `count`: whole blocks.
fn rows(spec: &TensorSpec, options: &Options, index: usize, count: usize) -> Range<usize> {
    let (all, block) = (spec.dims[0], spec.block_rows(options));
    let blocks = all.div_ceil(block);
    let cut = |index: usize| (blocks * index / count * block).min(all);
    cut(index)..cut(index + 1)
}

/// What a process has of the tensors, and of numbers of theirs.
struct Process {
    optimizer: Optimizer,
    rows: Vec<Range<usize>>,
    params: Vec<Vec<f32>>,
}

impl Process {
    fn new(options: &Options, index: usize, count: usize, start: &[Vec<f32>]) -> Process {
        let rows: Vec<_> = whole()
            .iter()
            .map(|spec| rows(spec, options, index, count))
            .collect();
        let part = |(mut spec, rows): (TensorSpec, &Range<usize>)| {
            let all = spec.dims[0];
            spec.dims[0] = rows.len();
            spec.with_shard(rows.start, all)
        };
        let specs: Vec<_> = whole().into_iter().zip(&rows).map(part).collect();
        let mut process = Process {
            optimizer: Optimizer::new(options.clone(), &specs).unwrap(),
            rows,
            params: Vec::new(),
        };
        process.params = process.part(start);
        process
    }

    fn part(&self, all: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let part = |((all, rows), spec): ((&Vec<f32>, &Range<usize>), TensorSpec)| {
            let len = all.len() / spec.dims[0];
            all[rows.start * len..rows.end * len].to_vec()
        };
        all.iter().zip(&self.rows).zip(whole()).map(part).collect()
    }
}

fn random(seed: u64, make: impl Fn(&mut Pcg64Mcg, usize) -> Vec<f32>) -> Vec<Vec<f32>> {
    let mut rng = rng(seed);
    whole()
        .iter()
        .map(|spec| make(&mut rng, spec.len()))
        .collect()
}

/// Reduces block by block: each number is zero but on one process.
fn reduce(stage: Stage, steps: &mut [StagedStep<'_, '_>]) {
    let blocks = steps[0].blocks().unwrap();
    let numbers: Vec<_> = steps
        .iter()
        .map(|step| step.block_numbers().unwrap())
        .collect();
    let mut all = numbers[0].clone();
    for numbers in &numbers[1..] {
        for (all, own) in all.iter_mut().flatten().zip(numbers.iter().flatten()) {
            assert!(*all == 0.0 || *own == 0.0);
            *all += own;
        }
    }
    for step in steps {
        assert_eq!(step.blocks().unwrap(), blocks);
        let mut rest = &all[..];
        for (number, &count) in step.numbers().iter_mut().zip(&blocks) {
            let (own, others) = rest.split_at(count);
            (*number, rest) = (stage.combine(own), others);
        }
        assert!(rest.is_empty());
    }
}

/// Steps of some processes, with the bits of all their parameters and planes put together.
fn train(options: &Options, how: &StepOptions, count: usize) -> Vec<Vec<u8>> {
    let start = random(1, normal);
    let mut processes: Vec<_> = (0..count)
        .map(|i| Process::new(options, i, count, &start))
        .collect();
    for number in 1..4 {
        let grads = random(number, correlated);
        let grads: Vec<_> = processes
            .iter()
            .map(|process| process.part(&grads))
            .collect();
        let mut grads: Vec<Vec<_>> = grads
            .iter()
            .map(|grads| grads.iter().map(|g| Some(Elements::new(g))).collect())
            .collect();
        // One of them takes no part once.
        grads
            .iter_mut()
            .for_each(|grads| grads[1] = grads[1].filter(|_| number != 2));
        let (mut optimizers, mut params): (Vec<_>, Vec<Vec<ElementsMut<'_>>>) = processes
            .iter_mut()
            .map(|process| (&mut process.optimizer, elements_mut(&mut process.params)))
            .unzip();
        let all = optimizers.iter_mut().zip(&mut params).zip(&grads);
        let mut steps: Vec<_> = all
            .map(|((optimizer, params), grads)| optimizer.stages(how, params, grads).unwrap())
            .collect();
        loop {
            let reached: Vec<_> = steps.iter_mut().map(|step| step.next().unwrap()).collect();
            match reached[0] {
                Some(stage) => reduce(stage, &mut steps),
                None => break,
            }
        }
    }
    let mut bits = Vec::new();
    for tensor in 0..whole().len() {
        let of = |process: &Process| Elements::new(&process.params[tensor]).bytes().to_vec();
        bits.push(processes.iter().flat_map(of).collect());
        for plane in 0..processes[0].optimizer.planes(tensor).unwrap().len() {
            let of = |process: &Process| {
                process
                    .optimizer
                    .plane(tensor, plane)
                    .unwrap()
                    .bytes()
                    .to_vec()
            };
            bits.push(processes.iter().flat_map(of).collect());
        }
    }
    bits
}

/// The same in one call a step, by one process.
fn alone(options: &Options, how: &StepOptions) -> Vec<Vec<u8>> {
    let mut params = random(1, normal);
    let mut optimizer = Optimizer::new(options.clone(), &whole()).unwrap();
    for number in 1..4 {
        let grads = random(number, correlated);
        let mut grads: Vec<_> = grads.iter().map(|g| Some(Elements::new(g))).collect();
        grads[1] = grads[1].filter(|_| number != 2);
        optimizer
            .step_any(how, &mut elements_mut(&mut params), &grads)
            .unwrap();
    }
    let mut bits = Vec::new();
    for (tensor, params) in params.iter().enumerate() {
        bits.push(Elements::new(params).bytes().to_vec());
        for plane in 0..optimizer.planes(tensor).unwrap().len() {
            bits.push(optimizer.plane(tensor, plane).unwrap().bytes().to_vec());
        }
    }
    bits
}

#[test]
fn any_number_of_processes_has_the_bits_of_one() {
    let clips = [None, Some(0.5)];
    for band in [0, 1, 4] {
        for graft in GRAFTS {
            for (i, (damping, eps)) in DAMPINGS.into_iter().zip([1e-6, 1e-3, 1e-3]).enumerate() {
                let lagged_norms = Some((i + band) % 2 == 1);
                let options = Options {
                    band,
                    graft,
                    damping,
                    eps,
                    lagged_norms,
                    threads: 1 + i % 2,
                    ..Options::default()
                };
                let how = StepOptions {
                    lr: 0.01,
                    clip_norm: clips[i % 2],
                    non_finite: [NonFinite::Skip, NonFinite::Unchecked][i % 2],
                    ..StepOptions::default()
                };
                let one = alone(&options, &how);
                for count in [1, 2, 3, 4] {
                    assert!(
                        train(&options, &how, count) == one,
                        "{count} {options:?} {how:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn blocks_have_the_rows_that_are_documented() {
    let options = Options::default();
    for (spec, rows) in whole().iter().zip(BLOCK_ROWS) {
        assert_eq!(spec.block_rows(&options), rows, "{}", spec.name);
    }
    // Chains through rows are not cut, nor lines of many elements whose number is odd.
    let columns = TensorSpec::new("w", &[400, 300]);
    for chains in [Chains::Contiguous, Chains::Strided, Chains::StridedLines] {
        let spec = columns.clone().with_chains(chains);
        assert_eq!(spec.block_rows(&options), 400);
    }
    let lines = |length| TensorSpec::new("w", &[400, length]).with_chains(Chains::ContiguousLines);
    for (length, rows) in [
        (2047, 16),
        (2049, 400),
        (32_768, 1),
        (32_784, 400),
        (4100, 4),
    ] {
        assert_eq!(lines(length).block_rows(&options), rows, "{length}");
    }
    let empty = TensorSpec::new("w", &[0, 64]).with_chains(Chains::ContiguousLines);
    assert_eq!(empty.with_shard(128, 512).block_rows(&options), 128);
}

#[test]
fn a_shard_that_is_cut_through_a_block_is_refused_by_name() {
    let lines = TensorSpec::new("w", &[100, 64]).with_chains(Chains::ContiguousLines);
    for first_row in [0, 28, 128, 412] {
        let spec = lines.clone().with_shard(first_row, 512);
        let mut optimizer = Optimizer::new(Options::default(), &[spec]).unwrap();
        let mut params = [normal(&mut rng(1), 6400)];
        let grads = [Some(Elements::new(&[0.5f32; 6400][..]))];
        let mut params = elements_mut(&mut params);
        let mut step = optimizer
            .stages(&StepOptions::default(), &mut params, &grads)
            .unwrap();
        step.next().unwrap();
        for refused in [step.blocks().map(drop), step.block_numbers().map(drop)] {
            let error = refused.unwrap_err();
            assert!(matches!(
                &error,
                Error::BlockCut { tensor, first_row: first, rows: 100, whole_rows: 512, block_rows: 128 }
                    if tensor == "w" && *first == first_row
            ));
            let expected = format!(
                "tensor \"w\": 100 rows from row {first_row} on of 512 are no whole blocks, which \
                 are 128 rows each"
            );
            assert_eq!(error.to_string(), expected);
        }
        // The step itself goes on.
        while step.next().unwrap().is_some() {}
        assert!(matches!(step.blocks(), Err(Error::NoStages)));
    }
}
