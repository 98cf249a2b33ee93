//! The buffers of a tensor in a step.

use arrayvec::ArrayVec;

use crate::dtype::{Elements, ElementsMut};
use crate::Stochastic;

/// The widest band.
pub const MAX_BAND: usize = 16;

/// State planes without master weights: momentum, diagonal, sub-diagonals,
/// normalized RMSProp.
pub(crate) const MAX_PLANES: usize = MAX_BAND + 3;

/// The buffers of one tensor for one step: filled in by whoever begins it, and
/// borrowed from there down to the loops. Each has the tensor's number of elements, of
/// the type that it was declared with, in the tensor's own memory order.
#[derive(Debug)]
pub struct TensorBuffers<'a> {
    /// What the step writes besides the state.
    pub target: Target<'a>,
    /// The gradient; `None` leaves the tensor out of the step: its state and
    /// its target stay as they are.
    pub gradient: Option<Elements<'a>>,
    /// The state planes: momentum, diagonal, `band.1` and so on, and where the tensor
    /// has them the average of normalized RMSProp and the master weights. All
    /// zeros before the first step, but for the master weights: those are a copy of
    /// the parameters, which the caller makes.
    pub planes: Planes<'a>,
    /// Where the planes are read, if not where they are written.
    before: ArrayVec<Elements<'a>, { MAX_PLANES + 1 }>,
    /// Multiplies the learning rate, finite and not negative.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative.
    pub weight_decay: f64,
    /// What the tensor's last step left to this one besides the planes. A step puts its
    /// own here.
    pub scalars: Scalars,
    /// The number of the tensor's own step, from 1, if it is not that of the call; 0 if
    /// it is. It differs where the tensor has not taken part in every step.
    pub step_number: u64,
}

/// The numbers of a tensor's state, besides its planes; zeros before the first step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scalars {
    /// With lagged norms: `|a| / |u|` of the tensor's last step; finite and not negative. 0
    /// if there was none, or its update was zero: the step then takes its own.
    pub norm_ratio: f64,
    /// What momentum and statistics were divided by in the last step, where betas have
    /// differed from those of the options: 1 minus the product of the betas of all
    /// steps, in `(0, 1]`. Otherwise zeros: it is `1 - beta^t`.
    pub bias_corrections: [f64; 2],
    /// With lagged relative damping: the largest entry of the bias-corrected diagonal after
    /// the tensor's last step; finite and not negative. 0 if there was none, or all entries
    /// were zero: the step then takes its own.
    pub largest: f64,
}

/// The state planes of a tensor.
pub type Planes<'a> = ArrayVec<ElementsMut<'a>, { MAX_PLANES + 1 }>;

/// What a step writes for a tensor.
#[derive(Debug)]
pub enum Target<'a> {
    /// Parameters, updated in place: `p <- p - lr (u + weight_decay p)`. With
    /// master weights these are what is updated, and `p` is their copy.
    Parameters(ElementsMut<'a>),
    /// The grafted direction `u` is written here, in the type of the
    /// parameters; learning rate and weight decay are left to the caller.
    /// Master weights stay as they are.
    Direction(ElementsMut<'a>),
}

const READ_FROM: &str = "planes are read where there are others than where they are written";

impl<'a> TensorBuffers<'a> {
    /// Buffers with a learning rate scale of 1, no weight decay, and the number of the
    /// call's step.
    ///
    /// # Panics
    /// If there are more planes than any tensor has, 20.
    pub fn new(
        target: Target<'a>,
        gradient: Option<Elements<'a>>,
        planes: impl IntoIterator<Item = ElementsMut<'a>>,
    ) -> Self {
        let mut buffers = TensorBuffers {
            target,
            gradient,
            planes: ArrayVec::new(),
            before: ArrayVec::new(),
            lr_scale: 1.0,
            weight_decay: 0.0,
            scalars: Scalars::default(),
            step_number: 0,
        };
        // Where they are to lie, because a list of them takes long to be moved.
        buffers.planes.extend(planes);
        buffers
    }

    /// Those of a tensor that takes no part in the step: there are none.
    pub fn absent() -> Self {
        TensorBuffers::new(
            Target::Direction(ElementsMut::new::<f32>(&mut [])),
            None,
            [],
        )
    }

    /// Whether they are [`absent`](TensorBuffers::absent).
    pub fn is_absent(&self) -> bool {
        self.gradient.is_none() && self.planes.is_empty()
    }

    /// The number of the tensor's step in a call of this number.
    pub fn number(&self, of_call: u64) -> u64 {
        match self.step_number {
            0 => of_call,
            own => own,
        }
    }

    /// The planes are read here, and written where they are: state that is kept
    /// twice.
    ///
    /// # Panics
    /// If they are not of the same number, type and length. A step panics if the planes have
    /// been exchanged for such ones since.
    pub fn read_from(&mut self, before: impl IntoIterator<Item = Elements<'a>>) {
        self.before.clear();
        self.before.extend(before);
        assert!(self.is_read_alike(), "{READ_FROM}");
    }

    /// Looks whether the planes have been exchanged since
    /// [`read_from`](TensorBuffers::read_from).
    ///
    /// # Panics
    /// If they are not of the number, type and length of where they are read.
    pub fn check_before(&self) {
        assert!(
            !self.is_read_elsewhere() || self.is_read_alike(),
            "{READ_FROM}"
        );
    }

    fn is_read_alike(&self) -> bool {
        let kind = |elements: Elements<'_>| (elements.dtype(), elements.len());
        let written = self.planes.iter().map(|plane| kind(plane.elements()));
        written.eq(self.before.iter().map(|&plane| kind(plane)))
    }

    /// How many bytes after the place where a plane is written it is read, if that is in
    /// another place, and the same for the first `count` planes; as a number that wraps
    /// around. The memory that is read can be reached by its address alone from then on.
    pub(crate) fn source(&self, count: usize) -> Option<usize> {
        let distance = |(from, to): (&Elements<'_>, &ElementsMut<'_>)| {
            let from = from.bytes().as_ptr().expose_provenance();
            from.wrapping_sub(to.elements().bytes().as_ptr().addr())
        };
        let mut distances = self.before.iter().zip(&self.planes[..count]).map(distance);
        let first = distances.next()?;
        distances.all(|other| other == first).then_some(first)
    }

    /// Whether planes are not read where they are written.
    pub(crate) fn is_read_elsewhere(&self) -> bool {
        !self.before.is_empty()
    }

    /// Where a plane is read, if not where it is written.
    pub(crate) fn before(&self, plane: usize) -> Option<Elements<'a>> {
        self.before.get(plane).copied()
    }
}

impl<'a> Target<'a> {
    /// The buffer, whichever it is.
    pub fn elements(&self) -> &ElementsMut<'a> {
        match self {
            Target::Parameters(p) => p,
            Target::Direction(u) => u,
        }
    }
}

/// All memory of a tensor in a step: the caller's buffers, and what is kept beside
/// them.
pub struct Memory<'a> {
    /// The buffers of the caller. There is a gradient.
    pub buffers: &'a TensorBuffers<'a>,
    /// The last of the planes is that of the master weights.
    pub master: bool,
    /// Before it, or last, is one of pooled sums: not of the tensor's shape, and untouched by
    /// tiles.
    pub pooled: bool,
    /// Columns of the matrix as which the tensor is seen.
    pub cols: usize,
    /// Where directions are kept between two sweeps, if they are; in the type of the
    /// arithmetic.
    pub kept: Option<ElementsMut<'a>>,
    /// With stochastic rounding: where its random bits come from.
    pub rounding: Option<Stochastic>,
    /// How many elements ahead memory is asked for.
    pub ahead: usize,
    /// A sweep of this step has written the target and the master weights: the next one reads
    /// these where they are written.
    pub is_written: bool,
}

impl Memory<'_> {
    /// The sums that are pooled, where they are written, if they are; and where they are read,
    /// if elsewhere.
    ///
    /// # Safety
    /// Nobody else reaches that plane while they live.
    pub unsafe fn pooled_sums(&mut self) -> Option<(ElementsMut<'_>, Option<Elements<'_>>)> {
        let planes = &self.buffers.planes;
        let at = (planes.len() - usize::from(self.master)).checked_sub(1)?;
        let plane = planes.get(at).filter(|_| self.pooled)?;
        let (dtype, len) = (plane.elements().dtype(), plane.len());
        // SAFETY: the caller's promise.
        let bytes = unsafe { plane.part(0, len) };
        Some((
            ElementsMut::from_bytes(dtype, bytes),
            self.buffers.before(at),
        ))
    }
}
