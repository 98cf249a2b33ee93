//! Opens, reads, verifies, loads and maps arbitrary bytes as a state file. Nothing
//! may crash, hang, or allocate more memory than the file's size.
//!
//! A header is accepted only with the right checksum, which no mutation produces;
//! so in nine of ten inputs it is corrected here before the file is opened: as in
//! format 4, or, where the last byte says so, as in the formats before it.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sonew::checkpoint::Checkpoint;
use sonew::options::Options;
use sonew::{LoadMode, LoadOptions, Optimizer};

/// Where the digits of the header's checksum are.
const DIGITS: std::ops::Range<usize> = 47..55;

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    match input.last().map_or(1, |last| last % 10) {
        0 => {}
        1 | 2 => put_right(&mut bytes),
        _ => bytes = sealed(bytes),
    }
    look(&bytes);
});

/// Corrects the checksum of a header of format 4, and its length.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    put_right(&mut bytes);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return bytes;
    };
    let end = rest.len().min(u64::from_le_bytes(*length) as usize);
    let json = rest[..end].trim_ascii_end();
    let mut file = sonew::checkpoint::seal(json);
    file.extend(&rest[end..]);
    file
}

/// Corrects the checksum of an earlier format, and makes the length of the header fit into the file.
fn put_right(bytes: &mut [u8]) {
    let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() else {
        return;
    };
    let mut end = u64::from_le_bytes(*length);
    if end > rest.len() as u64 {
        end = rest.len() as u64;
        *length = end.to_le_bytes();
    }
    let end = 8 + end as usize;
    if end >= DIGITS.end {
        bytes[DIGITS].copy_from_slice(b"00000000");
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[DIGITS].copy_from_slice(format!("{crc:08x}").as_bytes());
    }
}

fn look(bytes: &[u8]) {
    let path = path();
    fs::write(path, bytes).expect("a file can be written");
    let Ok(checkpoint) = Checkpoint::open(path) else {
        return;
    };
    for array in checkpoint.arrays() {
        assert!(array.offset + array.bytes <= bytes.len() as u64);
        let _ = checkpoint.check(array.tensor, array.plane);
    }
    let _ = checkpoint.verify();
    let header = checkpoint.header().clone();
    drop(checkpoint);
    // The description of the tensors cannot be larger than the file.
    let specs: Vec<_> = header.tensors.iter().map(|t| t.spec.clone()).collect();
    let options = Options {
        threads: 1,
        ..header.options
    };
    for mode in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
        let mut optimizer = Optimizer::new(options.clone(), &specs).expect("a valid header");
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        if optimizer.load(path, &load, None).is_ok() {
            for tensor in 0..specs.len() {
                for plane in 0..optimizer.planes(tensor).expect("a tensor").len() {
                    let plane = optimizer.plane(tensor, plane).expect("a plane");
                    std::hint::black_box(plane.bytes().iter().map(|&b| u64::from(b)).sum::<u64>());
                }
            }
        }
    }
}

/// The path of this process's file, in memory if the system has such a folder.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        folder.join(format!("sonew-fuzz-{}", std::process::id()))
    })
}
