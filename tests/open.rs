//! Optimizers that are made from a file alone, what is read from a file without an
//! optimizer, and state that is converted when it is loaded.

use std::path::{Path, PathBuf};

use sonew::checkpoint::Checkpoint;
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options, Rounding, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

mod common;

use common::{normal, rng, typed::Numbers};

const LENGTHS: [usize; 3] = [15, 37, 40];

fn options(rounding: Rounding) -> Options {
    Options {
        band: 2,
        graft: Graft::NormalizedRmsprop,
        weight_decay: 0.01,
        rounding,
        seed: 77,
        threads: 1,
        ..Options::default()
    }
}

/// Of all types of state, with master weights and without.
fn tensors() -> [TensorSpec; 3] {
    [
        TensorSpec::new("a", &[3, 5])
            .with_chains(Chains::StridedLines)
            .with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16)
            .with_master(),
        TensorSpec::new("b", &[37])
            .with_update(Update::Adam)
            .with_master(),
        TensorSpec::new("c", &[2, 20])
            .with_dtypes(Dtype::F16, Dtype::F16, Dtype::F64)
            .with_master(),
    ]
}

struct Run {
    params: Vec<Numbers>,
    random: rand_pcg::Pcg64Mcg,
}

impl Run {
    fn new(specs: &[TensorSpec]) -> Run {
        let mut random = rng(5);
        let mut numbers = |spec: &TensorSpec| {
            let x = normal(&mut random, spec.len());
            Numbers::new(spec.params, &common::to_f64(&x))
        };
        let params = specs.iter().map(&mut numbers).collect();
        Run { params, random }
    }

    /// The second tensor takes part in every other step.
    fn step(&mut self, optimizer: &mut Optimizer) {
        let specs = optimizer.tensors().to_vec();
        let grads: Vec<Numbers> = specs
            .iter()
            .map(|spec| {
                let x = normal(&mut self.random, spec.len());
                Numbers::new(spec.grads, &common::to_f64(&x))
            })
            .collect();
        let odd = optimizer.step_count() % 2 == 1;
        let grads = grads.iter().enumerate();
        let grads: Vec<_> = grads
            .map(|(i, g)| (i != 1 || odd).then(|| g.elements()))
            .collect();
        let mut params: Vec<_> = self.params.iter_mut().map(Numbers::elements_mut).collect();
        let step = StepOptions {
            lr: 0.05,
            ..StepOptions::default()
        };
        optimizer.step_any(&step, &mut params, &grads).unwrap();
    }

    fn bits(&self, optimizer: &Optimizer) -> Vec<Vec<u8>> {
        let params = self.params.iter().map(|p| p.elements().bytes().to_vec());
        let mut all: Vec<_> = params.collect();
        for tensor in 0..optimizer.tensors().len() {
            for plane in 0..optimizer.planes(tensor).unwrap().len() {
                all.push(optimizer.plane(tensor, plane).unwrap().bytes().to_vec());
            }
        }
        all
    }
}

impl Clone for Run {
    fn clone(&self) -> Run {
        let copy = |p: &Numbers| Numbers::new(p.elements().dtype(), &p.to_f64());
        Run {
            params: self.params.iter().map(copy).collect(),
            random: self.random.clone(),
        }
    }
}

/// A folder with a checkpoint and a live file of one state, and the run that wrote them.
struct Files {
    _folder: tempfile::TempDir,
    saved: PathBuf,
    live: PathBuf,
    run: Run,
}

fn files(rounding: Rounding, specs: &[TensorSpec]) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let [saved, live] = ["saved", "live"].map(|name| folder.path().join(name));
    let mut optimizer = Optimizer::new(options(rounding), specs).unwrap();
    let mut run = Run::new(specs);
    (0..5).for_each(|_| run.step(&mut optimizer));
    optimizer.change_settings(0, |s| s.lr_scale = 0.5).unwrap();
    let params: Vec<_> = run.params.iter().map(Numbers::elements).collect();
    optimizer.save(&saved, Some(&params)).unwrap();
    optimizer.make_live(&live).unwrap();
    Files {
        _folder: folder,
        saved,
        live,
        run,
    }
}

fn mode(mode: LoadMode) -> LoadOptions {
    LoadOptions {
        mode,
        ..LoadOptions::default()
    }
}

fn converting() -> LoadOptions {
    LoadOptions {
        convert_state: true,
        ..LoadOptions::default()
    }
}

#[test]
fn an_optimizer_of_a_file_goes_on_as_one_that_loaded_it() {
    for (from, rounding) in [
        (LoadMode::Read, Rounding::Nearest),
        (LoadMode::MapPrivate, Rounding::Stochastic),
        (LoadMode::MapShared, Rounding::Stochastic),
    ] {
        let files = files(rounding, &tensors());
        let path = match from {
            LoadMode::MapShared => &files.live,
            _ => &files.saved,
        };
        let ended = |mut optimizer: Optimizer| {
            let mut run = files.run.clone();
            (0..4).for_each(|_| run.step(&mut optimizer));
            assert_eq!(optimizer.step_count(), 9);
            assert_eq!(optimizer.settings(1).unwrap().step_count, 4);
            run.bits(&optimizer)
        };
        let mut loaded = Optimizer::new(options(rounding), &tensors()).unwrap();
        let before = std::fs::read(path).unwrap();
        loaded.load(path, &mode(from), None).unwrap();
        let expected = ended(loaded);
        std::fs::write(path, before).unwrap();

        let opened = Optimizer::open(path, from).unwrap();
        assert_eq!(opened.tensors(), tensors());
        let Options { seed, band, .. } = *opened.options();
        assert_eq!(
            (seed, band, opened.settings(0).unwrap().lr_scale),
            (77, 2, 0.5)
        );
        assert_eq!(
            opened.live_file(),
            (from == LoadMode::MapShared).then_some(&**path)
        );
        assert!(ended(opened) == expected, "{from:?}");
    }
}

/// State that is in a file needs no memory.
#[test]
fn what_is_opened_and_mapped_is_no_memory() {
    let files = files(Rounding::Nearest, &tensors());
    let memory = |path: &Path, mode| Optimizer::open(path, mode).unwrap().memory_bytes();
    let read = memory(&files.saved, LoadMode::Read);
    let bytes = Optimizer::open(&files.saved, LoadMode::Read)
        .unwrap()
        .state_bytes();
    assert_eq!(memory(&files.saved, LoadMode::MapPrivate), read - bytes);
    assert_eq!(memory(&files.live, LoadMode::MapShared), read - bytes);
}

#[test]
fn a_file_that_is_none_opens_no_optimizer() {
    let files = files(Rounding::Nearest, &tensors());
    let refused = |path: &Path, mode| Optimizer::open(path, mode).err().unwrap();
    let error = refused(&files.saved, LoadMode::MapShared);
    assert!(matches!(error, Error::NotALiveFile { .. }), "{error}");
    let error = refused(Path::new("/nowhere/file"), LoadMode::Read);
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let working = Optimizer::open(&files.live, LoadMode::MapShared).unwrap();
    for from in [LoadMode::Read, LoadMode::MapPrivate, LoadMode::MapShared] {
        let error = refused(&files.live, from);
        assert!(matches!(error, Error::FileLocked { .. }), "{error}");
    }
    drop(working);
    let file = Checkpoint::open(&files.saved).unwrap();
    let damaged = file.arrays().next().unwrap().offset as usize;
    let mut bytes = std::fs::read(&files.saved).unwrap();
    bytes[damaged] ^= 1;
    std::fs::write(&files.saved, bytes).unwrap();
    let error = refused(&files.saved, LoadMode::Read);
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
}

#[test]
fn the_arrays_of_a_file_are_read_without_an_optimizer() {
    let files = files(Rounding::Nearest, &tensors());
    let optimizer = Optimizer::open(&files.saved, LoadMode::Read).unwrap();
    let file = Checkpoint::open(&files.saved).unwrap();
    assert_eq!(file.header().tensors[1].step_count, 2);
    let mut count = 0;
    for array in file.arrays() {
        let spec = &file.header().tensors[array.tensor].spec;
        let mut numbers = Numbers::new(array.dtype, &vec![0.0; spec.len()]);
        file.read_array(array.tensor, array.plane, numbers.elements_mut())
            .unwrap();
        let planes = optimizer.planes(array.tensor).unwrap();
        let expected = match planes.iter().position(|plane| plane.name == array.plane) {
            Some(plane) => optimizer.plane(array.tensor, plane).unwrap(),
            None => files.run.params[array.tensor].elements(),
        };
        assert!(numbers.elements() == expected, "{}", array.plane);
        count += 1;
    }
    assert_eq!(count, (2 + 2 + 1 + 2) + 4 + (2 + 2 + 1 + 2));

    let mut short = [1.0f32; 14];
    let read = |plane, to: &mut [f32]| file.read_array(0, plane, ElementsMut::new(to));
    let error = read("master", &mut short).unwrap_err();
    assert!(
        matches!(error, Error::WrongLength { length: 14, .. }),
        "{error}"
    );
    let error = read("momentum", &mut [1.0; 15]).unwrap_err();
    assert!(matches!(error, Error::WrongDtype { .. }), "{error}");
    let error = read("band.3", &mut [1.0; 15]).unwrap_err();
    assert!(matches!(error, Error::PlaneMissing { .. }), "{error}");
    assert_eq!(short, [1.0; 14]);
    // What does not match its checksum is not passed on.
    let master = file.arrays().find(|array| array.plane == "master").unwrap();
    let mut bytes = std::fs::read(&files.saved).unwrap();
    bytes[master.offset as usize] ^= 1;
    std::fs::write(&files.saved, bytes).unwrap();
    let mut own = [1.0; 15];
    let error = read("master", &mut own).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(own, [1.0; 15]);
}

/// Three tensors whose state has this type.
fn of_state(state: Dtype) -> Vec<TensorSpec> {
    let dims = LENGTHS.map(|len| [len]);
    let names = ["a", "b", "c"].iter().zip(dims);
    let specs = names.map(|(name, dims)| TensorSpec::new(*name, &dims));
    specs
        .map(|spec| spec.with_dtypes(Dtype::F32, Dtype::F32, state))
        .collect()
}

fn plane_f64(optimizer: &Optimizer, tensor: usize, plane: usize) -> Vec<f64> {
    common::typed::widen(optimizer.plane(tensor, plane).unwrap())
}

#[test]
fn state_is_converted_on_request_in_both_directions() {
    let types = [Dtype::F32, Dtype::F64, Dtype::Bf16];
    for (from, to) in types.into_iter().flat_map(|a| types.map(|b| (a, b))) {
        let files = files(Rounding::Nearest, &of_state(from));
        let source = Optimizer::open(&files.saved, LoadMode::Read).unwrap();
        for from_mode in [LoadMode::Read, LoadMode::MapPrivate] {
            let mut optimizer = Optimizer::new(options(Rounding::Nearest), &of_state(to)).unwrap();
            if from != to {
                let refused = optimizer.load(&files.saved, &mode(from_mode), None);
                let error = refused.unwrap_err();
                assert!(
                    matches!(&error, Error::DtypeDiffers { file, optimizer, .. }
                        if (*file, *optimizer) == (from, to)),
                    "{error}"
                );
            }
            let load = LoadOptions {
                mode: from_mode,
                ..converting()
            };
            optimizer.load(&files.saved, &load, None).unwrap();
            assert_eq!(optimizer.step_count(), 5);
            for (tensor, _) in LENGTHS.iter().enumerate() {
                for (plane, is) in optimizer.planes(tensor).unwrap().iter().enumerate() {
                    assert_eq!(is.dtype, to);
                    let source = plane_f64(&source, tensor, plane);
                    let expected = source.iter().map(|&x| match to {
                        Dtype::F32 => f64::from(x as f32),
                        Dtype::Bf16 => bf16::from_f32(x as f32).to_f64(),
                        _ => x,
                    });
                    let expected: Vec<f64> = expected.collect();
                    assert_eq!(
                        plane_f64(&optimizer, tensor, plane),
                        expected,
                        "{from} {to}"
                    );
                }
            }
            // It can be stepped, and saved in its new type.
            let mut run = files.run.clone();
            run.step(&mut optimizer);
            let again = files.saved.with_file_name("again");
            optimizer.save(&again, None).unwrap();
            assert_eq!(
                Optimizer::open(&again, LoadMode::Read).unwrap().tensors(),
                of_state(to)
            );
        }
    }
}

/// The random bits, from what docs/state-files.md says of them.
fn random_bits(seed: u64, step: u64, tensor: u64, plane: u64, index: u32) -> u32 {
    fn mix(x: u64) -> u64 {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    let mut key = seed;
    for number in [step, tensor, plane] {
        key = mix(key ^ mix(number));
    }
    let x = index ^ key as u32;
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = x.wrapping_add((key >> 32) as u32);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[test]
fn stochastic_conversion_has_the_bits_of_the_last_step() {
    // Long enough for several pieces of a file, and with a ragged end.
    let long = |state| {
        let tensor = TensorSpec::new("b", &[8_000_037]).with_update(Update::Adam);
        let short = TensorSpec::new("a", &[3]);
        [short, tensor].map(|spec| spec.with_dtypes(Dtype::F32, Dtype::F32, state))
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let mut source = Optimizer::new(options(Rounding::Stochastic), &long(Dtype::F32)).unwrap();
    let mut run = Run::new(&long(Dtype::F32));
    (0..3).for_each(|_| run.step(&mut source));
    source.save(&path, None).unwrap();
    let mut optimizer = Optimizer::new(options(Rounding::Stochastic), &long(Dtype::Bf16)).unwrap();
    optimizer.load(&path, &converting(), None).unwrap();
    for (tensor, steps) in [(0, 3), (1, 1)] {
        assert_eq!(source.settings(tensor).unwrap().step_count, steps);
        for plane in 0..optimizer.planes(tensor).unwrap().len() {
            let from = source.plane(tensor, plane).unwrap();
            let to = optimizer.plane(tensor, plane).unwrap();
            let from = from.as_slice::<f32>().unwrap().iter();
            let pairs = from.zip(to.as_slice::<bf16>().unwrap()).zip(0u32..);
            let mut up = 0u32;
            for ((from, to), index) in pairs {
                let random = random_bits(77, steps, tensor as u64, plane as u64, index) & 0xffff;
                let expected = (from.to_bits() + random) >> 16;
                assert_eq!(
                    u32::from(to.to_bits()),
                    expected,
                    "{tensor} {plane} {index}"
                );
                up += u32::from(expected > from.to_bits() >> 16);
            }
            // Half of the numbers were rounded away from zero.
            if tensor == 1 {
                assert!((3_990_000..4_010_000).contains(&up), "{up}");
            }
        }
    }
}

#[test]
fn a_number_that_is_too_large_for_its_type_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let mut source = Optimizer::new(options(Rounding::Nearest), &of_state(Dtype::F64)).unwrap();
    let planes: Vec<Vec<f64>> = LENGTHS.map(|len| vec![1.0; len]).into();
    // What is small becomes zero, as in a step, and what is infinite stays so.
    let mut first = planes[0].clone();
    (first[3], first[4], first[14]) = (1e-40, f64::INFINITY, -1e-46);
    let mut large = planes[2].clone();
    large[39] = 1e39;
    let mut set = |last: &Vec<f64>| {
        let lists = [&first, &planes[1], &planes[2]].map(|x| Elements::new(x));
        let mut all: Vec<Vec<_>> = lists.map(|x| vec![x; 5]).into();
        all[2][4] = Elements::new(last);
        source.set_state(1, &all).unwrap();
        source.save(&path, None).unwrap();
    };
    let mut optimizer = Optimizer::new(options(Rounding::Nearest), &of_state(Dtype::F32)).unwrap();
    set(&large);
    let error = optimizer.load(&path, &converting(), None).unwrap_err();
    assert!(
        matches!(&error, Error::OutOfRange { argument, value, .. }
            if argument == "rms of tensor \"c\"" && *value == 1e39),
        "{error}"
    );
    for (tensor, len) in LENGTHS.into_iter().enumerate() {
        assert_eq!(plane_f64(&optimizer, tensor, 0), vec![0.0; len]);
    }
    set(&planes[2]);
    optimizer.load(&path, &converting(), None).unwrap();
    let mut expected = vec![1.0; 15];
    (expected[3], expected[4], expected[14]) = (0.0, f64::INFINITY, 0.0);
    assert_eq!(plane_f64(&optimizer, 0, 2), expected);
}

#[test]
fn a_live_file_is_not_converted() {
    let files = files(Rounding::Nearest, &of_state(Dtype::F32));
    let mut optimizer = Optimizer::new(options(Rounding::Nearest), &of_state(Dtype::Bf16)).unwrap();
    let load = LoadOptions {
        mode: LoadMode::MapShared,
        ..converting()
    };
    let error = optimizer.load(&files.live, &load, None).unwrap_err();
    assert!(
        matches!(
            error,
            Error::SharedOption {
                option: "convert_state"
            }
        ),
        "{error}"
    );
    // But a copy of its state is.
    optimizer.load(&files.live, &converting(), None).unwrap();
    assert_eq!(optimizer.step_count(), 5);
}
