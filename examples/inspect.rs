//! Shows the options, tensors and arrays of a checkpoint or a live file, and
//! whether its checksums match.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use sonew::checkpoint::{Checkpoint, SavedTensor, StoredPlane};
use sonew::options::Options;
use sonew::Error;

#[derive(Parser)]
#[command(about = "Shows what is in a checkpoint of libsonew, or in a live file")]
struct Arguments {
    /// The file.
    file: PathBuf,
    /// Do not read the data to verify its checksums.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<ExitCode> {
    let Arguments { file, quick } = Arguments::parse();
    let checkpoint = Checkpoint::open(&file).context("this file cannot be opened")?;
    println!("{}\n", file.display());
    print_table(&[], &about(&checkpoint));
    println!();
    print_table(&[], &options(&checkpoint.header().options));
    println!();
    let tensors = &checkpoint.header().tensors;
    print_table(&TENSORS, &tensors.iter().map(tensor).collect::<Vec<_>>());
    println!();

    let bar = progress(&checkpoint, quick);
    let mut damaged = 0;
    let mut rows = Vec::new();
    for array in checkpoint.arrays() {
        let outcome = match (quick, array.crc32) {
            (true, _) => "not verified",
            (_, None) => "none yet",
            _ => match checkpoint.check(array.tensor, array.plane) {
                Ok(()) => "holds",
                Err(Error::Checksum { .. }) => {
                    damaged += 1;
                    "DAMAGED"
                }
                Err(error) => return Err(error.into()),
            },
        };
        bar.inc(array.bytes);
        rows.push(row(&tensors[array.tensor], array, outcome));
    }
    bar.finish_and_clear();
    print_table(&ARRAYS, &rows);
    if damaged > 0 {
        println!("\n{damaged} of {} arrays are damaged", rows.len());
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn about(checkpoint: &Checkpoint) -> Vec<Vec<String>> {
    let header = checkpoint.header();
    let kind = match (checkpoint.is_live(), checkpoint.is_unsynced()) {
        (false, _) => "checkpoint",
        (true, false) => "live file, synced",
        (true, true) => "live file, not synced after its last step",
    };
    let parameters = match header.parameters {
        true => "yes",
        false
            if header
                .tensors
                .iter()
                .all(|t| t.master_set || t.master_reset) =>
        {
            "as master weights"
        }
        false => "no",
    };
    let elements: usize = header.tensors.iter().map(|t| t.spec.len()).sum();
    let current: u64 = checkpoint.arrays().map(|array| array.bytes).sum();
    let rows = [
        ("what it is", kind.to_owned()),
        ("step", header.step.to_string()),
        ("tensors", header.tensors.len().to_string()),
        ("elements", elements.to_string()),
        ("parameters", parameters.to_owned()),
        ("arrays", bytes(current)),
        ("file", bytes(checkpoint.file_bytes())),
    ];
    rows.map(|(name, value)| vec![name.to_owned(), value])
        .into()
}

fn options(options: &Options) -> Vec<Vec<String>> {
    let rows = [
        ("band", options.band.to_string()),
        ("beta1", options.beta1.to_string()),
        ("beta2", options.beta2.to_string()),
        ("eps", options.eps.to_string()),
        ("gamma", options.gamma.to_string()),
        ("statistics", words(&options.statistics)),
        ("damping", words(&options.damping)),
        ("bias_correction", options.bias_correction.to_string()),
        ("graft", words(&options.graft)),
        ("graft_eps", options.graft_eps.to_string()),
        (
            "graft_bias_correction",
            options.graft_bias_correction.to_string(),
        ),
        ("weight_decay", options.weight_decay.to_string()),
        ("rounding", words(&options.rounding)),
        ("seed", options.seed.to_string()),
    ];
    rows.map(|(name, value)| vec![name.to_owned(), value])
        .into()
}

const TENSORS: [&str; 9] = [
    "tensor",
    "shape",
    "chains",
    "update",
    "params",
    "grads",
    "lr scale",
    "weight decay",
    "steps",
];

fn tensor(saved: &SavedTensor) -> Vec<String> {
    let spec = &saved.spec;
    vec![
        spec.name.clone(),
        shape(&spec.dims),
        words(&spec.chains),
        words(&spec.update),
        spec.params.to_string(),
        spec.grads.to_string(),
        saved.lr_scale.to_string(),
        saved.weight_decay.to_string(),
        saved.step_count.to_string(),
    ]
}

const ARRAYS: [&str; 6] = ["array", "plane", "type", "at byte", "size", "checksum"];

fn row(saved: &SavedTensor, array: StoredPlane<'_>, outcome: &str) -> Vec<String> {
    let checksum = match array.crc32 {
        Some(crc) => format!("{crc:08x} {outcome}"),
        None => outcome.to_owned(),
    };
    vec![
        saved.spec.name.clone(),
        array.plane.to_owned(),
        array.dtype.to_string(),
        array.offset.to_string(),
        bytes(array.bytes),
        checksum,
    ]
}

fn progress(checkpoint: &Checkpoint, quick: bool) -> ProgressBar {
    let total = checkpoint.arrays().map(|array| array.bytes).sum();
    if quick || total < 1 << 30 {
        return ProgressBar::hidden();
    }
    let style = "verifying {bar:40} {bytes} of {total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    ProgressBar::new(total).with_style(style)
}

/// A value's name in words: `MovingAverage` is "moving average".
fn words(value: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn shape(dims: &[usize]) -> String {
    let dims: Vec<_> = dims.iter().map(usize::to_string).collect();
    match dims.is_empty() {
        true => "scalar".to_owned(),
        false => dims.join(" x "),
    }
}

fn bytes(count: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| count as f64 >= *size);
    match unit {
        Some((size, name)) => format!("{:.1} {name}", count as f64 / size),
        None => format!("{count} bytes"),
    }
}

/// Prints aligned columns under their titles.
fn print_table(titles: &[&str], rows: &[Vec<String>]) {
    let columns = rows.first().map_or(titles.len(), Vec::len);
    let title = |column: usize| titles.get(column).copied().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([title(column).len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = (0..columns).map(|c| format!("{:<width$}", cell(c), width = widths[c]));
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    };
    if !titles.is_empty() {
        line(&|column| title(column).to_owned());
        let total = widths.iter().sum::<usize>() + 2 * (columns - 1);
        println!("  {}", "─".repeat(total));
    }
    rows.iter()
        .for_each(|row| line(&|column| row[column].clone()));
}
