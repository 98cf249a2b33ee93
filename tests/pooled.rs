//! Correlations that the chains of a tensor share.

mod common;

use common::{correlated, normal, rng, to_f64};
use sonew::dtype::{Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options, Pooling, StepOptions};
use sonew::oracle::Oracle;
use sonew::Optimizer;

fn pooled(band: usize) -> Options {
    Options {
        band,
        pooling: Pooling::Band,
        ..Options::default()
    }
}

/// Steps of the library in float64, and of the oracle.
fn check(options: &Options, tensors: &[TensorSpec], steps: usize) {
    let of = |t: &TensorSpec| t.clone().with_dtypes(Dtype::F64, Dtype::F64, Dtype::F64);
    let tensors: Vec<_> = tensors.iter().map(of).collect();
    let mut optimizer = Optimizer::new(options.clone(), &tensors).unwrap();
    let mut oracle = Oracle::new(options, &tensors);
    let mut rng = rng(7);
    let mut exact: Vec<_> = tensors
        .iter()
        .map(|t| to_f64(&normal(&mut rng, t.len())))
        .collect();
    let mut params = exact.clone();
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    for number in 0..steps {
        let gradient = |t: &TensorSpec| Some(to_f64(&correlated(&mut rng, t.len())));
        let mut grads: Vec<_> = tensors.iter().map(gradient).collect();
        if tensors.len() > 1 && number == 2 {
            grads[0] = None;
        }
        oracle.step(&step, &mut exact, &grads);
        let given: Vec<_> = grads
            .iter()
            .map(|g| g.as_deref().map(Elements::new))
            .collect();
        let mut targets: Vec<_> = params.iter_mut().map(|p| ElementsMut::new(p)).collect();
        optimizer.step_any(&step, &mut targets, &given).unwrap();
        for (tensor, (own, exact)) in tensors.iter().zip(params.iter().zip(&exact)) {
            let error = own.iter().zip(exact).map(|(a, b)| (a - b).abs());
            let error = error.fold(0.0, f64::max);
            assert!(
                error < 1e-10,
                "{error:e} after {number} of {}: {options:?}",
                tensor.name
            );
        }
    }
}

#[test]
fn steps_are_those_of_the_oracle() {
    let layouts = [
        Chains::ContiguousLines,
        Chains::StridedLines,
        Chains::Contiguous,
        Chains::Strided,
    ];
    for (i, chains) in layouts.into_iter().enumerate() {
        for band in [0, 1, 3, 4, 16, 17, 40, 64] {
            for lagged in [None, Some(false)] {
                let shapes: [&[usize]; 6] =
                    [&[37, 45], &[5, 3, 19], &[300, 7], &[7, 700], &[21], &[]];
                let tensors: Vec<_> = shapes
                    .iter()
                    .enumerate()
                    .map(|(i, dims)| TensorSpec::new(format!("{i}"), dims).with_chains(chains))
                    .chain([TensorSpec::new("bias", &[37]).with_update(Update::Adam)])
                    .collect();
                let options = Options {
                    lagged_norms: lagged,
                    graft: [
                        Graft::Adam,
                        Graft::None,
                        Graft::NormalizedRmsprop,
                        Graft::Sgd,
                    ][i],
                    nesterov: i % 2 == 0,
                    ..pooled(band)
                };
                check(&options, &tensors, 5);
            }
        }
    }
}
