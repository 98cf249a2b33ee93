//! Time and memory per parameter in models of a million to a billion parameters,
//! with parameters, gradients and state in bfloat16:
//! `cargo bench --bench scale`, or `cargo bench --bench scale -- 1e8` for models
//! up to that size; and, with `-- many`, an optimizer for each tensor compared with one
//! for all.

use std::time::Instant;

use anyhow::{Context, Result};
use rayon::prelude::*;
use sonew::dtype::{bf16, Dtype};
use sonew::layout::TensorSpec;
use sonew::options::{NonFinite, Options, StepOptions};
use sonew::Optimizer;

const SIZES: [usize; 4] = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Number of parameter updates that are timed for each model size.
const UPDATES: usize = 2_000_000_000;

/// Numbers between -1 and 1, written by all threads.
fn numbers(len: usize) -> Vec<bf16> {
    let number = |i: usize| {
        let bits = (i as u32).wrapping_mul(0x9e37_79b9) >> 8;
        bf16::from_f32(bits as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).into_par_iter().map(number).collect()
}

/// The peak memory of the process so far, in GiB.
fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("the system does not tell")?.trim().parse()?;
    Ok(kib / 1024.0 / 1024.0)
}

/// The number of tensors of [`many`], and of their timed steps.
const MANY: usize = 300;
const ROUNDS: usize = 41;

/// One optimizer for 300 tensors, and 300 optimizers of one tensor each, stepped in turn
/// in the same rounds. What the calls cost is the time of 300 optimizers whose tensors
/// have one element.
fn many() -> Result<()> {
    let threads = Options::default().threads;
    println!("one optimizer for 300 tensors, and 300 optimizers; float32, Adam graft");
    println!("each tensor   threads   one, ms   300, ms   calls, ms   ratio   without calls   KiB besides state, one and 300");
    for (side, threads) in [64, 256, 512]
        .into_iter()
        .flat_map(|s| [(s, 1), (s, threads)])
    {
        let options = Options {
            threads,
            ..Options::default()
        };
        let names: Vec<String> = (0..MANY).map(|i| i.to_string()).collect();
        let all = |dims: &[usize]| -> Vec<TensorSpec> {
            names.iter().map(|n| TensorSpec::new(n, dims)).collect()
        };
        let of_one = |tensors: &[TensorSpec]| -> sonew::Result<Vec<Optimizer>> {
            let one = |t| Optimizer::new(options.clone(), std::slice::from_ref(t));
            tensors.iter().map(one).collect()
        };
        let mut one = Optimizer::new(options.clone(), &all(&[side, side]))?;
        let mut each = of_one(&all(&[side, side]))?;
        let mut calls = of_one(&all(&[1]))?;
        let mut params = vec![vec![0.5f32; side * side]; MANY];
        let number = |i: usize| (i % 17) as f32 / 17.0 - 0.4;
        let grads = vec![(0..side * side).map(number).collect::<Vec<f32>>(); MANY];
        let step = StepOptions {
            lr: 1e-5,
            non_finite: NonFinite::Unchecked,
            ..StepOptions::default()
        };
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut slices: Vec<&mut [f32]> = params.iter_mut().map(Vec::as_mut_slice).collect();
            let read: Vec<Option<&[f32]>> = grads.iter().map(|g| Some(g.as_slice())).collect();
            one.step(&step, &mut slices, &read)?;
            let first = start.elapsed();
            let start = Instant::now();
            for (optimizer, (param, grad)) in each.iter_mut().zip(params.iter_mut().zip(&grads)) {
                optimizer.step(&step, &mut [param], &[Some(grad)])?;
            }
            let second = start.elapsed();
            let start = Instant::now();
            for optimizer in &mut calls {
                optimizer.step(&step, &mut [&mut [0.5f32]], &[Some(&[0.1f32])])?;
            }
            times.push([first, second, start.elapsed()].map(|t| 1e3 * t.as_secs_f64()));
        }
        // In the first round the system provides the state's pages.
        times.remove(0);
        let median = |of: &dyn Fn(&[f64; 3]) -> f64| {
            let mut values: Vec<f64> = times.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let besides = |o: &Optimizer| (o.memory_bytes() - o.state_bytes()) / 1024;
        println!(
            "{:>11} {:9} {:9.2} {:9.2} {:11.2} {:7.2} {:15.2} {:16} {:13}",
            format!("{side}x{side}"),
            one.threads(),
            median(&|t| t[0]),
            median(&|t| t[1]),
            median(&|t| t[2]),
            median(&|t| t[1] / t[0]),
            median(&|t| (t[1] - t[2]) / t[0]),
            besides(&one),
            each.iter().map(besides).sum::<usize>(),
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let most = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let most = match most {
        Some(most) if most == "many" => return many(),
        Some(most) => most.parse::<f64>().context("not a number of parameters")?,
        None => f64::INFINITY,
    };
    println!("tridiagonal, Adam graft; parameters, gradients and state in bfloat16");
    println!("parameters   ms per step   ns per parameter   peak memory, GiB");
    for len in SIZES {
        if len as f64 > most {
            break;
        }
        let tensor =
            TensorSpec::new("w", &[len]).with_dtypes(Dtype::Bf16, Dtype::Bf16, Dtype::Bf16);
        let mut optimizer = Optimizer::new(Options::default(), &[tensor])?;
        let mut params = numbers(len);
        let grads = numbers(len);
        let step = StepOptions {
            lr: 1e-4,
            non_finite: NonFinite::Unchecked,
            ..StepOptions::default()
        };
        let mut times = Vec::new();
        // In the first step the system provides the state's pages.
        for _ in 0..=(UPDATES / len).clamp(3, 100) {
            let start = Instant::now();
            optimizer.step(&step, &mut [&mut params], &[Some(&grads)])?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        println!(
            "{:10.0e} {:13.2} {:18.3} {:18.2}",
            len as f64,
            1e3 * median,
            1e9 * median / len as f64,
            peak()?
        );
    }
    Ok(())
}
