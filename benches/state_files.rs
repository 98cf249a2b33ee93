//! Times of state files, compared with plain reads and writes of the same bytes.
//!
//! `cargo bench --bench state_files -- --help`

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use sonew::layout::TensorSpec;
use sonew::options::{Options, StepOptions};
use sonew::{LoadMode, LoadOptions, Optimizer};

#[derive(Parser)]
#[command(about = "Opening, saving, loading, and stepping on state files")]
struct Arguments {
    /// Where the files go; a folder on the disk to be measured.
    #[arg(long, default_value = "target/bench-state-files")]
    dir: PathBuf,
    /// Gigabytes of state in the file that is opened.
    #[arg(long, default_value_t = 4.0)]
    open: f64,
    /// Gigabytes of state that are saved and loaded.
    #[arg(long, default_value_t = 1.0)]
    save: f64,
    /// Millions of parameters of a step.
    #[arg(long, default_value_t = 16)]
    step: usize,
    /// Rounds; the median of each number is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads; 0 is one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes of tridiagonal float32 state for one parameter.
const STATE: usize = 12;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.dir)?;
    println!(
        "{:<34} {:>10} {:>10} {:>10}   {:<8} met",
        "", "time", "rate", "of plain", "goal"
    );
    open(&arguments)?;
    save_and_load(&arguments)?;
    step(&arguments)?;
    fs::remove_dir_all(&arguments.dir)?;
    Ok(())
}

/// Tensors of 4 million parameters, with this many bytes of state in all.
fn tensors(bytes: f64) -> Vec<TensorSpec> {
    let count = (bytes / (STATE << 22) as f64).ceil() as usize;
    let spec = |i| TensorSpec::new(format!("layer{i}.weight"), &[2048, 2048]);
    (0..count).map(spec).collect()
}

fn optimizer(arguments: &Arguments, tensors: &[TensorSpec]) -> Result<Optimizer> {
    let options = Options {
        threads: arguments.threads,
        ..Options::default()
    };
    Ok(Optimizer::new(options, tensors)?)
}

fn open(arguments: &Arguments) -> Result<()> {
    let path = arguments.dir.join("open");
    let tensors = tensors(arguments.open * 1e9);
    optimizer(arguments, &tensors)?.save(&path, None)?;
    let load = LoadOptions {
        mode: LoadMode::MapPrivate,
        ..LoadOptions::default()
    };
    let mut times = Vec::new();
    for _ in 0..arguments.rounds {
        let mut optimizer = optimizer(arguments, &tensors)?;
        times.push(seconds(|| optimizer.load(&path, &load, None))?);
    }
    let time = median(&mut times);
    let name = format!("open {} GB, mapped privately", arguments.open);
    row(&name, time, None, None, "< 10 ms", time < 0.01);
    fs::remove_file(path)?;
    Ok(())
}

fn save_and_load(arguments: &Arguments) -> Result<()> {
    let path = arguments.dir.join("saved");
    let plain = arguments.dir.join("plain");
    let tensors = tensors(arguments.save * 1e9);
    let mut optimizer = optimizer(arguments, &tensors)?;
    fill(&mut optimizer, &tensors)?;
    optimizer.save(&path, None)?;
    let bytes = fs::read(&path)?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..arguments.rounds {
        // They take turns at being first, because a disk may slow down after a
        // gigabyte.
        for first in [round % 2 == 0, round % 2 == 1] {
            match first {
                true => times[0].push(seconds(|| write(&plain, &bytes))?),
                false => times[1].push(seconds(|| optimizer.save(&path, None))?),
            }
        }
        let mut resumed = self::optimizer(arguments, &tensors)?;
        for first in [round % 2 == 0, round % 2 == 1] {
            match first {
                true => times[2].push(seconds(|| read(&path, bytes.len()))?),
                false => {
                    let load = LoadOptions::default();
                    times[3].push(seconds(|| resumed.load(&path, &load, None))?);
                }
            }
        }
    }
    let [write, save, read, load] = times.map(|mut times| median(&mut times));
    let size = bytes.len() as f64;
    row("write and sync", write, Some(size), None, "", true);
    row(
        "save",
        save,
        Some(size),
        Some(write / save),
        ">= 80 %",
        save * 0.8 <= write,
    );
    row("read", read, Some(size), None, "", true);
    row(
        "load",
        load,
        Some(size),
        Some(read / load),
        ">= 80 %",
        load * 0.8 <= read,
    );
    fs::remove_file(path)?;
    Ok(fs::remove_file(plain)?)
}

/// Writes the bytes in order, and syncs them to disk.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    for chunk in bytes.chunks(1 << 20) {
        file.write_all(chunk)?;
    }
    Ok(file.sync_all()?)
}

/// Reads the bytes into memory.
fn read(path: &Path, length: usize) -> Result<()> {
    let mut bytes = vec![0; length];
    File::open(path)?.read_exact(&mut bytes)?;
    std::hint::black_box(bytes);
    Ok(())
}

/// Takes a step, so that the state is not zero.
fn fill(optimizer: &mut Optimizer, tensors: &[TensorSpec]) -> Result<()> {
    let mut params: Vec<_> = tensors.iter().map(|t| vec![0.0f32; t.len()]).collect();
    let grads = gradients(tensors);
    one_step(optimizer, &mut params, &grads)
}

fn gradients(tensors: &[TensorSpec]) -> Vec<Vec<f32>> {
    let mut random = Pcg64Mcg::seed_from_u64(1);
    let mut of_one = |t: &TensorSpec| {
        (0..t.len())
            .map(|_| random.random_range(-1.0..1.0))
            .collect()
    };
    tensors.iter().map(&mut of_one).collect()
}

fn one_step(optimizer: &mut Optimizer, params: &mut [Vec<f32>], grads: &[Vec<f32>]) -> Result<()> {
    let mut params: Vec<_> = params.iter_mut().map(Vec::as_mut_slice).collect();
    let grads: Vec<_> = grads.iter().map(|g| Some(g.as_slice())).collect();
    Ok(optimizer.step(&StepOptions::default(), &mut params, &grads)?)
}

fn step(arguments: &Arguments) -> Result<()> {
    let tensors = tensors((arguments.step * 1_000_000 * STATE) as f64);
    let mut params: Vec<_> = tensors.iter().map(|t| vec![0.0f32; t.len()]).collect();
    let grads = gradients(&tensors);
    let mut memory = optimizer(arguments, &tensors)?;
    let mut live = optimizer(arguments, &tensors)?;
    live.make_live(arguments.dir.join("live"))?;
    let (mut in_memory, mut on_file, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..5 * arguments.rounds {
        let first = seconds(|| one_step(&mut memory, &mut params, &grads))?;
        let second = seconds(|| one_step(&mut live, &mut params, &grads))?;
        // After two steps both copies of the file are in the page cache.
        if round >= 4 {
            in_memory.push(first);
            on_file.push(second);
            ratios.push(second / first);
        }
    }
    let ratio = median(&mut ratios);
    let name = format!("step, {} M parameters, in memory", arguments.step);
    row(&name, median(&mut in_memory), None, None, "", true);
    let name = "the same on a shared mapping";
    let goal = format!("{ratio:.2}x, <= 1.3x");
    row(name, median(&mut on_file), None, None, &goal, ratio <= 1.3);
    Ok(())
}

fn seconds<E>(call: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, time: f64, bytes: Option<f64>, of: Option<f64>, goal: &str, met: bool) {
    let time_text = match time {
        t if t < 1e-3 => format!("{:.0} us", t * 1e6),
        t => format!("{:.1} ms", t * 1e3),
    };
    let rate = bytes.map_or_else(String::new, |b| format!("{:.2} GB/s", b / time / 1e9));
    let of = of.map_or_else(String::new, |of| format!("{:.0} %", of * 100.0));
    let met = match (goal, met) {
        ("", _) => "",
        (_, true) => "yes",
        (_, false) => "NO",
    };
    println!("{name:<34} {time_text:>10} {rate:>10} {of:>10}   {goal:<8} {met}");
}
