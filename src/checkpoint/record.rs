//! The little arrays by which a live file says what its state is: words, each
//! of which is stored whole.

use std::fs::File;
use std::io::Read;

use super::{Master, Settings, WORD};

/// The array that decides.
pub(super) const COMMIT: &str = "sonew.live/commit";

/// Names, types and shapes of these arrays, for so many tensors and planes.
pub(super) fn shapes(
    tensors: usize,
    planes: usize,
) -> [(&'static str, &'static str, Vec<usize>); 4] {
    [
        (COMMIT, "U64", vec![COMMIT_WORDS]),
        ("sonew.live/settings", "F64", vec![tensors, SETTINGS_WORDS]),
        (
            "sonew.live/settings.b",
            "F64",
            vec![tensors, SETTINGS_WORDS],
        ),
        ("sonew.live/checksums", "U64", vec![planes]),
    ]
}

/// Words of the first array, and what they are.
pub(super) const COMMIT_WORDS: usize = 8;
/// Step and copy that are current. The one word that decides.
pub(super) const CURRENT: usize = 0;
/// Zero when the file is as it was synced; otherwise the run of the machine in
/// which it has been written since.
pub(super) const WRITTEN: usize = 1;
/// What was current at the last sync.
pub(super) const SYNCED: usize = 2;
/// The checksum over that word, its settings and the checksums of its planes.
pub(super) const SEAL: usize = 3;

/// Words of a tensor's settings: learning-rate scale, weight decay, master.
pub(super) const SETTINGS_WORDS: usize = 3;

/// Bits of a commit word that are step and copy; the others are their check.
const VALUE_BITS: u32 = 48;

/// The largest step that a commit word holds.
pub(super) const LARGEST_STEP: u64 = (1 << (VALUE_BITS - 1)) - 1;

/// Step and copy in one word, with a check of both.
pub(super) fn pack(step: u64, copy: usize) -> u64 {
    let value = step << 1 | copy as u64;
    value | check(value) << VALUE_BITS
}

/// Step and copy of a word, if that is one.
pub(super) fn unpack(word: u64) -> Option<(u64, usize)> {
    let value = word & ((1 << VALUE_BITS) - 1);
    (word >> VALUE_BITS == check(value)).then_some((value >> 1, (value & 1) as usize))
}

/// The last 16 bits of the CRC-32 of the value's 6 bytes.
fn check(value: u64) -> u64 {
    u64::from(crc32fast::hash(&value.to_le_bytes()[..6])) & 0xffff
}

/// The checksum of a synced file's record.
pub(super) fn seal(synced: u64, settings: &[u8], checksums: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&synced.to_le_bytes());
    hasher.update(settings);
    hasher.update(checksums);
    hasher.finalize().into()
}

/// The commit array of a file that is synced, in its first copy.
pub(super) fn synced(step: u64, settings: &[u8], checksums: &[u8]) -> Vec<u8> {
    let current = pack(step, 0);
    let mut words = [0; COMMIT_WORDS];
    words[CURRENT] = current;
    words[SYNCED] = current;
    words[SEAL] = seal(current, settings, checksums);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// A word among little-endian ones.
pub(super) fn word(bytes: &[u8], index: usize) -> u64 {
    let (words, _) = bytes.as_chunks::<WORD>();
    u64::from_le_bytes(words[index])
}

/// The words of a tensor's settings.
pub(super) fn settings_words(settings: Settings) -> [u64; SETTINGS_WORDS] {
    let Settings {
        lr_scale,
        weight_decay,
        master,
    } = settings;
    [lr_scale, weight_decay, f64::from(master as u8)].map(f64::to_bits)
}

/// The settings of tensor `index`, if these are some.
pub(super) fn settings(bytes: &[u8], index: usize) -> Option<Settings> {
    let number = |i| f64::from_bits(word(bytes, index * SETTINGS_WORDS + i));
    let known = [Master::Empty, Master::Set, Master::Changing];
    let master = number(2);
    Some(Settings {
        lr_scale: number(0),
        weight_decay: number(1),
        master: known
            .into_iter()
            .find(|&known| f64::from(known as u8) == master)?,
    })
}

/// What is 0 in a synced file, and elsewhere another number for every run of
/// the machine: what was stored to a mapping survives its process, but not the
/// machine.
pub(super) fn run_of_the_machine() -> u64 {
    #[cfg(test)]
    if let Some(run) = TEST_RUN.get() {
        return run;
    }
    // A step begins with this: no allocation. It is a line of 37 bytes.
    let mut text = [0; 64];
    let file = File::open("/proc/sys/kernel/random/boot_id");
    let length = file.and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    // Some bits are always set, so that it is never zero, nor nearly.
    u64::from(crc32fast::hash(&text[..length])) << 16 | 0xa5 << 56 | 0xa5
}

#[cfg(test)]
thread_local! {
    /// Stands for the machine's run in a test of this thread.
    pub(super) static TEST_RUN: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}
