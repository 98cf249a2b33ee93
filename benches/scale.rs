//! Time and memory per parameter in models of a million to a billion parameters,
//! with parameters, gradients and state in bfloat16:
//! `cargo bench --bench scale`, or `cargo bench --bench scale -- 1e8` for models
//! up to that size.

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

fn main() -> Result<()> {
    let most = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let most = match most {
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
