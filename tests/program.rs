//! What programs around the library need: one buffer for all tensors, texts of their own in
//! checkpoints, checkpoints in memory, options by group, copies, and beginning anew.

#[macro_use]
#[path = "common/refusal.rs"]
mod refusal;

use std::fs;

use sonew::checkpoint::{convert, merge, split, Checkpoint, Conversion, SplitBy, MAX_TEXTS};
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Damping, Graft, Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer};

const LENGTHS: [usize; 3] = [35, 7, 4];
const ALL: usize = 46;

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("w", &[5, 7]),
        TensorSpec::new("b", &[7]).with_update(Update::Adam),
        TensorSpec::new("v", &[4]),
    ]
}

fn optimizer() -> Optimizer {
    Optimizer::new(Options::default(), &specs()).unwrap()
}

/// A gradient that differs at each step.
fn gradient(step: usize) -> Vec<f32> {
    (0..ALL)
        .map(|i| ((i * 37 + step * 101) % 64) as f32 / 32.0 - 1.0)
        .collect()
}

fn lists<'a>(
    flat: &'a mut [f32],
    grads: &'a [f32],
) -> (Vec<&'a mut [f32]>, Vec<Option<&'a [f32]>>) {
    let (mut params, mut all) = (Vec::new(), Vec::new());
    let (mut rest, mut left) = (flat, grads);
    for len in LENGTHS {
        let (first, more) = rest.split_at_mut(len);
        params.push(first);
        rest = more;
        all.push(Some(&left[..len]));
        left = &left[len..];
    }
    (params, all)
}

fn take_steps(optimizer: &mut Optimizer, params: &mut [f32], steps: std::ops::Range<usize>) {
    for step in steps {
        let grads = gradient(step);
        let (mut params, grads) = lists(params, &grads);
        optimizer
            .step(&StepOptions::default(), &mut params, &grads)
            .unwrap();
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

// One buffer.

#[test]
fn tensors_in_one_buffer_are_those_in_many() {
    let (mut one, mut many) = (optimizer(), optimizer());
    let (mut flat, mut parts) = (vec![1.0f32; ALL], vec![1.0f32; ALL]);
    for step in 0..4 {
        let grads = gradient(step);
        let list = one.split_flat(&grads, None).unwrap();
        let list: Vec<_> = list.into_iter().map(Some).collect();
        let mut params = one.split_flat_mut(&mut flat, None).unwrap();
        one.step(&StepOptions::default(), &mut params, &list)
            .unwrap();
        take_steps(&mut many, &mut parts, step..step + 1);
    }
    assert_eq!(bits(&flat), bits(&parts));
}

#[test]
fn tensors_lie_at_offsets() {
    let optimizer = optimizer();
    // In another order, and with gaps.
    let offsets = [20, 10, 0];
    let mut flat: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let parts = optimizer.split_flat_mut(&mut flat, Some(&offsets)).unwrap();
    for ((part, len), offset) in parts.iter().zip(LENGTHS).zip(offsets) {
        assert_eq!((part.len(), part[0]), (len, offset as f32));
    }
    let ranges = optimizer.flat_ranges(55, Some(&offsets)).unwrap();
    assert_eq!(ranges, [20..55, 10..17, 0..4]);
}

#[test]
fn a_buffer_that_does_not_fit_is_refused() {
    let optimizer = optimizer();
    for length in [0, ALL - 1, ALL + 1, usize::MAX] {
        refused!(
            optimizer.flat_ranges(length, None),
            Error::FlatLength { length: l, expected: ALL } if l == length
        );
    }
    refused!(
        optimizer.flat_ranges(54, Some(&[20, 10, 0])),
        Error::FlatOffset { tensor, offset: 20, elements: 35, length: 54 } if tensor == "w"
    );
    refused!(
        optimizer.flat_ranges(54, Some(&[0, usize::MAX, 40])),
        Error::FlatOffset { tensor, .. } if tensor == "b"
    );
    refused!(
        optimizer.flat_ranges(ALL, Some(&[0, 35])),
        Error::TensorCount {
            argument: "offsets",
            count: 2,
            expected: 3
        }
    );
    let mut flat = vec![0.0f32; 60];
    refused!(
        optimizer.split_flat_mut(&mut flat, Some(&[0, 34, 50])),
        Error::Overlap { first, second } if first.contains("\"w\"") && second.contains("\"b\"")
    );
    // Gradients may.
    optimizer.split_flat(&flat, Some(&[0, 34, 50])).unwrap();
}

// Texts.

#[test]
fn texts_come_back_with_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut saved = optimizer();
    let long = "x".repeat(200_000);
    let texts = [
        ("epoch", "3"),
        (
            "ключ \"with\" \\ all",
            "line\nline\ttab \"quoted\" \u{1f600}",
        ),
        ("", "refused"),
        ("long", &long),
        ("nothing", ""),
    ];
    for (key, text) in texts {
        let set = saved.set_text(key, Some(text));
        assert_eq!(set.is_err(), key.is_empty());
    }
    saved.set_text("removed", Some("1")).unwrap();
    saved.set_text("removed", None).unwrap();
    saved.set_text("epoch", Some("4")).unwrap();
    saved.save(&path, None).unwrap();

    // Without an optimizer, and by another reader of the format.
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(&file.header().texts, saved.texts());
    assert_eq!(file.header().texts.len(), 4);
    file.verify().unwrap();
    let bytes = fs::read(&path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().as_ref().unwrap();
    for (key, text) in texts.iter().filter(|(key, _)| !key.is_empty()) {
        let expected = if *key == "epoch" { "4" } else { text };
        assert_eq!(metadata[&format!("sonew.text.{key}")], expected);
    }

    let mut loaded = optimizer();
    loaded
        .set_text("of the optimizer", Some("is replaced"))
        .unwrap();
    loaded.load(&path, &LoadOptions::default(), None).unwrap();
    assert_eq!(loaded.texts(), saved.texts());
    assert_eq!(loaded.text("epoch"), Some("4"));
    assert_eq!(loaded.text("of the optimizer"), None);
    let opened = Optimizer::open(&path, LoadMode::MapPrivate).unwrap();
    assert_eq!(opened.texts(), saved.texts());
    let again = folder.path().join("again.safetensors");
    opened.save_begin(&again, None).unwrap().finish().unwrap();
    assert_eq!(
        Checkpoint::open(&again).unwrap().header().texts,
        *saved.texts()
    );
}

#[test]
fn a_damaged_text_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut optimizer = optimizer();
    optimizer.set_text("position", Some("12345")).unwrap();
    optimizer.save(&path, None).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|w| w == b"12345").unwrap();
    bytes[at] = b'9';
    fs::write(&path, bytes).unwrap();
    refused!(Checkpoint::open(&path), Error::Checksum { part, .. } if part == "the header");
}

#[test]
fn texts_that_no_file_can_have_are_refused() {
    let mut optimizer = optimizer();
    for key in ["", "a\nb", "\u{7f}"] {
        refused!(optimizer.set_text(key, Some("x")), Error::TextKey { .. });
        refused!(optimizer.set_text(key, None), Error::TextKey { .. });
    }
    refused!(
        optimizer.set_text("key", Some("a\0b")),
        Error::TextNul { key } if key == "key"
    );
    assert!(optimizer.texts().is_empty());
    for i in 0..MAX_TEXTS {
        optimizer.set_text(&i.to_string(), Some("x")).unwrap();
    }
    refused!(
        optimizer.set_text("more", Some("x")),
        Error::TooManyTexts { .. }
    );
    optimizer.set_text("7", Some("another")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    optimizer.save(&path, None).unwrap();
    assert_eq!(
        Checkpoint::open(&path).unwrap().header().texts.len(),
        MAX_TEXTS
    );
    // Together they are too long for the header.
    let long = "x".repeat(1 << 20);
    for i in 0..100 {
        optimizer.set_text(&i.to_string(), Some(&long)).unwrap();
    }
    let before = fs::read(&path).unwrap();
    refused!(optimizer.save(&path, None), Error::HeaderLength { .. });
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn live_files_have_no_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.safetensors");
    let mut optimizer = optimizer();
    optimizer.set_text("epoch", Some("1")).unwrap();
    refused!(optimizer.make_live(&path), Error::LiveText { key } if key == "epoch");
    assert!(!path.exists());
    optimizer.set_text("epoch", None).unwrap();
    optimizer.make_live(&path).unwrap();
    refused!(
        optimizer.set_text("epoch", Some("1")),
        Error::LiveText { key } if key == "epoch"
    );
    assert!(optimizer.texts().is_empty());
    optimizer.set_text("epoch", None).unwrap();
}

#[test]
fn tools_keep_texts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut optimizer = optimizer();
    optimizer.set_text("epoch", Some("3")).unwrap();
    optimizer.set_text("rank", Some("0")).unwrap();
    optimizer.save(at("x"), None).unwrap();
    let texts = |path: &str| Checkpoint::open(at(path)).unwrap().header().texts.clone();
    let file = Checkpoint::open(at("x")).unwrap();
    convert(&file, at("converted"), &Conversion::default(), &mut |_| ()).unwrap();
    assert_eq!(&texts("converted"), optimizer.texts());
    split(file, SplitBy::Tensors, &[at("0"), at("1")], &mut |_| ()).unwrap();
    assert_eq!(&texts("0"), optimizer.texts());
    // What the processes have of their own is not the model's.
    let mut second = Optimizer::open(at("1"), LoadMode::Read).unwrap();
    second.set_text("rank", Some("1")).unwrap();
    second.save(at("1"), None).unwrap();
    let files = ["0", "1"].map(|name| Checkpoint::open(at(name)).unwrap());
    merge(&files, at("merged"), &mut |_| ()).unwrap();
    let merged = texts("merged");
    assert_eq!(merged.len(), 1);
    assert_eq!(merged["epoch"], "3");
    // A load takes those of the first.
    let mut whole = self::optimizer();
    let load = LoadOptions {
        paths: vec![at("0")],
        ..LoadOptions::default()
    };
    whole.load(at("1"), &load, None).unwrap();
    assert_eq!(whole.text("rank"), Some("1"));
}

// Memory.

#[test]
fn memory_holds_what_a_file_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut saved = optimizer();
    let mut params = vec![1.0f32; ALL];
    take_steps(&mut saved, &mut params, 0..3);
    saved.set_text("epoch", Some("3")).unwrap();
    let list = saved.split_flat(&params, None).unwrap();
    let list: Vec<Elements<'_>> = list.into_iter().map(Elements::new).collect();
    for params in [None, Some(&list[..])] {
        saved.save(&path, params).unwrap();
        let size = saved.size_in_memory(params).unwrap();
        let mut bytes = vec![9; size + 10];
        assert_eq!(saved.save_to_memory(&mut bytes, params).unwrap(), size);
        assert!(bytes[..size] == fs::read(&path).unwrap());
        assert_eq!(bytes[size..], [9; 10]);
        let small = bytes.len() - 11;
        let mut bytes = vec![9; small];
        refused!(
            saved.save_to_memory(&mut bytes, params),
            Error::TooSmall { size, .. } if size == small
        );
        assert!(bytes.iter().all(|&byte| byte == 9));
    }
    let bytes = fs::read(&path).unwrap();
    let mut loaded = optimizer();
    let mut other = vec![0.0f32; ALL];
    let parts = loaded.split_flat_mut(&mut other, None).unwrap();
    let mut parts: Vec<_> = parts.into_iter().map(ElementsMut::new).collect();
    loaded
        .load_from_memory(&bytes, &LoadOptions::default(), Some(&mut parts))
        .unwrap();
    drop(parts);
    drop(bytes);
    assert_eq!(loaded.text("epoch"), Some("3"));
    take_steps(&mut saved, &mut params, 3..6);
    take_steps(&mut loaded, &mut other, 3..6);
    assert_eq!(bits(&params), bits(&other));
}

#[test]
fn damaged_memory_is_refused() {
    let mut saved = optimizer();
    take_steps(&mut saved, &mut [1.0f32; ALL], 0..2);
    let mut bytes = vec![0; saved.size_in_memory(None).unwrap()];
    saved.save_to_memory(&mut bytes, None).unwrap();
    Checkpoint::from_bytes(&bytes).unwrap().verify().unwrap();
    let mut loaded = optimizer();
    let plain = LoadOptions::default();
    let mut load = |bytes: &[u8], load: &LoadOptions| loaded.load_from_memory(bytes, load, None);
    for length in [0, 7, 100, bytes.len() - 1] {
        assert!(load(&bytes[..length], &plain).is_err(), "{length}");
    }
    refused!(
        load(&bytes[..bytes.len() - 1], &plain),
        Error::FileLength { .. }
    );
    refused!(load(&[0; 3], &plain), Error::NotACheckpoint { .. });
    let last = bytes.len() - 64;
    bytes[last] ^= 1;
    refused!(load(&bytes, &plain), Error::Checksum { .. });
    bytes[last] ^= 1;
    for mode in [LoadMode::MapPrivate, LoadMode::MapShared] {
        let mapped = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        refused!(load(&bytes, &mapped), Error::MappedMemory);
    }
    load(&bytes, &plain).unwrap();
}

/// A live file that was closed can be loaded from memory as a copy of it can.
#[test]
fn the_bytes_of_a_live_file_are_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.safetensors");
    let mut saved = optimizer();
    let mut params = vec![1.0f32; ALL];
    saved.make_live(&path).unwrap();
    take_steps(&mut saved, &mut params, 0..3);
    saved.sync().unwrap();
    let synced = fs::read(&path).unwrap();
    let mut loaded = optimizer();
    loaded
        .load_from_memory(&synced, &LoadOptions::default(), None)
        .unwrap();
    assert_eq!(loaded.step_count(), 3);
    let (mut one, mut other) = (params.clone(), params);
    take_steps(&mut saved, &mut one, 3..5);
    take_steps(&mut loaded, &mut other, 3..5);
    assert_eq!(bits(&one), bits(&other));
}

// Groups.

/// Each tensor goes the way that it goes in an optimizer whose options are its own.
#[test]
fn a_group_has_options_of_its_own() {
    let common = |graft, damping| Options {
        graft,
        damping,
        ..Options::default()
    };
    for (graft, damping) in [
        (Graft::Adam, Damping::Absolute),
        (Graft::None, Damping::Relative),
        (Graft::NormalizedRmsprop, Damping::Absolute),
    ] {
        let all = common(graft, damping);
        let group = Options {
            band: 3,
            beta1: 0.5,
            beta2: 0.8,
            eps: 1e-2,
            gamma: 0.1,
            graft_eps: 1e-3,
            weight_decay: 0.1,
            ..all.clone()
        };
        let tensors = || {
            let [w, b, v]: [TensorSpec; 3] = specs().try_into().unwrap();
            [w.with_options(&group), b.with_options(&group), v]
        };
        let mut grouped = Optimizer::new(all.clone(), &tensors()).unwrap();
        assert_eq!(
            grouped.planes(0).unwrap().len(),
            grouped.planes(2).unwrap().len() + 2
        );
        let mut own = Optimizer::new(group.clone(), &specs()).unwrap();
        let mut plain = Optimizer::new(all.clone(), &specs()).unwrap();
        let [mut a, mut b, mut c] = [(); 3].map(|()| vec![1.0f32; ALL]);
        take_steps(&mut grouped, &mut a, 0..5);
        take_steps(&mut own, &mut b, 0..5);
        take_steps(&mut plain, &mut c, 0..5);
        assert_eq!(bits(&a[..42]), bits(&b[..42]));
        assert_eq!(bits(&a[42..]), bits(&c[42..]));
        assert_ne!(bits(&a[..42]), bits(&c[..42]));

        // Files keep them.
        let mut bytes = vec![0; grouped.size_in_memory(None).unwrap()];
        grouped.save_to_memory(&mut bytes, None).unwrap();
        let file = Checkpoint::from_bytes(&bytes).unwrap();
        let saved: Vec<TensorSpec> = file
            .header()
            .tensors
            .iter()
            .map(|t| t.spec.clone())
            .collect();
        assert_eq!(saved, tensors());
        let mut loaded = Optimizer::new(file.header().options.clone(), &saved).unwrap();
        loaded
            .load_from_memory(&bytes, &LoadOptions::default(), None)
            .unwrap();
        assert_eq!(loaded.settings(0).unwrap().weight_decay, 0.1);
        let mut d = a.clone();
        take_steps(&mut grouped, &mut a, 5..8);
        take_steps(&mut loaded, &mut d, 5..8);
        assert_eq!(bits(&a), bits(&d));
        refused!(
            plain.load_from_memory(&bytes, &LoadOptions::default(), None),
            Error::TensorDiffers { tensor, what: "band", .. } if tensor == "w"
        );
    }
}

#[test]
fn options_that_a_group_cannot_have_are_refused() {
    let all = Options::default();
    let create = |change: fn(&mut Options)| {
        let mut own = all.clone();
        change(&mut own);
        Optimizer::new(
            all.clone(),
            &[TensorSpec::new("w", &[3]).with_options(&own)],
        )
    };
    create(|o| o.threads = 3).unwrap();
    type Change = fn(&mut Options);
    let refusals: [(&str, Change); 4] = [
        ("graft", |o| o.graft = Graft::None),
        ("damping", |o| o.damping = Damping::Relative),
        ("seed", |o| o.seed = 1),
        ("lagged_norms", |o| o.lagged_norms = Some(true)),
    ];
    for (name, change) in refusals {
        refused!(
            create(change),
            Error::TensorOption { tensor, option } if tensor == "w" && option == name
        );
    }
    refused!(
        create(|o| o.beta2 = 1.0),
        Error::OutOfRange { argument, .. } if argument == "options.beta2 of tensor \"w\""
    );
}

// Copies, and beginning anew.

#[test]
fn a_copy_goes_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = optimizer();
    let mut params = vec![1.0f32; ALL];
    take_steps(&mut first, &mut params, 0..3);
    first.set_text("epoch", Some("3")).unwrap();
    first.change_settings(1, |s| s.lr_scale = 0.5).unwrap();
    let mut copy = first.try_clone().unwrap();
    assert_eq!((copy.step_count(), copy.text("epoch")), (3, Some("3")));
    let mut other = params.clone();
    take_steps(&mut copy, &mut other, 3..6);
    let before = first.settings(1).unwrap();
    assert_eq!((before.step_count, before.lr_scale), (3, 0.5));
    take_steps(&mut first, &mut params, 3..6);
    assert_eq!(bits(&params), bits(&other));
    // Also of state in a file, in which the original stays.
    first.set_text("epoch", None).unwrap();
    first.make_live(folder.path().join("live")).unwrap();
    let mut copy = first.try_clone().unwrap();
    assert!(copy.live_file().is_none() && first.live_file().is_some());
    take_steps(&mut copy, &mut other, 6..8);
    take_steps(&mut first, &mut params, 6..8);
    assert_eq!(bits(&params), bits(&other));
}

#[test]
fn a_copy_keeps_master_weights() {
    let spec = TensorSpec::new("w", &[9])
        .with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::F32)
        .with_master();
    let mut first = Optimizer::new(Options::default(), &[spec]).unwrap();
    assert!(!first.try_clone().unwrap().master_set(0).unwrap());
    let step = |optimizer: &mut Optimizer, params: &mut [bf16]| {
        let grads = [Some(&[0.3f32; 9][..])];
        optimizer
            .step(&StepOptions::default(), &mut [params], &grads)
            .unwrap();
    };
    let mut params = vec![bf16::from_f32(1.0); 9];
    step(&mut first, &mut params);
    let mut copy = first.try_clone().unwrap();
    assert!(copy.master_set(0).unwrap());
    let mut other = params.clone();
    step(&mut first, &mut params);
    step(&mut copy, &mut other);
    assert_eq!(params, other);
    first.reset_master().unwrap();
    assert!(!first.try_clone().unwrap().master_set(0).unwrap());
}

#[test]
fn a_reset_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut used = optimizer();
    used.make_live(folder.path().join("live")).unwrap();
    take_steps(&mut used, &mut [1.0f32; ALL], 0..4);
    used.change_settings(0, |s| s.weight_decay = 0.5).unwrap();
    used.reset().unwrap();
    assert_eq!((used.step_count(), used.gradient_norm()), (0, None));
    assert!(used.live_file().is_none());
    assert_eq!(used.settings(0).unwrap(), optimizer().settings(0).unwrap());
    used.set_text("epoch", Some("1")).unwrap();
    used.reset().unwrap();
    assert!(used.texts().is_empty());
    let (mut fresh, mut a, mut b) = (optimizer(), vec![1.0f32; ALL], vec![1.0f32; ALL]);
    take_steps(&mut used, &mut a, 0..3);
    take_steps(&mut fresh, &mut b, 0..3);
    assert_eq!(bits(&a), bits(&b));
}
