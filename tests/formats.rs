//! Checkpoints of earlier versions of the file format.

use std::path::Path;

use safetensors::SafeTensors;
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, Rounding, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

/// The path of a file that is kept.
macro_rules! kept {
    ($name:literal) => {
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/files/",
            $name,
            ".safetensors"
        )
    };
}

/// Written after three steps by the last version that knew float32 only.
const FORMAT_1: &str = kept!("format-1");

/// Written after three steps by the versions that began them: checkpoints, and
/// live files.
const FORMAT_2: &str = kept!("format-2");
const FORMAT_3: &str = kept!("format-3");

/// Without step counts of tensors.
const FORMAT_4: &str = kept!("format-4");
const FORMAT_4_LIVE: &str = kept!("format-4-live");

/// With them. The second tensor took no part in one of the steps.
const COUNTED: &str = kept!("format-4-counted");
const COUNTED_LIVE: &str = kept!("format-4-counted-live");

/// Of a shard: rows 2 to 4 of a matrix of 6.
const SHARD: &str = kept!("format-4-shard");
const SHARD_LIVE: &str = kept!("format-4-shard-live");

fn options() -> Options {
    Options {
        band: 2,
        graft: Graft::NormalizedRmsprop,
        weight_decay: 0.125,
        rounding: Rounding::Nearest,
        seed: 0,
        // The defaults of that time.
        eps: 1e-6,
        damping: Damping::Absolute,
        graft_eps: 1e-8,
        ..Options::default()
    }
}

fn tensors() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("weight", &[2, 3]).with_chains(Chains::Strided),
        TensorSpec::new("bias", &[5]).with_update(Update::Adam),
    ]
}

#[test]
fn format_1_is_read() {
    let mut optimizer = Optimizer::new(options(), &tensors()).unwrap();
    let (mut weight, mut bias) = (vec![0.0f32; 6], vec![0.0f32; 5]);
    let params = &mut [&mut weight, &mut bias].map(|p| ElementsMut::new(p));
    let strict = LoadOptions::default();
    optimizer.load(FORMAT_1, &strict, Some(params)).unwrap();
    assert_eq!(optimizer.step_count(), 3);
    let counts = [0, 1].map(|tensor| optimizer.settings(tensor).unwrap().step_count);
    assert_eq!(counts, [3, 3]);
    assert_eq!(optimizer.settings(1).unwrap().lr_scale, 0.5);

    let bytes = std::fs::read(FORMAT_1).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    let mut same = |name: &str, read: &[u8]| {
        assert_eq!(file.tensor(name).unwrap().data(), read, "{name}");
        compared += 1;
    };
    for (tensor, spec) in tensors().iter().enumerate() {
        for (p, plane) in optimizer.planes(tensor).unwrap().iter().enumerate() {
            let elements = optimizer.plane(tensor, p).unwrap();
            same(&format!("{}/{}", spec.name, plane.name), elements.bytes());
        }
    }
    same("weight/parameter", bytemuck::cast_slice(&weight));
    same("bias/parameter", bytemuck::cast_slice(&bias));
    assert_eq!(compared, 5 + 2 + 2);

    let before = weight.clone();
    let grads = [Some(&[0.1f32; 6][..]), None];
    let params = &mut [&mut weight[..], &mut bias[..]];
    optimizer
        .step(&StepOptions::default(), params, &grads)
        .unwrap();
    assert_ne!(weight, before);
}

/// What it does not say, it was: rounded to nearest, without a seed.
#[test]
fn format_1_has_the_options_of_its_time() {
    type Change = fn(&mut Options);
    let changes: [(&str, Change); 2] = [
        ("rounding", |o| o.rounding = Rounding::Stochastic),
        ("seed", |o| o.seed = 1),
    ];
    for (name, change) in changes {
        let mut options = options();
        change(&mut options);
        let mut optimizer = Optimizer::new(options, &tensors()).unwrap();
        let refused = optimizer.load(FORMAT_1, &LoadOptions::default(), None);
        assert!(matches!(refused, Err(Error::OptionDiffers { option, .. }) if option == name));
    }
}

/// The tensors of the later files: of several types, and with master weights.
fn typed_tensors() -> Vec<TensorSpec> {
    let mut tensors = tensors();
    tensors[0] = tensors[0]
        .clone()
        .with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16);
    tensors[0].master = true;
    tensors[1].master = true;
    tensors
}

/// Writes the files of this version. Only for a new format: those that exist
/// are what later versions must read.
#[test]
#[ignore = "only for a new format"]
fn write_the_files_of_this_version() {
    let tensors = typed_tensors();
    let mut optimizer = Optimizer::new(options(), &tensors).unwrap();
    let (mut weight, mut bias) = (vec![bf16::ONE; 6], vec![0.5f32; 5]);
    let step = StepOptions::default();
    let mut take = |optimizer: &mut Optimizer, both: bool| {
        let params = &mut [ElementsMut::new(&mut weight), ElementsMut::new(&mut bias)];
        let grads = [
            &[0.1, -0.2, 0.3, 0.4, -0.5, 0.6][..],
            &[1.0, 2.0, -3.0, 0.0, 0.25],
        ];
        let mut grads = grads.map(|grad: &[f32]| Some(Elements::new(grad)));
        grads[1] = grads[1].filter(|_| both);
        optimizer.step_any(&step, params, &grads).unwrap();
    };
    take(&mut optimizer, true);
    optimizer.change_settings(1, |s| s.lr_scale = 0.5).unwrap();
    take(&mut optimizer, true);
    let live = Path::new(COUNTED_LIVE);
    assert!(!live.exists() && !Path::new(COUNTED).exists());
    optimizer.make_live(live).unwrap();
    take(&mut optimizer, false);
    let params = [Elements::new(&weight), Elements::new(&bias)];
    optimizer.save(COUNTED, Some(&params)).unwrap();
}

#[test]
fn formats_2_to_4_are_read_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        (FORMAT_2, "", 3),
        (FORMAT_3, ".b", 3),
        (FORMAT_4, "", 3),
        (FORMAT_4_LIVE, ".b", 3),
        (COUNTED, "", 2),
        (COUNTED_LIVE, ".b", 2),
    ];
    let counts = |optimizer: &Optimizer| [0, 1].map(|t| optimizer.settings(t).unwrap().step_count);
    for (format, suffix, count) in files {
        let bytes = std::fs::read(format).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for mode in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
            // To work on a file changes it.
            let path = folder.path().join("copy");
            std::fs::write(&path, &bytes).unwrap();
            let mut optimizer = Optimizer::new(options(), &typed_tensors()).unwrap();
            let (mut weight, mut bias) = (vec![bf16::ZERO; 6], vec![0.0f32; 5]);
            let params = &mut [ElementsMut::new(&mut weight), ElementsMut::new(&mut bias)];
            let load = LoadOptions {
                mode,
                ..LoadOptions::default()
            };
            let loaded = optimizer.load(&path, &load, Some(params));
            if suffix.is_empty() && mode == LoadMode::MapShared {
                assert!(matches!(loaded, Err(Error::NotALiveFile { .. })));
                continue;
            }
            loaded.unwrap();
            assert_eq!(optimizer.step_count(), 3);
            assert_eq!(counts(&optimizer), [3, count]);
            assert_eq!(optimizer.settings(1).unwrap().lr_scale, 0.5);
            for (tensor, spec) in typed_tensors().iter().enumerate() {
                for (p, plane) in optimizer.planes(tensor).unwrap().iter().enumerate() {
                    let elements = optimizer.plane(tensor, p).unwrap();
                    let name = format!("{}/{}{suffix}", spec.name, plane.name);
                    assert_eq!(
                        file.tensor(&name).unwrap().data(),
                        elements.bytes(),
                        "{name}"
                    );
                }
            }
            // Parameters are the master weights, rounded.
            let master = file.tensor(&format!("bias/master{suffix}")).unwrap();
            assert_eq!(master.data(), bytemuck::cast_slice::<f32, u8>(&bias));
            let master = file.tensor(&format!("weight/master{suffix}")).unwrap();
            let master: &[f32] = &bytemuck::pod_collect_to_vec(master.data());
            let rounded: Vec<_> = master.iter().map(|&x| bf16::from_f32(x)).collect();
            assert_eq!(weight, rounded);
            let params = &mut [ElementsMut::new(&mut weight), ElementsMut::new(&mut bias)];
            let grads = [Some(Elements::new(&[0.1f32; 6])), None];
            optimizer
                .step_any(&StepOptions::default(), params, &grads)
                .unwrap();
            assert_eq!(optimizer.step_count(), 4);
            assert_eq!(counts(&optimizer), [4, count]);
            if mode == LoadMode::MapShared {
                // They are in the file that has replaced an earlier one.
                drop(optimizer);
                let mut again = Optimizer::new(options(), &typed_tensors()).unwrap();
                again.load(&path, &LoadOptions::default(), None).unwrap();
                assert_eq!(counts(&again), [4, count]);
            }
        }
    }
}

/// The rows of a matrix that a file of a shard has, or others.
fn shard(first_row: usize, rows: usize) -> TensorSpec {
    TensorSpec::new("weight", &[rows, 2]).with_shard(first_row, 6)
}

/// Writes the files of shards of this version, as above.
#[test]
#[ignore = "only for a new format"]
fn write_the_files_of_a_shard() {
    assert!(!Path::new(SHARD).exists() && !Path::new(SHARD_LIVE).exists());
    let mut optimizer = Optimizer::new(options(), &[shard(2, 3)]).unwrap();
    let mut weight = [1.0f32; 6];
    let grad = [0.1f32, -0.2, 0.3, 0.4, -0.5, 0.6];
    for _ in 0..3 {
        let step = StepOptions::default();
        let params = &mut [&mut weight[..]];
        optimizer.step(&step, params, &[Some(&grad)]).unwrap();
    }
    optimizer.save(SHARD, None).unwrap();
    optimizer.make_live(SHARD_LIVE).unwrap();
}

#[test]
fn a_shard_is_read() {
    for format in [SHARD, SHARD_LIVE] {
        let bytes = std::fs::read(format).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut optimizer = Optimizer::new(options(), &[shard(3, 2)]).unwrap();
        let load = LoadOptions::default();
        optimizer.load(format, &load, None).unwrap();
        assert_eq!(optimizer.step_count(), 3);
        for (at, plane) in optimizer.planes(0).unwrap().iter().enumerate() {
            let name = format!("weight/{}", plane.name);
            let all = file.tensor(&name).unwrap();
            let elements = optimizer.plane(0, at).unwrap();
            assert_eq!(&all.data()[2 * 4..], elements.bytes(), "{name}");
        }
        let mut other = Optimizer::new(options(), &[shard(1, 3)]).unwrap();
        let refused = other.load(format, &load, None);
        assert!(matches!(refused, Err(Error::RowsMissing { rows, .. }) if rows == (1..2)));
    }
}
