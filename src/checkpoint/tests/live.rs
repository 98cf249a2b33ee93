//! Live files as seen by other readers, and live files that are refused.

use std::fs::File;
use std::os::unix::fs::FileExt;

use safetensors::SafeTensors;

use super::super::header::seal;
use super::*;

/// A live file with planes of two tensors, closed, and open no more.
pub(super) struct LiveWritten {
    pub(super) folder: TempDir,
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// A live file of the small sample.
fn create(path: &Path) -> Result<(Live, Copies)> {
    let mut header = Sample::small().header;
    header.parameters = false;
    header.tensors[1].spec.master = true;
    let sample = Sample::of(header);
    let settings = sample.header.tensors.iter().map(|tensor| Settings {
        lr_scale: tensor.lr_scale,
        weight_decay: tensor.weight_decay,
        master: Master::Empty,
        step_count: tensor.step_count,
        scalars: tensor.scalars,
    });
    let settings: Vec<_> = settings.collect();
    let arrays: Vec<_> = sample.arrays().collect();
    create_live(path, &sample.header, &arrays, settings.into_iter())
}

impl LiveWritten {
    /// After `steps` steps, which leave their number in every byte.
    fn new(steps: u64, synced: bool) -> LiveWritten {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live");
        let (mut live, mut copies) = create(&path).unwrap();
        for step in 8..8 + steps {
            live.begin().unwrap();
            for part in copies[1].iter_mut().flatten() {
                part.fill(step as u8);
            }
            let settings = |tensor| Settings {
                lr_scale: step as f64,
                weight_decay: 0.5,
                master: [Master::Empty, Master::Set][tensor],
                step_count: step - tensor as u64,
                scalars: Scalars {
                    norm_ratio: step as f64 / 3.0,
                    largest: step as f64 / 7.0,
                    bias_corrections: [0.5, 0.25],
                },
            };
            live.commit(step, (0..2).map(settings));
            copies.swap(0, 1);
        }
        if synced {
            let planes = copies[0].iter().flatten();
            live.sync(planes.map(|part| &part[..])).unwrap();
        }
        drop((live, copies));
        LiveWritten {
            bytes: fs::read(&path).unwrap(),
            folder,
            path,
        }
    }

    fn data(&self) -> usize {
        8 + u64::from_le_bytes(self.bytes[..8].try_into().unwrap()) as usize
    }
}

#[test]
fn a_live_file_is_a_valid_safetensors_file_that_says_what_is_current() {
    for steps in [0, 1, 2] {
        let file = LiveWritten::new(steps, true);
        let tensors = SafeTensors::deserialize(&file.bytes).unwrap();
        let commit = tensors.tensor("sonew.live/commit").unwrap();
        assert_eq!(
            (commit.dtype(), commit.shape()),
            (safetensors::Dtype::U64, &[8][..])
        );
        let word = u64::from_le_bytes(commit.data()[..8].try_into().unwrap());
        // As the format description has it.
        let value = word & ((1 << 48) - 1);
        assert_eq!((value >> 1, value & 1), (7 + steps, steps % 2));
        let name = ["fc1.weight/momentum", "fc1.weight/momentum.b"][(value & 1) as usize];
        let momentum = tensors.tensor(name).unwrap();
        assert_eq!(momentum.shape(), [2, 3]);
        if steps > 0 {
            assert!(momentum
                .data()
                .iter()
                .all(|&byte| u64::from(byte) == 7 + steps));
        }
        let settings = ["sonew.live/settings", "sonew.live/settings.b"][(value & 1) as usize];
        let settings = tensors.tensor(settings).unwrap();
        assert_eq!(settings.shape(), [2, 8]);
        // The second tensor was left out once.
        if steps > 0 {
            let number = |at: usize| settings.data()[8 * at..][..8].try_into().unwrap();
            let counts = [3, 11].map(|at| f64::from_le_bytes(number(at)));
            assert_eq!(counts, [7 + steps, 6 + steps].map(|count| count as f64));
        }
        for name in ["sonew.live/synced", "sonew.live/synced.b"] {
            let synced = tensors.tensor(name).unwrap();
            assert_eq!(synced.shape(), [4 + 2 * 8 + 4 + 3]);
        }
        let (length, metadata) = SafeTensors::read_metadata(&file.bytes).unwrap();
        let strings = metadata.metadata().as_ref().unwrap();
        assert_eq!(strings["sonew.format"], "4");
        for (name, info) in metadata.tensors() {
            let aligned = (8 + length + info.data_offsets.0) % 64 == 0;
            assert!(aligned || name.starts_with("sonew.padding/"), "{name}");
        }
    }
}

/// Everything that an opened file says, except its bytes.
fn look(path: &Path) -> Result<(Header, Vec<Vec<u8>>)> {
    let checkpoint = Checkpoint::open(path)?;
    let mut planes = Vec::new();
    for array in checkpoint.arrays() {
        let mut bytes = vec![0; array.bytes as usize];
        read_bytes(&checkpoint, array.tensor, array.plane, &mut bytes)?;
        planes.push(bytes);
    }
    Ok((checkpoint.header().clone(), planes))
}

#[test]
fn a_flip_of_any_bit_of_a_synced_live_file_is_refused_or_harmless() {
    for steps in [1, 2] {
        let file = LiveWritten::new(steps, true);
        let whole = look(&file.path).unwrap();
        let on_disk = File::options().write(true).open(&file.path).unwrap();
        let (mut harmless, mut refused) = (0, 0);
        for position in 0..file.bytes.len() {
            for bit in 0..8 {
                let flipped = file.bytes[position] ^ (1 << bit);
                on_disk.write_all_at(&[flipped], position as u64).unwrap();
                match look(&file.path) {
                    Ok(found) => {
                        assert!(position >= file.data());
                        assert!(found == whole, "byte {position}, bit {bit}");
                        harmless += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            let original = &file.bytes[position..=position];
            on_disk.write_all_at(original, position as u64).unwrap();
        }
        assert!(harmless > 1000 && refused > 1000);
    }
}

#[test]
fn a_live_file_of_any_other_length_is_refused_before_it_is_mapped() {
    let file = LiveWritten::new(1, false);
    for length in 0..file.bytes.len() {
        fs::remove_file(&file.path).unwrap();
        fs::write(&file.path, &file.bytes[..length]).unwrap();
        let refused = Checkpoint::open_live(&file.path);
        assert!(
            matches!(
                refused,
                Err(Error::NotACheckpoint { .. } | Error::FileLength { .. })
            ),
            "{length}"
        );
        // And is not made longer.
        assert_eq!(fs::metadata(&file.path).unwrap().len(), length as u64);
    }
    fs::write(&file.path, [&file.bytes[..], &[0]].concat()).unwrap();
    assert!(matches!(
        Checkpoint::open_live(&file.path),
        Err(Error::FileLength { .. })
    ));
}

/// Opens a live file, or the file that it was after a kill, with one word of the
/// commit array changed.
fn with_word(file: &LiveWritten, index: usize, word: u64) -> Result<Checkpoint<'static>> {
    let mut bytes = file.bytes.clone();
    bytes[file.data() + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
    fs::write(&file.path, bytes).unwrap();
    Checkpoint::open(&file.path)
}

#[test]
fn a_record_that_nobody_wrote_is_refused() {
    let is_broken = |result: Result<Checkpoint>| matches!(result, Err(Error::Checksum { part, .. }) if part == "\"sonew.live/commit\"");
    let file = LiveWritten::new(2, true);
    for word in [0, 1, u64::MAX] {
        assert!(is_broken(with_word(&file, 0, word)), "{word}");
    }
    // In use, all that counts is what is current.
    let file = LiveWritten::new(2, false);
    assert!(is_broken(with_word(&file, 0, 0)));
    assert!(with_word(&file, 7, 0).unwrap().is_unsynced());
    // In use in another boot of the machine, and two steps taken.
    test_double::boot(Some(7));
    let result = with_word(&file, 7, 0);
    test_double::boot(None);
    assert!(matches!(result, Err(Error::Torn { .. })));
}

/// A copy of a file in use, whatever `cp` has read of it, opens as it was synced or
/// not at all.
#[test]
fn a_copy_of_a_file_in_use_is_taken_for_no_more_than_was_synced() {
    let copy = |file: &LiveWritten, name: &str| {
        let path = file.folder.path().join(name);
        fs::write(&path, &file.bytes).unwrap();
        path
    };
    let opens: [fn(&Path) -> Result<Checkpoint<'static>>; 2] =
        [|path| Checkpoint::open(path), Checkpoint::open_live];
    for open in opens {
        // Synced: a copy is as good.
        let file = LiveWritten::new(2, true);
        assert_eq!(open(&copy(&file, "copy")).unwrap().header().step, 9);
        // In use: what is synced is there until a second step is taken.
        let file = LiveWritten::new(1, false);
        let path = copy(&file, "copy");
        assert_eq!(open(&path).unwrap().header().step, 7);
        assert_eq!(open(&file.path).unwrap().header().step, 8);
        let file = LiveWritten::new(2, false);
        let path = copy(&file, "copy");
        assert!(matches!(open(&path), Err(Error::Torn { .. })));
        assert_eq!(open(&file.path).unwrap().header().step, 9);
        // Begun before the file came into use, and ended after a step.
        let file = LiveWritten::new(1, true);
        let mut bytes = file.bytes.clone();
        // The first byte of the last plane.
        let at = bytes.len() - 64;
        bytes[at] ^= 1;
        let mixed = file.folder.path().join("mixed");
        fs::write(&mixed, bytes).unwrap();
        assert!(matches!(open(&mixed), Err(Error::Checksum { .. })));
    }
}

/// Opening such a copy to work on it, and closing it, makes it a file of its own.
#[test]
fn a_copy_that_is_worked_on_is_no_copy_any_more() {
    let file = LiveWritten::new(1, false);
    let path = file.folder.path().join("copy");
    fs::write(&path, &file.bytes).unwrap();
    let (live, copies) = Checkpoint::open_live(&path).unwrap().into_live().unwrap();
    let planes = copies[0].iter().flatten();
    live.sync(planes.map(|part| &part[..])).unwrap();
    drop((live, copies));
    let opened = Checkpoint::open(&path).unwrap();
    assert_eq!((opened.header().step, opened.is_unsynced()), (7, false));
    opened.verify().unwrap();
}

/// After a crash of the machine only the synced state can be loaded.
#[test]
fn after_the_machine_went_down_the_last_sync_counts_while_it_is_whole() {
    for (steps, is_torn) in [(1, false), (2, true)] {
        test_double::boot(Some(1));
        let file = LiveWritten::new(steps, false);
        test_double::boot(Some(2));
        let opens: [fn(&Path) -> Result<Checkpoint<'static>>; 2] =
            [|path| Checkpoint::open(path), Checkpoint::open_live];
        for open in opens {
            match open(&file.path) {
                Ok(checkpoint) => {
                    assert!(!is_torn);
                    assert_eq!(checkpoint.header().step, 7);
                    checkpoint.verify().unwrap();
                }
                Err(error) => assert!(is_torn && matches!(error, Error::Torn { .. }), "{error}"),
            }
        }
        if !is_torn {
            // It can be used from there.
            let opened = Checkpoint::open_live(&file.path).unwrap();
            let (mut live, copies) = opened.into_live().unwrap();
            live.begin().unwrap();
            drop((live, copies));
            assert_eq!(Checkpoint::open(&file.path).unwrap().header().step, 7);
        }
        test_double::boot(None);
    }
}

#[test]
fn headers_of_live_files_that_are_wrong_are_refused() {
    let file = LiveWritten::new(1, true);
    let json = std::str::from_utf8(&file.bytes[8..file.data()])
        .unwrap()
        .trim_end();
    #[rustfmt::skip] // one row, one line
    let table = [
        (r#""sonew.live/commit""#, r#""sonew.live/other""#, "belongs to no tensor"),
        (r#""fc1.weight/momentum.b""#, r#""fc1.weight/momentum.c""#, "momentum.c\" belongs to no tensor"),
        (r#""dtype":"U64","shape":[8]"#, r#""dtype":"F64","shape":[8]"#, "has type F64"),
        (r#""sonew.live/synced.b""#, r#""sonew.live/synced.c""#, "belongs to no tensor"),
        (r#""shape":[8]"#, r#""shape":[4,2]"#, "has shape [4, 2]"),
        (r#""F64","shape":[2,8]"#, r#""F64","shape":[8,2]"#, "has shape [8, 2]"),
        (r#""F64","shape":[2,8]"#, r#""F64","shape":[2,3]"#, "is to have 48 bytes"),
        (r#""sonew.checksums":"{}""#, r#""sonew.checksums":"{\"fc1.weight/momentum\":\"00000000\"}""#, "has a checksum"),
    ];
    for (old, new, says) in table {
        assert!(json.contains(old), "{old} is not in {json}");
        let mut bytes = seal(json.replacen(old, new, 1).as_bytes());
        bytes.extend(&file.bytes[file.data()..]);
        let path = file.folder.path().join("forged");
        fs::write(&path, bytes).unwrap();
        match Checkpoint::open(&path) {
            Err(Error::NotACheckpoint { reason, .. }) => assert!(reason.contains(says), "{reason}"),
            other => panic!("{new}: {other:?}"),
        }
    }
    // A checkpoint says that it is none.
    let mut sample = Sample::small();
    sample.header.parameters = false;
    let plain = Written::new(&Sample::of(sample.header));
    assert!(matches!(
        Checkpoint::open_live(&plain.path),
        Err(Error::NotALiveFile { .. })
    ));
}

#[test]
fn settings_that_no_optimizer_has_are_refused() {
    let file = LiveWritten::new(1, false);
    // The second copy is current; its settings are behind commit and settings,
    // which take one line and two. The first tensor has no master weights.
    let at = file.data() + 64 + 128;
    for (word, value) in [
        (0, f64::NAN),
        (1, -1.0),
        (2, 7.0),
        (2, 0.5),
        (2, 1.0),
        (2, 2.0),
        (3, f64::NAN),
        (3, -1.0),
        (3, 0.5),
        (3, f64::INFINITY),
        (3, 2f64.powi(47)),
        (4, -1.0),
        (4, f64::INFINITY),
        (5, 1.5),
        (6, f64::NAN),
    ] {
        let mut bytes = file.bytes.clone();
        bytes[at + 8 * word..][..8].copy_from_slice(&value.to_le_bytes());
        fs::write(&file.path, bytes).unwrap();
        let refused = Checkpoint::open(&file.path);
        assert!(
            matches!(refused, Err(Error::NotACheckpoint { .. })),
            "{word} {value}"
        );
    }
}

#[test]
fn a_step_beyond_the_commit_word_is_refused() {
    let limit = 1 << 47;
    Live::check_step(limit - 1).unwrap();
    assert!(matches!(
        Live::check_step(limit),
        Err(Error::OutOfRange { .. })
    ));
    let file = LiveWritten::new(0, true);
    let mut sample = Sample::small();
    sample.header.step = limit;
    sample.header.parameters = false;
    let sample = Sample::of(sample.header);
    let arrays: Vec<_> = sample.arrays().collect();
    let path = file.folder.path().join("late");
    let result = create_live(&path, &sample.header, &arrays, std::iter::empty());
    assert!(matches!(result, Err(Error::OutOfRange { .. })));
    let mut sample = Sample::of(sample.header.clone());
    sample.header.step = 0;
    sample.header.tensors[1].step_count = limit;
    let arrays: Vec<_> = sample.arrays().collect();
    let result = create_live(&path, &sample.header, &arrays, std::iter::empty());
    let named = |argument: &str| argument.contains("step count of tensor \"fc1.bias\"");
    assert!(matches!(result, Err(Error::OutOfRange { argument, .. }) if named(&argument)));
    assert!(!path.exists());
}

#[test]
fn commit_words_come_back_and_wrong_ones_do_not() {
    use super::super::record::{pack, unpack, LARGEST_STEP};
    for step in [0, 1, 2, 77, 1 << 40, LARGEST_STEP] {
        for copy in [0, 1] {
            let word = pack(step, copy);
            assert_eq!(unpack(word), Some((step, copy)));
            for bit in 0..64 {
                assert_eq!(unpack(word ^ (1 << bit)), None, "{step} {copy} {bit}");
            }
        }
    }
    assert_eq!(unpack(0), None);
}

#[test]
fn large_arrays_are_read_by_several_threads() {
    let mut header = Sample::small().header;
    header.tensors = vec![saved(TensorSpec::new("w", &[5 << 20]))];
    header.options.band = 0;
    header.parameters = false;
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    let mut planes = [vec![0f32; 5 << 20], vec![0f32; 5 << 20]];
    let read = |planes: &mut [Vec<f32>; 2], threads| {
        let [momentum, diagonal] = planes;
        let wanted = [("momentum", momentum), ("diagonal", diagonal)].map(|(plane, dst)| Wanted {
            tensor: 0,
            plane,
            dtype: Dtype::F32,
            rounding: None,
            dst: bytemuck::cast_slice_mut(dst),
        });
        checkpoint.read(wanted.into(), threads)
    };
    for threads in [1, 2, 5] {
        planes.iter_mut().for_each(|plane| plane.fill(0.0));
        read(&mut planes, threads).unwrap();
        for (plane, (_, _, values)) in planes.iter().zip(&sample.arrays) {
            assert!(plane == values, "{threads}");
        }
    }
    let on_disk = File::options().write(true).open(&file.path).unwrap();
    on_disk
        .write_all_at(&[1], file.bytes.len() as u64 - 9)
        .unwrap();
    assert!(matches!(
        read(&mut planes, 3),
        Err(Error::Checksum { part, .. }) if part == "\"w/diagonal\""
    ));
}
