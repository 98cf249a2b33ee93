//! What a step does with the correlations that the chains of a tensor share.

use sonew_kernel::{Average, Memory, PooledEstimate, PooledSums};

use super::known::Known;
use super::pooled::Pooled;
use super::progress::Progress;
use super::run::Run;
use crate::parallel::{pooled_sums, Sweep};

/// So many multiply-adds for all tensors are worth waking other threads.
const WORTH_A_THREAD: usize = 1 << 18;

impl Run<'_> {
    /// Does something with the pooled sums of each tensor that has them and takes part, and
    /// with how its correlations are estimated.
    pub(super) fn each_pooled(
        &mut self,
        progress: &Progress,
        body: impl Fn(&mut Pooled, &mut PooledSums<'_>, &Known, Average, PooledEstimate) + Sync,
    ) {
        let (all, tensors, step) = (self.options, self.tensors, &self.step);
        let operations = self.pooled.iter().flatten().map(Pooled::operations);
        let Some(operations) = operations.reduce(|a, b| a + b) else {
            return;
        };
        let takes_little = operations < WORTH_A_THREAD;
        let each = |tensor: usize, pooled: &mut Option<Pooled>, memory: &mut Option<Memory<'_>>| {
            let (Some(pooled), Some(memory)) = (pooled, memory) else {
                return;
            };
            let (known, options) = (
                &progress.known[tensor],
                tensors[tensor].spec.options_or(all),
            );
            let mut sums = pooled_sums(memory, pooled.chains, options.is_lagged());
            let estimate = PooledEstimate {
                shrink: options.shrink,
                gamma: options.gamma,
            };
            let by = known.factors(options, step).pooled();
            body(pooled, &mut sums, known, by, estimate);
        };
        self.team
            .each(takes_little, self.pooled, &mut self.memory, &each);
    }

    /// Pooled correlations of the step before are ready for directions.
    pub(super) fn begin_pooled(&mut self, progress: &Progress) {
        self.each_pooled(progress, |pooled, sums, _, by, estimate| {
            pooled.begin(sums, by, estimate)
        });
    }

    /// The products of this step are added up; so are those of tensors whose damping came
    /// later, if that is known now.
    pub(super) fn end_pooled(&mut self, progress: &Progress, late: bool) {
        self.each_pooled(progress, |pooled, sums, known, by, estimate| {
            if known.damping_waits == late {
                pooled.end(sums, known.number, by, estimate);
            }
        });
    }

    /// Adds up the products of tensors whose damping has become known after the statistics.
    pub(super) fn products(&mut self, progress: &Progress) {
        let mut tensors = self.pooled.iter().zip(&progress.known);
        if tensors.any(|(pooled, known)| pooled.is_some() && known.damping_waits) {
            self.sweep(Sweep::Whole, progress, |job, visit| {
                if job.adds_later {
                    job.products(visit.block, visit.access, visit.work);
                }
            });
        }
    }
}
