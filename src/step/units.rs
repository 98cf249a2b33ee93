//! What the results of kernels are multiplied with.

/// Kernels leave bias correction out. What they compute, times these, is what
/// it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    pub statistics: f64,
    pub direction: f64,
    pub reference: f64,
}
