//! Power failures while files are being written.
//!
//! The operations of a save or a sync are recorded. For every prefix of the record,
//! disks are made that a power failure could leave: any part of what was not
//! synced, names as well as bytes, may be missing. Every disk must hold the old
//! state or the new one, and nothing else.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::machine::Machine;
use super::test_double::{record, Event};
use super::*;

/// Disks for each prefix.
const DISKS: u64 = 40;

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
    let machine = Machine::with([(&file.path as &Path, &file.bytes[..])]);
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
    let machine = Machine::with([(&file.path as &Path, &file.bytes[..])]);
    let mut torn = 0;
    every_disk(&machine, &events, |folder, _| {
        let path = folder.join("state.safetensors");
        let whole = Checkpoint::open(&path).and_then(|file| file.verify());
        torn += usize::from(whole.is_err());
    });
    assert!(torn > 0);
}
