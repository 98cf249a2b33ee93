//! The record of a live file: small arrays that say which step and copy are
//! current. They consist of words that are stored atomically.

use std::fs::File;
use std::io::Read;

use super::{Master, Settings, WORD};

/// The name of the array that says which copy is current.
pub(super) const COMMIT: &str = "sonew.live/commit";

/// Names, types and shapes of these arrays, for this many tensors and planes.
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

/// Number of words of the commit array; their indices follow.
pub(super) const COMMIT_WORDS: usize = 8;
/// The current step and copy. A single store of this word completes a step.
pub(super) const CURRENT: usize = 0;
/// Zero if the file is as it was synced; otherwise the identifier of the boot of
/// the machine in which it has been written since.
pub(super) const WRITTEN: usize = 1;
/// The step and copy that were current at the last sync.
pub(super) const SYNCED: usize = 2;
/// The checksum over SYNCED, the settings and the checksums of the planes.
pub(super) const SEAL: usize = 3;

/// Number of words of a tensor's settings: learning-rate scale, weight decay,
/// [`Master`].
pub(super) const SETTINGS_WORDS: usize = 3;

/// Number of bits of a commit word for step and copy; the others are a checksum
/// of them.
const VALUE_BITS: u32 = 48;

/// The largest step that a commit word can hold.
pub(super) const LARGEST_STEP: u64 = (1 << (VALUE_BITS - 1)) - 1;

/// Packs step and copy into one word, with a checksum of both.
pub(super) fn pack(step: u64, copy: usize) -> u64 {
    let value = step << 1 | copy as u64;
    value | check(value) << VALUE_BITS
}

/// The step and copy of a word, if its checksum matches.
pub(super) fn unpack(word: u64) -> Option<(u64, usize)> {
    let value = word & ((1 << VALUE_BITS) - 1);
    (word >> VALUE_BITS == check(value)).then_some((value >> 1, (value & 1) as usize))
}

/// The last 16 bits of the CRC-32 of the value's 6 bytes.
fn check(value: u64) -> u64 {
    u64::from(crc32fast::hash(&value.to_le_bytes()[..6])) & 0xffff
}

/// The checksum over the record of a synced file.
pub(super) fn seal(synced: u64, settings: &[u8], checksums: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&synced.to_le_bytes());
    hasher.update(settings);
    hasher.update(checksums);
    hasher.finalize().into()
}

/// The commit array of a synced file whose first copy is current.
pub(super) fn synced(step: u64, settings: &[u8], checksums: &[u8]) -> Vec<u8> {
    let current = pack(step, 0);
    let mut words = [0; COMMIT_WORDS];
    words[CURRENT] = current;
    words[SYNCED] = current;
    words[SEAL] = seal(current, settings, checksums);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The word at an index among little-endian words.
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

/// The settings of tensor `index`, if the words are valid.
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

/// An identifier of the current boot of the machine, never 0. Stores to a
/// mapping survive the death of the process, but not a crash of the machine: a
/// file that was written in an earlier boot may be incomplete.
pub(super) fn boot_id() -> u64 {
    #[cfg(test)]
    if let Some(run) = super::test_double::booted() {
        return run;
    }
    // Does not allocate, because steps call this. The file has one line of 37
    // bytes.
    let mut text = [0; 64];
    let file = File::open("/proc/sys/kernel/random/boot_id");
    let length = file.and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    // Some bits are always set, so that it is never zero.
    u64::from(crc32fast::hash(&text[..length])) << 16 | 0xa5 << 56 | 0xa5
}
