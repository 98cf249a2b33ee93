//! Power failures while files are being written.
//!
//! The operations of a save or a sync are recorded. For every prefix of the record,
//! disks are made that a power failure could leave: any part of what was not
//! synced, names as well as bytes, may be missing. Every disk must hold the old
//! state or the new one, and nothing else.

use std::collections::BTreeMap;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::super::files::test_double::{record, Event};
use super::super::record::TEST_BOOT;
use super::*;

/// The size of the unit that a disk writes atomically.
const SECTOR: usize = 512;
/// Disks for each prefix.
const DISKS: u64 = 40;

/// A file that may have several names, or none.
#[derive(Clone, Default)]
struct Inode {
    /// The contents that are certainly on the disk.
    durable: Vec<u8>,
    /// Changes that may be on the disk, in order.
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A change of a name that may be on the disk.
#[derive(Clone)]
enum Naming {
    Set(PathBuf, usize),
    Gone(PathBuf),
}

/// The files as the system sees them, and as they are on the disk.
#[derive(Clone, Default)]
struct Machine {
    inodes: Vec<Inode>,
    /// Names as a running system sees them.
    seen: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
}

impl Machine {
    /// A disk with files on it.
    fn with(files: &[(&Path, &[u8])]) -> Machine {
        let mut machine = Machine::default();
        for (path, bytes) in files {
            let inode = machine.inodes.len();
            machine.inodes.push(Inode {
                durable: bytes.to_vec(),
                pending: Vec::new(),
            });
            machine.seen.insert(path.to_path_buf(), inode);
            machine.durable.insert(path.to_path_buf(), inode);
        }
        machine
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        &mut self.inodes[self.seen[path]]
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => {
                let inode = self.inodes.len();
                self.inodes.push(Inode::default());
                self.seen.insert(path.clone(), inode);
                self.pending.push(Naming::Set(path.clone(), inode));
            }
            Event::Write(path, offset, bytes) => {
                // Every sector for itself.
                let mut at = *offset as usize;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                    let piece = Pending::Write(at, piece.to_vec());
                    self.inode(path).pending.push(piece);
                    at += rest.len() - more.len();
                    rest = more;
                }
            }
            Event::Allocate(path, length) => {
                let length = Pending::Length(*length as usize);
                self.inode(path).pending.push(length);
            }
            Event::SyncFile(path) => {
                let inode = self.inode(path);
                for pending in std::mem::take(&mut inode.pending) {
                    put(&mut inode.durable, &pending);
                }
            }
            Event::SyncMapping(path, all, synced) => {
                let inode = self.inode(path);
                let pages = synced.start / 4096 * 4096..synced.end;
                inode.durable[pages.clone()].copy_from_slice(&all[pages]);
            }
            Event::SyncDirectory => {
                self.durable = self.seen.clone();
                self.pending.clear();
            }
            Event::Rename(from, to) => {
                let inode = self.seen.remove(from).expect("renamed files exist");
                self.seen.insert(to.clone(), inode);
                self.pending.push(Naming::Gone(from.clone()));
                self.pending.push(Naming::Set(to.clone(), inode));
            }
            Event::Remove(path) => {
                self.seen.remove(path);
                self.pending.push(Naming::Gone(path.clone()));
            }
        }
    }

    /// A disk that a power failure may leave now.
    fn disk(&self, keep: &mut impl FnMut() -> bool) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.durable.clone();
        for naming in self.pending.iter().filter(|_| keep()) {
            match naming {
                Naming::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
                Naming::Gone(path) => drop(names.remove(path)),
            }
        }
        let content = |inode: usize, keep: &mut dyn FnMut() -> bool| {
            let mut bytes = self.inodes[inode].durable.clone();
            for pending in self.inodes[inode].pending.iter().filter(|_| keep()) {
                put(&mut bytes, pending);
            }
            bytes
        };
        let files = names.into_iter();
        files
            .map(|(path, inode)| (path, content(inode, keep)))
            .collect()
    }
}

fn put(bytes: &mut Vec<u8>, pending: &Pending) {
    let end = match pending {
        Pending::Write(offset, piece) => offset + piece.len(),
        Pending::Length(length) => *length,
    };
    bytes.resize(bytes.len().max(end), 0);
    if let Pending::Write(offset, piece) = pending {
        bytes[*offset..end].copy_from_slice(piece);
    }
}

/// Calls `look` with a folder for every disk, and whether all operations were done.
fn every_disk(machine: &Machine, events: &[Event], mut look: impl FnMut(&Path, bool)) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine.clone();
    let mut looked = 0;
    for done in 0..=events.len() {
        if done > 0 {
            machine.apply(&events[done - 1]);
        }
        for seed in 0..DISKS {
            let mut random = Pcg64::seed_from_u64(done as u64 * DISKS + seed);
            // All of it, nothing of it, and parts, small ones and large ones.
            let share = seed as f64 / (DISKS - 1) as f64;
            let disk = machine.disk(&mut || random.random_bool(share));
            for (path, bytes) in &disk {
                fs::write(folder.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            look(folder.path(), done == events.len());
            looked += 1;
            for entry in fs::read_dir(folder.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
    }
    looked
}

/// Larger than some sectors.
fn samples() -> [Sample; 2] {
    let old = Sample::of(Header {
        tensors: vec![saved(TensorSpec::new("w", &[37, 11]))],
        parameters: true,
        ..Sample::small().header
    });
    let mut new = old.clone();
    new.header.step += 1;
    for (_, _, values) in &mut new.arrays {
        values.iter_mut().for_each(|value| *value += 0.5);
    }
    [old, new]
}

fn is(path: &Path, sample: &Sample) -> bool {
    let checkpoint = Checkpoint::open(path).unwrap();
    let same = checkpoint.header() == &sample.header;
    if same {
        sample.assert_reads_back(&checkpoint);
    }
    same
}

#[test]
fn a_save_that_loses_power_leaves_the_old_checkpoint_or_the_new_one() {
    let [old, new] = samples();
    let file = Written::new(&old);
    let (saved, events) = record(|| new.write(&file.path));
    saved.unwrap();
    // Created, data, header, synced, renamed, and that synced.
    assert_eq!(events.len(), 6);
    let machine = Machine::with(&[(&file.path, &file.bytes)]);
    let mut seen = [0, 0];
    let looked = every_disk(&machine, &events, |folder, done| {
        let path = folder.join("state.safetensors");
        let is_new = is(&path, &new);
        assert!(is_new || is(&path, &old));
        assert!(is_new || !done, "what was saved is lost");
        seen[usize::from(is_new)] += 1;
    });
    assert!(
        looked > 250 && seen.iter().all(|&count| count > 20),
        "{seen:?}"
    );
}

#[test]
fn a_first_save_that_loses_power_leaves_nothing_or_the_checkpoint() {
    let [sample, _] = samples();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let (saved, events) = record(|| sample.write(&path));
    saved.unwrap();
    every_disk(&Machine::default(), &events, |folder, done| {
        let path = folder.join("state.safetensors");
        assert!(if path.exists() {
            is(&path, &sample)
        } else {
            !done
        });
    });
}

/// Checks that the simulation finds errors: without the sync before the rename, the
/// file with the new name may have any contents.
#[test]
fn without_a_sync_the_simulation_finds_a_torn_file() {
    let [old, new] = samples();
    let file = Written::new(&old);
    let (saved, mut events) = record(|| new.write(&file.path));
    saved.unwrap();
    events.retain(|event| !matches!(event, Event::SyncFile(_)));
    let machine = Machine::with(&[(&file.path, &file.bytes)]);
    let mut torn = 0;
    every_disk(&machine, &events, |folder, _| {
        let path = folder.join("state.safetensors");
        let whole = Checkpoint::open(&path).and_then(|file| file.verify());
        torn += usize::from(whole.is_err());
    });
    assert!(torn > 0);
}

/// A live file with one tensor, and its copies.
struct LiveSample {
    live: Live,
    copies: Copies,
}

impl LiveSample {
    fn create(path: &Path, sample: &Sample) -> Result<LiveSample> {
        let mut header = sample.header.clone();
        header.parameters = false;
        let arrays = sample.arrays().filter(|array| array.plane != PARAMETER);
        let arrays: Vec<_> = arrays.collect();
        let settings = [Settings {
            lr_scale: 1.0,
            weight_decay: 0.0,
            master: Master::Empty,
        }];
        let (live, copies) = create_live(path, &header, &arrays, settings.into_iter())?;
        Ok(LiveSample { live, copies })
    }

    /// A step that leaves this in every byte.
    fn step(&mut self, step: u64) -> Result<()> {
        self.live.begin()?;
        for part in self.copies[1].iter_mut().flatten() {
            part.fill(step as u8);
        }
        let settings = Settings {
            lr_scale: step as f64,
            weight_decay: 0.0,
            master: Master::Empty,
        };
        self.live.commit(step, std::iter::once(settings));
        self.copies.swap(0, 1);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.live
            .sync(self.copies[0].iter().flatten().map(|part| &part[..]))
    }
}

/// The step that a live file is at; all of it must be of that step.
fn step_of(path: &Path, access_live: bool) -> Result<u64> {
    let checkpoint = match access_live {
        true => Checkpoint::open_live(path)?,
        false => Checkpoint::open(path)?,
    };
    let header = checkpoint.header().clone();
    if header.step > 7 {
        assert_eq!(header.tensors[0].lr_scale, header.step as f64);
        let value = f32::from_bits(u32::from_ne_bytes([header.step as u8; 4]));
        let planes: Vec<_> = checkpoint.arrays().map(|a| a.plane.to_owned()).collect();
        for plane in planes {
            let values = read(&checkpoint, 0, &plane)?;
            assert!(values.iter().all(|&v| v == value), "step {}", header.step);
        }
    }
    Ok(header.step)
}

/// After how many of the events a byte of a mapped file was synced last.
fn last_sync(events: &[Event], byte: usize) -> usize {
    let syncs = |event: &Event| match event {
        Event::SyncMapping(_, _, synced) => {
            (synced.start / 4096 * 4096..synced.end).contains(&byte)
        }
        Event::SyncFile(_) => true,
        _ => false,
    };
    events.iter().rposition(syncs).expect("created with a sync") + 1
}

/// After a power failure, the synced state of a live file survives if at most one
/// step was taken since, and a mix of steps is never accepted as a state.
#[test]
fn a_live_file_that_loses_power_is_at_its_last_sync_or_refused() {
    let [sample, _] = samples();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    TEST_BOOT.set(Some(1));
    let (result, mut events) = record(|| LiveSample::create(&path, &sample));
    let mut live = result.unwrap();
    // What the mapping had in it, in between, may be on the disk as well.
    let mut synced = vec![(events.len(), 7)];
    let mut steps_since = Vec::new();
    let mut contents = vec![(events.len(), fs::read(&path).unwrap())];
    for step in 8..14 {
        let (stepped, more) = record(|| live.step(step));
        stepped.unwrap();
        events.extend(more);
        contents.push((events.len(), fs::read(&path).unwrap()));
        steps_since.push((events.len(), step));
        if step % 3 == 1 {
            let (result, more) = record(|| live.sync());
            result.unwrap();
            events.extend(more);
            synced.push((events.len(), step));
            contents.push((events.len(), fs::read(&path).unwrap()));
        }
    }
    drop(live);

    // After the next boot of the machine.
    TEST_BOOT.set(Some(2));
    let mut machine = Machine::default();
    let (mut refused, mut opened) = (0, 0);
    let disk = folder.path().join("disk");
    for done in 0..=events.len() {
        if done > 0 {
            machine.apply(&events[done - 1]);
        }
        let Some(&(_, last)) = synced.iter().rev().find(|(at, _)| *at <= done) else {
            continue;
        };
        let since = synced.iter().rev().find(|(at, _)| *at <= done).unwrap().0;
        let taken = steps_since
            .iter()
            .filter(|(at, _)| (since + 1..=done).contains(at));
        let steps = taken.count();
        for seed in 0..DISKS {
            let mut random = Pcg64::seed_from_u64(done as u64 * DISKS + seed);
            let mut bytes = machine.disk(&mut || true)[&path].clone();
            for sector in (0..bytes.len()).step_by(SECTOR) {
                let end = bytes.len().min(sector + SECTOR);
                // What the mapping has had there since it was last synced.
                let synced = last_sync(&events[..done], sector);
                let newer = contents
                    .iter()
                    .filter(|(at, _)| (synced..=done).contains(at));
                if random.random_bool(seed as f64 / (DISKS - 1) as f64) {
                    if let Some((_, from)) = newer.choose(&mut random) {
                        bytes[sector..end].copy_from_slice(&from[sector..end]);
                    }
                }
            }
            fs::write(&disk, &bytes).unwrap();
            for access_live in [false, true] {
                match step_of(&disk, access_live) {
                    Ok(step) => {
                        // What is synced is on the disk when the sync returns.
                        let next = synced.iter().find(|(at, _)| *at > done);
                        assert!(step == last || next.is_some_and(|&(_, next)| step == next));
                        opened += 1;
                    }
                    Err(Error::Torn { .. }) => {
                        assert!(steps >= 2, "what was synced is lost after {steps} steps");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    TEST_BOOT.set(None);
    assert!(refused > 50 && opened > 200, "{refused} {opened}");
}
