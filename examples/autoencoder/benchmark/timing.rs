//! What a step costs: forward, backward and update, with each optimizer.
//!
//! The optimizers take turns of a few steps, so that whatever else the machine
//! does meets all of them; ratios are within a round.

use std::sync::atomic::Ordering;

use anyhow::Result;
use jiff::Timestamp;

use super::results::{Cost, Timing};
use super::search::Stopped;
use crate::progress::Progress;
use crate::settings::{setting, Method, State};
use crate::train::{Problem, Run};
use crate::STOP;

/// Steps of a turn. The first finds the caches full of another's numbers and
/// does not count.
const TURN: usize = 4;

/// What is timed; the first is what the others are compared with.
const CONTESTANTS: [(Method, State); 11] = [
    (Method::Adamw, State::Float32),
    (Method::Muon, State::Float32),
    (Method::Diagonal, State::Float32),
    (Method::Tridiagonal, State::Float32),
    (Method::Band4, State::Float32),
    (Method::Diagonal, State::Bfloat16),
    (Method::Tridiagonal, State::Bfloat16),
    (Method::Band4, State::Bfloat16),
    (Method::PooledBand32, State::Float32),
    (Method::PooledRank16, State::Float32),
    (Method::PooledAll, State::Float32),
];

/// Mean times of one turn, in milliseconds.
#[derive(Clone, Copy)]
struct Turn {
    optimizer: f64,
    whole: f64,
}

/// Times all contestants, in so many rounds.
pub fn measure(problem: &Problem, rounds: usize) -> Result<Timing> {
    let start = |(method, state)| {
        let setting = setting(problem.images.name, method);
        Run::new(problem, method, setting, state)
    };
    let mut runs: Vec<Run> = CONTESTANTS.into_iter().map(start).collect::<Result<_>>()?;
    let mut turns = vec![Vec::new(); runs.len()];
    let mut progress = Progress::new("timing", rounds * runs.len(), 0);
    for round in 0..rounds {
        for i in 0..runs.len() {
            // Each round begins with another, so that none always follows the
            // same.
            let contestant = (round + i) % runs.len();
            turns[contestant].push(turn(&mut runs[contestant])?);
            progress.step(runs[contestant].last_loss());
        }
    }
    progress.end("done");

    let cost = |(run, (own, (method, state))): (&Run, (&Vec<Turn>, _))| Cost {
        method,
        state,
        optimizer_ms: median(own.iter().map(|turn| turn.optimizer)),
        whole_ms: median(own.iter().map(|turn| turn.whole)),
        whole_ratio: median(own.iter().zip(&turns[0]).map(|(a, b)| a.whole / b.whole)),
        state_bytes_per_parameter: run.state_bytes_per_parameter(),
    };
    Ok(Timing {
        data: problem.images.name,
        machine: machine(),
        date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
        rounds,
        costs: runs
            .iter()
            .zip(turns.iter().zip(CONTESTANTS))
            .map(cost)
            .collect(),
    })
}

fn turn(run: &mut Run) -> Result<Turn> {
    let mut counted = Turn {
        optimizer: 0.0,
        whole: 0.0,
    };
    for step in 0..TURN {
        if STOP.load(Ordering::Relaxed) {
            return Err(Stopped.into());
        }
        let (optimizer, whole) = (run.record().optimizer_seconds, run.record().seconds);
        run.step()?;
        if step > 0 {
            let ms = 1e3 / (TURN - 1) as f64;
            counted.optimizer += ms * (run.record().optimizer_seconds - optimizer);
            counted.whole += ms * (run.record().seconds - whole);
        }
    }
    Ok(counted)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The processor's name, as the system has it, and the threads used.
fn machine() -> String {
    let threads = rayon::current_num_threads();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = named.map_or("unknown processor", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    });
    format!("{name}, {threads} threads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([9.0, 1.0, 2.0, 4.0].into_iter()), 3.0);
    }
}
