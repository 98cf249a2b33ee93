//! The record of a live file: small arrays that say which step and copy are
//! current, and what was synced. They consist of words that are stored atomically.

use super::files::{Boot, Identity};
use super::{Master, Settings, LIVE_FORMAT, WORD};
use crate::error::Result;
use crate::layout::Scalars;
use crate::memory::{list, OF_FILES};

/// The name of the array that says which copy is current.
pub(super) const COMMIT: &str = "sonew.live/commit";

/// The name of the array of the settings of the first copy.
pub(super) const SETTINGS_NAME: &str = "sonew.live/settings";

/// Positions of the arrays in [`shapes`]: the settings of the first copy, and of
/// the second.
pub(super) const SETTINGS: usize = 1;
/// The two records of syncs, of which each sync writes the older one.
pub(super) const SYNCED: usize = 3;
/// In format 3, in place of the records: the checksums of the synced copy.
const CHECKSUMS_3: usize = 3;

/// Name, type and shape of an array of the record.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) dtype: &'static str,
    pub(super) dims: Vec<usize>,
}

impl Shape {
    /// The number of its words.
    pub(super) fn words(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The arrays of the record, for this many tensors and planes.
pub(super) fn shapes(
    format: u64,
    settings_words: usize,
    tensors: usize,
    planes: usize,
) -> Vec<Shape> {
    let array = |name, dtype, dims: &[usize]| Shape {
        name,
        dtype,
        dims: dims.to_vec(),
    };
    let settings = [tensors, settings_words];
    let record = [HEAD + tensors * settings_words + planes];
    let mut shapes = vec![
        array(COMMIT, "U64", &[COMMIT_WORDS]),
        array(SETTINGS_NAME, "F64", &settings),
        array("sonew.live/settings.b", "F64", &settings),
    ];
    match format {
        LIVE_FORMAT => shapes.push(array("sonew.live/checksums", "U64", &[planes])),
        _ => shapes.extend([
            array("sonew.live/synced", "U64", &record),
            array("sonew.live/synced.b", "U64", &record),
        ]),
    }
    shapes
}

/// Number of words of the commit array; their indices follow.
pub(super) const COMMIT_WORDS: usize = 8;
/// The current step and copy. A single store of this word completes a step.
pub(super) const CURRENT: usize = 0;
/// Zero if the file is as it was synced. Otherwise it has been in use since, and
/// this is the number of the sync.
pub(super) const IN_USE: usize = 1;
/// The boot of the machine in which it has been in use: its id, and its time.
pub(super) const BOOT: usize = 2;
pub(super) const BOOT_TIME: usize = 3;
/// The file that has been in use, and its device.
pub(super) const FILE: usize = 4;
pub(super) const DEVICE: usize = 5;
/// The step and copy before the current ones, as long as that copy is whole; zero while a
/// step writes it, and where there was none.
pub(super) const OTHER: usize = 6;

/// A record of a sync begins with these words. The number of the sync:
pub(super) const NUMBER: usize = 0;
/// The step and copy that were current:
pub(super) const AT: usize = 1;
/// The checksum over all other words:
pub(super) const SEAL: usize = 2;
/// The fourth is zero.
const HEAD: usize = 4;

/// Number of words of a tensor's settings: learning-rate scale, weight decay,
/// [`Master`], step count, norm ratio, bias corrections, largest entry.
pub(super) const SETTINGS_WORDS: usize = 8;
/// Those of older files: without step counts of tensors, all of which are that of the
/// file; and without what follows, which is zero.
pub(super) const OLDER_WORDS: [usize; 3] = [3, 4, 7];

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

/// Which of the two records belongs to the sync of this number.
pub(super) fn slot(number: u64) -> usize {
    (number % 2) as usize
}

/// The words of the record of a sync.
pub(super) fn synced(
    number: u64,
    at: u64,
    settings: impl IntoIterator<Item = u64>,
    checksums: impl IntoIterator<Item = u64>,
) -> Result<Vec<u64>> {
    let head = [number, at, 0, 0].into_iter();
    let all = head.chain(settings).chain(checksums);
    let mut words = list(all, OF_FILES)?;
    words[SEAL] = seal(&words);
    Ok(words)
}

/// The checksum over the words of a record, except its own.
fn seal(words: &[u64]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for word in words[..SEAL].iter().chain(&words[SEAL + 1..]) {
        hasher.update(&word.to_le_bytes());
    }
    hasher.finalize().into()
}

/// The record of a sync that was read.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) number: u64,
    pub(super) at: (u64, usize),
    words: Vec<u64>,
    /// The number of the words of all settings.
    settings: usize,
}

impl Synced {
    /// The record in one of the two places, with so many words of settings, if it is
    /// whole.
    pub(super) fn read(words: &[u64], settings: usize, place: usize) -> Option<Synced> {
        let number = words[NUMBER];
        let whole = number != 0 && slot(number) == place && words[SEAL] == seal(words);
        let at = unpack(words[AT]).filter(|_| whole)?;
        Some(Synced {
            number,
            at,
            words: words.to_vec(),
            settings,
        })
    }

    /// The words of the settings of all tensors.
    pub(super) fn settings(&self) -> &[u64] {
        &self.words[HEAD..][..self.settings]
    }

    /// The checksums of all planes.
    pub(super) fn checksums(&self) -> &[u64] {
        &self.words[HEAD + self.settings..]
    }

    /// What a live file of format 3 says of its last sync, if it is whole.
    pub(super) fn read_3(record: &[Vec<u64>]) -> Result<Option<Synced>> {
        // Word 2 is what was current, word 3 the checksum over that, the settings
        // and the checksums.
        let (commit, checksums) = (&record[0], &record[CHECKSUMS_3]);
        let Some(at) = unpack(commit[2]) else {
            return Ok(None);
        };
        let settings = &record[SETTINGS + at.1];
        let mut hasher = crc32fast::Hasher::new();
        for word in [commit[2]].iter().chain(settings).chain(checksums) {
            hasher.update(&word.to_le_bytes());
        }
        let whole = u64::from(hasher.finalize()) == commit[3];
        // Word 1 is 0 if it is as it was synced, and word 0 what is current.
        let current = commit[1] != 0 || commit[0] == commit[2];
        if !whole || !current {
            return Ok(None);
        }
        let (settings, count) = (settings.iter().copied(), settings.len());
        Ok(Some(Synced {
            number: commit[1],
            at,
            words: synced(0, commit[2], settings, checksums.iter().copied())?,
            settings: count,
        }))
    }
}

/// The boot that the commit array names.
pub(super) fn boot(commit: &[u64]) -> Boot {
    Boot {
        id: commit[BOOT],
        time: commit[BOOT_TIME],
    }
}

/// The file that the commit array names.
pub(super) fn identity(commit: &[u64]) -> Identity {
    Identity {
        file: commit[FILE],
        device: commit[DEVICE],
    }
}

/// Little-endian words.
pub(super) fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<WORD>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// The words of a tensor's settings.
pub(super) fn settings_words(settings: Settings) -> [u64; SETTINGS_WORDS] {
    let Settings {
        lr_scale,
        weight_decay,
        master,
        step_count,
        scalars,
    } = settings;
    let [momentum, statistics] = scalars.bias_corrections;
    // It is below 2^47, which float64 represents.
    let numbers = [
        lr_scale,
        weight_decay,
        f64::from(master as u8),
        step_count as f64,
        scalars.norm_ratio,
        momentum,
        statistics,
        scalars.largest,
    ];
    numbers.map(f64::to_bits)
}

/// The settings of a tensor in a file of this step, if the words are valid.
pub(super) fn settings(words: &[u64], step: u64) -> Option<Settings> {
    let number = |i: usize| words.get(i).copied().map(f64::from_bits);
    let known = [Master::Empty, Master::Set, Master::Reset];
    let master = number(2)?;
    let count = number(3);
    let scalar = |i: usize| number(i).unwrap_or(0.0);
    Some(Settings {
        lr_scale: number(0)?,
        weight_decay: number(1)?,
        master: known
            .into_iter()
            .find(|&known| f64::from(known as u8) == master)?,
        step_count: count.map_or(Some(step), whole_number)?,
        scalars: Scalars {
            norm_ratio: scalar(4),
            bias_corrections: [scalar(5), scalar(6)],
            largest: scalar(7),
        },
    })
}

/// A step count that a live file can hold.
fn whole_number(count: f64) -> Option<u64> {
    let whole = count as u64;
    (whole <= LARGEST_STEP && whole as f64 == count).then_some(whole)
}
