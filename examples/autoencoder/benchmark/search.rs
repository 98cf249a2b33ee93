//! The search for each optimizer's setting, and the reruns of the best.

use std::sync::atomic::Ordering;

use anyhow::Result;

use super::ranges::ranges;
use super::results::{Job, Outcome, Results};
use crate::progress::Progress;
use crate::settings::{Method, Setting, State};
use crate::train::{Problem, Run};
use crate::STOP;

/// Settings that are tried, the same number for each optimizer.
pub const TRIALS: usize = 10;
/// How many of them go on to the end of the schedule.
pub const KEPT: usize = TRIALS / 2;
/// All trials do the first of so many parts of the schedule.
pub const PARTS: usize = 4;
/// Decides the settings, and the weights and batches of every trial.
pub const SEARCH_SEED: u64 = 0;
/// Of the reruns. No setting was chosen for its luck with one of them.
pub const SEEDS: [u64; 3] = [1, 2, 3];

/// The error of work that Ctrl-C ended.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// A setting on its way through the search.
struct Trial<'a> {
    job: Job,
    /// What was trained of it in this process.
    run: Option<Run<'a>>,
    loss: f64,
}

/// Finds the best of an optimizer's settings: all train for the first part of
/// the schedule, the better half of them to the end.
pub fn search(problem: &Problem, method: Method, results: &mut Results) -> Result<Setting> {
    let settings = ranges(method).sample(TRIALS, SEARCH_SEED);
    let mut trials: Vec<Trial> = settings
        .into_iter()
        .enumerate()
        .map(|(number, setting)| Trial {
            job: job(problem, method, State::Float32, Some(number), setting),
            run: None,
            loss: f64::NAN,
        })
        .collect();
    for (until, kept) in [(problem.steps() / PARTS, KEPT), (problem.steps(), 1)] {
        for trial in &mut trials {
            advance(problem, trial, until, results)?;
        }
        keep_best(&mut trials, kept);
    }
    Ok(trials[0].job.setting)
}

/// Trains the best setting anew, once for every seed.
pub fn rerun(
    problem: &mut Problem,
    method: Method,
    state: State,
    setting: Setting,
    results: &mut Results,
) -> Result<()> {
    for seed in SEEDS {
        problem.seed = seed;
        let mut trial = Trial {
            job: job(problem, method, state, None, setting),
            run: None,
            loss: f64::NAN,
        };
        advance(problem, &mut trial, problem.steps(), results)?;
    }
    Ok(())
}

fn job(
    problem: &Problem,
    method: Method,
    state: State,
    trial: Option<usize>,
    setting: Setting,
) -> Job {
    Job {
        data: problem.images.name,
        checksum: problem.images.checksum(),
        method,
        state,
        trial,
        seed: problem.seed,
        epochs: problem.epochs,
        batch: problem.batch,
        setting,
    }
}

/// The trials of least loss, best first; of equals, the earlier.
fn keep_best(trials: &mut Vec<Trial>, kept: usize) {
    trials.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    trials.truncate(kept);
}

/// Trains up to a step, unless the results have it already, and notes it.
fn advance<'a>(
    problem: &'a Problem,
    trial: &mut Trial<'a>,
    until: usize,
    results: &mut Results,
) -> Result<()> {
    let epoch = problem.steps_per_epoch();
    if let Some(outcome) = results.find(&trial.job, until) {
        trial.loss = outcome.final_loss(epoch);
        return Ok(());
    }
    let job = &trial.job;
    let run = match &mut trial.run {
        Some(run) => run,
        none => none.insert(Run::new(problem, job.method, job.setting, job.state)?),
    };
    train(run, until, &title(job))?;
    let outcome = Outcome::new(job.clone(), until, &run.record().losses);
    trial.loss = outcome.final_loss(epoch);
    results.add(outcome)?;
    Ok(())
}

/// Trains up to a step, or until a gradient is not finite.
fn train(run: &mut Run, until: usize, title: &str) -> Result<()> {
    let mut progress = Progress::new(title, until, run.record().losses.len());
    while run.record().losses.len() < until {
        if STOP.load(Ordering::Relaxed) {
            progress.end("stopped");
            return Err(Stopped.into());
        }
        match run.step() {
            Ok(()) => progress.step(run.last_loss()),
            Err(error) if diverged(&error) => {
                progress.end("not finite any more");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    progress.end("done");
    Ok(())
}

fn diverged(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(sonew::Error::NonFiniteGradient { .. })
    )
}

fn title(job: &Job) -> String {
    let state = match job.state {
        State::Float32 => "",
        State::Bfloat16 => ", bfloat16",
    };
    match job.trial {
        Some(trial) => format!("{} {}/{TRIALS}", job.method.key(), trial + 1),
        None => format!("{}{state}, seed {}", job.method.key(), job.seed),
    }
}
