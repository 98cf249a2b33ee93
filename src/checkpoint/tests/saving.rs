//! A save replaces the previous file completely, or leaves it as it was.

use std::io::ErrorKind;

use super::super::files::{test_double, Access, NewFile};
use super::*;

/// Names of the files in the folder of `path`.
fn names_beside(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries.map(|e| name(e).into_string().unwrap()).collect()
}

fn another() -> Sample {
    let mut sample = Sample::small();
    sample.header.step += 1;
    sample.arrays[0].2[0] = -1.0;
    sample
}

#[test]
fn a_save_replaces_the_older_file() {
    let file = Written::new(&Sample::small());
    let sample = another();
    sample.write(&file.path).unwrap();
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    assert_eq!(checkpoint.header(), &sample.header);
    sample.assert_reads_back(&checkpoint);
    assert_eq!(names_beside(&file.path), ["state.safetensors"]);
}

#[test]
fn a_save_that_fails_anywhere_leaves_the_older_file() {
    let file = Written::new(&Sample::small());
    let sample = another();
    let mut operations = 0;
    loop {
        fs::write(&file.path, &file.bytes).unwrap();
        test_double::fail_after(operations, ErrorKind::StorageFull);
        let result = sample.write(&file.path);
        assert_eq!(names_beside(&file.path), ["state.safetensors"]);
        if test_double::clear() {
            result.unwrap();
            break;
        }
        let Err(Error::Io {
            operation, path, ..
        }) = result
        else {
            panic!("{operations}: {result:?}");
        };
        // Only the sync of the directory comes when the new file has its name.
        let replaced = operation == "sync" && Some(path.as_path()) == file.path.parent();
        let step = Checkpoint::open(&file.path).unwrap().header().step;
        assert_eq!(step, if replaced { 8 } else { 7 });
        operations += 1;
    }
    // What is replaced, and whether it is in use, twice; the temporary; data, header;
    // mode, sync, rename, sync.
    assert!(operations > 20, "{operations}");
}

#[test]
fn an_open_or_read_that_fails_anywhere_is_an_error() {
    let file = Written::new(&Sample::small());
    let mut operations = 0;
    loop {
        test_double::fail_after(operations, ErrorKind::StorageFull);
        let result = Checkpoint::open(&file.path).and_then(|c| read(&c, 0, "momentum"));
        if test_double::clear() {
            result.unwrap();
            break;
        }
        assert!(matches!(result, Err(Error::Io { .. })), "{operations}");
        operations += 1;
    }
    // Opened in three, the header in two, the array.
    assert_eq!(operations, 3 + 2 + 1);
}

#[test]
fn what_a_killed_save_left_is_replaced() {
    let file = Written::new(&Sample::small());
    let temporary = file.path.with_file_name("state.safetensors.sonew-tmp");
    fs::write(&temporary, "half a file").unwrap();
    another().write(&file.path).unwrap();
    assert_eq!(names_beside(&file.path), ["state.safetensors"]);
}

/// The temporary's name of a long name is a shorter one, which the next save finds.
#[test]
fn the_longest_names_can_be_saved_to() {
    let folder = tempfile::tempdir().unwrap();
    for length in [244, 245, 246, 254, 255] {
        for letter in ["x", "é", "语"] {
            let letters = length / letter.len();
            let name = letter.repeat(letters) + &"y".repeat(length - letters * letter.len());
            let path = folder.path().join(&name);
            let begun = NewFile::create(&path, 1, Access::Read).unwrap();
            let names = names_beside(&path);
            let [temporary] = &names[..] else {
                panic!("{names:?}");
            };
            let temporary = folder.path().join(temporary);
            assert_ne!(temporary, path);
            let second = another().write(&path);
            assert!(
                matches!(&second, Err(Error::FileLocked { path }) if *path == temporary),
                "{second:?}"
            );
            // As a save that is killed leaves it.
            drop(begun);
            fs::write(&temporary, "half a file").unwrap();
            another().write(&path).unwrap();
            assert_eq!(names_beside(&path), [name]);
            verify(&path).unwrap();
            fs::remove_file(path).unwrap();
        }
    }
    let beginnings = ["a", "b"].map(|end| folder.path().join("x".repeat(250) + end));
    let [first, second] = beginnings
        .each_ref()
        .map(|path| NewFile::create(path, 1, Access::Read).unwrap());
    assert_eq!(names_beside(&beginnings[0]).len(), 2);
    drop((first, second));
}

#[test]
fn a_name_that_is_too_long_is_refused_with_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let name = "x".repeat(256);
    let path = folder.path().join(&name);
    let refused = another().write(&path).unwrap_err();
    assert!(
        matches!(&refused, Error::Io { source, .. } if source.kind() == ErrorKind::InvalidFilename),
        "{refused:?}"
    );
    let message = refused.to_string();
    assert!(message.contains("a name of 256 bytes"), "{message}");
    assert!(message.contains(&name), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// It may be that of a save that has just created it.
#[test]
fn readers_leave_temporary_files_alone() {
    let file = Written::new(&Sample::small());
    let temporary = file.path.with_file_name("state.safetensors.sonew-tmp");
    fs::write(&temporary, "half a file").unwrap();
    Checkpoint::open(&file.path).unwrap();
    verify(&file.path).unwrap();
    assert!(temporary.exists());
}

#[test]
fn two_saves_to_one_path_are_kept_apart() {
    let file = Written::new(&Sample::small());
    let first = NewFile::create(&file.path, 1, Access::Read).unwrap();
    let temporary = file.path.with_file_name("state.safetensors.sonew-tmp");
    assert!(matches!(
        another().write(&file.path),
        Err(Error::FileLocked { path }) if path == temporary
    ));
    // Nor does an open take it for one that was left.
    Checkpoint::open(&file.path).unwrap();
    assert!(temporary.exists());
    drop(first);
    another().write(&file.path).unwrap();
    assert_eq!(names_beside(&file.path), ["state.safetensors"]);
}

#[test]
fn of_many_savers_each_saves_or_is_refused() {
    let file = Written::new(&Sample::small());
    let samples = (0..4).map(|step| {
        let mut sample = Sample::small();
        sample.header.step = step;
        sample
            .arrays
            .iter_mut()
            .for_each(|(_, _, v)| v.fill(step as f32));
        sample
    });
    let samples: Vec<Sample> = samples.collect();
    let saved = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for sample in &samples {
            scope.spawn(|| {
                for _ in 0..50 {
                    match sample.write(&file.path) {
                        Ok(()) => drop(saved.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                        Err(error) => assert!(matches!(error, Error::FileLocked { .. }), "{error}"),
                    }
                    let checkpoint = Checkpoint::open(&file.path).unwrap();
                    checkpoint.verify().unwrap();
                }
            });
        }
    });
    assert!(saved.into_inner() > 0);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    samples[checkpoint.header().step as usize].assert_reads_back(&checkpoint);
    assert_eq!(names_beside(&file.path), ["state.safetensors"]);
}

#[cfg(unix)]
#[test]
fn a_link_in_the_temporarys_place_is_not_followed() {
    let file = Written::new(&Sample::small());
    let precious = file.path.with_file_name("precious");
    fs::write(&precious, "precious").unwrap();
    let temporary = file.path.with_file_name("state.safetensors.sonew-tmp");
    std::os::unix::fs::symlink(&precious, temporary).unwrap();
    another().write(&file.path).unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(names_beside(&file.path).len(), 2);
}

#[test]
fn a_target_that_is_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("folder");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("content"), "").unwrap();
    assert!(matches!(
        Sample::small().write(&target),
        Err(Error::Io {
            operation: "replace",
            ..
        })
    ));
    assert_eq!(names_beside(&target), ["folder"]);
}

#[test]
fn a_folder_that_does_not_exist_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("missing/state.safetensors");
    assert!(matches!(
        Sample::small().write(&target),
        Err(Error::Io { operation: "create", source, .. })
            if source.kind() == std::io::ErrorKind::NotFound
    ));
}

#[test]
fn a_path_without_a_name_is_refused() {
    for path in ["", "/", ".."] {
        assert!(matches!(
            Sample::small().write(Path::new(path)),
            Err(Error::Io { operation: "create", path: p, .. }) if p == Path::new(path)
        ));
    }
}

#[test]
fn a_header_beyond_the_formats_limit_is_refused() {
    let file = Written::new(&Sample::small());
    let mut sample = Sample::small();
    sample.header.tensors[0].spec.name = "x".repeat(10_000_000);
    assert!(matches!(
        sample.write(&file.path),
        Err(Error::HeaderLength { length, limit: 100_000_000, .. }) if length > 100_000_000
    ));
    assert_eq!(fs::read(&file.path).unwrap(), file.bytes);
}

#[test]
fn values_that_could_not_be_read_back_are_refused() {
    let file = Written::new(&Sample::small());
    let mut sample = another();
    sample.header.tensors[1].lr_scale = f64::NAN;
    assert!(matches!(
        sample.write(&file.path),
        Err(Error::OutOfRange { argument, .. }) if argument == "lr_scale of tensor \"fc1.bias\""
    ));

    let mut sample = another();
    sample.arrays[1].2.pop();
    assert!(matches!(
        sample.write(&file.path),
        Err(Error::WrongLength {
            length: 5,
            expected: 6,
            ..
        })
    ));

    let mut sample = another();
    sample.arrays[1].0 = 2;
    assert!(matches!(
        sample.write(&file.path),
        Err(Error::UnknownTensor { index: 2, count: 2 })
    ));

    // These would be bugs of the caller, which is this library.
    let mut lacking = another();
    lacking.arrays.pop();
    let mut claiming = another();
    claiming.header.parameters = false;
    for sample in [lacking, claiming] {
        let result = sample.write(&file.path);
        assert!(matches!(result, Err(Error::Internal { .. })), "{result:?}");
    }
    assert_eq!(fs::read(&file.path).unwrap(), file.bytes);
}

/// Each operation in turn is interrupted by a signal, once.
#[test]
fn an_operation_that_is_interrupted_is_made_again() {
    let file = Written::new(&Sample::small());
    let sample = another();
    for operations in 0.. {
        test_double::fail_after(operations, ErrorKind::Interrupted);
        sample.write(&file.path).unwrap();
        let opened = Checkpoint::open(&file.path);
        let all_done = test_double::clear();
        sample.assert_reads_back(&opened.unwrap());
        if all_done {
            break;
        }
        assert!(operations < 100);
    }
}

/// A string with every kind of escape comes through.
#[test]
fn names_with_strange_characters_come_back() {
    let mut header = Sample::small().header;
    header.tensors[0].spec.name = "\"quoted\\ / \u{e9}\u{1f600}\u{7f}x".replace('\u{7f}', "");
    header.tensors[1].spec.name = "\\u0041\u{2028}".to_owned();
    let sample = Sample::of(header);
    let file = Written::new(&sample);
    let checkpoint = Checkpoint::open(&file.path).unwrap();
    assert_eq!(checkpoint.header(), &sample.header);
    sample.assert_reads_back(&checkpoint);
    // Another writer escapes more.
    let json = file.json().trim_end();
    let escaped: String = json
        .encode_utf16()
        .map(|unit| match char::from_u32(unit.into()) {
            Some(ascii) if ascii.is_ascii() => ascii.to_string(),
            _ => format!("\\u{unit:04x}"),
        })
        .collect();
    assert_ne!(escaped, json);
    let mut bytes = super::super::header::seal(escaped.as_bytes());
    bytes.extend(&file.bytes[file.data()..]);
    let checkpoint = file.open_with(&bytes).unwrap();
    assert_eq!(checkpoint.header(), &sample.header);
}
