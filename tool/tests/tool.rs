//! The binary itself, on files that the library has written, now and earlier. Its errors
//! are compared with the library's, and its conversions with what the library loads and
//! saves.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{json_of, printed, refused};
use serde_json::{json, Value};
use sonew::checkpoint::{verify, Checkpoint};
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options, Rounding, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

fn options() -> Options {
    Options {
        band: 2,
        graft: Graft::NormalizedRmsprop,
        rounding: Rounding::Stochastic,
        seed: 5,
        threads: 1,
        ..Options::default()
    }
}

fn tensors(state: Dtype) -> [TensorSpec; 2] {
    [
        TensorSpec::new("fc1.weight", &[300, 1000])
            .with_chains(Chains::ContiguousLines)
            .with_dtypes(Dtype::Bf16, Dtype::F32, state)
            .with_master(),
        TensorSpec::new("fc1.bias", &[13])
            .with_update(Update::Adam)
            .with_dtypes(Dtype::F32, Dtype::F32, state)
            .with_master(),
    ]
}

/// Parameters of [`tensors`].
type Parameters = (Vec<bf16>, Vec<f32>);

fn step(optimizer: &mut Optimizer, (weight, bias): &mut Parameters) {
    let number = optimizer.step_count() as f32;
    let grad = |len: usize| -> Vec<f32> { (0..len).map(|i| (i as f32 + number).sin()).collect() };
    let grads = [grad(weight.len()), grad(bias.len())];
    let mut grads = [0, 1].map(|i| Some(Elements::new(&grads[i])));
    // The bias takes no part in the second step.
    grads[1] = grads[1].filter(|_| number != 1.0);
    let params = &mut [ElementsMut::new(weight), ElementsMut::new(bias)];
    optimizer
        .step_any(&StepOptions::default(), params, &grads)
        .unwrap();
}

/// A folder with `saved` and `state`, checkpoints with parameters and without, and `live`.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let mut optimizer = Optimizer::new(options(), &tensors(Dtype::F32)).unwrap();
    let mut params = (vec![bf16::ONE; 300_000], vec![0.5; 13]);
    (0..3).for_each(|_| step(&mut optimizer, &mut params));
    optimizer.change_settings(1, |s| s.lr_scale = 0.25).unwrap();
    let saved = [Elements::new(&params.0), Elements::new(&params.1)];
    optimizer.save(path("saved"), Some(&saved)).unwrap();
    optimizer.save(path("state"), None).unwrap();
    optimizer.make_live(path("live")).unwrap();
    step(&mut optimizer, &mut params);
    folder
}

/// Files of earlier versions.
fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files");
    folder.join(name).with_extension("safetensors")
}

#[test]
fn inspect_shows_what_is_in_a_file() {
    let folder = files();
    let (out, err, code) = printed(folder.path(), &["inspect", "saved"]);
    assert_eq!((&err[..], code), ("", 0));
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let has = |row: &str| {
        let row: Vec<&str> = row.split_whitespace().collect();
        assert!(rows.contains(&row), "no {row:?} in\n{out}");
    };
    has("saved");
    has("what it is  checkpoint, format 4");
    has("step        3");
    has("elements    300013");
    has("parameters  yes");
    has("graft       normalized rmsprop");
    has("seed        5");
    has("fc1.weight  300 x 1000  contiguous lines  sonew  BF16  F32  F32  set  1     0  3");
    has("fc1.bias    13          contiguous  adam   F32   F32  F32  set  0.25  0  2");
    let file = Checkpoint::open(folder.path().join("saved")).unwrap();
    let array = file.arrays().last().unwrap();
    let (at, crc) = (array.offset, array.crc32.unwrap());
    has(&format!("fc1.bias/parameter F32 {at} 52 bytes {crc:08x}"));
    // Columns are aligned: every title stands over its column.
    let titles = out.lines().find(|line| line.contains("lr scale")).unwrap();
    let bias = out.lines().find(|line| line.contains("0.25")).unwrap();
    assert_eq!(titles.find("lr scale"), bias.find("0.25"));

    let (value, code) = json_of(folder.path(), &["inspect", "saved"]);
    assert_eq!(code, 0);
    assert_eq!(value["step"], 3);
    assert_eq!(
        (&value["live"], &value["synced"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(value["options"]["graft"], "normalized_rmsprop");
    assert_eq!(value["options"]["gamma"], 0.01);
    let bias = json!({
        "name": "fc1.bias", "dims": [13], "chains": "contiguous", "update": "adam",
        "lr_scale": 0.25, "weight_decay": 0.0, "params": "F32", "grads": "F32",
        "state": "F32", "master": "set", "step_count": 2,
    });
    assert_eq!(value["tensors"][1], bias);
    let arrays = value["arrays"].as_array().unwrap();
    assert_eq!(arrays.len(), 7 + 4);
    let last = json!({
        "name": "fc1.bias/parameter", "dtype": "F32", "offset": at, "bytes": 52,
        "crc32": format!("{crc:08x}"),
    });
    assert_eq!(arrays[10], last);
    let length = fs::metadata(folder.path().join("saved")).unwrap().len();
    assert_eq!(value["file_bytes"], length);

    let (out, ..) = printed(folder.path(), &["inspect", "live"]);
    assert!(out.contains("live file, synced, format 4"), "{out}");
    assert!(out.contains("as master weights"), "{out}");
    assert_eq!(json_of(folder.path(), &["inspect", "live"]).0["step"], 4);
}

#[test]
fn files_of_every_format_are_shown_verified_and_converted() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format, live) in [
        ("format-1", 1, false),
        ("format-2", 2, false),
        ("format-3", 3, true),
        ("format-4", 4, false),
        ("format-4-live", 4, true),
        ("format-4-counted", 4, false),
        ("format-4-counted-live", 4, true),
    ] {
        let path = kept(name);
        let path = path.to_str().unwrap();
        let (value, code) = json_of(folder.path(), &["inspect", path]);
        assert_eq!(
            (&value["format"], &value["live"]),
            (&json!(format), &json!(live))
        );
        assert_eq!((&value["step"], code), (&json!(3), 0));
        let (out, err, code) = printed(folder.path(), &["verify", path]);
        assert_eq!((&err[..], code), ("", 0));
        assert!(out.ends_with(": every checksum matches\n"), "{out}");
        let (_, code) = json_of(folder.path(), &["convert", path, "new", "--state", "f64"]);
        assert_eq!(code, 0);
        let (value, _) = json_of(folder.path(), &["inspect", "new"]);
        assert_eq!((&value["format"], &value["step"]), (&json!(4), &json!(3)));
        assert_eq!(value["tensors"][0]["state"], "F64");
        verify(folder.path().join("new")).unwrap();
    }
}

#[test]
fn verify_names_every_array_that_is_damaged() {
    let folder = files();
    let path = folder.path().join("saved");
    let (value, code) = json_of(folder.path(), &["verify", "saved"]);
    assert_eq!(
        (&value["damaged"], &value["arrays"], code),
        (&json!([]), &json!(11), 0)
    );
    let mut bytes = fs::read(&path).unwrap();
    let file = Checkpoint::open(&path).unwrap();
    let names = ["fc1.weight/band.2", "fc1.bias/diagonal"];
    for array in file.arrays() {
        let tensor = &file.header().tensors[array.tensor].spec.name;
        if names.contains(&&*format!("{tensor}/{}", array.plane)) {
            bytes[(array.offset + array.bytes - 1) as usize] ^= 0x40;
        }
    }
    fs::write(&path, bytes).unwrap();
    let library = verify(&path).unwrap_err();
    let (out, err, code) = printed(folder.path(), &["verify", path.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(out.ends_with("of 11 arrays, 2 damaged\n"), "{out}");
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert_eq!(lines[0], format!("sonew: {library}"));
    assert!(lines[1].contains("fc1.bias/diagonal"), "{err}");
    let (value, code) = json_of(folder.path(), &["verify", path.to_str().unwrap()]);
    assert_eq!(code, 1);
    for (damaged, name) in value["damaged"].as_array().unwrap().iter().zip(names) {
        assert_eq!(damaged["name"], name);
        assert_eq!(damaged["error"]["status"], "SONEW_CHECKSUM");
    }
    assert_eq!(value["damaged"][0]["error"]["message"], library.to_string());
}

/// The test below runs this one in a process of its own.
#[test]
#[ignore = "it dies"]
fn a_process_that_dies_while_it_works_on_a_live_file() {
    let path = std::env::var_os("SONEW_LIVE").unwrap();
    let mut optimizer = Optimizer::open(path, LoadMode::MapShared).unwrap();
    step(
        &mut optimizer,
        &mut (vec![bf16::ONE; 300_000], vec![0.5; 13]),
    );
    std::process::abort();
}

/// Commands of the tool that are refused, each with the library's error and the exit code.
#[test]
fn errors_are_the_librarys_own() {
    let folder = files();
    let path = |name: &str| folder.path().join(name);
    let same = |arguments: &[&str], error: Error, expected: i32| {
        refused(folder.path(), arguments, &error, expected);
    };
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let opened = |name| Checkpoint::open(path(name)).err().unwrap();
    let bytes = fs::read(path("saved")).unwrap();

    same(&["inspect", &text("none")], opened("none"), 3);
    fs::write(path("short"), &bytes[..bytes.len() - 1]).unwrap();
    same(&["verify", &text("short")], opened("short"), 1);
    fs::write(path("text"), "this is no state file, but a text\n").unwrap();
    same(&["inspect", &text("text")], opened("text"), 1);
    let mut header = bytes.clone();
    header[200] ^= 1;
    fs::write(path("header"), header).unwrap();
    same(&["convert", &text("header"), "new"], opened("header"), 1);

    // A live file in use, and then one whose process died.
    let working = Optimizer::open(path("live"), LoadMode::MapShared).unwrap();
    same(&["verify", &text("live")], opened("live"), 3);
    same(
        &["convert", &text("saved"), &text("live")],
        opened("live"),
        3,
    );
    drop(working);
    let died = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored"])
        .arg("a_process_that_dies_while_it_works_on_a_live_file")
        .env("SONEW_LIVE", path("live"))
        .output()
        .unwrap();
    assert!(!died.status.success());
    let unsynced = verify(path("live")).unwrap_err();
    assert!(matches!(unsynced, Error::Unsynced { .. }), "{unsynced}");
    same(&["verify", &text("live")], unsynced, 3);
    let (value, code) = json_of(folder.path(), &["inspect", "live"]);
    assert_eq!(
        (&value["synced"], &value["step"], code),
        (&json!(false), &json!(5), 0)
    );
    assert_eq!(value["arrays"][0]["crc32"], Value::Null);

    // Parameters from neither parameters nor master weights.
    let mut plain = tensors(Dtype::F32);
    plain.iter_mut().for_each(|spec| spec.master = false);
    let mut optimizer = Optimizer::new(options(), &plain).unwrap();
    optimizer.save(path("plain"), None).unwrap();
    let (mut weight, mut bias) = (vec![bf16::ONE; 300_000], [0.0f32; 13]);
    let params = &mut [ElementsMut::new(&mut weight), ElementsMut::new(&mut bias)];
    let load = LoadOptions::default();
    let missing = optimizer
        .load(path("plain"), &load, Some(params))
        .unwrap_err();
    same(
        &["convert", "plain", "new", "--parameters", "yes"],
        missing,
        3,
    );
    assert!(!path("new").exists());

    let (_, err, code) = printed(
        folder.path(),
        &["convert", "saved", "new", "--state", "f16"],
    );
    assert_eq!(code, 2);
    assert!(err.contains("possible values: f32, f64, bf16"), "{err}");
    assert_eq!(printed(folder.path(), &["merge"]).2, 2);
}

#[test]
fn a_converted_file_is_what_the_library_would_have_saved() {
    let folder = files();
    let path = |name: &str| folder.path().join(name);
    for (from, state, parameters) in [
        ("saved", None, None),
        ("saved", Some((Dtype::Bf16, "bf16")), None),
        ("saved", Some((Dtype::F64, "f64")), Some(false)),
        ("state", Some((Dtype::Bf16, "bf16")), Some(true)),
        ("live", None, None),
        ("live", Some((Dtype::Bf16, "bf16")), Some(true)),
    ] {
        let mut arguments = vec!["convert", from, "new"];
        if let Some((_, name)) = state {
            arguments.extend(["--state", name]);
        }
        if let Some(with) = parameters {
            arguments.extend(["--parameters", if with { "yes" } else { "no" }]);
        }
        let (out, err, code) = printed(folder.path(), &arguments);
        assert_eq!((&err[..], code), ("", 0));
        let step = if from == "live" { 4 } else { 3 };
        assert!(out.starts_with(&format!("new: step {step}, ")), "{out}");

        let with = parameters.unwrap_or(from == "saved");
        let state = state.map_or(Dtype::F32, |(dtype, _)| dtype);
        let mut optimizer = Optimizer::new(options(), &tensors(state)).unwrap();
        let (mut weight, mut bias) = (vec![bf16::ZERO; 300_000], vec![0.0f32; 13]);
        let params = &mut [ElementsMut::new(&mut weight), ElementsMut::new(&mut bias)];
        let load = LoadOptions {
            convert_state: true,
            ..LoadOptions::default()
        };
        let params = with.then_some(&mut params[..]);
        optimizer.load(path(from), &load, params).unwrap();
        let params = [Elements::new(&weight), Elements::new(&bias)];
        optimizer
            .save(path("expected"), with.then_some(&params[..]))
            .unwrap();
        let [new, expected] = ["new", "expected"].map(|name| fs::read(path(name)).unwrap());
        assert!(new == expected, "{from} {state} {parameters:?}");
    }
    // There and back, in place: every bfloat16 is a float32.
    let small = fs::read(path("new")).unwrap();
    for state in ["f32", "bf16"] {
        let arguments = ["convert", "new", "new", "--state", state];
        assert_eq!(printed(folder.path(), &arguments).2, 0);
    }
    assert!(fs::read(path("new")).unwrap() == small);
    // No temporary file is left.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
}

/// A damaged file is not converted, nor what has no place in the new type; an older file
/// of the name stays.
#[test]
fn a_conversion_that_fails_leaves_the_older_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let spec = [TensorSpec::new("w", &[3]).with_dtypes(Dtype::F32, Dtype::F32, Dtype::F64)];
    let mut optimizer = Optimizer::new(Options::default(), &spec).unwrap();
    let (fine, large) = ([1.0, 2.0, 3.0], [1.0, 1e300, 3.0]);
    let planes = [&fine, &large, &fine].map(|plane| Elements::new(plane));
    optimizer.set_state(1, &[planes.to_vec()]).unwrap();
    optimizer.save(path("large"), None).unwrap();
    fs::write(path("new"), "older").unwrap();
    let (out, err, code) = printed(
        folder.path(),
        &["convert", "large", "new", "--state", "bf16"],
    );
    assert_eq!((&out[..], code), ("", 3));
    let smaller = spec
        .clone()
        .map(|s| s.with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16));
    let mut other = Optimizer::new(Options::default(), &smaller).unwrap();
    let load = LoadOptions {
        convert_state: true,
        ..LoadOptions::default()
    };
    let error = other.load(path("large"), &load, None).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    assert_eq!(err, format!("sonew: {error}\n"));

    let place = Checkpoint::open(path("large"))
        .unwrap()
        .arrays()
        .next()
        .unwrap()
        .offset;
    let mut bytes = fs::read(path("large")).unwrap();
    bytes[place as usize] ^= 1;
    fs::write(path("large"), bytes).unwrap();
    let (value, code) = json_of(folder.path(), &["convert", "large", "new"]);
    assert_eq!(
        (&value["error"]["status"], code),
        (&json!("SONEW_CHECKSUM"), 1)
    );
    assert_eq!(fs::read(path("new")).unwrap(), b"older");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
