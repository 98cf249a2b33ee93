//! Files that cannot be loaded, and saves that cannot be made.

use sonew::dtype::{f16, Dtype, Elements};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadOptions, Optimizer, Result};

use crate::{specs, World};

#[test]
fn files_that_are_no_checkpoint() {
    let mut world = World::new();
    let good = std::fs::read(world.save("good")).unwrap();
    world.step(&StepOptions::default()).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let path = world.path("bad");
    let mut load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        world.unchanged(|w| w.load(&path))
    };
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    refused!(load(b""), Error::NotACheckpoint { .. });
    refused!(load(&[b'x'; 5000]), Error::NotACheckpoint { .. });
    refused!(load(&good[..header - 1]), Error::FileLength { .. });
    refused!(load(&good[..good.len() - 1]), Error::FileLength { .. });
    refused!(load(&[&good[..], &[0]].concat()), Error::FileLength { .. });
    refused!(load(&flipped(200)), Error::Checksum { part, .. } if part == "the header");
    refused!(
        load(&flipped(header)),
        Error::Checksum { part, .. } if part == "\"a/momentum\""
    );
    let missing = world.path("missing");
    refused!(world.unchanged(|w| w.load(&missing)), Error::Io { .. });
    world.load(&world.path("good")).unwrap();
}

/// Loads the state of a fresh world into another optimizer.
fn load_into(options: Options, tensors: &[TensorSpec], load: &LoadOptions) -> Result<()> {
    let world = World::new();
    let path = world.save("good");
    let mut optimizer = Optimizer::new(options, tensors).unwrap();
    let result = optimizer.load(path, load, None);
    assert_eq!(optimizer.step_count(), u64::from(result.is_ok()));
    result
}

#[test]
fn checkpoints_of_something_else() {
    let strict = LoadOptions::default();
    let options = Options::default;
    let wide = Options {
        band: 4,
        ..options()
    };
    refused!(
        load_into(wide.clone(), &specs(), &strict),
        Error::OptionDiffers { option: "band", .. }
    );
    refused!(
        load_into(options(), &specs()[..1], &strict),
        Error::TensorMissing { tensor, present: "file", .. } if tensor == "b"
    );
    let mut other = specs();
    other[1].name = "c".to_owned();
    refused!(
        load_into(options(), &other, &strict),
        Error::TensorMissing { tensor, present: "optimizer", .. } if tensor == "c"
    );
    let mut other = specs();
    other[0].dims = vec![3, 2];
    refused!(
        load_into(options(), &other, &strict),
        Error::TensorDiffers { what: "dims", .. }
    );
    let mut other = specs();
    other[0].update = Update::Adam;
    refused!(
        load_into(options(), &other, &strict),
        Error::TensorDiffers { what: "update", .. }
    );
    let mut other = specs();
    other[1].state = Dtype::Bf16;
    refused!(
        load_into(options(), &other, &strict),
        Error::DtypeDiffers { tensor, argument, file: Dtype::F32, optimizer: Dtype::Bf16 }
            if tensor == "b" && argument == "momentum"
    );
    let any_options = LoadOptions {
        override_options: true,
        ..LoadOptions::default()
    };
    refused!(
        load_into(wide, &specs(), &any_options),
        Error::PlaneMissing { plane, .. } if plane == "band.2"
    );
    let rename = LoadOptions {
        rename: vec![("x".to_owned(), "a".to_owned())],
        ..LoadOptions::default()
    };
    refused!(
        load_into(options(), &specs(), &rename),
        Error::Rename { .. }
    );
    load_into(options(), &specs(), &strict).unwrap();
}

#[test]
fn saves_and_loads_with_wrong_parameters() {
    let mut world = World::new();
    let path = world.save("good");
    let before = std::fs::read(&path).unwrap();
    world.step(&StepOptions::default()).unwrap();
    refused!(
        world
            .optimizer
            .save(&path, Some(&[Elements::new(&world.a)])),
        Error::TensorCount {
            argument: "params",
            count: 1,
            ..
        }
    );
    refused!(
        world.optimizer.save(
            &path,
            Some(&[&world.a, &world.b[1..]].map(Elements::new))
        ),
        Error::WrongLength { tensor, length: 2, .. } if tensor == "b"
    );
    let other = [[1.0f64; 6].as_slice().into(), [1.0f64; 3].as_slice().into()];
    refused!(
        world.optimizer.save(&path, Some(&other)),
        Error::WrongDtype { tensor, dtype: Dtype::F64, expected: Dtype::F32, .. }
            if tensor == "a"
    );
    refused!(
        world.optimizer.save(world.path("none/file"), None),
        Error::Io { .. }
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let (mut a, mut b) = ([7.0f32; 6], [7.0f32; 2]);
    let strict = LoadOptions::default();
    refused!(
        world.unchanged(|w| w.optimizer.load(
            &path,
            &strict,
            Some(&mut [(&mut a[..]).into(), (&mut b[..]).into()])
        )),
        Error::WrongLength { .. }
    );
    let mut other = [f16::ONE; 3];
    refused!(
        world.unchanged(|w| w
            .optimizer
            .load(&path, &strict, Some(&mut [(&mut a[..]).into(), (&mut other[..]).into()]))),
        Error::WrongDtype { tensor, dtype: Dtype::F16, .. } if tensor == "b"
    );
    let state = world.path("state");
    world.optimizer.save(&state, None).unwrap();
    refused!(
        world.unchanged(|w| w.load(&state)),
        Error::PlaneMissing { plane, .. } if plane == "parameter"
    );
    assert_eq!((a, b), ([7.0; 6], [7.0; 2]));
}
