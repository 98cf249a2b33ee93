//! Hyperparameters: of the optimizer, and of one step.
//!
//! Every number is checked against its documented range; nothing is clamped.
//! Numbers that do not fit into float32 are refused as well, because the
//! arithmetic may be float32.

use std::fmt::Display;

use crate::error::{Error, Result};

/// The widest band.
pub const MAX_BAND: usize = sonew_kernel::MAX_BAND;

/// The widest band of pooled correlations.
pub const MAX_POOLED_BAND: usize = sonew_kernel::MAX_POOLED_BAND;

/// The largest rank of pooled correlations.
pub const MAX_POOLED_RANK: usize = sonew_kernel::MAX_POOLED_RANK;

/// The longest chain all of whose correlations are pooled.
pub const MAX_POOLED_LENGTH: usize = sonew_kernel::MAX_POOLED_LENGTH;

/// The options that an optimizer is created with. They do not change over its
/// life.
///
/// The method, for one chain of coordinates, gradient `g`, step `t` from 1
/// (SONew, arXiv 2311.10085):
///
/// ```text
/// m       <- beta1 m + (1 - beta1) g                            momentum
/// H_jj    <- beta2 H_jj + (1 - beta2) g_j^2                     diagonal
/// H_j+k,j <- beta2 H_j+k,j + (1 - beta2) g_j g_j+k, k = 1..band sub-diagonals
/// m^ = m / (1 - beta1^t),   H^ = H / (1 - beta2^t) + eps I
/// u  = X m^,   X = argmin tr(X H^) - log det X over banded X
/// u  <- u |a| / |u|                                             grafting
/// p  <- p - lr (u + weight_decay p)
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Number of sub-diagonals, 0 to [`MAX_BAND`], or to [`MAX_POOLED_BAND`] with pooling: 0
    /// is diagonal, 1 tridiagonal. [`Pooling::Rank`] and [`Pooling::All`] do not look at it.
    /// Default 1.
    pub band: usize,
    /// Whether the chains of a tensor share their correlations. Default none.
    pub pooling: Pooling,
    /// Number of directions of [`Pooling::Rank`], 1 to [`MAX_POOLED_RANK`]; others do not look
    /// at it. Default 16.
    pub rank: usize,
    /// With pooling, by which part of themselves correlations are taken to be smaller than
    /// their estimates, in `[0, 1)`. Default 0.04.
    pub shrink: f64,
    /// Decay rate of the momentum, in `[0, 1)`. Default 0.9.
    pub beta1: f64,
    /// Decay rate of the diagonal, the sub-diagonals and the plane of normalized
    /// RMSProp, in `[0, 1)`. Default 0.99.
    pub beta2: f64,
    /// Amount of damping, finite and not negative; see [`Damping`]. Default
    /// 1e-3.
    pub eps: f64,
    /// Threshold of edge removal, in `[0, 1)`: a coordinate whose Schur
    /// complement, or one of whose pivots, is not above `gamma` times the
    /// diagonal entry is preconditioned by its diagonal alone (paper, Algorithm
    /// 3, applied per coordinate). With `gamma` 0, where statistics are singular
    /// and damping is negligible, those quantities are only rounding errors, and
    /// a direction may overflow. Default 1e-2.
    pub gamma: f64,
    /// How gradients enter the statistics. Default: an exponential moving
    /// average.
    pub statistics: Statistics,
    /// Whether `eps` is absolute or relative. Default [`Damping::RelativeLagged`].
    pub damping: Damping,
    /// Divide the momentum by `1 - beta1^t`, and the statistics by `1 - beta2^t`
    /// if they are an exponential moving average. Default true.
    pub bias_correction: bool,
    /// The method whose norm the update takes. Default Adam.
    pub graft: Graft,
    /// Grafting with the norms of the step before: a tensor's update is scaled by
    /// `|a| / |u|` of the last step that it took part in, so that a step goes through
    /// memory once. Its first step, and one after a zero direction, takes the norms of
    /// its own. An update whose norm would be more than twice that which the norms of
    /// its own step give it is brought to these, by a second pass. (Parameters of 16 bits without
    /// master weights always take two, because what they were cannot be restored.)
    /// With pooling, the correlations are those of the step before, too. Default `None`: true
    /// with pooling, otherwise false.
    pub lagged_norms: Option<bool>,
    /// Nesterov momentum: in the direction and in the norms of the grafts of Adam and
    /// momentum, `m^` is replaced by `(beta1 m + (1 - beta1) g) / (1 - beta1^t)`, with `m`
    /// the momentum after the step. Tensors with the plain Adam update do the same.
    /// Default false.
    pub nesterov: bool,
    /// Added to the square root in the grafts of Adam and normalized RMSProp,
    /// and in the plain Adam update; finite and not negative. Where the root is 0 and this, too,
    /// the result is 0. Default 0: then the scale of the loss has no effect.
    pub graft_eps: f64,
    /// Whether the diagonal in the Adam graft is bias-corrected (as in the
    /// authors' JAX code) or not (as in their PyTorch code). Has no effect
    /// without `bias_correction`. Default true.
    pub graft_bias_correction: bool,
    /// Decoupled weight decay that every tensor starts with, finite and not
    /// negative; [`Optimizer::change_settings`](crate::Optimizer::change_settings)
    /// changes it for one tensor. Default 0.
    pub weight_decay: f64,
    /// How 16-bit state, and 16-bit parameters without master weights, are
    /// rounded. Default to nearest.
    pub rounding: Rounding,
    /// Seed of stochastic rounding. Default 0.
    pub seed: u64,
    /// The largest number of threads that a step uses, the calling thread
    /// included, up to 1024. 0 means one for each processor that the process may run
    /// on; 1 means that no step creates a thread. All optimizers and plans that ask
    /// for the same number share one [`Pool`](crate::Pool). Results do not depend on
    /// it. Default 0.
    pub threads: usize,
    /// The instruction set that steps use. Results do not depend on it.
    /// Default the best there is.
    pub instruction_set: InstructionSet,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            band: 1,
            pooling: Pooling::None,
            rank: 16,
            shrink: 0.04,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-3,
            gamma: 1e-2,
            statistics: Statistics::MovingAverage,
            damping: Damping::RelativeLagged,
            bias_correction: true,
            graft: Graft::Adam,
            lagged_norms: None,
            nesterov: false,
            graft_eps: 0.0,
            graft_bias_correction: true,
            weight_decay: 0.0,
            rounding: Rounding::Nearest,
            seed: 0,
            threads: 0,
            instruction_set: InstructionSet::Auto,
        }
    }
}

/// How the correlations of a chain's coordinates are estimated: an extension, not in the paper.
///
/// The units of a layer see the same inputs, so that the correlations of these are nearly the
/// same for all of them. Pooled, each coordinate keeps a diagonal of its own, and a tensor
/// keeps one structure `R` of correlations for all of its chains. With `d` the damped diagonal,
/// `q = sqrt(d)` and `z = g / q`, the direction is `u = q^-1 R^-1 q^-1 m^`, and of the products
///
/// ```text
/// P[i][j] <- beta2 P[i][j] + (1 - beta2) sum over chains of z[i] z[j]
/// ```
///
/// a tensor keeps a band, a few leading directions, or all.
///
/// Chains end at every row ([`Chains::Contiguous`](crate::layout::Chains) is as
/// `ContiguousLines`) or column. A tensor of one chain pools nothing, but has a band of its own.
/// Of shards the sums over chains are added up between steps:
/// [`Optimizer::partial_sums`](crate::Optimizer::partial_sums).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Every chain has its own: the method of the paper.
    #[default]
    None,
    /// A band of [`Options::band`] sub-diagonals of `P`, and for `R^-1` the solution of
    /// `argmin tr(X R) - log det X` for that band:
    ///
    /// ```text
    /// R[i][j] = (1 - shrink) P[i][j] / sqrt(P[i][i] P[j][j]),  R[j][j] = 1
    /// ```
    Band,
    /// [`Options::rank`] directions `U`, orthonormal, which follow the leading eigenvectors of
    /// `P`. With `L` coordinates in a chain:
    ///
    /// ```text
    /// Y      <- beta2 Y + (1 - beta2) sum over chains of z (z' U)
    /// tr     <- beta2 tr + (1 - beta2) sum of z^2
    /// U2      = Q of the QR factors of Y,  Y <- Y U' U2,  U <- U2
    /// lambda = max(diag(U' Y), 0),  rest = (tr - sum of lambda) / (L - rank)
    /// lambda <- (1 - shrink) lambda L / tr + shrink,  rest likewise,  lambda >= rest
    /// R^-1   = (I - U (1 - rest / lambda) U') / rest
    /// ```
    ///
    /// A rank of `L` or more is `L`. Where `rest` is not above gamma, `R` is `I`.
    Rank,
    /// All of `P`, for chains of up to [`MAX_POOLED_LENGTH`], with `R` as for a band. A position
    /// whose Schur complement in `R`, given those before it, is not above gamma has no
    /// correlations with these.
    All,
}

/// How gradients enter the diagonal and the sub-diagonals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// `H <- beta2 H + (1 - beta2) g g^T`, an exponential moving average.
    MovingAverage,
    /// The paper's online-convex form `H <- H + w_t g g^T`, with `w_t` from
    /// [`StepOptions::statistics_weight`]; never bias-corrected.
    WeightedSum,
}

/// What is added to the diagonal before it is inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damping {
    /// `eps`.
    Absolute,
    /// `max(eps l1, 1e-24)`, where `l1` is the largest `H_jj + |H_j,j-1|` of the
    /// bias-corrected statistics over the whole tensor
    /// (`H_jj + |H_j+1,j|` for the first coordinate of a chain). Takes a pass over the
    /// statistics of its own.
    Relative,
    /// `max(eps h, 1e-24)`, where `h` is the largest `H_jj` of the bias-corrected statistics
    /// over the whole tensor, as the tensor's last step left them. Its first step, and one
    /// after which all were zero, takes that of its own statistics. Entries that are infinite
    /// do not count.
    RelativeLagged,
}

/// Grafting: in each tensor the update takes the norm of another method's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Graft {
    /// No grafting: the norm is that of the SONew direction itself.
    None,
    /// `|g|`.
    Sgd,
    /// `|m^|`.
    Momentum,
    /// `|m^ / (sqrt(v) + graft_eps)|`, `v` the diagonal without damping.
    Adam,
    /// `|q / (sqrt(r) + graft_eps)|` with `q = g / |g|` and
    /// `r <- beta2 r + (1 - beta2) q^2`. Keeps one more state plane, `rms`.
    NormalizedRmsprop,
}

/// How numbers are rounded to 16 bits. Float32 and float64 always round to
/// nearest.
///
/// Accuracy: with `u = 2^-8` for bfloat16 and `2^-11` for float16, rounding to
/// nearest has a relative error of at most `u`; stochastic rounding has one of
/// less than `2 u`, and of zero on average. State is rounded once per step, so
/// that after `t` steps the error of a plane is at most about
/// `min(t, 1 / (1 - beta)) u` times the largest number that it has held. The
/// error of a direction is that times the condition number of the
/// preconditioner, which is about the inverse of the smallest ratio of a Schur
/// complement to its diagonal entry. Parameters without master weights are
/// rounded once per step, too. Gradients are not rounded, and arithmetic is
/// float32 or float64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To nearest, ties to even. An exponential moving average stops changing
    /// where its changes are less than half a unit in the last place.
    Nearest,
    /// Up or down at random, with probabilities that make the expected value
    /// exact. Reproducible: the random bits are a function of seed, step, tensor,
    /// plane and index.
    Stochastic,
}

/// The instruction set that steps use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// The one that the environment variable `SONEW_INSTRUCTION_SET` names
    /// (`portable`, `avx2`, `avx512` or `neon`); if it is not set, empty or
    /// `auto`, the best that the processor has.
    Auto,
    /// Plain code, on every processor.
    Portable,
    /// AVX2 and FMA of x86-64.
    Avx2,
    /// AVX-512 of x86-64.
    Avx512,
    /// Advanced SIMD of 64-bit Arm.
    Neon,
}

impl InstructionSet {
    /// Its name: `auto`, `portable`, `avx2`, `avx512` or `neon`.
    pub const fn name(self) -> &'static str {
        match self {
            InstructionSet::Auto => "auto",
            InstructionSet::Portable => "portable",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Avx512 => "avx512",
            InstructionSet::Neon => "neon",
        }
    }
}

impl Options {
    /// Whether norms, and pooled correlations, are those of the step before.
    pub fn is_lagged(&self) -> bool {
        self.lagged_norms.unwrap_or(self.pooling != Pooling::None)
    }

    /// Whether a step needs numbers that the step before left, besides the planes.
    pub(crate) fn needs_scalars(&self) -> bool {
        self.is_lagged() || self.damping == Damping::RelativeLagged
    }

    /// Refuses the first number that is out of its range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self) -> Result<()> {
        let (widest, allowed) = match self.pooling {
            Pooling::None => (MAX_BAND, "0 to 16"),
            Pooling::Band | Pooling::Rank | Pooling::All => (MAX_POOLED_BAND, "0 to 64"),
        };
        in_range(
            "options.band",
            self.band as f64,
            self.band <= widest,
            allowed,
        )?;
        in_range(
            "options.rank",
            self.rank as f64,
            self.pooling != Pooling::Rank || (1..=MAX_POOLED_RANK).contains(&self.rank),
            "1 to 64",
        )?;
        unit("options.shrink", self.shrink)?;
        unit("options.beta1", self.beta1)?;
        unit("options.beta2", self.beta2)?;
        not_negative("options.eps", self.eps)?;
        unit("options.gamma", self.gamma)?;
        not_negative("options.graft_eps", self.graft_eps)?;
        not_negative("options.weight_decay", self.weight_decay)?;
        in_range(
            "options.threads",
            self.threads as f64,
            self.threads <= MAX_THREADS,
            "0 to 1024",
        )
    }
}

impl Options {
    /// The first option in which a tensor differs from all, although tensors cannot.
    pub(crate) fn differs_for_all(&self, all: &Options) -> Option<&'static str> {
        // Every field is named, so that a new one cannot be forgotten here.
        let Options {
            band: _,
            rank: _,
            beta1: _,
            beta2: _,
            eps: _,
            gamma: _,
            graft_eps: _,
            weight_decay: _,
            statistics,
            damping,
            bias_correction,
            graft,
            pooling,
            shrink: _,
            lagged_norms: _,
            nesterov,
            graft_bias_correction,
            rounding,
            seed,
            // Results do not depend on these.
            threads: _,
            instruction_set: _,
        } = self;
        let same = [
            ("statistics", *statistics == all.statistics),
            ("damping", *damping == all.damping),
            ("bias_correction", *bias_correction == all.bias_correction),
            ("graft", *graft == all.graft),
            ("pooling", *pooling == all.pooling),
            ("lagged_norms", self.is_lagged() == all.is_lagged()),
            ("nesterov", *nesterov == all.nesterov),
            (
                "graft_bias_correction",
                *graft_bias_correction == all.graft_bias_correction,
            ),
            ("rounding", *rounding == all.rounding),
            ("seed", *seed == all.seed),
        ];
        same.iter().find(|(_, same)| !same).map(|(name, _)| *name)
    }
}

/// The largest thread count that can be asked for.
pub const MAX_THREADS: usize = 1024;

/// The options of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOptions {
    /// Learning rate, finite and not negative. Default 1e-3.
    pub lr: f64,
    /// Every gradient is multiplied by this first (loss scaling, averaging);
    /// finite and positive. Default 1.
    pub grad_scale: f64,
    /// `w_t` of the weighted sum, finite and not negative. Must be 1 with an
    /// exponential moving average. Default 1.
    pub statistics_weight: f64,
    /// Clipping: if the gradient norm, `sqrt(sum |grad_scale g|^2)` over all
    /// tensors of the step, exceeds this, all gradients are multiplied by
    /// `clip_norm / norm`. Finite and positive. A step that clips reads every
    /// gradient first, and refuses those that are not finite whatever
    /// `non_finite` says. Default `None`: no clipping.
    pub clip_norm: Option<f64>,
    /// What to do about gradients that are not finite. Default skip.
    pub non_finite: NonFinite,
    /// The decay rate of the momentum in this step, in `[0, 1)`, for schedules. Bias
    /// correction follows the product of the betas of all steps. Default `None`:
    /// [`Options::beta1`].
    pub beta1: Option<f64>,
    /// The same in place of [`Options::beta2`].
    pub beta2: Option<f64>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            lr: 1e-3,
            grad_scale: 1.0,
            statistics_weight: 1.0,
            clip_norm: None,
            non_finite: NonFinite::Skip,
            beta1: None,
            beta2: None,
        }
    }
}

/// What a step does about a gradient with a NaN, an infinity, or an element
/// whose square overflows (after [`StepOptions::grad_scale`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinite {
    /// Check every gradient first. If one is not finite, change nothing and
    /// return [`Error::NonFiniteGradient`].
    Skip,
    /// Do not check, unless [`StepOptions::clip_norm`] does. Coordinates whose
    /// statistics become infinite or NaN no longer change; nor may the other
    /// parameters of such a tensor. None becomes infinite or NaN.
    Unchecked,
}

impl StepOptions {
    /// `beta1` and `beta2` of the step.
    pub(crate) fn betas(&self, options: &Options) -> [f64; 2] {
        let beta1 = self.beta1.unwrap_or(options.beta1);
        [beta1, self.beta2.unwrap_or(options.beta2)]
    }

    /// Refuses the first number that is out of its range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self, statistics: Statistics) -> Result<()> {
        not_negative("step.lr", self.lr)?;
        positive("step.grad_scale", self.grad_scale)?;
        if let Some(clip_norm) = self.clip_norm {
            positive("step.clip_norm", clip_norm)?;
        }
        not_negative("step.statistics_weight", self.statistics_weight)?;
        unit("step.beta1", self.beta1.unwrap_or(0.0))?;
        unit("step.beta2", self.beta2.unwrap_or(0.0))?;
        in_range(
            "step.statistics_weight",
            self.statistics_weight,
            statistics == Statistics::WeightedSum || self.statistics_weight == 1.0,
            "1 with moving-average statistics",
        )
    }
}

/// Refuses `value` unless `holds`; `allowed` says in words what it may be.
pub(crate) fn in_range(
    argument: impl Display,
    value: f64,
    holds: bool,
    allowed: &'static str,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::OutOfRange {
        argument: argument.to_string(),
        value,
        allowed,
    })
}

fn unit(argument: &str, value: f64) -> Result<()> {
    in_range(argument, value, (0.0..1.0).contains(&value), "in [0, 1)")
}

/// Refuses a value that is not positive and finite, in float64 or in float32.
fn positive(argument: &str, value: f64) -> Result<()> {
    let holds = value.is_finite() && value > 0.0;
    in_range(argument, value, holds, "finite and positive")?;
    fits(argument, value, value as f32 > 0.0)
}

/// Refuses a value that is negative, infinite or NaN, in float64 or in float32.
#[inline]
pub(crate) fn not_negative(argument: impl Display, value: f64) -> Result<()> {
    // What is infinite, or no number, in float64 is so in float32.
    if value >= 0.0 && (value as f32).is_finite() {
        return Ok(());
    }
    in_range(
        &argument,
        value,
        value.is_finite() && value >= 0.0,
        "finite and not negative",
    )?;
    fits(argument, value, true)
}

/// Refuses a value that does not fit into float32, or for which `holds` is false.
fn fits(argument: impl Display, value: f64, holds: bool) -> Result<()> {
    let holds = holds && (value as f32).is_finite();
    in_range(argument, value, holds, "within the range of float32")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn numbers_that_float32_cannot_hold_are_refused() {
        let step = |lr, grad_scale| StepOptions {
            lr,
            grad_scale,
            ..StepOptions::default()
        };
        let check = |step: StepOptions| step.validate(Statistics::MovingAverage);
        assert!(check(step(3e38, 1e-38)).is_ok());
        for (step, name) in [
            (step(1e39, 1.0), "step.lr"),
            (step(1.0, 1e39), "step.grad_scale"),
            (step(1.0, 1e-50), "step.grad_scale"),
        ] {
            let message = refused(check(step));
            assert!(message.starts_with(name), "{message}");
            assert!(message.contains("within the range of float32"), "{message}");
        }
        let options = Options {
            eps: 1e39,
            ..Options::default()
        };
        assert!(refused(options.validate()).starts_with("options.eps is"));
    }
}
