//! One training run: a network, its optimizer and a record of the losses.

use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use ndarray::Array2;
use rand::SeedableRng;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use sonew::dtype::{Elements, ElementsMut};
use sonew::options::StepOptions;
use sonew::{LoadOptions, Optimizer};

use crate::data::{order, Images, PIXELS};
use crate::muon::Muon;
use crate::network::Network;
use crate::settings::{layers, Method, Setting, State};

/// Part of the steps over which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// What is trained, and for how long.
pub struct Problem {
    pub images: Images,
    pub epochs: usize,
    pub batch: usize,
    pub seed: u64,
    /// 0 means as many as there are processors.
    pub threads: usize,
}

impl Problem {
    /// Images after the last full batch of an epoch are not used in that epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len() / self.batch
    }

    pub fn steps(&self) -> usize {
        self.epochs * self.steps_per_epoch()
    }
}

/// The record of a run, finished or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub method: Method,
    /// Loss of the batch of each step, before the step, in nats per image.
    pub losses: Vec<f32>,
    /// Time in the optimizer's steps.
    pub optimizer_seconds: f64,
    /// Time in the whole steps.
    pub seconds: f64,
}

/// What updates the parameters.
enum Updater {
    Library(Box<Optimizer>),
    Muon(Muon),
}

/// A run in progress.
pub struct Run<'a> {
    problem: &'a Problem,
    setting: Setting,
    network: Network,
    updater: Updater,
    batch: Array2<f32>,
    /// The epoch that `order` is of.
    epoch: Option<usize>,
    order: Vec<u32>,
    record: Record,
}

impl<'a> Run<'a> {
    /// A run at its first step.
    pub fn new(
        problem: &'a Problem,
        method: Method,
        setting: Setting,
        state: State,
    ) -> Result<Self> {
        let layers = layers(problem.images.name);
        let updater = match method {
            Method::Muon => Updater::Muon(Muon::new(layers, setting)),
            _ => {
                let options = method.options(&setting, problem.threads);
                let optimizer = Optimizer::new(options, &method.tensors(layers, state))?;
                Updater::Library(Box::new(optimizer))
            }
        };
        let mut rng = Pcg64::seed_from_u64(problem.seed);
        Ok(Run {
            problem,
            setting,
            network: Network::new(layers, problem.batch, &mut rng),
            updater,
            batch: Array2::zeros((problem.batch, PIXELS)),
            epoch: None,
            order: Vec::new(),
            record: Record {
                method,
                losses: Vec::new(),
                optimizer_seconds: 0.0,
                seconds: 0.0,
            },
        })
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Loss of the latest step.
    pub fn last_loss(&self) -> f32 {
        self.record.losses.last().copied().unwrap_or(f32::NAN)
    }

    pub fn into_record(self) -> Record {
        self.record
    }

    pub fn finished(&self) -> bool {
        self.record.losses.len() >= self.problem.steps()
    }

    /// Bytes of the optimizer's state for each parameter.
    pub fn state_bytes_per_parameter(&self) -> f64 {
        let tensors = self.network.parameters.slices();
        let parameters: usize = tensors.iter().map(|tensor| tensor.len()).sum();
        let bytes = match &self.updater {
            Updater::Library(optimizer) => optimizer.state_bytes(),
            Updater::Muon(muon) => muon.state_bytes(),
        };
        bytes as f64 / parameters as f64
    }

    /// Trains on the next batch.
    pub fn step(&mut self) -> Result<()> {
        let step = self.record.losses.len();
        let started = Instant::now();
        self.next_batch(step);
        let loss = self.network.backpropagate(&self.batch);
        let before_optimizer = Instant::now();
        self.update(step)
            .with_context(|| format!("{} at step {}", self.record.method.title(), step + 1))?;
        self.record.optimizer_seconds += before_optimizer.elapsed().as_secs_f64();
        self.record.seconds += started.elapsed().as_secs_f64();
        self.record.losses.push(loss as f32);
        Ok(())
    }

    fn next_batch(&mut self, step: usize) {
        let problem = self.problem;
        let epoch = step / problem.steps_per_epoch();
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.order = order(problem.images.len(), problem.seed, epoch);
        }
        let start = step % problem.steps_per_epoch() * problem.batch;
        let chosen = &self.order[start..start + problem.batch];
        problem.images.gather(chosen, &mut self.batch);
    }

    fn update(&mut self, step: usize) -> Result<()> {
        let lr = self.setting.lr * schedule(step, self.problem.steps());
        let Network {
            parameters,
            gradient,
            ..
        } = &mut self.network;
        match &mut self.updater {
            Updater::Library(optimizer) => {
                let options = StepOptions {
                    lr,
                    ..StepOptions::default()
                };
                let gradients: Vec<_> = gradient.slices().into_iter().map(Some).collect();
                optimizer.step(&options, &mut parameters.slices_mut(), &gradients)?;
            }
            Updater::Muon(muon) => {
                muon.step(step, lr, parameters.slices_mut(), gradient.slices())?;
            }
        }
        Ok(())
    }

    /// Saves parameters and optimizer state; the record is the caller's to
    /// keep.
    pub fn save(&self, path: &Path) -> Result<()> {
        let parameters = self.network.parameters.slices();
        match &self.updater {
            Updater::Library(optimizer) => {
                let parameters: Vec<_> = parameters.into_iter().map(Elements::new).collect();
                optimizer.save(path, Some(&parameters))?;
            }
            Updater::Muon(muon) => muon.save(path, parameters)?,
        }
        Ok(())
    }

    /// Continues from a saved state and its record.
    pub fn load(&mut self, path: &Path, record: Record) -> Result<()> {
        let parameters = self.network.parameters.slices_mut();
        match &mut self.updater {
            Updater::Library(optimizer) => {
                let parameters = parameters.into_iter().map(ElementsMut::new);
                let mut parameters: Vec<_> = parameters.collect();
                optimizer.load(path, &LoadOptions::default(), Some(&mut parameters))?;
                ensure!(
                    optimizer.step_count() == record.losses.len() as u64,
                    "{} is of step {}, the losses end at step {}",
                    path.display(),
                    optimizer.step_count(),
                    record.losses.len()
                );
            }
            Updater::Muon(muon) => muon.load(path, parameters)?,
        }
        self.record = record;
        Ok(())
    }
}

/// The learning rate's share of its peak: it rises linearly over the first
/// steps, then falls linearly towards zero.
fn schedule(step: usize, steps: usize) -> f64 {
    let warm_up = (WARM_UP * steps as f64).ceil();
    let rising = (step + 1) as f64 / warm_up;
    let falling = (steps - step) as f64 / (steps as f64 - warm_up + 1.0);
    rising.min(falling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_rises_and_falls_linearly() {
        let shares: Vec<f64> = (0..100).map(|step| schedule(step, 100)).collect();
        assert_eq!(shares[..5], [0.2, 0.4, 0.6, 0.8, 1.0]);
        for step in 5..100 {
            assert!((shares[step - 1] - shares[step] - 1.0 / 96.0).abs() < 1e-12);
        }
        assert!(shares[99] > 0.0 && shares[99] < 0.011);
        // One step is warm-up and the end at once.
        assert_eq!(schedule(0, 1), 1.0);
    }
}
