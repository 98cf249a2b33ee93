//! What a step in stages reads when.

use super::*;
use crate::dtype::{bf16, Dtype};
use crate::layout::{Chains, TensorSpec, Update};
use crate::options::{Damping, Graft, NonFinite, Options, Pooling};

fn model() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("rows", &[40, 30]).with_chains(Chains::ContiguousLines),
        TensorSpec::new("columns", &[21, 40]).with_chains(Chains::StridedLines),
        TensorSpec::new("adam", &[40]).with_update(Update::Adam),
        // Its updates are rounded to few bits, so that they come last in any case.
        TensorSpec::new("few", &[30, 20]).with_dtypes(Dtype::Bf16, Dtype::F32, Dtype::Bf16),
    ]
}

/// Three steps; the last has small gradients, so that an update by the norms of the step before
/// is too long and is taken back. Gradients become NaN as soon as their norms are known, if
/// `overwrites`. Returns all bits.
fn steps(options: &Options, overwrites: bool) -> Vec<Vec<u8>> {
    let model = model();
    let mut optimizer = Optimizer::new(options.clone(), &model).unwrap();
    let mut params: Vec<Vec<f32>> = model.iter().map(|t| vec![1.0; t.len()]).collect();
    let mut few = vec![bf16::ONE; params.pop().unwrap().len()];
    let step = StepOptions {
        non_finite: NonFinite::Unchecked,
        ..StepOptions::default()
    };
    for number in 1..4 {
        let size = if number == 3 { 1e-3 } else { 1.0 };
        let gradient = |t: &TensorSpec| -> Vec<f32> {
            let numbers = 0..t.len();
            numbers
                .map(|i| size * (i as f32 * 1.3 + number as f32).sin())
                .collect()
        };
        let mut grads: Vec<_> = model.iter().map(gradient).collect();
        let mut targets: Vec<_> = params.iter_mut().map(|p| ElementsMut::new(p)).collect();
        targets.push(ElementsMut::new(&mut few));
        let mut reached = None;
        let mut has_begun = false;
        while !has_begun || reached.is_some() {
            let targets = targets.iter_mut().map(ElementsMut::reborrow);
            let lent = grads.iter().map(|g| Some(Elements::new(g)));
            if !has_begun {
                optimizer.begin_stages(&step, targets, lent).unwrap();
                has_begun = true;
                reached = Some(Stage::GradientSquares);
                continue;
            }
            reached = optimizer.next_stage(targets, lent).unwrap();
            if overwrites && reached == Some(Stage::Norms) {
                grads.iter_mut().for_each(|g| g.fill(f32::NAN));
            }
        }
    }
    let mut all: Vec<_> = params
        .iter()
        .map(|p| Elements::new(p).bytes().to_vec())
        .collect();
    all.push(Elements::new(&few).bytes().to_vec());
    for (tensor, state) in optimizer.state.iter().enumerate() {
        let planes = 0..state.planes.len();
        all.extend(planes.map(|p| optimizer.plane(tensor, p).unwrap().bytes().to_vec()));
    }
    all
}

/// Every graft, damping, pooling, with the norms of the step before and of its own.
fn all_options() -> Vec<Options> {
    let grafts = [
        Graft::Adam,
        Graft::Sgd,
        Graft::Momentum,
        Graft::NormalizedRmsprop,
    ];
    let poolings = [Pooling::None, Pooling::Band, Pooling::Rank, Pooling::All];
    let dampings = [
        Damping::Absolute,
        Damping::Relative,
        Damping::RelativeLagged,
    ];
    let mut all = Vec::new();
    for graft in grafts {
        for pooling in poolings {
            for damping in dampings {
                for lagged in [true, false] {
                    all.push(Options {
                        graft,
                        pooling,
                        damping,
                        lagged_norms: Some(lagged),
                        rank: 3,
                        eps: 1e-4,
                        threads: 1,
                        ..Options::default()
                    });
                }
            }
        }
    }
    all
}

/// The header promises it, so that the next gradients may be computed in their place.
#[test]
fn gradients_are_not_read_after_the_norms() {
    for options in all_options() {
        let kept = steps(&options, false);
        assert!(steps(&options, true) == kept, "{options:?}");
    }
}

/// Its directions are computed from the gradient once more, where they are at all.
#[test]
fn nesterov_momentum_needs_them() {
    let options = Options {
        nesterov: true,
        ..all_options().remove(0)
    };
    assert!(steps(&options, true) != steps(&options, false));
}
