//! What the results say, in numbers.

use anyhow::{ensure, Context, Result};

use super::results::{Outcome, Results, Timing};
use super::search::{KEPT, SEEDS, TRIALS};
use crate::data::Name;
use crate::report::{smooth, steps_to};
use crate::settings::{Method, Setting, State};

/// Every optimizer of the benchmark, in the order of its tables. One that has not been run on a
/// data set has no row there.
pub const ROWS: [(Method, State); 13] = [
    (Method::Sgd, State::Float32),
    (Method::Rmsprop, State::Float32),
    (Method::Adamw, State::Float32),
    (Method::Muon, State::Float32),
    (Method::Diagonal, State::Float32),
    (Method::Diagonal, State::Bfloat16),
    (Method::Tridiagonal, State::Float32),
    (Method::Tridiagonal, State::Bfloat16),
    (Method::Band4, State::Float32),
    (Method::Band4, State::Bfloat16),
    (Method::PooledBand32, State::Float32),
    (Method::PooledRank16, State::Float32),
    (Method::PooledAll, State::Float32),
];

/// The reruns of one optimizer, and the search before them.
pub struct Row {
    pub method: Method,
    pub state: State,
    pub setting: Setting,
    /// Final loss of each seed.
    pub finals: Vec<f64>,
    /// Step at which each seed is down to AdamW's final loss.
    pub steps_to_target: Vec<Option<usize>>,
    /// Mean over the seeds of the mean loss over an epoch, at each step.
    pub curve: Vec<(usize, f64)>,
    /// Final losses of the trials that were trained to the end, best first.
    pub trials: Vec<f64>,
}

impl Row {
    pub fn final_loss(&self) -> f64 {
        mean(&self.finals)
    }

    /// Mean steps to AdamW's final loss, if every seed gets there.
    pub fn mean_steps(&self) -> Option<f64> {
        let steps: Option<Vec<f64>> = self
            .steps_to_target
            .iter()
            .map(|step| step.map(|step| step as f64))
            .collect();
        steps.map(|steps| mean(&steps))
    }
}

/// All that is known of one data set.
pub struct Summary<'a> {
    /// One for each of [`ROWS`] that has been run.
    pub rows: Vec<Row>,
    /// AdamW's final loss, the mean of its seeds.
    pub target: f64,
    pub steps: usize,
    pub timing: &'a Timing,
}

impl<'a> Summary<'a> {
    /// Fails where the benchmark is not complete.
    pub fn new(results: &'a Results, data: Name) -> Result<Self> {
        let timings = results.timings.iter().rev();
        let timing = timings.into_iter().find(|timing| timing.data == data);
        let reruns = |method, state| reruns(results, data, method, state);
        let (adamw, steps, epoch) = {
            let outcomes = reruns(Method::Adamw, State::Float32)?;
            let job = &outcomes[0].job;
            let steps = outcomes[0].until;
            (outcomes, steps, steps / job.epochs)
        };
        let finals = |outcomes: &[&Outcome]| -> Vec<f64> {
            outcomes.iter().map(|o| o.final_loss(epoch)).collect()
        };
        let target = mean(&finals(&adamw));
        let row = |(method, state)| -> Result<Row> {
            let outcomes = reruns(method, state)?;
            Ok(Row {
                method,
                state,
                setting: outcomes[0].job.setting,
                finals: finals(&outcomes),
                steps_to_target: outcomes
                    .iter()
                    .map(|o| steps_to(&o.losses, target, epoch))
                    .collect(),
                curve: mean_curve(&outcomes, epoch),
                trials: finished_trials(results, data, method, epoch)?,
            })
        };
        let has_run = |&(method, _): &(Method, State)| {
            let mut outcomes = results.outcomes.iter();
            outcomes.any(|o| (o.job.data, o.job.method) == (data, method))
        };
        let rows = ROWS.into_iter().filter(has_run).map(row);
        Ok(Summary {
            rows: rows.collect::<Result<_>>()?,
            target,
            steps,
            timing: timing.with_context(|| format!("no times of {data:?}: run `time`"))?,
        })
    }

    pub fn row(&self, method: Method, state: State) -> &Row {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| (row.method, row.state) == (method, state));
        row.expect("a row of the benchmark")
    }
}

/// The runs of the best setting, one for each seed.
fn reruns(results: &Results, data: Name, method: Method, state: State) -> Result<Vec<&Outcome>> {
    let found: Vec<&Outcome> = results
        .outcomes
        .iter()
        .filter(|o| (o.job.data, o.job.method, o.job.state) == (data, method, state))
        .filter(|o| o.job.trial.is_none())
        .collect();
    let seeds: Vec<u64> = found.iter().map(|o| o.job.seed).collect();
    ensure!(
        seeds == SEEDS && found.iter().all(|o| o.job.setting == found[0].job.setting),
        "{data:?}, {}, {state:?}: the results should have one setting with seeds {SEEDS:?}, \
         they have seeds {seeds:?}",
        method.key()
    );
    Ok(found)
}

fn finished_trials(
    results: &Results,
    data: Name,
    method: Method,
    epoch: usize,
) -> Result<Vec<f64>> {
    let trials = || {
        let outcomes = results.outcomes.iter();
        outcomes.filter(move |o| (o.job.data, o.job.method) == (data, method))
    };
    let trials: Vec<&Outcome> = trials().filter(|o| o.job.trial.is_some()).collect();
    let steps = trials.iter().map(|o| o.until).max().unwrap_or(0);
    let mut finals: Vec<f64> = trials
        .iter()
        .filter(|o| o.until == steps)
        .map(|o| o.final_loss(epoch))
        .collect();
    ensure!(
        trials.len() == TRIALS + KEPT && finals.len() == KEPT,
        "{data:?}, {}: the results should have {TRIALS} trials and {KEPT} trained to the end, \
         they have {} lines and {} to the end",
        method.key(),
        trials.len(),
        finals.len()
    );
    finals.sort_by(f64::total_cmp);
    Ok(finals)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn mean_curve(outcomes: &[&Outcome], epoch: usize) -> Vec<(usize, f64)> {
    let curves: Vec<Vec<(usize, f64)>> = outcomes
        .iter()
        .map(|o| smooth(&o.losses, epoch).collect())
        .collect();
    let shortest = curves.iter().map(Vec::len).min().unwrap_or(0);
    (0..shortest)
        .map(|i| {
            let losses: Vec<f64> = curves.iter().map(|curve| curve[i].1).collect();
            (curves[0][i].0, mean(&losses))
        })
        .collect()
}
