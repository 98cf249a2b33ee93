//! Options
//!
//! The options that an optimizer is created with. They do not change over its
//! life.

use super::arguments::{count, flag, named, number, unused};
use super::guard::call_always;
use super::handles::sonew_pool;
use super::pool;
use super::status::sonew_status;
use super::versioned::{self, Growing, Versioned};
use crate::error::Result;
use crate::options::{
    Damping, Graft, InstructionSet, Options, Pooling, Rounding, Statistics, MAX_BAND,
    MAX_POOLED_BAND, MAX_POOLED_LENGTH, MAX_POOLED_RANK,
};
use crate::Pool;

/// The largest sonew_options.band.
pub const SONEW_MAX_BAND: usize = 16;

/// The largest sonew_options.band with pooling.
pub const SONEW_MAX_POOLED_BAND: usize = 64;

/// The largest sonew_options.rank.
pub const SONEW_MAX_POOLED_RANK: usize = 64;

/// The most coordinates of a chain with SONEW_POOLING_ALL.
pub const SONEW_MAX_POOLED_LENGTH: usize = 4096;

const _: () = assert!(SONEW_MAX_BAND == MAX_BAND && SONEW_MAX_POOLED_BAND == MAX_POOLED_BAND);
const _: () = assert!(SONEW_MAX_POOLED_RANK == MAX_POOLED_RANK);
const _: () = assert!(SONEW_MAX_POOLED_LENGTH == MAX_POOLED_LENGTH);

/// How gradients enter the diagonal and the sub-diagonals H.
#[repr(C)]
pub enum sonew_statistics {
    /// H <- beta2 H + (1 - beta2) g g^T, an exponential moving average.
    SONEW_MOVING_AVERAGE = 0,
    /// H <- H + w g g^T with w = sonew_step_options.statistics_weight: the
    /// paper's online-convex form. H is then never bias-corrected.
    SONEW_WEIGHTED_SUM = 1,
}

/// What is added to the diagonal before it is inverted.
#[repr(C)]
pub enum sonew_damping {
    /// eps
    SONEW_ABSOLUTE = 0,
    /// max(eps l1, 1e-24), where l1 is the largest H[j][j] + |H[j][j-1]| of the
    /// bias-corrected H over the whole tensor; for the first coordinate of a
    /// chain it is H[j][j] + |H[j+1][j]|. This damping does not depend on the
    /// scale of the loss. It takes a pass over the statistics of its own.
    SONEW_RELATIVE = 1,
    /// max(eps h, 1e-24), where h is the largest H[j][j] of the bias-corrected H over the
    /// whole tensor, as the tensor's last step left it. Its first step, and one after which
    /// all were zero, takes that of its own H. Entries that are infinite do not count.
    SONEW_RELATIVE_LAGGED = 2,
}

/// Grafting: in each tensor the update u takes the norm of another method's
/// update a, u <- u |a| / |u|. A learning rate that suits the other method is then one to
/// begin with; SONew often bears more (docs/choosing.md).
#[repr(C)]
pub enum sonew_graft {
    /// No grafting: u keeps its own norm.
    SONEW_GRAFT_NONE = 0,
    /// a = g
    SONEW_GRAFT_SGD = 1,
    /// a = m^
    SONEW_GRAFT_MOMENTUM = 2,
    /// a = m^ / (sqrt(v) + graft_eps), with v the diagonal without damping.
    SONEW_GRAFT_ADAM = 3,
    /// a = q / (sqrt(r) + graft_eps), with q = g / |g| and
    /// r <- beta2 r + (1 - beta2) q^2. r is one more state plane, "rms".
    SONEW_GRAFT_NORMALIZED_RMSPROP = 4,
}

/// How the correlations of a chain's coordinates are estimated. An extension, not in the
/// paper: the units of a layer see the same inputs, so that the correlations of these are
/// nearly the same for all of them. So the chains of a tensor share one structure R of
/// correlations, and each coordinate keeps a diagonal d of its own. With q = sqrt(d^ + eps) and
/// z = g / q, the direction is u = q^-1 R^-1 q^-1 m^, and a tensor keeps some part of
/// P <- beta2 P + (1 - beta2) sum over chains of z z'.
///
/// The state has 2 numbers for each parameter, and for each tensor one plane "pooled" of sums,
/// whose rows have as many numbers as a chain, L. It is float32, or float64 where that is
/// computed in. If norms are lagged, correlations are those of the step before, too, and the
/// last step's sums follow those up to then. Chains end at every row, or column:
/// SONEW_CONTIGUOUS is as SONEW_CONTIGUOUS_LINES, SONEW_STRIDED as SONEW_STRIDED_LINES. A
/// tensor with one chain gains nothing from pooling. If a tensor is divided into shards, the
/// sums of a step must be added up over them before the next step: see sonew_partial_sums().
#[repr(C)]
pub enum sonew_pooling {
    /// Every chain has its own sub-diagonals: the method of the paper.
    SONEW_POOLING_NONE = 0,
    /// A band of P: R[j][j + i] = (1 - shrink) P[j][j + i] / sqrt(P[j][j] P[j + i][j + i])
    /// for i = 1 .. band, and R[j][j] = 1; R^-1 is X as usual, but of this band.
    /// "pooled" is [band + 1, L], row i with P[j][j + i]; or [2, band + 1, L] if lagged.
    SONEW_POOLING_BAND = 1,
    /// Some directions U, sonew_options.rank of them or L if that is less, which follow the
    /// leading eigenvectors of P, the mean of whose diagonal is p. Y is the average of P U;
    /// when products have been added to it, U becomes U2, the Q of the QR factors of Y, and Y
    /// becomes Y U' U2. With lambda = max(diag(U' Y) / p, 0) and
    /// rest = (L - sum of lambda) / (L - rank), both shrunk:
    /// lambda <- (1 - shrink) lambda + shrink, and none less than rest;
    /// R^-1 = (I - U (1 - rest / lambda) U') / rest; where rest is not above gamma, R = I.
    /// "pooled" is [2 rank + 1, L], with P[j][j] in row 0, then Y, then U, a
    /// direction a row; or [3 rank + 2, L] if lagged, U again last.
    SONEW_POOLING_RANK = 2,
    /// All of P, with R as for a band, for chains of up to SONEW_MAX_POOLED_LENGTH. Where
    /// the Schur complement of a position, given those before it, is not above gamma, it
    /// loses its correlations with these. "pooled" is [L, L], of which row i has P[i][j] for
    /// j >= i, and zeros; or [2, L, L] if lagged. A step computes a Cholesky decomposition of R.
    SONEW_POOLING_ALL = 3,
}

/// How numbers are rounded to 16 bits. SONEW_F32 and SONEW_F64 always round to
/// nearest.
///
/// Accuracy: with u = 2^-8 for SONEW_BF16 and 2^-11 for SONEW_F16, rounding to
/// nearest has a relative error of at most u; stochastic rounding has one of
/// less than 2 u, and of zero on average. State is rounded once per step, so
/// that after t steps the error of a plane is at most about
/// min(t, 1 / (1 - beta)) u times the largest number that it has held. The error
/// of a direction is that times the condition number of the preconditioner,
/// which is about the inverse of the smallest ratio of a Schur complement to
/// its diagonal entry. Parameters without master weights are rounded once per
/// step, too. Gradients are not rounded, and arithmetic is float32 or float64.
#[repr(C)]
pub enum sonew_rounding {
    /// To nearest, ties to even. An exponential moving average stops changing
    /// where its changes are less than half a unit in the last place.
    SONEW_NEAREST = 0,
    /// Up or down at random, with probabilities that make the expected value
    /// exact. Reproducible: the random bits are a function of seed, step, tensor,
    /// plane and index.
    SONEW_STOCHASTIC = 1,
}

/// An instruction set.
#[repr(C)]
pub enum sonew_isa {
    /// The one that the environment variable SONEW_INSTRUCTION_SET names
    /// (portable, avx2, avx512 or neon); if it is not set, empty or auto, the
    /// best that the processor has.
    SONEW_ISA_AUTO = 0,
    /// Plain code, on every processor.
    SONEW_ISA_PORTABLE = 1,
    /// AVX2 and FMA of x86-64.
    SONEW_ISA_AVX2 = 2,
    /// AVX-512 of x86-64.
    SONEW_ISA_AVX512 = 3,
    /// Advanced SIMD of 64-bit Arm.
    SONEW_ISA_NEON = 4,
}

/// The options of an optimizer. Fill them in with sonew_options_init(), then
/// change those that should differ from the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_options {
    /// Set by sonew_options_init().
    pub struct_size: usize,
    /// Number of sub-diagonals, 0 to SONEW_MAX_BAND, or to SONEW_MAX_POOLED_BAND with
    /// pooling: 0 is a diagonal, 1 a tridiagonal matrix. The state has band + 2 numbers
    /// for each parameter, and 2 with pooling. SONEW_POOLING_RANK and SONEW_POOLING_ALL do
    /// not look at it. Default 1.
    pub band: i32,
    /// The largest number of threads that a step uses, the calling thread
    /// included, up to 1024. 0 means one for each processor that the process may
    /// run on; 1 means that no step creates a thread. All optimizers and plans that
    /// ask for the same number share one pool. Results do not depend on it. The
    /// threads of OpenMP keep processors busy after their work is done, which slows a step
    /// down: see "Pool". Default 0.
    pub threads: i32,
    /// Decay rate of the momentum, at least 0 and less than 1. Default 0.9.
    pub beta1: f64,
    /// Decay rate of the diagonal, the sub-diagonals and the plane "rms", at
    /// least 0 and less than 1. Default 0.99.
    pub beta2: f64,
    /// Amount of damping, finite and not negative; see damping. Default 1e-3.
    pub eps: f64,
    /// Threshold of edge removal, at least 0 and less than 1: a coordinate whose
    /// Schur complement, or one of whose pivots, is not above gamma times the
    /// diagonal entry is preconditioned by its diagonal alone. With gamma 0,
    /// where statistics are singular and damping is negligible, those quantities
    /// are only rounding errors, and a direction may overflow. Default 0.01.
    pub gamma: f64,
    /// Added to the square root in the grafts of Adam and normalized RMSProp,
    /// and in the plain Adam update; finite and not negative. Where the root is 0 and this,
    /// too, the result is 0. Default 0: then the scale of the loss has no effect.
    pub graft_eps: f64,
    /// Decoupled weight decay that every tensor starts with, finite and not
    /// negative; sonew_set_settings() changes it for one tensor. Default 0.
    pub weight_decay: f64,
    /// Seed of stochastic rounding. Default 0.
    pub seed: u64,
    /// One of sonew_statistics. Default SONEW_MOVING_AVERAGE.
    pub statistics: i32,
    /// One of sonew_damping. Default SONEW_RELATIVE_LAGGED.
    pub damping: i32,
    /// One of sonew_graft. Default SONEW_GRAFT_ADAM.
    pub graft: i32,
    /// 1: bias correction, with t the number of the steps that the tensor took
    /// part in: divide the momentum by
    /// 1 - beta1^t, and the statistics by 1 - beta2^t if they are an exponential
    /// moving average. 0: none. Default 1.
    pub bias_correction: i32,
    /// 1: bias-correct the diagonal in the Adam graft, too. 0: do not. Has no
    /// effect if bias_correction is 0. Default 1.
    pub graft_bias_correction: i32,
    /// One of sonew_rounding, for 16-bit state, and for 16-bit parameters
    /// without master weights. Default SONEW_NEAREST.
    pub rounding: i32,
    /// One of sonew_isa: the instruction set that steps use. Results do not
    /// depend on it. Default SONEW_ISA_AUTO.
    pub instruction_set: i32,
    /// 1: grafting with the norms of the step before: a tensor's update is scaled by
    /// |a| / |u| of the last step that it took part in, so that a step goes through
    /// memory once. Its first step, and one after a zero update, takes its own. An
    /// update whose norm would be more than twice that which the norms of its own step
    /// give it is brought to these, by a second pass. (Parameters of 16 bits without master
    /// weights always take two, because what they were cannot be restored.) With pooling,
    /// correlations are those of the step before, too. 0: with those of the step
    /// itself. -1: 1 with pooling, otherwise 0. Default -1.
    pub lagged_norms: i32,
    /// 1: Nesterov momentum: in the direction and in the norms of the grafts of Adam
    /// and momentum, m^ is replaced by (beta1 m + (1 - beta1) g) / (1 - beta1^t), with
    /// m the momentum after the step. 0: m^ itself. Default 0.
    pub nesterov: i32,
    /// One of sonew_pooling: whether the chains of a tensor share their correlations.
    /// Default SONEW_POOLING_NONE.
    pub pooling: i32,
    /// The pool whose threads steps use. Then threads must be 0. Default NULL: the
    /// one that all who ask for the same number of threads share.
    pub pool: *const sonew_pool,
    /// With pooling, by which part of themselves correlations are taken to be smaller
    /// than their estimates, in [0, 1). Default 0.04.
    pub shrink: f64,
    /// With SONEW_POOLING_RANK, the number of directions, 1 to SONEW_MAX_POOLED_RANK.
    /// Others do not look at it. Default 16.
    pub rank: i32,
    /// Must be 0.
    pub reserved: [i32; 1],
}

// SAFETY: 8 + 2 * 4 + 7 * 8 + 10 * 4 + 2 * 8 + 2 * 4 bytes without padding.
unsafe impl Growing for sonew_options {
    const SIZES: &'static [usize] = &[size_of::<sonew_options>()];
}

// SAFETY: the first field is the size; numbers and a raw pointer.
unsafe impl Versioned for sonew_options {
    const HINT: &'static str = "call sonew_options_init() first";

    fn with_defaults(struct_size: usize) -> Self {
        from_options(&Options::default(), struct_size)
    }
}

/// Options for C, whose struct has this size.
pub(super) fn from_options(options: &Options, struct_size: usize) -> sonew_options {
    // They were validated, so that every count fits.
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    sonew_options {
        struct_size,
        band: count(options.band),
        threads: count(options.threads),
        beta1: options.beta1,
        beta2: options.beta2,
        eps: options.eps,
        gamma: options.gamma,
        graft_eps: options.graft_eps,
        weight_decay: options.weight_decay,
        seed: options.seed,
        statistics: number(options.statistics, STATISTICS),
        damping: number(options.damping, DAMPINGS),
        graft: number(options.graft, GRAFTS),
        bias_correction: options.bias_correction.into(),
        graft_bias_correction: options.graft_bias_correction.into(),
        rounding: number(options.rounding, ROUNDINGS),
        instruction_set: number(options.instruction_set, ISAS),
        lagged_norms: number(options.lagged_norms, LAGGED_NORMS),
        nesterov: options.nesterov.into(),
        pooling: number(options.pooling, POOLINGS),
        pool: std::ptr::null(),
        shrink: options.shrink,
        rank: count(options.rank),
        reserved: [0],
    }
}

const POOLINGS: &[(i32, Pooling)] = &[
    (sonew_pooling::SONEW_POOLING_NONE as i32, Pooling::None),
    (sonew_pooling::SONEW_POOLING_BAND as i32, Pooling::Band),
    (sonew_pooling::SONEW_POOLING_RANK as i32, Pooling::Rank),
    (sonew_pooling::SONEW_POOLING_ALL as i32, Pooling::All),
];

const STATISTICS: &[(i32, Statistics)] = &[
    (
        sonew_statistics::SONEW_MOVING_AVERAGE as i32,
        Statistics::MovingAverage,
    ),
    (
        sonew_statistics::SONEW_WEIGHTED_SUM as i32,
        Statistics::WeightedSum,
    ),
];

const DAMPINGS: &[(i32, Damping)] = &[
    (sonew_damping::SONEW_ABSOLUTE as i32, Damping::Absolute),
    (sonew_damping::SONEW_RELATIVE as i32, Damping::Relative),
    (
        sonew_damping::SONEW_RELATIVE_LAGGED as i32,
        Damping::RelativeLagged,
    ),
];

const LAGGED_NORMS: &[(i32, Option<bool>)] = &[(-1, None), (0, Some(false)), (1, Some(true))];

const GRAFTS: &[(i32, Graft)] = &[
    (sonew_graft::SONEW_GRAFT_NONE as i32, Graft::None),
    (sonew_graft::SONEW_GRAFT_SGD as i32, Graft::Sgd),
    (sonew_graft::SONEW_GRAFT_MOMENTUM as i32, Graft::Momentum),
    (sonew_graft::SONEW_GRAFT_ADAM as i32, Graft::Adam),
    (
        sonew_graft::SONEW_GRAFT_NORMALIZED_RMSPROP as i32,
        Graft::NormalizedRmsprop,
    ),
];

const ROUNDINGS: &[(i32, Rounding)] = &[
    (sonew_rounding::SONEW_NEAREST as i32, Rounding::Nearest),
    (
        sonew_rounding::SONEW_STOCHASTIC as i32,
        Rounding::Stochastic,
    ),
];

const ISAS: &[(i32, InstructionSet)] = &[
    (sonew_isa::SONEW_ISA_AUTO as i32, InstructionSet::Auto),
    (
        sonew_isa::SONEW_ISA_PORTABLE as i32,
        InstructionSet::Portable,
    ),
    (sonew_isa::SONEW_ISA_AVX2 as i32, InstructionSet::Avx2),
    (sonew_isa::SONEW_ISA_AVX512 as i32, InstructionSet::Avx512),
    (sonew_isa::SONEW_ISA_NEON as i32, InstructionSet::Neon),
];

/// The options of a caller, and its pool if it has one; NULL means the defaults.
///
/// # Safety
/// As for [`versioned::read`].
pub(crate) unsafe fn options(
    pointer: *const sonew_options,
    argument: &str,
) -> Result<(Options, Option<Pool>)> {
    if pointer.is_null() {
        return Ok((Options::default(), None));
    }
    // SAFETY: the caller's promise.
    let c = unsafe { versioned::read(pointer, argument) }?;
    let name = |field: &str| format!("{argument}.{field}");
    let of = |field: &'static str| move || name(field);
    let pool = || pool::get(c.pool, "options.pool");
    let pool = (!c.pool.is_null()).then(pool).transpose()?;
    unused(&c.reserved, || name("reserved"))?;
    let options = Options {
        band: count(c.band, &name("band"))?,
        beta1: c.beta1,
        beta2: c.beta2,
        eps: c.eps,
        gamma: c.gamma,
        statistics: named(c.statistics, of("statistics"), STATISTICS)?,
        damping: named(c.damping, of("damping"), DAMPINGS)?,
        bias_correction: flag(c.bias_correction, &name("bias_correction"))?,
        graft: named(c.graft, of("graft"), GRAFTS)?,
        lagged_norms: named(c.lagged_norms, of("lagged_norms"), LAGGED_NORMS)?,
        pooling: named(c.pooling, of("pooling"), POOLINGS)?,
        rank: count(c.rank, &name("rank"))?,
        shrink: c.shrink,
        nesterov: flag(c.nesterov, &name("nesterov"))?,
        graft_eps: c.graft_eps,
        graft_bias_correction: flag(c.graft_bias_correction, &name("graft_bias_correction"))?,
        weight_decay: c.weight_decay,
        threads: count(c.threads, &name("threads"))?,
        rounding: named(c.rounding, of("rounding"), ROUNDINGS)?,
        seed: c.seed,
        instruction_set: named(c.instruction_set, of("instruction_set"), ISAS)?,
    };
    Ok((options, pool))
}

/// Fills in the defaults. Pass sizeof *options for size, from which the library
/// knows which fields the caller has: the two may be of different versions.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_options_init(
    options: *mut sonew_options,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for a struct of this size.
    call_always(|| unsafe { versioned::init(options, size, "options") })
}
