//! The benchmark: every optimizer's setting found by the same search, the best
//! rerun with several seeds.

mod ranges;
mod results;
mod search;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::settings::{Method, State};
use crate::train::Problem;
use results::Results;
pub use search::Stopped;

/// What the benchmark is told.
#[derive(Args)]
pub struct Arguments {
    /// Train on the MNIST images in this folder (IDX files, plain or .gz)
    /// instead of the generated CURVES images
    #[arg(long, value_name = "DIR")]
    pub mnist: Option<PathBuf>,

    /// Times that every image is seen
    #[arg(long, default_value_t = 40, value_parser = crate::positive)]
    pub epochs: usize,

    /// Images per step
    #[arg(long, default_value_t = 1000, value_parser = crate::positive)]
    pub batch: usize,

    /// Which optimizers to try
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "NAMES",
        default_value = "adamw,tridiagonal,band4,diagonal,rmsprop,sgd"
    )]
    pub optimizers: Vec<Method>,

    /// Leave out the reruns
    #[arg(long)]
    pub search_only: bool,

    /// Threads to use; 0 means as many as there are processors. Results do not
    /// depend on it
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = crate::threads)]
    pub threads: usize,

    /// Where the results go, one line of JSON each. What is there already is not
    /// done again
    #[arg(
        long,
        default_value = "target/benchmark/results.jsonl",
        value_name = "FILE"
    )]
    pub results: PathBuf,
}

/// Searches and reruns, for each optimizer in turn.
pub fn run(arguments: &Arguments, problem: &mut Problem) -> Result<()> {
    let mut results = Results::open(&arguments.results)?;
    for &method in &arguments.optimizers {
        problem.seed = search::SEARCH_SEED;
        let best = search::search(problem, method, &mut results)?;
        println!("best of {}: {best:?}", method.title());
        if arguments.search_only {
            continue;
        }
        let states: &[State] = match method.is_sonew() {
            true => &[State::Float32, State::Bfloat16],
            false => &[State::Float32],
        };
        for &state in states {
            search::rerun(problem, method, state, best, &mut results)?;
        }
    }
    Ok(())
}
