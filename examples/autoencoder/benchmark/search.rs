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
pub const TRIALS: usize = 16;
/// All do the first of so many parts of the schedule, in whole epochs.
pub const PARTS: usize = 4;
/// How many of them, the best, are trained to its end.
pub const KEPT: usize = TRIALS / PARTS;
/// Decides the settings, and the weights and batches of every trial.
pub const SEARCH_SEED: u64 = 0;
/// Of the reruns. No setting was chosen for its luck with one of them.
pub const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

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
/// the schedule, the best quarter of them to the end.
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
    let epoch = problem.steps_per_epoch();
    let part = problem.epochs.div_ceil(PARTS) * epoch;
    for (until, kept) in [(part, KEPT), (problem.steps(), 1)] {
        for trial in &mut trials {
            advance(problem, trial, until, results)?;
        }
        keep_best(&mut trials, kept);
    }
    Ok(trials[0].job.setting)
}

/// Trains the best setting again, once for every seed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Images;
    use std::fs;
    use std::path::Path;

    /// Two steps of ten images in each of two epochs.
    fn small() -> Problem {
        Problem {
            images: Images::few(20),
            epochs: 2,
            batch: 10,
            seed: SEARCH_SEED,
            threads: 1,
        }
    }

    fn find_best(path: &Path) -> (Setting, Results) {
        let mut results = Results::open(path).unwrap();
        let best = search(&small(), Method::Tridiagonal, &mut results).unwrap();
        (best, results)
    }

    #[test]
    fn the_best_of_the_first_part_go_on_and_the_best_of_them_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (best, results) = find_best(&folder.path().join("results"));
        let of = |until| {
            let outcomes = results.outcomes.iter().filter(move |o| o.until == until);
            let mut losses: Vec<(f64, Setting)> =
                outcomes.map(|o| (o.final_loss(2), o.job.setting)).collect();
            losses.sort_by(|a, b| a.0.total_cmp(&b.0));
            losses
        };
        let (part, whole) = (of(2), of(4));
        assert_eq!((part.len(), whole.len()), (TRIALS, KEPT));
        assert_eq!(best, whole[0].1);
        let went_on = |setting: &Setting| whole.iter().any(|(_, other)| other == setting);
        for (i, (_, setting)) in part.iter().enumerate() {
            assert_eq!(went_on(setting), i < KEPT, "place {i}");
        }
    }

    #[test]
    fn a_search_that_was_stopped_goes_on_to_the_same_results() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let (best, _) = find_best(&whole);
        let text = fs::read_to_string(&whole).unwrap();
        // Stopped in the first part, after it, and in the last.
        for lines in [5, TRIALS, TRIALS + 2] {
            let stopped = folder.path().join("stopped");
            let kept: String = text.split_inclusive('\n').take(lines).collect();
            fs::write(&stopped, kept).unwrap();
            assert_eq!(find_best(&stopped).0, best);
            assert_eq!(fs::read_to_string(&stopped).unwrap(), text, "{lines} lines");
        }
    }

    #[test]
    fn a_run_that_is_not_finite_any_more_is_the_worst() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::open(&folder.path().join("results")).unwrap();
        let problem = small();
        let setting = Setting {
            lr: 1e38,
            beta1: 0.5,
            beta2: 0.9,
            eps: 1e-8,
            ..Setting::default()
        };
        let mut trial = Trial {
            job: job(&problem, Method::Adamw, State::Float32, Some(0), setting),
            run: None,
            loss: f64::NAN,
        };
        advance(&problem, &mut trial, 4, &mut results).unwrap();
        assert_eq!(trial.loss, f64::INFINITY);
        assert!(results.outcomes[0].losses.len() < 4);
        // It was read back as it was written.
        let again = Results::open(&folder.path().join("results")).unwrap();
        assert_eq!(again.outcomes, results.outcomes);
    }

    #[test]
    fn a_rerun_has_a_line_for_every_seed() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::open(&folder.path().join("results")).unwrap();
        let setting = ranges(Method::Band4).sample(TRIALS, SEARCH_SEED)[0];
        let state = State::Bfloat16;
        rerun(&mut small(), Method::Band4, state, setting, &mut results).unwrap();
        let seeds: Vec<u64> = results.outcomes.iter().map(|o| o.job.seed).collect();
        assert_eq!(seeds, SEEDS);
        let losses = |i: usize| &results.outcomes[i].losses;
        assert!(losses(0) != losses(1) && losses(1) != losses(2));
    }
}
