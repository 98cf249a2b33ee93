//! A block of chains on its way through panels.

use std::ops::Range;

use super::chains::PooledChains;
use crate::{Access, Directions, Kernels, Norms, Rule, Workspace};

/// What is done to a block of chains.
pub struct PooledBlock<'a> {
    /// The chains.
    pub chains: Range<usize>,
    /// The state takes in the gradient.
    pub takes_in: bool,
    /// Where products are added up, numbers of the arithmetic's type: those of two positions
    /// at the first of them, see [`PooledChains::products`].
    pub products: Option<&'a mut [u8]>,
    /// The number of the tensor's step, which says which chains take part in them.
    pub step: u64,
    /// What becomes of directions, if they are computed.
    pub then: Option<Directions>,
    /// Where the block's first direction is kept, if they are, and how far behind it the
    /// first of the next row.
    pub kept: (usize, usize),
}

/// A block on its way: what it works on, and with.
pub(super) struct Pass<'p, 'a> {
    pub(super) kernels: &'p Kernels,
    pub(super) work: &'p mut Workspace,
    pub(super) access: &'p mut Access<'a>,
    pub(super) rule: &'p Rule,
    pub(super) chains: &'p PooledChains,
    pub(super) block: PooledBlock<'p>,
    pub(super) norms: &'p mut Norms,
}
