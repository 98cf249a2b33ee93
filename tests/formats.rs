//! Checkpoints of earlier versions of the file format.

use safetensors::SafeTensors;
use sonew::dtype::ElementsMut;
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options, Rounding, StepOptions};
use sonew::{Error, LoadOptions, Optimizer};

/// Written after three steps by the last version that knew float32 only.
const FORMAT_1: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/files/format-1.safetensors"
);

fn options() -> Options {
    Options {
        band: 2,
        graft: Graft::NormalizedRmsprop,
        weight_decay: 0.125,
        rounding: Rounding::Nearest,
        seed: 0,
        ..Options::default()
    }
}

fn tensors() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("weight", &[2, 3]).with_chains(Chains::ColumnMajor),
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
    assert_eq!(optimizer.lr_scale(1).unwrap(), 0.5);

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
