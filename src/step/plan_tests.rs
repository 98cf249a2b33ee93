//! The same bits from every instruction set, thread count and tile size, and
//! under every floating-point mode of the caller.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use sonew_kernel::Target;

use super::*;
use crate::dtype::ElementsMut;
use crate::layout::{Chains, Update};
use crate::options::{Damping, Graft, NonFinite, Pooling, Statistics};

/// Every bit that some steps leave behind: parameters, then state planes.
type Outcome = Vec<Vec<u32>>;

/// A gradient over many magnitudes, down to where squares are subnormal; with
/// `wild`, some are no numbers.
fn gradient(random: &mut Pcg64Mcg, len: usize, wild: bool) -> Vec<f32> {
    let mut value = || {
        let magnitude = 10f32.powi(random.random_range(-22..3));
        match random.random_range(0..50) {
            0 if wild => f32::NAN,
            1 if wild => -f32::INFINITY,
            2 => 0.0,
            _ => random.random_range(-1.0f32..1.0) * magnitude,
        }
    };
    (0..len).map(|_| value()).collect()
}

/// Four steps, in each of which one tensor in four has no gradient.
fn run(plan: Plan, wild: bool) -> Outcome {
    run_in(None, plan, wild)
}

/// The same, with the caller's thread in a floating-point mode.
fn run_in(mode: Option<u64>, mut plan: Plan, wild: bool) -> Outcome {
    let mut random = Pcg64Mcg::seed_from_u64(7);
    let zeros = |t: &Tensor| vec![0.0f32; t.spec.len()];
    let mut params: Vec<Vec<f32>> = plan.tensors.iter().map(zeros).collect();
    let mut state: Vec<Vec<Vec<f32>>> = plan
        .tensors
        .iter()
        .map(|t| t.planes.iter().map(|p| vec![0.0; p.len()]).collect())
        .collect();
    let step = StepOptions {
        lr: 0.01,
        grad_scale: 0.7,
        non_finite: if wild {
            NonFinite::Unchecked
        } else {
            NonFinite::Skip
        },
        ..StepOptions::default()
    };
    for number in 1..=4 {
        let grads: Vec<Vec<f32>> = params
            .iter()
            .map(|p| gradient(&mut random, p.len(), wild))
            .collect();
        let mut buffers = Vec::new();
        for (i, (param, planes)) in params.iter_mut().zip(&mut state).enumerate() {
            let mut lent = TensorBuffers::new(
                Target::Parameters(ElementsMut::new(param)),
                (i as u64 % 4 + 1 != number).then_some(Elements::new(&grads[i])),
                planes.iter_mut().map(|p| ElementsMut::new(p)),
            );
            lent.weight_decay = 0.1;
            buffers.push(lent);
        }
        in_mode(mode, || plan.step(&step, number, &mut buffers)).unwrap();
    }
    let bits = |values: &Vec<f32>| values.iter().map(|x| x.to_bits()).collect();
    params
        .iter()
        .chain(state.iter().flatten())
        .map(bits)
        .collect()
}

/// Calls `f` with the thread in this mode, which must last.
fn in_mode<T>(mode: Option<u64>, f: impl FnOnce() -> T) -> T {
    let Some(mode) = mode else { return f() };
    let saved = register::read();
    register::write(mode);
    let result = f();
    let after = register::read();
    register::write(saved);
    assert_eq!(after & !register::FLAGS, mode & !register::FLAGS);
    result
}

/// The register with the floating-point mode, MXCSR.
#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    /// What has happened, not how to compute.
    pub const FLAGS: u64 = 0x3f;
    pub const DEFAULT: u64 = 0x1f80;
    /// As XLA sets it around its handlers.
    pub const FLUSH: u64 = 0x8040;
    pub const ROUND_UP: u64 = 0x4000;

    pub fn read() -> u64 {
        let mut value = 0u32;
        // SAFETY: stores the register to a local of the right size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack)) };
        value.into()
    }

    pub fn write(value: u64) {
        let value = value as u32;
        // SAFETY: nothing but the code under test runs until the old value is
        // back.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack)) };
    }
}

/// The register with the floating-point mode, FPCR.
#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    /// What has happened is in a register of its own.
    pub const FLAGS: u64 = 0;
    pub const DEFAULT: u64 = 0;
    pub const FLUSH: u64 = 1 << 24;
    pub const ROUND_UP: u64 = 1 << 22;

    pub fn read() -> u64 {
        let value: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nostack)) };
        value
    }

    pub fn write(value: u64) {
        // SAFETY: nothing but the code under test runs until the old value is
        // back.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack)) };
    }
}

/// Tensors of all layouts, each with several blocks.
fn small() -> Vec<TensorSpec> {
    let spec = |name: &str, dims: &[usize], chains| TensorSpec::new(name, dims).with_chains(chains);
    vec![
        spec("rows", &[10, 300], Chains::ContiguousLines),
        spec("row-major", &[5, 1111], Chains::Contiguous),
        spec("columns", &[75, 90], Chains::StridedLines),
        spec("column-major", &[90, 75], Chains::Strided),
        spec("kernel", &[3, 3, 10, 20], Chains::Strided),
        spec("short rows", &[100, 5], Chains::ContiguousLines),
        spec("tiny", &[17], Chains::Contiguous),
        spec("adam", &[700], Chains::Contiguous).with_update(Update::Adam),
    ]
}

/// The same, with several tiles each, and enough for several threads.
fn large() -> Vec<TensorSpec> {
    let spec = |name: &str, dims: &[usize], chains| TensorSpec::new(name, dims).with_chains(chains);
    vec![
        spec("rows", &[50, 700], Chains::ContiguousLines),
        spec("row-major", &[37, 1111], Chains::Contiguous),
        spec("columns", &[333, 90], Chains::StridedLines),
        spec("column-major", &[90, 333], Chains::Strided),
        spec("kernel", &[3, 3, 40, 50], Chains::Strided),
        spec("short rows", &[900, 5], Chains::ContiguousLines),
        spec("adam", &[5000], Chains::Contiguous).with_update(Update::Adam),
    ]
}

fn cases() -> Vec<Options> {
    let base = Options {
        threads: 1,
        ..Options::default()
    };
    let grafts = [
        Graft::Adam,
        Graft::None,
        Graft::Sgd,
        Graft::Momentum,
        Graft::NormalizedRmsprop,
    ];
    let mut cases: Vec<Options> = [0, 1, 2, 3, 4, 7, 16]
        .into_iter()
        .zip(grafts.into_iter().cycle())
        .map(|(band, graft)| Options {
            band,
            graft,
            ..base.clone()
        })
        .collect();
    let pooled = |band, lagged_norms, damping| Options {
        band,
        pooling: Pooling::Band,
        lagged_norms,
        damping,
        ..base.clone()
    };
    cases.push(pooled(4, None, Damping::Absolute));
    cases.push(pooled(20, Some(false), Damping::Relative));
    for pooling in [Pooling::Rank, Pooling::All] {
        let other = |lagged_norms, damping| Options {
            pooling,
            rank: 7,
            ..pooled(1, lagged_norms, damping)
        };
        cases.push(other(None, Damping::Absolute));
        cases.push(other(Some(false), Damping::Relative));
    }
    cases.push(pooled(4, None, Damping::RelativeLagged));
    cases.push(Options {
        damping: Damping::Relative,
        eps: 1e-4,
        ..base.clone()
    });
    cases.push(Options {
        statistics: Statistics::WeightedSum,
        band: 2,
        gamma: 0.0,
        ..base
    });
    cases
}

/// A plan on the best instruction set.
fn best(tensors: &[TensorSpec], options: &Options, tile: Option<usize>) -> Plan {
    Plan::with(options, tensors, None, Isa::best(), tile).unwrap()
}

#[test]
fn instruction_sets_agree_to_the_bit() {
    // tests/steps/bits.rs compares more steps with usual gradients: here every second case has them.
    for (case, options) in cases().into_iter().enumerate() {
        let plan = |isa| Plan::with(&options, &small(), None, isa, None).unwrap();
        let on = |isa| run(plan(isa), case % 2 == 0);
        let mut sets = Isa::available();
        let expected = on(sets.next().unwrap());
        for isa in sets {
            assert!(on(isa) == expected, "{isa:?}, {options:?}");
        }
    }
}

#[test]
fn threads_and_tiles_do_not_change_a_bit() {
    // Every step is cut in three of these ways, and every way cuts half of the steps.
    let cuts = [(1, 1), (2, 1), (3, 2), (7, 3), (2, 5), (3, 64)];
    for (case, options) in cases().into_iter().enumerate() {
        let expected = run(best(&large(), &options, None), false);
        for &(threads, tile) in cuts.iter().skip(case % 2).step_by(2) {
            let options = Options {
                threads,
                ..options.clone()
            };
            let outcome = run(best(&large(), &options, Some(tile)), false);
            assert!(outcome == expected, "tiles of {tile}, {options:?}");
        }
    }
}

/// Subnormals flushed, and then another rounding as well.
#[test]
fn the_callers_floating_point_mode_matters_not_and_is_kept() {
    use register::{DEFAULT, FLUSH, ROUND_UP};
    let modes = [DEFAULT | FLUSH, DEFAULT | FLUSH | ROUND_UP];
    for (options, mode) in cases().into_iter().zip(modes.into_iter().cycle()) {
        let options = Options {
            threads: 2,
            ..options
        };
        let expected = run(best(&large(), &options, None), false);
        let plan = best(&large(), &options, None);
        assert!(
            run_in(Some(mode), plan, false) == expected,
            "{mode:#x}, {options:?}"
        );
    }
}
