//! Kills a process, which trains on a live file and saves all the time, at random
//! moments.
//!
//! `SONEW_KILLS=1000 cargo test --release --test kill` is the long form.

mod common;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::rng;
use rand::Rng;
use sonew::checkpoint::{self, Checkpoint};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{LoadMode, LoadOptions, Optimizer};

/// The number of kills in ordinary tests.
const KILLS: u32 = 100;

/// The most steps that a process is waited for; then it lives a moment more.
const STEPS: u64 = 40;
const MOMENT: Duration = Duration::from_millis(3);

/// One in four is killed as early as its start, and while it opens its file.
const START: Duration = Duration::from_millis(30);

/// A process that does not get this far is taken to hang.
const TOO_LONG: Duration = Duration::from_secs(120);

fn tensors() -> Vec<TensorSpec> {
    // Enough for two threads. A live file has all parameters as master weights.
    vec![
        TensorSpec::new("weight", &[250, 300]).with_master(),
        TensorSpec::new("kernel", &[90, 77])
            .with_chains(Chains::ColumnMajor)
            .with_master(),
        TensorSpec::new("bias", &[301])
            .with_update(Update::Adam)
            .with_master(),
    ]
}

/// Training whose every step follows from its parameters and its number.
struct Training {
    optimizer: Optimizer,
    params: Vec<Vec<f32>>,
}

impl Training {
    fn new() -> Training {
        let tensors = tensors();
        let options = Options {
            threads: 2,
            ..Options::default()
        };
        let params = tensors.iter().map(|t| vec![0.5; t.len()]);
        Training {
            params: params.collect(),
            optimizer: Optimizer::new(options, &tensors).unwrap(),
        }
    }

    fn load(&mut self, path: &Path, mode: LoadMode) {
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        let params = &mut common::elements_mut(&mut self.params);
        // Before the first step there are no master weights yet.
        let stepped = Checkpoint::open(path).unwrap().header().step > 0;
        let params = stepped.then_some(&mut params[..]);
        self.optimizer.load(path, &load, params).unwrap();
    }

    fn step(&mut self) {
        let step = self.optimizer.step_count();
        // Before the step, so that who is killed between the two does both again.
        if step % 7 == 4 {
            self.optimizer.set_lr_scale(1, 1.0 / step as f64).unwrap();
        }
        let wave = |i: usize| ((i as u64 * 31 + step * 17) % 101) as f32 / 50.0 - 1.0;
        let grads = self.params.iter().enumerate().map(|(tensor, params)| {
            let grad = params.iter().enumerate().map(|(i, p)| p + wave(i));
            (!(step + tensor as u64).is_multiple_of(5)).then(|| grad.collect())
        });
        let grads: Vec<Option<Vec<f32>>> = grads.collect();
        let params = &mut common::slices_mut(&mut self.params);
        let options = StepOptions {
            lr: 0.01,
            ..StepOptions::default()
        };
        self.optimizer
            .step(&options, params, &common::options(&grads))
            .unwrap();
    }

    /// The whole state, except a setting that is made between two steps.
    fn bits(&self) -> Vec<Vec<u8>> {
        let mut bits: Vec<_> = self
            .params
            .iter()
            .map(|p| bytemuck::cast_slice(p).to_vec())
            .collect();
        for tensor in 0..self.params.len() {
            for plane in 0..self.optimizer.planes(tensor).unwrap().len() {
                bits.push(
                    self.optimizer
                        .plane(tensor, plane)
                        .unwrap()
                        .bytes()
                        .to_vec(),
                );
            }
        }
        bits
    }
}

struct Files {
    folder: PathBuf,
}

impl Files {
    fn live(&self) -> PathBuf {
        self.folder.join("live")
    }

    fn saved(&self) -> PathBuf {
        self.folder.join("saved")
    }

    /// Where the child notes what has returned: a step, a save.
    fn notes(&self) -> PathBuf {
        self.folder.join("notes")
    }

    fn noted(&self) -> [u64; 2] {
        let bytes = fs::read(self.notes()).unwrap();
        [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
    }
}

/// The child: trains until it is killed.
#[test]
#[ignore]
fn trains_until_killed() {
    let Some(folder) = env::var_os("SONEW_KILL_FOLDER") else {
        return;
    };
    let files = Files {
        folder: folder.into(),
    };
    let notes = File::options().write(true).open(files.notes()).unwrap();
    let note = |what: u64, step: u64| notes.write_all_at(&step.to_le_bytes(), 8 * what).unwrap();
    let mut training = Training::new();
    if files.live().exists() {
        training.load(&files.live(), LoadMode::MapShared);
    } else {
        training.optimizer.make_live(files.live()).unwrap();
    }
    loop {
        training.step();
        let step = training.optimizer.step_count();
        note(0, step);
        let params = common::elements(&training.params);
        match step % 16 {
            3 => training.optimizer.sync().unwrap(),
            7 => {
                training
                    .optimizer
                    .save(files.saved(), Some(&params))
                    .unwrap();
                note(1, step);
            }
            11 => {
                let begun = training.optimizer.save_begin(files.saved(), Some(&params));
                let begun = begun.unwrap();
                for _ in 0..3 {
                    training.step();
                    note(0, training.optimizer.step_count());
                }
                begun.finish().unwrap();
                note(1, step);
            }
            _ => {}
        }
    }
}

/// Starts a process, waits until it has taken so many steps, and this long, and
/// kills it.
fn kill_one(files: &Files, steps: u64, then: Duration) {
    let until = files.noted()[0] + steps;
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "trains_until_killed"])
        .env("SONEW_KILL_FOLDER", &files.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while files.noted()[0] < until && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < TOO_LONG, "the child hangs");
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(then);
    child.kill().unwrap();
    let end = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&end.stderr);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(end.status.signal(), Some(9), "it ended by itself: {said}");
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_completed_step() {
    let kills = env::var("SONEW_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let files = Files {
        folder: folder.path().to_owned(),
    };
    let mut random = rng(kills.into());
    // Training that is never interrupted, as far as the file, and the last save.
    let (mut whole, mut at_save) = (Training::new(), Training::new());
    fs::write(files.notes(), [0; 16]).unwrap();
    let (mut steps, mut saves, mut lost_moments) = (0, 0, 0);
    for round in 0..kills {
        if round % 12 == 0 {
            // Some are killed while they create the file.
            for path in [files.live(), files.saved()] {
                let _ = fs::remove_file(path);
            }
            fs::write(files.notes(), [0; 16]).unwrap();
            (whole, at_save) = (Training::new(), Training::new());
        }
        match round % 4 {
            0 => kill_one(&files, 0, START.mul_f64(random.random())),
            _ => kill_one(
                &files,
                random.random_range(1..=STEPS),
                MOMENT.mul_f64(random.random()),
            ),
        }
        let [stepped, saved] = files.noted();

        let mut found = Training::new();
        if stepped > 0 || files.live().exists() {
            // To look, or to work on.
            let mode = match round % 3 {
                0 => LoadMode::Read,
                1 => LoadMode::MapPrivate,
                _ => LoadMode::MapShared,
            };
            found.load(&files.live(), mode);
        }
        let step = found.optimizer.step_count();
        // A step that has returned is in the file; one more may be.
        assert!(
            (stepped..=stepped + 1).contains(&step),
            "{step} after {stepped}"
        );
        lost_moments += u32::from(step == stepped + 1);
        steps += step - whole.optimizer.step_count();
        while whole.optimizer.step_count() < step {
            whole.step();
        }
        assert!(found.bits() == whole.bits(), "round {round}, step {step}");
        drop(found);

        if saved > 0 || files.saved().exists() {
            checkpoint::verify(files.saved()).unwrap();
            let mut found = Training::new();
            found.load(&files.saved(), LoadMode::Read);
            let step = found.optimizer.step_count();
            assert!(step >= saved && step % 16 % 4 == 3, "{step} after {saved}");
            saves += u32::from(step > at_save.optimizer.step_count());
            while at_save.optimizer.step_count() < step {
                at_save.step();
            }
            assert!(found.bits() == at_save.bits(), "round {round}, step {step}");
        }
        // What was left by the killed is removed by the open.
        let names = fs::read_dir(folder.path()).unwrap();
        for name in names.map(|entry| entry.unwrap().file_name()) {
            let known = ["live", "saved", "notes"]
                .iter()
                .any(|known| name == *known);
            let creating = name == "live.sonew-tmp" && !files.live().exists();
            let first = name == "saved.sonew-tmp" && !files.saved().exists();
            assert!(known || creating || first, "{name:?}");
        }
    }
    println!("{kills} kills, {steps} steps, {saves} times a new save, {lost_moments} between a step and its note");
    assert!(steps > u64::from(kills) && saves > kills / 20);
}
