//! The file of results: one line of JSON for every finished part of the work,
//! appended when it is finished, so that a stopped benchmark can be continued.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::data::Name;
use crate::report::final_loss;
use crate::settings::{Method, Setting, State};

/// Everything that decides the losses of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Job {
    pub data: Name,
    /// Of the images.
    pub checksum: u32,
    pub method: Method,
    pub state: State,
    /// The number of the trial, from 0; a rerun of the best setting has none.
    pub trial: Option<usize>,
    pub seed: u64,
    pub epochs: usize,
    pub batch: usize,
    pub setting: Setting,
}

/// A run, as far as it went.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub job: Job,
    /// How many steps of the schedule it was to do.
    pub until: usize,
    /// Loss of each step's batch, to a hundredth of a nat. Where there are
    /// fewer than `until`, a gradient was not finite.
    pub losses: Vec<f32>,
}

impl Outcome {
    /// An outcome with its losses rounded.
    pub fn new(job: Job, until: usize, losses: &[f32]) -> Self {
        let hundredths = |&loss: &f32| (100.0 * loss).round() / 100.0;
        Outcome {
            job,
            until,
            losses: losses.iter().map(hundredths).collect(),
        }
    }

    /// Mean loss over the last epoch; infinite where the run broke off.
    pub fn final_loss(&self, epoch: usize) -> f64 {
        match self.losses.len() == self.until {
            true => final_loss(&self.losses, epoch),
            false => f64::INFINITY,
        }
    }
}

/// What steps cost, measured for all optimizers together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Timing {
    pub data: Name,
    /// Processor and number of threads.
    pub machine: String,
    pub date: String,
    /// How often every optimizer had its turn.
    pub rounds: usize,
    pub costs: Vec<Cost>,
}

impl Timing {
    /// What an optimizer's steps cost, if it took part.
    pub fn cost(&self, method: Method, state: State) -> Option<&Cost> {
        let mut costs = self.costs.iter();
        costs.find(|cost| (cost.method, cost.state) == (method, state))
    }
}

/// Medians of an optimizer's steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cost {
    pub method: Method,
    pub state: State,
    pub optimizer_ms: f64,
    /// Forward, backward and update.
    pub whole_ms: f64,
    /// The same as a multiple of AdamW's in the same round.
    pub whole_ratio: f64,
    pub state_bytes_per_parameter: f64,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Run(Outcome),
    Timing(Timing),
}

/// The file and what it holds.
pub struct Results {
    path: PathBuf,
    pub outcomes: Vec<Outcome>,
    pub timings: Vec<Timing>,
}

impl Results {
    /// Reads what there is.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let mut results = Results {
            path: path.to_owned(),
            outcomes: Vec::new(),
            timings: Vec::new(),
        };
        for (i, line) in text.lines().enumerate() {
            let line = serde_json::from_str(line)
                .with_context(|| format!("{} line {} is not a result", path.display(), i + 1))?;
            results.hold(line);
        }
        Ok(results)
    }

    fn hold(&mut self, line: Line) {
        match line {
            Line::Run(outcome) => self.outcomes.push(outcome),
            Line::Timing(timing) => self.timings.push(timing),
        }
    }

    /// The outcome of a job, if it is there.
    pub fn find(&self, job: &Job, until: usize) -> Option<&Outcome> {
        let mut outcomes = self.outcomes.iter();
        outcomes.find(|o| o.until == until && o.job == *job)
    }

    /// Adds what became of a run.
    pub fn add(&mut self, outcome: Outcome) -> Result<()> {
        self.append(Line::Run(outcome))
    }

    /// Adds what steps cost. The latest counts.
    pub fn add_timing(&mut self, timing: Timing) -> Result<()> {
        self.append(Line::Timing(timing))
    }

    /// Appends one line, whole.
    fn append(&mut self, line: Line) -> Result<()> {
        let text = serde_json::to_string(&line)? + "\n";
        let open = || {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)
        };
        open()
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.hold(line);
        Ok(())
    }
}
