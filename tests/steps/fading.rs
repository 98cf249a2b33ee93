//! If a gradient stays zero, the state fades to exactly zero, and is never
//! subnormal on the way, because processors are slow with subnormal numbers.

use crate::common::typed::{widen, Numbers};
use crate::common::{correlated, rng};
use sonew::dtype::Dtype::{self, Bf16, F32, F64};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options, Rounding, StepOptions};
use sonew::Optimizer;

const STEPS: usize = 100_000;

/// The smallest magnitude of stored state except zero: the smallest normal number.
fn least(dtype: Dtype) -> f64 {
    match dtype {
        F64 => f64::MIN_POSITIVE,
        _ => f32::MIN_POSITIVE.into(),
    }
}

/// The number of steps after which a number of at most 1 that decays by a hundredth
/// in each step is below that: after `t` steps it is `0.99^t`. In bfloat16, whose
/// numbers have a relative distance of at least 2^-8, each change is at least that
/// large; with stochastic rounding only on average, so twice as many steps are
/// allowed.
fn gone(dtype: Dtype, rounding: Rounding) -> usize {
    let left: f64 = match dtype {
        Bf16 => 1.0 - 2f64.powi(-8),
        F32 | F64 => 0.99,
        Dtype::F16 => unreachable!("is no type of state"),
    };
    let steps = (least(dtype).ln() / left.ln()).ceil() as usize;
    match rounding {
        Rounding::Nearest => steps,
        Rounding::Stochastic => 2 * steps,
    }
}

fn fades(rounding: Rounding, graft: Graft) {
    let options = Options {
        rounding,
        graft,
        threads: 1,
        ..Options::default()
    };
    let tensor =
        |name: &str, params, state| TensorSpec::new(name, &[5, 9]).with_dtypes(params, F32, state);
    let tensors = [
        tensor("single", F32, F32),
        tensor("few bits", F32, Bf16).with_chains(Chains::Strided),
        tensor("double", F64, F64),
        tensor("adam", F32, F32).with_update(Update::Adam),
    ];
    let mut optimizer = Optimizer::new(options, &tensors).unwrap();
    let mut random = rng(1);
    let mut params: Vec<Numbers> = tensors
        .iter()
        .map(|t| Numbers::new(t.params, &vec![0.5; t.len()]))
        .collect();
    let zero = vec![0f32; 45];
    let mut settled = Vec::new();
    for step in 0..STEPS {
        // Two gradients, of size one at most, and then none.
        let mut g = zero.clone();
        if step < 2 {
            let numbers = correlated(&mut random, zero.len());
            g = numbers.iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        }
        let grads = vec![Some(sonew::dtype::Elements::new(&g)); tensors.len()];
        let mut buffers: Vec<_> = params.iter_mut().map(Numbers::elements_mut).collect();
        let options = StepOptions {
            lr: 1e-3,
            ..StepOptions::default()
        };
        optimizer.step_any(&options, &mut buffers, &grads).unwrap();
        // Each number passes the range of subnormals in a few hundred steps.
        if step % 50 != 0 && step + 1 != STEPS {
            continue;
        }
        for (i, tensor) in tensors.iter().enumerate() {
            for (k, plane) in optimizer.planes(i).unwrap().iter().enumerate() {
                let x = widen(optimizer.plane(i, k).unwrap());
                let what = format!("{}/{} in step {step}", tensor.name, plane.name);
                assert!(
                    x.iter().all(|x| *x == 0.0 || x.abs() >= least(plane.dtype)),
                    "{what}: {x:?}"
                );
                if step > 2 + gone(plane.dtype, rounding) {
                    assert!(x.iter().all(|&x| x == 0.0), "{what}: {x:?}");
                }
            }
        }
        if step > 2 + gone(F64, rounding).min(STEPS - 2000) {
            settled.push(params.iter().map(Numbers::to_f64).collect::<Vec<_>>());
        }
    }
    assert!(settled.len() > 10);
    assert!(settled.iter().all(|params| *params == settled[0]));
    let finite = |p: &Vec<f64>| p.iter().all(|p| p.is_finite());
    assert!(settled[0].iter().all(finite));
}

#[test]
fn to_nearest() {
    fades(Rounding::Nearest, Graft::Adam);
}

#[test]
fn stochastically() {
    fades(Rounding::Stochastic, Graft::None);
}
