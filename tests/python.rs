//! State files in Python: the ordinary `safetensors` package reads every array.
//! `tests/python/environment` installs it; without it, nothing is tested here,
//! and this is said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sonew::dtype::{bf16, f16, Dtype, Elements, ElementsMut};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Options, Rounding, StepOptions};
use sonew::{LoadMode, LoadOptions, Optimizer};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python() -> Option<PathBuf> {
    let python = Path::new(ROOT).join("target/python-env/bin/python");
    if !python.exists() {
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED: there is no Python with safetensors, see tests/python/environment"
        );
        return None;
    }
    Some(python)
}

/// What the script found in each file.
fn read_in_python(python: &Path, files: &[PathBuf]) -> Vec<Value> {
    in_python(python, &[], files)
}

fn in_python(python: &Path, options: &[&str], files: &[PathBuf]) -> Vec<Value> {
    said_by(python, "read_every_array.py", options, files)
}

/// The lines that a script prints about files.
fn said_by(python: &Path, script: &str, options: &[&str], files: &[PathBuf]) -> Vec<Value> {
    let output = Command::new(python)
        .arg(Path::new(ROOT).join("tests/python").join(script))
        .args(options)
        .args(files)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn python_reads_every_array_of_every_kind_of_file() {
    let Some(python) = python() else {
        return;
    };
    let specs = [
        TensorSpec::new("fc1.weight", &[20, 31]).with_master(),
        TensorSpec::new("half", &[7]).with_dtypes(Dtype::F16, Dtype::F32, Dtype::F32),
        TensorSpec::new("few bits", &[5, 3]).with_dtypes(Dtype::Bf16, Dtype::Bf16, Dtype::Bf16),
        TensorSpec::new("double", &[])
            .with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64)
            .with_update(Update::Adam),
    ];
    let folder = tempfile::tempdir().unwrap();
    let [saved, live, left] = ["saved", "live", "left"].map(|name| folder.path().join(name));
    let mut optimizer = Optimizer::new(Options::default(), &specs).unwrap();
    let mut weight = vec![1.0f32; 620];
    let mut half = vec![f16::ONE; 7];
    let mut bits = vec![bf16::ONE; 15];
    let mut double = vec![1.0f64];
    let grads = (
        vec![0.1f32; 620],
        vec![0.2f32; 7],
        vec![bf16::ONE; 15],
        vec![0.5f64],
    );
    let mut step = |optimizer: &mut Optimizer| {
        let params = &mut [
            ElementsMut::new(&mut weight),
            ElementsMut::new(&mut half),
            ElementsMut::new(&mut bits),
            ElementsMut::new(&mut double),
        ];
        let grads = [
            Some(Elements::new(&grads.0)),
            Some(Elements::new(&grads.1)),
            Some(Elements::new(&grads.2)),
            Some(Elements::new(&grads.3)),
        ];
        optimizer
            .step_any(&StepOptions::default(), params, &grads)
            .unwrap();
    };
    step(&mut optimizer);
    optimizer.make_live(&live).unwrap();
    step(&mut optimizer);
    // As a process that is killed leaves it, but a copy.
    std::fs::copy(&live, &left).unwrap();
    step(&mut optimizer);
    let params = [
        Elements::new(&weight),
        Elements::new(&half),
        Elements::new(&bits),
        Elements::new(&double),
    ];
    optimizer.save(&saved, Some(&params)).unwrap();
    drop(optimizer);

    let found = read_in_python(&python, &[saved, live, left]);
    let planes = 4 + 3 + 3 + 2;
    let expected = [(4, 3, planes + 4), (4, 3, planes), (4, 2, 0)];
    for (found, (format, step, verified)) in found.iter().zip(expected) {
        assert_eq!(found["format"], format, "{found}");
        assert_eq!(found["step"], step, "{found}");
        assert_eq!(found["verified"], verified, "{found}");
        assert!(found["arrays"].as_u64().unwrap() > planes);
    }
    assert_eq!([&found[1]["synced"], &found[2]["synced"]], [true, false]);
}

#[test]
fn python_reads_the_files_of_earlier_versions() {
    let Some(python) = python() else {
        return;
    };
    let files = std::fs::read_dir(Path::new(ROOT).join("tests/files")).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5);
    for (file, found) in files.iter().zip(read_in_python(&python, &files)) {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let named = format!("format-{}", found["format"]);
        let kinds = [
            "",
            "-live",
            "-counted",
            "-counted-live",
            "-shard",
            "-shard-live",
        ];
        let is_one = |kind| name == format!("{named}{kind}");
        assert!(kinds.into_iter().any(is_one), "{name}");
        assert_eq!(found["step"], 3);
        // The shard is one tensor with five planes.
        let least = if name.contains("shard") { 5 } else { 7 };
        assert!(found["verified"].as_u64().unwrap() >= least);
    }
}

/// The package saves keys and arrays in an order of its own.
#[test]
fn a_file_that_python_has_saved_again_is_loaded() {
    let Some(python) = python() else {
        return;
    };
    let specs = [
        TensorSpec::new("few bits", &[5, 3]).with_dtypes(Dtype::Bf16, Dtype::Bf16, Dtype::Bf16),
        TensorSpec::new("fc1.weight", &[20, 31]).with_master(),
        TensorSpec::new("double", &[3])
            .with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64)
            .with_update(Update::Adam),
    ];
    let folder = tempfile::tempdir().unwrap();
    let [saved, live] = ["saved", "live"].map(|name| folder.path().join(name));
    let create = || Optimizer::new(Options::default(), &specs).unwrap();
    let mut optimizer = create();
    let (mut bits, mut weight, mut double) = ([bf16::ONE; 15], [1.0f32; 620], [1.0f64; 3]);
    let params = &mut [
        ElementsMut::new(&mut bits),
        ElementsMut::new(&mut weight),
        ElementsMut::new(&mut double),
    ];
    let grads = [
        Some(Elements::new(&[bf16::ONE; 15])),
        Some(Elements::new(&[0.5f32; 620])),
        Some(Elements::new(&[0.25f64; 3])),
    ];
    let step = StepOptions::default();
    optimizer.step_any(&step, params, &grads).unwrap();
    let params = [
        Elements::new(&bits),
        Elements::new(&weight),
        Elements::new(&double),
    ];
    optimizer.save(&saved, Some(&params)).unwrap();
    optimizer.make_live(&live).unwrap();
    optimizer.sync().unwrap();
    in_python(&python, &["--save-again"], &[saved.clone(), live.clone()]);
    for mode in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
        for path in [&saved, &live] {
            if path == &saved && mode == LoadMode::MapShared {
                continue;
            }
            let mut again = create();
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            let path = path.with_extension("again");
            again.load(&path, &load, None).unwrap();
            assert_eq!(again.step_count(), 1);
            for tensor in 0..specs.len() {
                for plane in 0..optimizer.planes(tensor).unwrap().len() {
                    let was = optimizer.plane(tensor, plane).unwrap();
                    assert_eq!(again.plane(tensor, plane).unwrap().bytes(), was.bytes());
                }
            }
        }
    }
}

/// What docs/state-files.md describes in Python is so.
#[test]
fn blocks_of_the_page_on_state_files_hold() {
    let Some(python) = python() else {
        return;
    };
    let specs = |state| {
        [
            TensorSpec::new("fc1.weight", &[8, 9]).with_dtypes(Dtype::F32, Dtype::F32, state),
            TensorSpec::new("fc1.bias", &[7])
                .with_update(Update::Adam)
                .with_dtypes(Dtype::F32, Dtype::F32, state),
        ]
    };
    let options = Options {
        rounding: Rounding::Stochastic,
        seed: 77,
        ..Options::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let files = ["saved", "live", "converted"].map(|name| folder.path().join(name));
    let mut optimizer = Optimizer::new(options.clone(), &specs(Dtype::F32)).unwrap();
    let (mut weight, mut bias) = ([1.0f32; 72], [1.0f32; 7]);
    let grad: Vec<f32> = (0..72).map(|i| (i as f32).sin() + 0.1).collect();
    for _ in 0..2 {
        let params = &mut [&mut weight[..], &mut bias];
        let grads = [Some(&grad[..]), Some(&grad[..7])];
        optimizer
            .step(&StepOptions::default(), params, &grads)
            .unwrap();
    }
    optimizer.save(&files[0], None).unwrap();
    let mut converted = Optimizer::new(options, &specs(Dtype::Bf16)).unwrap();
    let load = LoadOptions {
        convert_state: true,
        ..LoadOptions::default()
    };
    converted.load(&files[0], &load, None).unwrap();
    converted.save(&files[2], None).unwrap();
    optimizer.make_live(&files[1]).unwrap();
    optimizer.sync().unwrap();
    let [saved, live, converted] = files;
    let files = [saved.clone(), live, saved, converted];
    let said = said_by(&python, "blocks.py", &[], &files);
    assert_eq!(said[0]["rounded"], 3 * 72 + 2 * 7);
}
