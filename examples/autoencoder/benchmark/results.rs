//! The results as a file: one line of JSON for every finished piece of work,
//! appended as it comes, so that what was stopped goes on where it was.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::data::Name;
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
    pub losses: Vec<f64>,
}

impl Outcome {
    /// An outcome with its losses rounded.
    pub fn new(job: Job, until: usize, losses: &[f32]) -> Self {
        let hundredths = |&loss: &f32| (100.0 * f64::from(loss)).round() / 100.0;
        Outcome {
            job,
            until,
            losses: losses.iter().map(hundredths).collect(),
        }
    }

    /// Mean loss over the last epoch; infinite where the run broke off.
    pub fn final_loss(&self, epoch: usize) -> f64 {
        match self.losses.len() == self.until {
            true => self.losses[self.until - epoch..].iter().sum::<f64>() / epoch as f64,
            false => f64::INFINITY,
        }
    }
}

/// The file and what it holds.
pub struct Results {
    path: PathBuf,
    outcomes: Vec<Outcome>,
}

impl Results {
    /// Reads what there is.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        let line = |(i, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{} line {}: not a result", path.display(), i + 1))
        };
        Ok(Results {
            path: path.to_owned(),
            outcomes: text.lines().enumerate().map(line).collect::<Result<_>>()?,
        })
    }

    /// The outcome of a job, if it is there.
    pub fn find(&self, job: &Job, until: usize) -> Option<&Outcome> {
        let mut outcomes = self.outcomes.iter();
        outcomes.find(|o| o.until == until && o.job == *job)
    }

    /// Appends one line, whole.
    pub fn add(&mut self, outcome: Outcome) -> Result<()> {
        let line = serde_json::to_string(&outcome)? + "\n";
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.outcomes.push(outcome);
        Ok(())
    }
}
