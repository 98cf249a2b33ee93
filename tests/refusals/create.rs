//! Options and tensors that no optimizer can be created with.

use sonew::dtype::Dtype;
use sonew::layout::TensorSpec;
use sonew::options::{Options, MAX_THREADS};
use sonew::Error;

use crate::{create, create_with};

#[test]
fn options_out_of_range() {
    type Change = fn(&mut Options);
    let changes: [(&str, Change); 22] = [
        ("options.band", |o| o.band = 17),
        ("options.band", |o| o.band = usize::MAX),
        ("options.beta1", |o| o.beta1 = 1.0),
        ("options.beta1", |o| o.beta1 = -0.1),
        ("options.beta1", |o| o.beta1 = f64::NAN),
        ("options.beta2", |o| o.beta2 = 1.5),
        ("options.beta2", |o| o.beta2 = -f64::MIN_POSITIVE),
        ("options.beta2", |o| o.beta2 = f64::NAN),
        ("options.eps", |o| o.eps = -1e-6),
        ("options.eps", |o| o.eps = f64::NAN),
        ("options.eps", |o| o.eps = f64::INFINITY),
        ("options.gamma", |o| o.gamma = -0.5),
        ("options.gamma", |o| o.gamma = 1.0),
        ("options.gamma", |o| o.gamma = f64::NAN),
        ("options.graft_eps", |o| o.graft_eps = -1.0),
        ("options.graft_eps", |o| o.graft_eps = f64::NAN),
        ("options.graft_eps", |o| o.graft_eps = f64::INFINITY),
        ("options.weight_decay", |o| o.weight_decay = -0.1),
        ("options.weight_decay", |o| o.weight_decay = f64::NAN),
        ("options.weight_decay", |o| o.weight_decay = f64::INFINITY),
        ("options.threads", |o| o.threads = MAX_THREADS + 1),
        ("options.threads", |o| o.threads = usize::MAX),
    ];
    for (name, change) in changes {
        refused!(create(change), Error::OutOfRange { argument, .. } if argument == name);
    }
    create(|o| o.threads = MAX_THREADS).unwrap();
}

#[test]
fn the_message_has_argument_value_and_range() {
    let refused = create(|o| o.band = 17).err().unwrap();
    assert_eq!(refused.to_string(), "options.band is 17, must be 0 to 16");
    let refused = create(|o| o.eps = f64::NAN).err().unwrap();
    let expected = "options.eps is NaN, must be finite and not negative";
    assert_eq!(refused.to_string(), expected);
    let refused = create(|o| o.eps = -1e-200).err().unwrap();
    let expected = "options.eps is -1e-200, must be finite and not negative";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn tensors_that_cannot_be_optimized() {
    let one = |name: &str, dims: &[usize]| create_with(&[TensorSpec::new(name, dims)]);
    refused!(create_with(&[]), Error::NoTensors);
    for name in ["", "a\nb", "\0", "\u{7f}"] {
        refused!(one(name, &[2]), Error::TensorName { index: 0, name: n } if n == name);
    }
    let twice = [TensorSpec::new("a", &[2]), TensorSpec::new("a", &[3])];
    refused!(create_with(&twice), Error::DuplicateName { name } if name == "a");
    refused!(one("a", &[1; 9]), Error::TooManyDimensions { ndim: 9, tensor } if tensor == "a");
    one("a", &[1; 8]).unwrap();
    one("a", &[]).unwrap();
}

#[test]
fn element_types_that_do_not_fit() {
    let one = |params, state| {
        let spec = TensorSpec::new("a", &[2]);
        spec.with_dtypes(params, Dtype::Bf16, state)
    };
    for params in [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16] {
        refused!(
            create_with(&[one(params, Dtype::F16)]),
            Error::StateDtype { tensor } if tensor == "a"
        );
        for state in [Dtype::F32, Dtype::F64, Dtype::Bf16] {
            create_with(&[one(params, state)]).unwrap();
            let with_master = create_with(&[one(params, state).with_master()]);
            match params {
                Dtype::F64 => refused!(
                    with_master,
                    Error::MasterDtype { tensor } if tensor == "a"
                ),
                _ => drop(with_master.unwrap()),
            }
        }
    }
}

#[test]
fn sizes_beyond_memory() {
    let one = |dims: &[usize]| create_with(&[TensorSpec::new("a", dims)]);
    for dims in [
        &[usize::MAX][..],
        &[usize::MAX, 2],
        &[1 << 60],
        &[1 << 30, 1 << 31],
    ] {
        refused!(one(dims), Error::SizeOverflow { dims: d, .. } if d == dims);
    }
    for dims in [&[1 << 59][..], &[1 << 25, 1 << 25]] {
        refused!(one(dims), Error::OutOfMemory { .. });
    }
}

/// What was created can be saved and read back, and what cannot is not created.
#[test]
fn many_tensors_and_long_names_are_saved_and_more_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many");
    let named = |count: usize, name: usize| -> Vec<TensorSpec> {
        let spec = |i: usize| TensorSpec::new(format!("{}{i}", "\"".repeat(name)), &[1]);
        (0..count).map(spec).collect()
    };
    for tensors in [named(20_000, 0), named(150, 4090)] {
        create_with(&tensors).unwrap().save(&path, None).unwrap();
        sonew::checkpoint::verify(&path).unwrap();
        let mut loaded = create_with(&tensors).unwrap();
        let load = sonew::LoadOptions::default();
        loaded.load(&path, &load, None).unwrap();
    }
    refused!(
        create_with(&named(1_000_000, 0)),
        Error::TooManyTensors {
            tensors: 1_000_000,
            ..
        }
    );
}
