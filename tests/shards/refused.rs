//! Sets of files: what they may have in common, what is refused, and that a refused call
//! changes nothing.

use std::fs;

use sonew::checkpoint::{merge, split, Checkpoint, SplitBy};
use sonew::dtype::Dtype;
use sonew::layout::{Chains, TensorSpec};
use sonew::options::Options;
use sonew::{Error, LoadMode, LoadOptions, Optimizer, TensorSettings};

use crate::folder::{options, specs, Folder};

#[test]
fn a_shard_lies_within_its_tensor() {
    let create = |spec: TensorSpec| Optimizer::new(options(), &[spec]);
    let rows = |first, whole| TensorSpec::new("w", &[4, 3]).with_shard(first, whole);
    create(rows(6, 10)).unwrap();
    create(rows(0, 4)).unwrap();
    let error = create(rows(7, 10)).err().unwrap();
    refused!(
        create(rows(7, 10)),
        Error::ShardRows { tensor, first_row: 7, rows: 4, whole_rows: 10 } if tensor == "w"
    );
    assert_eq!(
        error.to_string(),
        "tensor \"w\": 4 rows from row 7 on are not within the 10 rows of the whole tensor"
    );
    refused!(create(rows(usize::MAX - 2, 10)), Error::ShardRows { .. });
    refused!(create(rows(0, usize::MAX / 4)), Error::SizeOverflow { .. });
    refused!(
        create(TensorSpec::new("s", &[]).with_shard(0, 1)),
        Error::ScalarShard { tensor } if tensor == "s"
    );
}

#[test]
fn rows_that_no_file_has_are_named() {
    let folder = Folder::new();
    folder.save("a", (0, 3), 2);
    folder.save("b", (5, 2), 2);
    let error = folder.refused(&["b", "a"]);
    assert_eq!(
        error.to_string(),
        "tensor \"w\": rows [3, 5) are in none of the files"
    );
    assert!(matches!(error, Error::RowsMissing { rows, .. } if rows == (3..5)));
    folder.save("c", (2, 5), 2);
    let error = folder.refused(&["a", "b", "c"]);
    assert!(matches!(error, Error::RowsMissing { rows, .. } if rows == (7..8)));
    // Rows that nobody asks for may be missing.
    folder.saved_again((1, 6), &["a", "c"]);
}

#[test]
fn files_of_different_steps_are_named() {
    let folder = Folder::new();
    folder.save("a", (0, 4), 2);
    folder.save("b", (4, 4), 3);
    let error = folder.refused(&["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    assert_eq!(
        error.to_string(),
        format!("{a:?} is of step 2, {b:?} of step 3")
    );
    assert!(matches!(
        error,
        Error::StepsDiffer { first, first_step: 2, second, second_step: 3 }
            if *first == *a && *second == *b
    ));
}

#[test]
fn settings_that_differ_between_files_are_named() {
    type Change = fn(&mut TensorSettings);
    let changes: [(&str, Change); 4] = [
        ("lr_scale", |s| s.lr_scale = 0.5),
        ("weight_decay", |s| s.weight_decay = 0.5),
        ("the step count", |s| s.step_count = 1),
        ("bias_corrections", |s| {
            s.scalars.bias_corrections[0] = 0.25;
        }),
    ];
    let folder = Folder::new();
    folder.save("a", (0, 4), 2);
    for (name, change) in changes {
        folder.save_changed("b", (4, 4), 2, &options(), |optimizer| {
            optimizer.change_settings(0, change).unwrap();
        });
        let error = folder.refused(&["a", "b"]);
        let expected = format!("{name} of tensor \"w\"");
        assert!(
            matches!(&error, Error::FilesDiffer { what, .. } if *what == expected),
            "{error}"
        );
    }
    // One that overrides the files' settings has its own.
    folder.save_changed("b", (4, 4), 2, &options(), |o| {
        o.change_settings(0, |s| s.lr_scale = 0.5).unwrap();
    });
    let mut optimizer = Optimizer::new(options(), &specs(0, 8)).unwrap();
    optimizer.change_settings(0, |s| s.lr_scale = 2.0).unwrap();
    let mut params = vec![vec![1.0; 24], vec![1.0; 5]];
    let overriding = |load: &mut LoadOptions| load.override_options = true;
    folder
        .load_into(&mut optimizer, &mut params, &["a", "b"], overriding)
        .unwrap();
    assert_eq!(optimizer.settings(0).unwrap().lr_scale, 2.0);
}

/// A merge compares files with each other, a load with the optimizer.
#[test]
fn files_of_different_optimizers_are_not_merged() {
    let folder = Folder::new();
    folder.save("a", (0, 4), 2);
    let other = Options {
        beta1: 0.5,
        ..options()
    };
    folder.save_changed("b", (4, 4), 2, &other, |_| ());
    let error = folder.merged(&["a", "b"]).unwrap_err();
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    assert_eq!(
        error.to_string(),
        format!("option beta1 is 0.9 in {a:?}, 0.5 in {b:?}")
    );
    let mut lagged = options();
    lagged.nesterov = true;
    folder.save_changed("b", (4, 4), 2, &lagged, |_| ());
    let error = folder.merged(&["b", "a"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("option nesterov is true in {b:?}, the default in {a:?}")
    );

    let one = |name: &str, spec: TensorSpec| {
        let optimizer = Optimizer::new(options(), &[spec]).unwrap();
        optimizer.save(folder.path(name), None).unwrap();
    };
    let shard = || TensorSpec::new("w", &[4, 3]).with_shard(4, 8);
    one("a", TensorSpec::new("w", &[4, 3]).with_shard(0, 8));
    let mut float64 = shard();
    float64.state = Dtype::F64;
    for (spec, name) in [
        (TensorSpec::new("w", &[4, 2]).with_shard(4, 8), "dims"),
        (TensorSpec::new("w", &[4, 3]).with_shard(4, 9), "dims"),
        (shard().with_chains(Chains::StridedLines), "chains"),
        (shard().with_update(sonew::layout::Update::Adam), "update"),
        (shard().with_master(), "master weights"),
        (float64, "state"),
    ] {
        one("b", spec);
        let error = folder.merged(&["a", "b"]).unwrap_err();
        let expected = format!("{name} of tensor \"w\"");
        assert!(
            matches!(&error, Error::FilesDiffer { what, .. } if *what == expected),
            "{error}"
        );
    }
    folder.save("b", (4, 4), 0);
    let error = folder.merged(&["a", "b"]).unwrap_err();
    assert!(
        matches!(&error, Error::FilesDiffer { what, .. } if what.contains("parameters")),
        "{error}"
    );
    refused!(
        merge(&[], folder.path("merged"), &mut |_| ()),
        Error::OutOfRange { argument, .. } if argument == "the number of files"
    );
}

#[test]
fn a_damaged_piece_is_refused() {
    let folder = Folder::new();
    folder.save("a", (0, 5), 2);
    folder.save("b", (4, 4), 2);
    let bytes = fs::read(folder.path("b")).unwrap();
    let file = Checkpoint::open(folder.path("b")).unwrap();
    for array in file.arrays() {
        // In a row that both have, and in one that nobody else has.
        for at in [array.offset, array.offset + array.bytes - 1] {
            let mut bytes = bytes.clone();
            bytes[at as usize] ^= 1;
            fs::write(folder.path("b"), bytes).unwrap();
            let error = folder.refused(&["a", "b"]);
            let name = format!("\"{}/{}\"", ["w", "common"][array.tensor], array.plane);
            assert!(
                matches!(&error, Error::Checksum { part, .. } if *part == name),
                "{error}"
            );
            let damaged = Checkpoint::open(folder.path("b")).unwrap();
            let to = [folder.path("x"), folder.path("y")];
            refused!(
                split(damaged, SplitBy::Rows, &to, &mut |_| ()),
                Error::Checksum { .. }
            );
            assert!(!to[0].exists());
        }
    }
    // Who needs no row of a damaged array does not read it.
    let array = file.arrays().next().unwrap();
    let mut damaged = bytes.clone();
    damaged[array.offset as usize] ^= 1;
    fs::write(folder.path("b"), damaged).unwrap();
    folder.saved_again((0, 4), &["a", "b"]);
    fs::write(folder.path("b"), &bytes).unwrap();
    let whole = folder.saved_again((0, 8), &["a", "b"]);
    folder.save("whole", (0, 8), 2);
    assert!(whole == fs::read(folder.path("whole")).unwrap());
}

#[test]
fn other_rows_are_not_mapped() {
    let folder = Folder::new();
    folder.save("a", (0, 4), 2);
    folder.save("b", (4, 4), 2);
    folder.save_changed("c", (0, 4), 2, &options(), |optimizer| {
        optimizer.make_live(folder.path("live")).unwrap();
    });
    let mut optimizer = Optimizer::new(options(), &specs(0, 8)).unwrap();
    for mode in [LoadMode::MapPrivate, LoadMode::MapShared] {
        let mut load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        refused!(
            optimizer.load(folder.path("live"), &load, None),
            Error::MappedRows { tensor, file, optimizer }
                if tensor == "w" && file == (0..4) && optimizer == (0..8)
        );
        load.paths = vec![folder.path("b")];
        refused!(
            optimizer.load(folder.path("a"), &load, None),
            Error::MappedPaths
        );
    }
    let mut part = Optimizer::new(options(), &specs(0, 3)).unwrap();
    let load = LoadOptions {
        mode: LoadMode::MapPrivate,
        ..LoadOptions::default()
    };
    let error = part.load(folder.path("a"), &load, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"w\": a file that is mapped must have the rows of the optimizer; these are \
         [0, 4) in the file, [0, 3) in the optimizer: read the file"
    );
    assert_eq!((optimizer.step_count(), part.step_count()), (0, 0));
    // A live file can be a piece.
    drop(optimizer);
    let save = |name: &str, first: &str| {
        let mut optimizer = Optimizer::new(options(), &specs(2, 6)).unwrap();
        let load = LoadOptions {
            paths: vec![folder.path("b")],
            ..LoadOptions::default()
        };
        optimizer.load(folder.path(first), &load, None).unwrap();
        optimizer.save(folder.path(name), None).unwrap();
        fs::read(folder.path(name)).unwrap()
    };
    assert!(save("x", "live") == save("y", "a"));
}
