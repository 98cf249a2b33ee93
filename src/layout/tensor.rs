//! The description of a tensor, and which state planes it has.

use std::borrow::Cow;
use std::ops::Range;

use crate::dtype::Dtype;
use crate::options::{Graft, Options, Pooling};

use sonew_kernel::PooledStructure;

/// The largest number of dimensions of a tensor.
pub const MAX_DIMS: usize = 8;

/// One parameter tensor, stored contiguously with its last dimension fastest.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Unique among the optimizer's tensors; state planes are saved under
    /// `name/plane`. Not empty, no control characters.
    pub name: String,
    /// Sizes of up to 8 dimensions, none zero. Empty for a scalar.
    pub dims: Vec<usize>,
    /// Which coordinates are neighbours.
    pub chains: Chains,
    /// How the tensor is updated.
    pub update: Update,
    /// Type of the parameters, or of the direction that is written instead of
    /// them. If it or `state` is float64, the arithmetic is float64, otherwise
    /// float32.
    pub params: Dtype,
    /// Type of the gradients.
    pub grads: Dtype,
    /// Type of the state planes except `master`. May not be float16, whose range
    /// is too small for squared gradients.
    pub state: Dtype,
    /// Keep float32 master weights in the state. Steps update these, and the
    /// parameters are rounded copies of them. Not for float64 parameters.
    pub master: bool,
    /// Which rows of a larger tensor it is; `None` if it is a whole tensor. Files depend on it,
    /// steps only with pooled correlations: see [`Shard`]. Not for scalars.
    pub shard: Option<Shard>,
    /// Options of its own, as a group of parameters has them: `band`, `rank`, `beta1`, `beta2`,
    /// `eps`, `gamma`, `shrink`, `graft_eps` and `weight_decay`. The others are those of the
    /// optimizer: in `threads` and `instruction_set` they are not looked at, in all
    /// others they must be the same. `None`: those of the optimizer.
    pub options: Option<Box<Options>>,
}

impl TensorSpec {
    /// A tensor with contiguous chains and the SONew update; all float32.
    pub fn new(name: impl Into<String>, dims: &[usize]) -> Self {
        TensorSpec {
            name: name.into(),
            dims: dims.to_vec(),
            chains: Chains::Contiguous,
            update: Update::Sonew,
            params: Dtype::F32,
            grads: Dtype::F32,
            state: Dtype::F32,
            master: false,
            shard: None,
            options: None,
        }
    }

    /// The same tensor with other chains.
    pub fn with_chains(mut self, chains: Chains) -> Self {
        self.chains = chains;
        self
    }

    /// The same tensor with another update.
    pub fn with_update(mut self, update: Update) -> Self {
        self.update = update;
        self
    }

    /// The same tensor with other types of parameters, gradients and state.
    pub fn with_dtypes(mut self, params: Dtype, grads: Dtype, state: Dtype) -> Self {
        (self.params, self.grads, self.state) = (params, grads, state);
        self
    }

    /// The same tensor with float32 master weights in its state.
    pub fn with_master(mut self) -> Self {
        self.master = true;
        self
    }

    /// The same tensor as the rows from `first_row` on of a tensor with so many rows.
    pub fn with_shard(mut self, first_row: usize, whole_rows: usize) -> Self {
        self.shard = Some(Shard {
            first_row,
            whole_rows,
        });
        self
    }

    /// The same tensor with options of its own.
    pub fn with_options(mut self, options: &Options) -> Self {
        self.options = Some(Box::new(options.clone()));
        self
    }

    /// Its own options, or these.
    pub(crate) fn options_or<'a>(&'a self, all: &'a Options) -> &'a Options {
        self.options.as_deref().unwrap_or(all)
    }

    /// The type that a step computes in.
    pub(crate) fn arithmetic(&self) -> Dtype {
        match (self.params, self.state) {
            (Dtype::F64, _) | (_, Dtype::F64) => Dtype::F64,
            _ => Dtype::F32,
        }
    }

    /// Number of elements. The tensor must be valid.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether chains that are broken at every row, or column, run along memory.
    pub(crate) fn runs_along(&self) -> bool {
        let along = matches!(self.chains, Chains::Contiguous | Chains::ContiguousLines);
        along || self.dims.len() < 2
    }

    /// Coordinates of such a chain.
    pub(crate) fn chain_len(&self) -> usize {
        let end = match self.runs_along() {
            true => self.dims.last(),
            false => self.dims.first(),
        };
        end.copied().unwrap_or(1)
    }

    /// Whether a dimension is zero. Such a tensor takes part in no step.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }
}

/// Which rows of a larger tensor a tensor is: as many as its first dimension says, from
/// this one on. A row is an index of the first dimension; the rows of a vector are its
/// elements. Some processes may have no rows: such an empty shard is a tensor without
/// elements.
///
/// Steps take a shard for a tensor of its own, but for pooled correlations, which belong to the
/// whole tensor: a program adds up
/// [their sums](crate::Optimizer::partial_sums) over all shards between steps. Files keep which rows it is, so that the
/// files of several processes can be loaded by another number of processes, each of which
/// takes the rows that it needs ([`LoadOptions::paths`](crate::LoadOptions::paths)), and
/// can be [merged](crate::checkpoint::merge) into one.
///
/// Every number stays as it is, except entries of sub-diagonals that belong to two rows. A
/// load or a merge keeps such an entry if it is of the same two elements before and after,
/// and otherwise sets it to 0, as for elements that have met for the first time. With
/// [`Chains::ContiguousLines`] and at least two dimensions, with plain Adam and with a band of 0 there
/// are no such entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// The first of its rows.
    pub first_row: usize,
    /// The number of rows of the whole tensor.
    pub whole_rows: usize,
}

/// Which coordinates of a tensor are neighbours in a chain, and so share band
/// entries. Chains should run along a unit's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chains {
    /// The whole tensor is one chain in the order of memory: along its last dimension,
    /// whose elements are contiguous. Right for weights stored `[out, in]`.
    #[serde(alias = "row_major")] // The names in files of development versions.
    Contiguous,
    /// The whole tensor is one chain, first dimension fastest: neighbours lie a stride
    /// apart. Right for weights stored `[in, out]`.
    #[serde(alias = "column_major")]
    Strided,
    /// One chain for each line along the last dimension: as
    /// [`Contiguous`](Chains::Contiguous), broken at the end of each row.
    #[serde(alias = "rows")]
    ContiguousLines,
    /// One chain for each line along the first dimension: as
    /// [`Strided`](Chains::Strided), broken at the end of each column.
    #[serde(alias = "columns")]
    StridedLines,
}

/// How a tensor is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The SONew direction, grafted as the options say.
    Sonew,
    /// Plain Adam, `u = m^ / (sqrt(H^_jj) + graft_eps)` without damping: for
    /// biases and normalization layers, or as a baseline.
    Adam,
}

impl Update {
    /// The number of sub-diagonals of the tensor's statistics.
    pub(crate) fn band(self, options: &Options) -> usize {
        match (self, options.pooling) {
            (Update::Sonew, Pooling::None) => options.band,
            _ => 0,
        }
    }

    /// Whether the tensor's chains share their correlations.
    pub(crate) fn is_pooled(self, options: &Options) -> bool {
        self == Update::Sonew && options.pooling != Pooling::None
    }

    /// The graft of the tensor's direction. Plain Adam has none.
    pub(crate) fn graft(self, options: &Options) -> Graft {
        match self {
            Update::Sonew => options.graft,
            Update::Adam => Graft::None,
        }
    }
}

/// Position of the diagonal in the list that [`planes`] gives; sub-diagonal `k`
/// comes `k` later.
pub(crate) const DIAGONAL: usize = 1;

/// A state plane: an array of the tensor's shape, but for pooled sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// Its name: `momentum`, `diagonal`, `band.1` and so on, `rms`, `pooled`, `master`.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions: those of the tensor; of pooled sums see [`planes`].
    pub dims: Vec<usize>,
}

impl Plane {
    /// An array of the tensor's shape.
    pub(crate) fn of(tensor: &TensorSpec, name: &str, dtype: Dtype) -> Self {
        Plane {
            name: name.to_owned(),
            dtype,
            dims: tensor.dims.clone(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }
}

/// The state planes of a tensor, in order: `momentum`, `diagonal`, `band.1` to
/// `band.b`, `rms` with normalized RMSProp grafting, `pooled` with pooling (instead of the
/// sub-diagonals), and `master` with master weights. `master` is float32, `pooled` has the
/// type of the arithmetic, the others have the type [`TensorSpec::state`].
///
/// In `pooled` are the sums of products `P`, see [`Pooling`], with `L` coordinates in a chain:
///
/// ```text
/// Band   [band + 1, L]     row i: P[j][j + i]
/// Rank   [2 rank + 1, L]   row 0: P[j][j], whose sum is tr; then Y, then U, a direction a row
/// All    [L, L]            row i: P[i][j] for j >= i, and zeros
/// ```
///
/// Lagged, the sums are those up to the step before the last, and behind them follow as many of
/// the last step alone, already times `1 - beta2`: `[2, band + 1, L]`, `[3 rank + 2, L]` (`U`
/// remains last) and `[2, L, L]`. A rank of more than `L` is `L` here, too.
///
/// Of a [`Shard`], the sums belong to the whole tensor. Its last step has those of its own
/// chains; before the next one they are to be added up over all shards, in the place of each:
/// [`Optimizer::partial_sums`](crate::Optimizer::partial_sums), or, where a program has planes of
/// its own, the elements `n..2 n` of the plane with `n = (band + 1) L`, `(rank + 1) L` or `L L`.
/// A shard without rows, which takes part in no step, adds zeros.
pub fn planes(options: &Options, tensor: &TensorSpec) -> Vec<Plane> {
    let options = tensor.options_or(options);
    let mut names = vec!["momentum".to_owned(), "diagonal".to_owned()];
    names.extend((1..=tensor.update.band(options)).map(|k| format!("band.{k}")));
    if tensor.update.graft(options) == Graft::NormalizedRmsprop {
        names.push("rms".to_owned());
    }
    let plane = |name: &String| Plane::of(tensor, name, tensor.state);
    let mut planes: Vec<Plane> = names.iter().map(plane).collect();
    if tensor.update.is_pooled(options) {
        planes.push(Plane {
            dims: array_dims(options, tensor, POOLED).into_owned(),
            ..Plane::of(tensor, POOLED, tensor.arithmetic())
        });
    }
    if tensor.master {
        planes.push(Plane::of(tensor, MASTER, Dtype::F32));
    }
    planes
}

/// The dimensions of one of a tensor's arrays.
pub(crate) fn array_dims<'a>(
    options: &Options,
    tensor: &'a TensorSpec,
    array: &str,
) -> Cow<'a, [usize]> {
    if array != POOLED {
        return Cow::Borrowed(&tensor.dims);
    }
    let options = tensor.options_or(options);
    let length = tensor.chain_len();
    let sets = if options.is_lagged() { 2 } else { 1 };
    let rows = rows_of_sums(options, tensor);
    Cow::Owned(match (options.pooling, sets) {
        // The directions are as many as rows but one.
        (Pooling::Rank, _) => vec![sets * rows + rows - 1, length],
        (_, 1) => vec![rows, length],
        (..) => vec![sets, rows, length],
    })
}

/// What is estimated of the correlations that chains of this length share, and of a band how wide
/// it is.
pub(super) fn pooled_structure(options: &Options, length: usize) -> (PooledStructure, usize) {
    match options.pooling {
        Pooling::None | Pooling::Band => (PooledStructure::Band, options.band),
        Pooling::Rank => (PooledStructure::Rank(options.rank.min(length)), 0),
        Pooling::All => (PooledStructure::All, 0),
    }
}

/// Rows of a set of pooled sums, each as long as a chain.
fn rows_of_sums(options: &Options, tensor: &TensorSpec) -> usize {
    let length = tensor.chain_len();
    let (structure, band) = pooled_structure(options, length);
    structure.rows_of_sums(band, length)
}

/// Where in [`POOLED`] the sums of the last step alone are, if they are apart from the others.
pub(crate) fn last_sums(options: &Options, tensor: &TensorSpec) -> Option<Range<usize>> {
    let options = tensor.options_or(options);
    let is_apart = tensor.update.is_pooled(options) && options.is_lagged();
    let len = rows_of_sums(options, tensor) * tensor.chain_len();
    is_apart.then_some(len..2 * len)
}

/// The number of elements of one of a tensor's arrays.
pub(crate) fn array_len(options: &Options, tensor: &TensorSpec, array: &str) -> usize {
    array_dims(options, tensor, array).iter().product()
}

/// Name of the plane of pooled sums.
pub(crate) const POOLED: &str = "pooled";

/// Name of the plane of master weights.
pub(crate) const MASTER: &str = "master";

/// The largest band that any of the tensors may have.
pub(crate) fn largest_band<'a>(
    all: &Options,
    tensors: impl IntoIterator<Item = &'a TensorSpec>,
) -> usize {
    let own = |tensor: &'a TensorSpec| tensor.options.as_ref().map(|options| options.band);
    tensors
        .into_iter()
        .filter_map(own)
        .fold(all.band, usize::max)
}
