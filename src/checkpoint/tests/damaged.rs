//! Damaged checkpoints, and files that never were checkpoints.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rand::{Rng, RngCore, SeedableRng};
use rand_pcg::Pcg64;

use super::*;

fn is_not_a_checkpoint(result: Result<Checkpoint>) -> bool {
    matches!(result, Err(Error::NotACheckpoint { .. }))
}

#[test]
fn truncation_at_every_length_is_refused() {
    let file = Written::new(&Sample::small());
    for length in 0..file.bytes.len() {
        let error = file.open_with(&file.bytes[..length]).unwrap_err();
        let in_header = length < file.data();
        match error {
            Error::NotACheckpoint { .. } => assert!(length < 8),
            Error::FileLength {
                length: l,
                expected,
                ..
            } => {
                assert_eq!(l, length as u64);
                let end = if in_header {
                    file.data()
                } else {
                    file.bytes.len()
                };
                assert_eq!(expected, end as u64);
            }
            error => panic!("{length}: {error}"),
        }
    }
}

#[test]
fn a_byte_too_many_is_refused() {
    let file = Written::new(&Sample::small());
    let longer = [&file.bytes[..], &[0]].concat();
    assert!(matches!(
        file.open_with(&longer),
        Err(Error::FileLength { length, expected, .. }) if length == expected + 1
    ));
}

#[test]
fn a_flip_of_any_bit_is_refused_or_harmless() {
    let sample = Sample::small();
    let file = Written::new(&sample);
    let on_disk = File::options().write(true).open(&file.path).unwrap();
    let mut harmless = 0;
    for position in 0..file.bytes.len() {
        for bit in 0..8 {
            let flipped = file.bytes[position] ^ (1 << bit);
            on_disk.write_all_at(&[flipped], position as u64).unwrap();
            match Checkpoint::open(&file.path) {
                Ok(checkpoint) => {
                    assert!(position >= file.data(), "byte {position}, bit {bit}");
                    assert_eq!(checkpoint.header(), &sample.header);
                    harmless += usize::from(damaged_arrays(&sample, &checkpoint) == 0);
                }
                Err(_) => assert!(position < file.data()),
            }
        }
        let original = &file.bytes[position..=position];
        on_disk.write_all_at(original, position as u64).unwrap();
    }
    // Harmless are the flips in the padding: every array ends within 64 bytes.
    let used: usize = sample.arrays.iter().map(|(_, _, v)| 4 * v.len()).sum();
    assert_eq!(harmless, 8 * (64 * sample.arrays.len() - used));
}

/// How many arrays are refused, by the error that is meant for it; the others
/// must be as they were.
fn damaged_arrays(sample: &Sample, checkpoint: &Checkpoint) -> usize {
    let mut damaged = 0;
    for (tensor, plane, values) in &sample.arrays {
        match read(checkpoint, *tensor, plane) {
            Ok(read) => assert_eq!(&read, values),
            Err(Error::Checksum { .. }) => damaged += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(damaged <= 1);
    damaged
}

#[test]
fn a_wrong_checksum_names_its_part() {
    let file = Written::new(&Sample::small());
    let mut bytes = file.bytes.clone();
    bytes[file.data()] ^= 1;
    let checkpoint = file.open_with(&bytes).unwrap();
    assert!(matches!(
        read(&checkpoint, 0, "momentum"),
        Err(Error::Checksum { path, part }) if path == file.path && part == "\"fc1.weight/momentum\""
    ));
    read(&checkpoint, 0, "diagonal").unwrap();

    let mut bytes = file.bytes.clone();
    let step = file.json().find("\"7\"").unwrap();
    bytes[8 + step + 1] ^= 1;
    assert!(matches!(
        file.open_with(&bytes),
        Err(Error::Checksum { part, .. }) if part == "the header"
    ));
}

#[test]
fn random_bytes_are_refused() {
    let mut rng = Pcg64::seed_from_u64(2);
    let file = Written::new(&Sample::small());
    for _ in 0..2000 {
        let mut bytes = vec![0; rng.random_range(0..400)];
        rng.fill_bytes(&mut bytes);
        assert!(is_not_a_checkpoint(file.open_with(&bytes)));
        // And with a length that may be true.
        let length = rng.random_range(0..400u64);
        bytes.splice(0..bytes.len().min(8), length.to_le_bytes());
        file.open_with(&bytes).unwrap_err();
    }
}

#[test]
fn another_safetensors_file_is_refused() {
    let values = vec![0u8; 4000];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1000], &values);
    let bytes = safetensors::serialize([("weight", view.unwrap())], None).unwrap();
    let file = Written::new(&Sample::small());
    assert!(is_not_a_checkpoint(file.open_with(&bytes)));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(is_not_a_checkpoint(Checkpoint::open(folder.path())));
    // Endless, and of no length.
    assert!(is_not_a_checkpoint(Checkpoint::open(Path::new(
        "/dev/zero"
    ))));
    let missing = folder.path().join("missing");
    assert!(matches!(
        Checkpoint::open(&missing),
        Err(Error::Io { operation: "open", path, source })
            if path == missing && source.kind() == std::io::ErrorKind::NotFound
    ));
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error() {
    let file = Written::new(&Sample::small());
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    let on_disk = File::options().write(true).open(&file.path).unwrap();
    on_disk.set_len(file.data() as u64 + 10).unwrap();
    assert!(matches!(
        read(&checkpoint, 0, "momentum"),
        Err(Error::Io { operation: "read", source, .. })
            if source.kind() == std::io::ErrorKind::UnexpectedEof
    ));
}
