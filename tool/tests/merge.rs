//! Files of several processes: `merge` and `split`, and what `inspect` shows of them.

mod common;

use std::fs;
use std::path::Path;

use common::{json_of, printed, refused};
use serde_json::json;
use sonew::checkpoint::Checkpoint;
use sonew::dtype::Elements;
use sonew::layout::{Chains, TensorSpec};
use sonew::options::{Damping, Graft, Options, StepOptions};
use sonew::{Error, Optimizer};

/// Files of two processes, `part-0` and `part-1`, and that of one, `alone`.
fn parts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, first: usize, rows: usize| {
        let mut specs = [
            TensorSpec::new("w", &[rows, 3]).with_chains(Chains::ContiguousLines),
            TensorSpec::new("scale", &[]),
        ];
        if rows < 5 {
            specs[0] = specs[0].clone().with_shard(first, 5);
        }
        let options = Options {
            graft: Graft::None,
            damping: Damping::Absolute,
            ..Options::default()
        };
        let mut optimizer = Optimizer::new(options, &specs).unwrap();
        let (mut w, mut scale) = (vec![1.0f32; 3 * rows], [1.0f32]);
        let grad: Vec<f32> = (3 * first..3 * (first + rows))
            .map(|i| i as f32 - 7.5)
            .collect();
        let step = StepOptions::default();
        let params = &mut [&mut w[..], &mut scale];
        optimizer
            .step(&step, params, &[Some(&grad), Some(&[0.5])])
            .unwrap();
        let params = [Elements::new(&w), Elements::new(&scale)];
        let path = folder.path().join(name);
        optimizer.save(path, Some(&params)).unwrap();
    };
    save("part-0", 0, 3);
    save("part-1", 3, 2);
    save("alone", 0, 5);
    folder
}

#[test]
fn files_of_processes_become_one_and_that_becomes_several() {
    let folder = parts();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let merge = ["merge", "part-0", "part-1", "--to", "new"];
    let (out, err, code) = printed(folder.path(), &merge);
    assert_eq!((&err[..], code), ("", 0));
    assert!(out.starts_with("new: step 1, "), "{out}");
    assert!(read("new") == read("alone"));
    let (value, code) = json_of(folder.path(), &merge);
    let length = read("new").len();
    let expected = json!({ "file": "new", "step": 1, "file_bytes": length });
    assert_eq!((value, code), (expected, 0));

    let split = ["split", "new", "--by", "rows", "--into", "2", "--to", "x"];
    let (out, err, code) = printed(folder.path(), &split);
    assert_eq!((&err[..], code), ("", 0));
    let names = [
        "x-00001-of-00002.safetensors",
        "x-00002-of-00002.safetensors",
    ];
    for (line, (name, part)) in out.lines().zip(names.iter().zip(["part-0", "part-1"])) {
        assert!(line.starts_with(&format!("{name}: step 1, ")), "{out}");
        assert!(read(name) == read(part));
    }
    let mut by_tensors = split;
    by_tensors[3] = "tensors";
    let (value, code) = json_of(folder.path(), &by_tensors);
    assert_eq!(code, 0);
    for (file, name) in value["files"].as_array().unwrap().iter().zip(names) {
        let expected = json!({ "file": name, "step": 1, "file_bytes": read(name).len() });
        assert_eq!(*file, expected);
    }
    let back = ["merge", names[0], names[1], "--to", "back"];
    assert_eq!(printed(folder.path(), &back).2, 0);
    assert!(read("back") == read("alone"));
}

#[test]
fn inspect_shows_shards() {
    let folder = parts();
    let (out, ..) = printed(folder.path(), &["inspect", "part-1"]);
    let has = |words: &str| {
        let words: Vec<_> = words.split_whitespace().collect();
        out.lines()
            .any(|line| line.split_whitespace().eq(words.iter().copied()))
    };
    assert!(has("shard  first row  rows  of"), "{out}");
    assert!(has("w      3          2     5"), "{out}");
    let (value, _) = json_of(folder.path(), &["inspect", "part-1"]);
    let shard = json!({ "first_row": 3, "whole_rows": 5 });
    assert_eq!(value["tensors"][0]["shard"], shard);
    assert_eq!(value["tensors"][1].get("shard"), None);
    let (out, ..) = printed(folder.path(), &["inspect", "alone"]);
    assert!(!out.contains("shard"), "{out}");
}

/// What cannot be merged or split is refused with the library's words, and leaves older
/// files alone.
#[test]
fn a_merge_or_a_split_that_fails_leaves_the_older_files() {
    let folder = parts();
    let path = |name: &str| folder.path().join(name);
    let before = fs::read(path("alone")).unwrap();
    let same = |arguments: &[&str], error: Error, expected: i32| {
        refused(folder.path(), arguments, &error, expected);
        assert!(fs::read(path("alone")).unwrap() == before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    };
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let open = |name: &str| Checkpoint::open(path(name));
    let merged = |names: &[&str]| {
        let files: Vec<_> = names.iter().map(|name| open(name).unwrap()).collect();
        sonew::checkpoint::merge(&files, path("none"), &mut |_| ())
    };
    let alone = text("alone");
    let missing = merged(&["part-1"]).unwrap_err();
    assert!(matches!(missing, Error::RowsMissing { .. }), "{missing}");
    same(&["merge", "part-1", "--to", "alone"], missing, 3);
    let none = open("none").err().unwrap();
    let arguments = ["merge", &text("part-0"), &text("none"), "--to", "alone"];
    same(&arguments, none, 3);

    let bytes = fs::read(path("part-1")).unwrap();
    let file = open("part-1").unwrap();
    let at = file.arrays().next().unwrap().offset as usize;
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    fs::write(path("part-1"), damaged).unwrap();
    let (part_0, part_1) = (text("part-0"), text("part-1"));
    let error = merged(&["part-0", "part-1"]).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    let arguments = ["merge", &part_0, &part_1, "--to", "alone"];
    same(&arguments, error, 1);
    let error = merged(&["part-0", "part-1"]).unwrap_err();
    let arguments = ["split", &part_1, "--by", "rows", "--into", "2", "--to", "y"];
    same(&arguments, error, 1);

    let many = Error::OutOfRange {
        argument: "the number of files".to_owned(),
        value: 3.0,
        allowed: "at least 1, and at most the number of tensors",
    };
    let arguments = [
        "split", &alone, "--by", "tensors", "--into", "3", "--to", "y",
    ];
    same(&arguments, many, 3);
    let no_name = ["split", "alone", "--by", "rows", "--into", "2"];
    assert_eq!(printed(folder.path(), &no_name).2, 2);
    assert_eq!(printed(folder.path(), &["merge", "part-0"]).2, 2);
}

/// The commands in README.md and docs/state-files.md do what they say.
#[test]
fn commands_of_the_documents() {
    for page in ["README.md", "docs/state-files.md"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("sonew "));
        let mut commands = 0;
        let folder = parts();
        for line in lines {
            let words = line.split('#').next().unwrap();
            let words = words.replace("FILE...", "part-0 part-1");
            let words = words.replace("FILE", "alone").replace("FROM", "alone");
            let words: Vec<_> = words.split_whitespace().collect();
            let (_, err, code) = printed(folder.path(), &words);
            assert_eq!((&err[..], code), ("", 0), "{line}");
            commands += 1;
        }
        assert!(commands >= 5, "{page}");
        for file in ["TO", "NAME-00004-of-00004.safetensors"] {
            assert!(folder.path().join(file).exists(), "{page}: {file}");
        }
    }
}
