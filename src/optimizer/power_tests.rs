//! Power failures and kills at every moment of random work.
//!
//! A sequence of steps, syncs, settings, resets, saves, kills, reopenings and power
//! failures is drawn. Everything that the library does to files is recorded, and
//! what it stores to the mapping is noted. After every single operation, disks are
//! made that a power failure could leave now, and every disk must hold what is
//! promised.
//!
//! `SONEW_SEQUENCES=10000 cargo test --release --lib power_failures` is the long form.

use std::fs;
use std::path::PathBuf;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::machine::{Disk, Machine};
use crate::checkpoint::test_double::{self, record};
use crate::checkpoint::Master;
use crate::error::Error;
use crate::layout::{TensorSpec, MASTER};
use crate::optimizer::{LoadMode, LoadOptions};
use crate::options::{Options, StepOptions};

/// Sequences in ordinary tests, and operations of each.
const SEQUENCES: u64 = 80;
const OPERATIONS: usize = 14;

/// Disks that are made at every moment, at most: of pages, and of sectors.
const DISKS: usize = 6;

const MODES: [LoadMode; 3] = [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared];

/// What is in a file, or in an optimizer.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    step: u64,
    /// Without master weights that are not set.
    planes: Vec<Vec<u8>>,
    settings: Vec<f64>,
}

fn see(optimizer: &Optimizer) -> Seen {
    let mut planes = Vec::new();
    let mut settings = Vec::new();
    for state in &optimizer.state {
        for (plane, bytes) in state.planes.iter().zip(&state.elements) {
            if plane.name != MASTER || state.master == Master::Set {
                planes.push(bytes.to_vec());
            }
        }
        settings.extend([state.lr_scale, state.weight_decay, state.step_count as f64]);
    }
    Seen {
        step: optimizer.step_count(),
        planes,
        settings,
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    Step,
    Sync,
    Setting,
    Reset,
    Save,
    Reopen,
    GoBack,
}

const WORK: [Work; 10] = [
    Work::Step,
    Work::Step,
    Work::Step,
    Work::Step,
    Work::Sync,
    Work::Setting,
    Work::Reset,
    Work::Save,
    Work::Reopen,
    Work::GoBack,
];

/// A machine with one process that works on a live file.
struct Run {
    _folder: TempDir,
    live: PathBuf,
    saved: PathBuf,
    /// Where the disk of the failed machine is looked at.
    disk: PathBuf,
    specs: Vec<TensorSpec>,
    optimizer: Option<Optimizer>,
    params: [Vec<f32>; 2],
    machine: Machine,
    boot: u64,
    random: Pcg64,
    /// The state that the last sync has written.
    synced: Seen,
    /// The states that syncs since were killed with: the disk may hold them whole.
    begun: Vec<Seen>,
    /// The steps that were begun since.
    steps: usize,
    /// The state before the last step, while the other copy holds it.
    older: Option<Seen>,
    /// A step was killed that may have begun to write it, or the machine went down.
    doubtful: bool,
    /// What the last save has saved.
    last_save: Option<Seen>,
    /// What was done, for messages.
    done: Vec<String>,
    looked: usize,
    torn: usize,
}

impl Run {
    fn new(seed: u64) -> Run {
        // What a disk would hold is simulated: files in memory will do, where there are any.
        let folder = TempDir::new_in("/dev/shm")
            .or_else(|_| TempDir::new())
            .unwrap();
        let mut random = Pcg64::seed_from_u64(seed);
        // Planes of some sectors, or of a page each.
        let length = *[150, 1024].choose(&mut random).unwrap();
        let specs = vec![
            TensorSpec::new("a", &[length]).with_master(),
            TensorSpec::new("b", &[7]),
        ];
        let path = |name: &str| folder.path().join(name);
        test_double::boot(Some(1));
        let mut run = Run {
            live: path("live"),
            saved: path("saved"),
            disk: path("disk"),
            _folder: folder,
            params: [vec![1.0; length], vec![2.0; 7]],
            optimizer: None,
            machine: Machine::default(),
            boot: 1,
            random,
            synced: Seen {
                step: 0,
                planes: Vec::new(),
                settings: Vec::new(),
            },
            begun: Vec::new(),
            steps: 0,
            older: None,
            doubtful: false,
            last_save: None,
            specs,
            done: vec![format!("seed {seed}")],
            looked: 0,
            torn: 0,
        };
        run.make_live();
        run
    }

    fn fresh(&self) -> Optimizer {
        Optimizer::new(Options::default(), &self.specs).unwrap()
    }

    fn optimizer(&mut self) -> &mut Optimizer {
        self.optimizer.as_mut().unwrap()
    }

    /// Begins with a new live file.
    fn make_live(&mut self) {
        self.optimizer = None;
        let mut optimizer = self.fresh();
        let path = self.live.clone();
        let (made, events) = record(|| optimizer.make_live(&path));
        made.unwrap();
        events.iter().for_each(|event| self.machine.apply(event));
        self.synced = see(&optimizer);
        self.begun.clear();
        self.steps = 0;
        self.older = None;
        self.optimizer = Some(optimizer);
    }

    fn work(&mut self, work: Work) -> Result<()> {
        let number: u32 = self.random.random_range(1..1000);
        match work {
            Work::Step => {
                let grads = self
                    .params
                    .clone()
                    .map(|p| p.iter().map(|p| p + number as f32).collect());
                let [a, b]: &[Vec<f32>; 2] = &grads;
                let grads = [Some(&a[..]), (!number.is_multiple_of(3)).then_some(&b[..])];
                let [pa, pb] = &mut self.params;
                let optimizer = self.optimizer.as_mut().unwrap();
                optimizer.step(&StepOptions::default(), &mut [&mut pa[..], pb], &grads)
            }
            Work::Sync => self.optimizer().sync(),
            Work::Setting if number.is_multiple_of(2) => self
                .optimizer()
                .change_settings(1, |s| s.step_count = number.into()),
            Work::Setting => self
                .optimizer()
                .change_settings(1, |s| s.lr_scale = f64::from(number)),
            Work::Reset => {
                self.params[0].fill(number as f32);
                self.optimizer().reset_master()
            }
            Work::Save => {
                let path = self.saved.clone();
                self.optimizer().save(path, None)
            }
            Work::Reopen | Work::GoBack => {
                self.optimizer = None;
                let mut optimizer = self.fresh();
                let load = LoadOptions {
                    mode: LoadMode::MapShared,
                    older_copy: work == Work::GoBack,
                    ..LoadOptions::default()
                };
                match optimizer.load(&self.live, &load, None) {
                    Err(Error::NoOlderCopy { .. }) if self.older.is_none() || self.doubtful => {
                        self::load(&mut optimizer, &self.live, LoadMode::MapShared)?;
                    }
                    loaded => {
                        loaded?;
                        if work == Work::GoBack {
                            let older = self
                                .older
                                .as_ref()
                                .unwrap_or_else(|| panic!("{:?}", self.done));
                            assert_eq!(&see(&optimizer), older, "{:?}", self.done);
                        }
                    }
                }
                self.optimizer = Some(optimizer);
                Ok(())
            }
        }
    }

    /// Does some work, and looks at the disks of every moment in it. With `kill`,
    /// the process is killed at that file operation, if there are so many.
    fn one(&mut self, work: Work, kill: Option<usize>) {
        self.done.push(format!("{work:?} {kill:?}"));
        let before = see(self.optimizer());
        if let Some(operations) = kill {
            test_double::kill_after(operations, &self.live);
        }
        self.steps += usize::from(work == Work::Step);
        let path = self.live.clone();
        let (result, events) = record(|| {
            let result = self.work(work);
            test_double::note_stores(&path);
            result
        });
        let unstruck = test_double::clear();
        let killed = test_double::killed();
        if matches!(work, Work::Sync | Work::Reopen | Work::GoBack) {
            self.begun.push(before.clone());
            self.begun
                .extend(self.older.clone().filter(|_| work == Work::GoBack));
        }
        for event in &events {
            self.machine.apply(event);
            let saving = (work == Work::Save).then_some(&before);
            self.look(saving);
        }
        if let Some(bytes) = killed {
            self.doubtful |= work == Work::Step;
            self.optimizer = None;
            fs::write(&self.live, bytes).unwrap();
            self.resume(&before);
            return;
        }
        assert!(kill.is_none() || unstruck);
        result.unwrap_or_else(|error| panic!("{error}: {:?}", self.done));
        match work {
            Work::Sync | Work::Reopen | Work::GoBack => {
                self.synced = see(self.optimizer());
                if self.synced != before {
                    self.older = None;
                }
                self.begun.clear();
                self.steps = 0;
            }
            Work::Step => (self.older, self.doubtful) = (Some(before), false),
            Work::Save => self.last_save = Some(before),
            _ => {}
        }
        if kill.is_some() {
            // It is killed between two calls.
            let bytes = fs::read(&self.live).unwrap();
            let now = see(self.optimizer());
            self.optimizer = None;
            fs::write(&self.live, bytes).unwrap();
            self.resume(&now);
        }
    }

    /// Another process continues with the file of one that was killed.
    fn resume(&mut self, expected: &Seen) {
        let mut optimizer = self.fresh();
        let path = self.live.clone();
        let (loaded, events) = record(|| load(&mut optimizer, &path, LoadMode::MapShared));
        loaded.unwrap_or_else(|error| panic!("{error} after a kill: {:?}", self.done));
        assert_eq!(&see(&optimizer), expected, "{:?}", self.done);
        self.optimizer = Some(optimizer);
        for event in &events {
            self.machine.apply(event);
            self.look(None);
        }
    }

    /// The machine loses power; the next process continues after the next boot.
    fn lose_power(&mut self) {
        self.done.push("power failure".to_owned());
        let share = self.random.random();
        let random = &mut self.random;
        let disk = self.machine.disk(&mut || random.random_bool(share));
        self.optimizer = None;
        self.boot += 1;
        test_double::boot(Some(self.boot));
        let files = disk.iter().map(|(path, bytes)| (&**path, &bytes[..]));
        self.machine = Machine::with(files);
        for (path, bytes) in &disk {
            fs::write(path, bytes).unwrap();
        }
        let mut optimizer = self.fresh();
        let path = self.live.clone();
        let (loaded, events) = record(|| load(&mut optimizer, &path, LoadMode::MapShared));
        match loaded {
            Ok(()) => {
                self.synced = see(&optimizer);
                // A sync writes both copies.
                self.older.take_if(|_| self.steps > 0);
                self.doubtful = true;
                self.begun.clear();
                self.steps = 0;
                self.optimizer = Some(optimizer);
                for event in &events {
                    self.machine.apply(event);
                    self.look(None);
                }
            }
            Err(Error::Torn { .. }) if self.steps > 1 => self.make_live(),
            Err(error) => panic!("{error}: {:?}", self.done),
        }
    }

    /// Looks at disks that a power failure may leave now.
    fn look(&mut self, saving: Option<&Seen>) {
        let pages = self.machine.dirty_pages(&self.live);
        let all = 1usize << pages.len().min(20);
        for i in 0..all.min(DISKS) {
            // All subsets, if they are not too many.
            let subset = match all <= DISKS {
                true => i,
                false => self.random.random_range(0..all),
            };
            let kept = pages
                .iter()
                .enumerate()
                .filter(|(p, _)| subset >> p & 1 == 1);
            let kept: Vec<usize> = kept.map(|(_, &page)| page).collect();
            let bytes = self.machine.with_pages(&self.live, &kept);
            self.look_at(&bytes);
        }
        for _ in 0..DISKS / 2 {
            let share = self.random.random();
            let random = &mut self.random;
            let disk = self.machine.disk(&mut || random.random_bool(share));
            let bytes = disk[&self.live].clone();
            self.look_at(&bytes);
            self.look_at_saved(&disk, saving);
        }
    }

    /// The live file of a machine that has lost power.
    fn look_at(&mut self, bytes: &[u8]) {
        self.looked += 1;
        fs::write(&self.disk, bytes).unwrap();
        test_double::boot(Some(self.boot + 1));
        let mode = *MODES.choose(&mut self.random).unwrap();
        for mode in [LoadMode::Read, mode] {
            let mut optimizer = self.fresh();
            match load(&mut optimizer, &self.disk, mode) {
                Ok(()) => {
                    let found = see(&optimizer);
                    assert!(
                        found == self.synced || self.begun.contains(&found),
                        "step {} is taken for whole in mode {mode:?}: {:?}",
                        found.step,
                        self.done
                    );
                }
                Err(Error::Torn { .. }) => {
                    assert!(
                        self.steps > 1,
                        "what was synced is lost after {} steps: {:?}",
                        self.steps,
                        self.done
                    );
                    self.torn += 1;
                }
                Err(error) => panic!("{error}: {:?}", self.done),
            }
        }
        test_double::boot(Some(self.boot));
    }

    /// The checkpoint of a machine that has lost power.
    fn look_at_saved(&mut self, disk: &Disk, saving: Option<&Seen>) {
        let Some(bytes) = disk.get(&self.saved) else {
            assert!(self.last_save.is_none(), "{:?}", self.done);
            return;
        };
        fs::write(&self.disk, bytes).unwrap();
        let mut optimizer = self.fresh();
        load(&mut optimizer, &self.disk, LoadMode::Read).unwrap();
        let found = Some(see(&optimizer));
        let whole = found == self.last_save || found.as_ref() == saving;
        assert!(whole, "{:?}", self.done);
    }
}

fn load(optimizer: &mut Optimizer, path: &Path, mode: LoadMode) -> Result<()> {
    let load = LoadOptions {
        mode,
        ..LoadOptions::default()
    };
    optimizer.load(path, &load, None)
}

#[test]
fn power_failures_and_kills_at_any_moment_lose_nothing_that_is_promised() {
    let sequences = std::env::var("SONEW_SEQUENCES");
    let sequences = sequences.map_or(SEQUENCES, |number| number.parse().unwrap());
    let first = std::env::var("SONEW_FIRST");
    let first = first.map_or(0, |number| number.parse().unwrap());
    let (mut looked, mut torn) = (0, 0);
    for seed in first..first + sequences {
        let mut run = Run::new(seed);
        for _ in 0..OPERATIONS {
            match run.random.random_range(0..12) {
                0 => run.lose_power(),
                1 | 2 => {
                    let work = *WORK.choose(&mut run.random).unwrap();
                    // Not while it is closed in an orderly way.
                    if !matches!(work, Work::Reopen | Work::GoBack) {
                        let operations = run.random.random_range(0..3);
                        run.one(work, Some(operations));
                    }
                }
                _ => {
                    let work = *WORK.choose(&mut run.random).unwrap();
                    run.one(work, None);
                }
            }
        }
        looked += run.looked;
        torn += run.torn;
        run.optimizer = None;
        test_double::boot(None);
    }
    println!("{sequences} sequences, {looked} disks, {torn} of them torn");
    assert!(looked as u64 > 100 * sequences && torn as u64 > sequences);
}
