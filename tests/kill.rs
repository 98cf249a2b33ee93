//! Kills processes at random moments: one trains on a live file, syncs, forks and
//! saves all the time; others save to one path, and load it.
//!
//! `SONEW_KILLS=10000 cargo test --release --test kill` is the long form.

mod common;

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::rng;
use rand::Rng;
use sonew::checkpoint;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

/// The number of kills in ordinary tests.
const KILLS: u32 = 200;

/// The most steps that a process is waited for; then it lives a moment more.
const STEPS: u64 = 40;
const MOMENT: Duration = Duration::from_millis(3);

/// How many processes save to one path, besides the one that trains.
const SAVERS: u32 = 2;

/// One in four is killed as early as its start, and while it opens its file.
const START: Duration = Duration::from_millis(30);

/// A process that does not get this far is taken to hang.
const TOO_LONG: Duration = Duration::from_secs(120);

fn tensors() -> Vec<TensorSpec> {
    // Enough for two threads. A live file has all parameters as master weights.
    vec![
        TensorSpec::new("weight", &[250, 300]).with_master(),
        TensorSpec::new("kernel", &[90, 77])
            .with_chains(Chains::Strided)
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
        let started = Instant::now();
        loop {
            match self.optimizer.load(path, &load, Some(params)) {
                // A forked child of the killed process still has its lock.
                Err(Error::FileLocked { .. }) if started.elapsed() < TOO_LONG => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                loaded => return loaded.unwrap(),
            }
        }
    }

    fn step(&mut self) {
        let step = self.optimizer.step_count();
        // Before the step, so that who is killed between the two does both again.
        if step % 7 == 4 {
            self.optimizer
                .change_settings(1, |s| s.lr_scale = 1.0 / step as f64)
                .unwrap();
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
            let count = self.optimizer.settings(tensor).unwrap().step_count;
            bits.push(count.to_le_bytes().to_vec());
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

    /// Where all save to.
    fn shared(&self) -> PathBuf {
        self.folder.join("shared")
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
            13 => {
                // A child that does not live long, and does nothing.
                // SAFETY: it only ends.
                unsafe {
                    if libc::fork() == 0 {
                        libc::usleep(500);
                        libc::_exit(0);
                    }
                    libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG);
                }
                share(&training, &files);
            }
            _ => {}
        }
    }
}

/// Saves to the path that all save to, and looks at what is there then.
fn share(training: &Training, files: &Files) {
    let params = common::elements(&training.params);
    match training.optimizer.save(files.shared(), Some(&params)) {
        Ok(()) | Err(Error::FileLocked { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    match checkpoint::verify(files.shared()) {
        Ok(()) => {}
        // Nobody has saved yet.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        Err(error) => panic!("{error}"),
    }
}

/// Another child: saves until it is killed.
#[test]
#[ignore]
fn saves_until_killed() {
    let Some(folder) = env::var_os("SONEW_KILL_FOLDER") else {
        return;
    };
    let files = Files {
        folder: folder.into(),
    };
    let mut training = Training::new();
    loop {
        training.step();
        share(&training, &files);
        let mut found = Training::new();
        if files.shared().exists() {
            found.load(&files.shared(), LoadMode::MapPrivate);
        }
    }
}

/// Processes that save to one path. Each is killed in its turn, and followed by
/// another.
struct Savers {
    running: Vec<Child>,
}

impl Savers {
    fn start(files: &Files) -> Child {
        child("saves_until_killed", files).spawn().unwrap()
    }

    fn kill_one(&mut self, files: &Files, round: u32) {
        let index = (round % SAVERS) as usize;
        if index < self.running.len() {
            end(std::mem::replace(
                &mut self.running[index],
                Self::start(files),
            ));
        } else {
            self.running.push(Self::start(files));
        }
    }
}

impl Drop for Savers {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn child(what: &str, files: &Files) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--ignored", "--nocapture", what])
        .env("SONEW_KILL_FOLDER", &files.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Kills a process, which must not have ended by itself.
fn end(mut child: Child) {
    child.kill().unwrap();
    let end = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&end.stderr);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(end.status.signal(), Some(9), "it ended by itself: {said}");
}

/// Starts a process, waits until it has taken so many steps, and this long, and
/// kills it.
fn kill_one(files: &Files, steps: u64, then: Duration) {
    let until = files.noted()[0] + steps;
    let mut child = child("trains_until_killed", files).spawn().unwrap();
    let started = Instant::now();
    while files.noted()[0] < until && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < TOO_LONG, "the child hangs");
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(then);
    end(child);
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
    let (mut steps, mut saves, mut lost_moments, mut shared) = (0, 0, 0, 0);
    let mut savers = Savers {
        running: Vec::new(),
    };
    // Two are killed in each round.
    for round in 0..kills / 2 {
        savers.kill_one(&files, round);
        // What one of them has saved is never lost.
        if files.shared().exists() {
            checkpoint::verify(files.shared()).unwrap();
            shared += 1;
        } else {
            assert_eq!(shared, 0);
        }
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
        // What was left by the killed is one file at most for each path.
        let names = fs::read_dir(folder.path()).unwrap();
        for name in names.map(|entry| entry.unwrap().file_name()) {
            let name = name.into_string().unwrap();
            let name = name.strip_suffix(".sonew-tmp").unwrap_or(&name);
            let known = ["live", "saved", "shared", "notes"];
            assert!(known.contains(&name), "{name:?}");
        }
    }
    // And the next save removes it.
    drop(savers);
    let last = Training::new();
    last.optimizer.save(files.shared(), None).unwrap();
    last.optimizer.save(files.saved(), None).unwrap();
    last.optimizer.save(files.live(), None).unwrap();
    let names = fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 4);
    println!("{kills} kills, {steps} steps, {saves} times a new save, {lost_moments} between a step and its note");
    assert!(steps > u64::from(kills / 2) && saves > kills / 40 && shared > kills / 4);
}
