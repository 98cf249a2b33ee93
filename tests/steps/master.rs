//! Float32 master weights: they are copied from the parameters at first, determine
//! the parameters from then on, and are part of the checkpoint.

use crate::common::{correlated, elements, elements_mut, normal, plane, rng, slices_mut};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{LoadOptions, Optimizer};

const STEP: StepOptions = StepOptions {
    lr: 0.01,
    grad_scale: 1.0,
    statistics_weight: 1.0,
    clip_norm: None,
    non_finite: sonew::options::NonFinite::Skip,
    beta1: None,
    beta2: None,
};

/// A matrix with master weights, a vector with them, and one without.
fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("weight", &[20, 30]).with_master(),
        TensorSpec::new("bias", &[20])
            .with_update(Update::Adam)
            .with_master(),
        TensorSpec::new("scale", &[30]),
    ]
}

struct Training {
    optimizer: Optimizer,
    params: Vec<Vec<f32>>,
    steps: u64,
}

impl Training {
    fn new() -> Training {
        let mut rng = rng(3);
        let tensors = model();
        Training {
            optimizer: Optimizer::new(Options::default(), &tensors).unwrap(),
            params: tensors.iter().map(|t| normal(&mut rng, t.len())).collect(),
            steps: 0,
        }
    }

    /// Takes a step in which the second tensor has no gradient, and the first
    /// an infinite one if it is to be refused.
    fn step(&mut self, refused: bool) {
        let mut rng = rng(self.steps);
        let lens = self.params.iter().map(Vec::len);
        let mut grads: Vec<_> = lens.map(|n| correlated(&mut rng, n)).collect();
        if refused {
            grads[0][7] = f32::INFINITY;
        }
        let grads = [Some(&grads[0][..]), None, Some(&grads[2][..])];
        let mut params = slices_mut(&mut self.params);
        let stepped = self.optimizer.step(&STEP, &mut params, &grads);
        assert_eq!(stepped.is_err(), refused);
        self.steps += u64::from(!refused);
    }

    /// The master weights of the first two tensors, which are the last planes.
    fn master(&self) -> [&[f32]; 2] {
        [(0, 3), (1, 2)].map(|(tensor, last)| {
            assert_eq!(self.optimizer.planes(tensor).unwrap()[last].name, "master");
            plane(&self.optimizer, tensor, last)
        })
    }

    fn assert_master_is_params(&self) {
        assert!(self.master()[0] == self.params[0]);
        assert!(self.master()[1] == self.params[1]);
    }

    fn assert_no_master(&self) {
        assert!(self.master().iter().all(|m| m.iter().all(|&x| x == 0.0)));
    }
}

#[test]
fn master_weights_begin_as_the_parameters_of_every_tensor() {
    let mut training = Training::new();
    assert_eq!(training.optimizer.planes(2).unwrap().len(), 3);
    training.assert_no_master();
    let before = training.params.clone();
    training.step(false);
    assert!(training.params[0] != before[0]);
    assert!(training.params[1] == before[1]);
    training.assert_master_is_params();
}

#[test]
fn float32_parameters_are_their_own_master_weights() {
    let mut with = Training::new();
    let mut without = Training::new();
    let mut plain = model();
    plain.iter_mut().for_each(|tensor| tensor.master = false);
    without.optimizer = Optimizer::new(Options::default(), &plain).unwrap();
    for _ in 0..5 {
        with.step(false);
        without.step(false);
    }
    assert!(with.params == without.params);
    with.assert_master_is_params();
}

#[test]
fn a_refused_first_step_leaves_none() {
    let mut training = Training::new();
    training.step(true);
    training.assert_no_master();
    // The caller may change parameters until a step succeeds.
    training.params[1][3] += 1.0;
    training.step(false);
    training.assert_master_is_params();
    let master = training.master().map(<[f32]>::to_vec);
    training.step(true);
    assert!(training.master().map(<[f32]>::to_vec) == master);
}

#[test]
fn changed_parameters_count_only_after_a_reset() {
    let mut training = Training::new();
    let mut untouched = Training::new();
    training.step(false);
    untouched.step(false);
    training.params[0][5] = 100.0;
    training.step(false);
    untouched.step(false);
    assert!(training.params == untouched.params);

    training.params[0][5] = 100.0;
    training.optimizer.reset_master().unwrap();
    training.assert_no_master();
    training.step(false);
    training.assert_master_is_params();
    assert!((training.params[0][5] - 100.0).abs() < 0.1);
}

#[test]
fn training_goes_on_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut through = Training::new();
    // Also a file that was written before master weights were there.
    for _ in 0..2 {
        let params = elements(&through.params);
        through.optimizer.save(&path, Some(&params)).unwrap();
        let saved = through.steps;
        through.step(false);
        through.step(false);

        let mut resumed = Training::new();
        resumed.params.iter_mut().for_each(|p| p.fill(9.0));
        let mut params = elements_mut(&mut resumed.params);
        let strict = LoadOptions::default();
        let optimizer = &mut resumed.optimizer;
        optimizer.load(&path, &strict, Some(&mut params)).unwrap();
        resumed.steps = saved;
        resumed.step(false);
        resumed.step(false);
        assert!(resumed.params == through.params);
        assert!(resumed.master() == through.master());
    }
}

/// Where all tensors have them, the state alone is a whole checkpoint.
#[test]
fn parameters_come_out_of_master_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let tensors = &model()[..2];
    let mut optimizer = Optimizer::new(Options::default(), tensors).unwrap();
    let mut params = vec![vec![0.5f32; 600], vec![-0.25f32; 20]];
    let grads = [vec![0.1f32; 600], vec![0.2f32; 20]];
    let grads = [Some(&grads[0][..]), Some(&grads[1][..])];

    // Before a step there are none.
    optimizer.save(&path, None).unwrap();
    let mut read = vec![vec![7.0f32; 600], vec![7.0f32; 20]];
    let strict = LoadOptions::default();
    let load = |optimizer: &mut Optimizer, read: &mut [Vec<f32>]| {
        optimizer.load(&path, &strict, Some(&mut elements_mut(read)))
    };
    assert!(matches!(
        load(&mut optimizer, &mut read),
        Err(sonew::Error::PlaneMissing { plane, .. }) if plane == "parameter"
    ));
    assert_eq!(read[0][0], 7.0);

    optimizer
        .step(&STEP, &mut slices_mut(&mut params), &grads)
        .unwrap();
    optimizer.save(&path, None).unwrap();
    let mut other = Optimizer::new(Options::default(), tensors).unwrap();
    load(&mut other, &mut read).unwrap();
    assert!(read == params);
}

/// A file without master weights is of another optimizer; where that is
/// overridden, the parameters take their place.
#[test]
fn a_file_without_them_needs_an_override() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut plain = model();
    plain.iter_mut().for_each(|tensor| tensor.master = false);
    let optimizer = Optimizer::new(Options::default(), &plain).unwrap();
    let mut training = Training::new();
    let params: Vec<Vec<f32>> = training.params.iter().map(|p| vec![3.0; p.len()]).collect();
    optimizer.save(&path, Some(&elements(&params))).unwrap();

    training.step(false);
    let mut load = |load: &LoadOptions| {
        let mut params = elements_mut(&mut training.params);
        training.optimizer.load(&path, load, Some(&mut params))
    };
    assert!(matches!(
        load(&LoadOptions::default()),
        Err(sonew::Error::TensorDiffers { what: "master", .. })
    ));
    load(&LoadOptions {
        override_options: true,
        ..LoadOptions::default()
    })
    .unwrap();
    training.assert_no_master();
    assert!(training.params == params);
    training.step(false);
    training.assert_master_is_params();
    assert!(training.params[1] == params[1]);
}
