//! Random steps of every kind, with gradients of any size.

use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;
use sonew::dtype::Dtype::{self, Bf16, F16, F32, F64};
use sonew::layout::{TensorSpec, Update};
use sonew::options::{
    Damping, Graft, InstructionSet, NonFinite, Options, Rounding, Statistics, StepOptions,
};
use sonew::oracle::Oracle;
use sonew::{Error, Optimizer};

use crate::common::typed::Numbers;
use crate::common::{self, rng, CHAINS, GRAFTS};

/// One tensor, and what is done with it.
#[derive(Debug)]
struct Case {
    options: Options,
    step: StepOptions,
    tensor: TensorSpec,
    gradients: Vec<Vec<f64>>,
}

/// A size between the smallest number of a type and its largest.
fn size(rng: &mut Pcg64Mcg, dtype: Dtype) -> f64 {
    let (least, most) = match dtype {
        F32 | Bf16 => (-149, 128),
        F16 => (-24, 16),
        F64 => (-1074, 1024),
    };
    match rng.random_range(0..12) {
        0 => 0.0,
        // An ordinary one.
        1..4 => 2f64.powi(rng.random_range(-20..15)),
        // One whose square is in the range.
        4..8 => 2f64.powi(rng.random_range(least / 2..most / 2)),
        _ => 2f64.powi(rng.random_range(least..most)),
    }
}

impl Case {
    fn new(rng: &mut Pcg64Mcg) -> Case {
        let types = [
            [F32; 3],
            [F32; 3],
            [F32; 3],
            [F64; 3],
            [F64; 3],
            [F32, Bf16, Bf16],
            [Bf16, Bf16, F32],
            [F16, F16, F32],
            [Bf16, F32, Bf16],
            [F64, F32, F32],
        ];
        let types = *types.choose(rng).unwrap();
        let weighted = rng.random_bool(0.2);
        let betas = [0.0, 0.5, 0.9, 0.999, 1.0 - 1e-7, 1.0 - 1e-16];
        let eps = [0.0, 1e-40, 1e-30, 1e-6, 1.0, 1e30];
        let options = Options {
            band: rng.random_range(0..=6),
            beta1: *betas.choose(rng).unwrap(),
            beta2: *betas.choose(rng).unwrap(),
            eps: *eps.choose(rng).unwrap(),
            gamma: *[0.0, 1e-2, 0.3].choose(rng).unwrap(),
            statistics: match weighted {
                true => Statistics::WeightedSum,
                false => Statistics::MovingAverage,
            },
            damping: *[Damping::Absolute, Damping::Relative].choose(rng).unwrap(),
            bias_correction: rng.random(),
            graft: *GRAFTS.choose(rng).unwrap(),
            graft_eps: *[0.0, 1e-40, 1e-8, 1.0].choose(rng).unwrap(),
            graft_bias_correction: rng.random(),
            lagged_norms: Some(rng.random_bool(0.3)),
            nesterov: rng.random_bool(0.3),
            weight_decay: *[0.0, 0.1].choose(rng).unwrap(),
            rounding: *[Rounding::Nearest, Rounding::Stochastic]
                .choose(rng)
                .unwrap(),
            threads: 1,
            ..Options::default()
        };
        let lr = [1e-3, 1.0, 1e-38, 1e38];
        let step = StepOptions {
            lr: *lr[..if rng.random_bool(0.2) { 4 } else { 2 }]
                .choose(rng)
                .unwrap(),
            grad_scale: *[1.0, 1.0, 1e-40, 1e-20, 1e20].choose(rng).unwrap(),
            statistics_weight: match weighted {
                true => *[1.0, 1e-38, 1e38].choose(rng).unwrap(),
                false => 1.0,
            },
            clip_norm: *[None, None, Some(1.0), Some(1e-38), Some(1e30)]
                .choose(rng)
                .unwrap(),
            non_finite: *[NonFinite::Skip, NonFinite::Unchecked].choose(rng).unwrap(),
            beta1: None,
            beta2: *[None, Some(0.5)].choose(rng).unwrap(),
        };
        let dims: &[usize] = [&[1][..], &[2], &[5], &[40], &[4, 5], &[3, 17]]
            .choose(rng)
            .unwrap();
        let update = [Update::Sonew, Update::Sonew, Update::Sonew, Update::Adam];
        let mut tensor = TensorSpec::new("w", dims)
            .with_chains(*CHAINS.choose(rng).unwrap())
            .with_update(*update.choose(rng).unwrap())
            .with_dtypes(types[0], types[1], types[2]);
        if matches!(types[0], F16 | Bf16) && rng.random() {
            tensor = tensor.with_master();
        }
        let len = tensor.len();
        let mut gradient = || -> Vec<f64> {
            let common = size(rng, types[1]);
            let alike = rng.random_bool(0.7);
            let mut number = || match alike {
                true => common * rng.random_range(-1.0..1.0),
                false => size(rng, types[1]) * rng.random_range(-1.0..1.0),
            };
            let numbers: Vec<f64> = (0..len).map(|_| number()).collect();
            Numbers::new(types[1], &numbers).to_f64()
        };
        let gradients = (0..8).map(|_| gradient()).collect();
        Case {
            options,
            step,
            tensor,
            gradients,
        }
    }
}

/// A step of which each stage is a call of its own.
fn in_stages(
    optimizer: &mut Optimizer,
    step: &StepOptions,
    params: &mut Numbers,
    gradient: &Numbers,
) -> sonew::Result<()> {
    let (mut params, gradient) = ([params.elements_mut()], [Some(gradient.elements())]);
    let mut stages = optimizer.stages(step, &mut params, &gradient)?;
    while stages.next()?.is_some() {}
    Ok(())
}

/// No number of finite ones is made infinite or NaN: not the parameters, and not the
/// state, unless its diagonal overflows. Portable code in stages does the same to the bit.
#[test]
fn finite_gradients_of_any_size_leave_finite_parameters() {
    let cases = std::env::var("SONEW_EXTREMES").map_or(3000, |n| n.parse().unwrap());
    let (mut steps, mut refused, mut compared) = (0, 0, 0);
    for seed in 0..cases {
        let mut rng = rng(seed);
        let case = Case::new(&mut rng);
        let context = format!("seed {seed}: {case:?}");
        let tensor = case.tensor.clone();
        let (params, gradients) = (tensor.params, tensor.grads);
        let mut optimizer = Optimizer::new(case.options.clone(), &[tensor]).unwrap();
        let portable = Options {
            instruction_set: InstructionSet::Portable,
            ..case.options.clone()
        };
        let mut staged = Optimizer::new(portable, std::slice::from_ref(&case.tensor)).unwrap();
        let mut params = Numbers::new(params, &vec![1.0; case.tensor.len()]);
        let mut params_in_stages = Numbers::new(case.tensor.params, &params.to_f64());
        for gradient in &case.gradients {
            let before = params.to_f64();
            let gradient = Numbers::new(gradients, gradient);
            let stepped = optimizer.step_any(
                &case.step,
                &mut [params.elements_mut()],
                &[Some(gradient.elements())],
            );
            let after = params.to_f64();
            let again = in_stages(&mut staged, &case.step, &mut params_in_stages, &gradient);
            assert_eq!(again.is_ok(), stepped.is_ok(), "{context}");
            let bytes = [&params, &params_in_stages].map(|p| p.elements().bytes().to_vec());
            assert_eq!(bytes[0], bytes[1], "{context}");
            steps += 1;
            match stepped {
                Ok(()) => {}
                Err(Error::NonFiniteGradient { .. }) => {
                    assert!(has_large_squares(&case, &gradient.to_f64()), "{context}");
                    assert_eq!(before, after);
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{error}: {context}"),
            }
            let are_finite = after.iter().all(|p| p.is_finite());
            // What master weights hold, their copy of 16 bits need not.
            assert!(are_finite || case.tensor.master, "{after:?}: {context}");
            if case.tensor.params == F32 && case.tensor.state == F32 {
                let gradient = gradient.to_f64();
                compared += usize::from(agrees(&case, &optimizer, &gradient, &before, &after));
            }
        }
        for plane in 0..optimizer.planes(0).unwrap().len() {
            let state = common::typed::widen(optimizer.plane(0, plane).unwrap());
            let diagonal = common::typed::widen(optimizer.plane(0, 1).unwrap());
            let overflows = diagonal.iter().any(|h| !h.is_finite());
            assert!(
                overflows || state.iter().all(|x| x.is_finite()),
                "plane {plane}: {context}"
            );
        }
    }
    println!("{steps} steps, {refused} refused, {compared} compared");
    assert!(3 * refused < steps && 50 * compared > steps);
}

/// Whether the square of an element overflows.
fn has_large_squares(case: &Case, gradient: &[f64]) -> bool {
    let tensor = &case.tensor;
    let most = match [tensor.params, tensor.grads, tensor.state].contains(&F64) {
        true => f64::MAX.sqrt(),
        false => f64::from(f32::MAX).sqrt(),
    };
    let scale = case.step.grad_scale;
    gradient.iter().any(|g| (g * scale).abs() > 0.999 * most)
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Whether a step of float32 could be compared with what the textbook makes of the state
/// that it has left, in float64; then it is.
fn agrees(case: &Case, optimizer: &Optimizer, g: &[f64], before: &[f64], after: &[f64]) -> bool {
    let (o, step, steps) = (&case.options, &case.step, optimizer.step_count());
    let state = |plane: usize| common::to_f64(common::plane(optimizer, 0, plane));
    let planes: Vec<Vec<f64>> = (0..optimizer.planes(0).unwrap().len()).map(state).collect();
    let (beta1, beta2) = (o.beta1, step.beta2.unwrap_or(o.beta2));
    // A square that overflows is nobody's norm; and the norms of the step before are not
    // in the state.
    if has_large_squares(case, g)
        || o.is_lagged()
        || case.tensor.update == Update::Adam
        || beta1.max(beta2) > 1.0 - 1e-8
    {
        return false;
    }
    let mut oracle = Oracle::new(o, std::slice::from_ref(&case.tensor));
    for _ in 0..steps {
        let zero = vec![0.0; g.len()];
        oracle.step(step, &mut [zero.clone()], &[Some(zero)]);
    }
    oracle.tensor_mut(0).planes.clone_from(&planes);
    let correction = |beta: f64, holds| match holds {
        true => 1.0 - beta.powf(steps as f64),
        false => 1.0,
    };
    let averaged = o.statistics == Statistics::MovingAverage;
    let c1 = correction(beta1, o.bias_correction);
    let c2 = correction(beta2, o.bias_correction && averaged);
    let scale = step.grad_scale;
    let total = norm(g.iter().map(|g| g * scale));
    let clip = step.clip_norm.map_or(1.0, |most| (most / total).min(1.0));
    let g: Vec<f64> = g.iter().map(|g| (g * scale * clip) as f32 as f64).collect();
    let momentum = planes[0].iter().zip(&g).map(|(m, g)| match o.nesterov {
        true => beta1 * m + (1.0 - beta1) * g,
        false => *m,
    });
    let m: Vec<f64> = momentum.map(|m| m / c1).collect();
    let x = oracle.preconditioner(0);
    let u = x.apply(oracle.chains(0), &m);
    // Terms of u, which may cancel.
    let mut terms = vec![0.0; u.len()];
    for chain in oracle.chains(0) {
        for (position, &j) in chain.iter().enumerate() {
            let psi = x.psi[j].iter().zip(&chain[position + 1..]);
            let above = psi.clone().map(|(p, &i)| (p * m[i]).abs()).sum::<f64>();
            let w = (m[j].abs() + above) / x.s[j];
            terms[j] += w;
            psi.for_each(|(p, &i)| terms[i] += p.abs() * w);
        }
    }
    let v = |h: f64| h / if o.graft_bias_correction { c2 } else { 1.0 };
    let adam = |m: f64, h: f64| match h.sqrt() + o.graft_eps > 0.0 {
        true => m / (h.sqrt() + o.graft_eps),
        false => 0.0,
    };
    let a: Vec<f64> = match o.graft {
        Graft::None => u.clone(),
        Graft::Sgd => g.clone(),
        Graft::Momentum => m.clone(),
        Graft::Adam => m
            .iter()
            .zip(&planes[1])
            .map(|(m, h)| adam(*m, v(*h)))
            .collect(),
        Graft::NormalizedRmsprop => {
            let of = norm(g.iter().copied());
            let r = &planes[2 + o.band];
            let q = g.iter().map(|g| if of > 0.0 { g / of } else { 0.0 });
            q.zip(r).map(|(q, r)| adam(q, *r)).collect()
        }
    };
    let (of_u, of_a) = (norm(u.iter().copied()), norm(a.iter().copied()));
    let lr = step.lr;
    let largest = terms.iter().copied().fold(0.0, f64::max);
    // Subnormal numbers, and those beyond float32, are less exact; an edge on the brink
    // may be removed or not.
    let normal = |x: f64| x == 0.0 || (2e-38..3e38).contains(&x.abs());
    let are_normal = x.h[0].iter().all(|x| normal(x * c2.min(1.0)) && normal(*x))
        && x.h.iter().flatten().all(|x| normal(*x))
        && (!o.nesterov || g.iter().all(|g| normal(*g)))
        && (o.eps == 0.0 || o.eps > 1e-35)
        && (o.graft_eps == 0.0 || o.graft_eps > 1e-35);
    let is_clear = (0..u.len()).all(|j| {
        x.margin(j, o.gamma) > 1e-3 && x.psi[j].iter().all(|p| normal(*p) && p.abs() < 1e6)
    });
    let in_range = largest < 1e3 * of_u
        && (1e-70..1e60).contains(&of_u)
        && of_a > 1e-36
        && a.iter().all(|a| a.abs() < 3e38)
        && (o.graft != Graft::None || (1e-35..1e35).contains(&of_u))
        && lr * of_a < 1e37;
    if !(are_normal && is_clear && in_range && of_a > 0.0) {
        return false;
    }
    for (j, (before, after)) in before.iter().zip(after).enumerate() {
        let exact = before - lr * (u[j] * (of_a / of_u) + o.weight_decay * before);
        if exact.abs() > 3e38 {
            let stays = after == before || exact.abs() < 4e38;
            assert!(stays, "{j}: {before:e} became {after:e}: {case:?}");
            continue;
        }
        let bound = 1e-3 * lr * of_a * (largest / of_u) + 1e-6 * before.abs() * (1.0 + lr);
        assert!(
            (after - exact).abs() <= bound + 1e-37,
            "{j}: {after:e} instead of {exact:e}, |u| = {of_u:e}, |a| = {of_a:e}: {case:?}"
        );
    }
    true
}
