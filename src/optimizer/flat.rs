//! All tensors in one buffer.

use std::mem::take;
use std::ops::Range;

use super::Optimizer;
use crate::error::{Error, Result};
use crate::memory::{list, try_list, OF_A_STEP};

impl Optimizer {
    /// Where each tensor lies in one buffer of `len` elements that holds all of them: one
    /// after the other in their order, or each from its offset on, in elements.
    ///
    /// # Errors
    /// [`Error::FlatLength`] without offsets for a length that is not the sum of those of the
    /// tensors; with offsets [`Error::TensorCount`], and [`Error::FlatOffset`] for a tensor
    /// that would reach past the end.
    pub fn flat_ranges(&self, len: usize, offsets: Option<&[usize]>) -> Result<Vec<Range<usize>>> {
        if let Some(offsets) = offsets {
            self.check_count("offsets", offsets.len())?;
        }
        let mut sum = 0usize;
        let ranges = self.specs.iter().enumerate().map(|(i, spec)| {
            let start = offsets.map_or(sum, |offsets| offsets[i]);
            let end = start.checked_add(spec.len());
            sum = sum.saturating_add(spec.len());
            match end.filter(|&end| end <= len || offsets.is_none()) {
                Some(end) => Ok(start..end),
                None => Err(Error::FlatOffset {
                    tensor: spec.name.clone(),
                    offset: start,
                    elements: spec.len(),
                    length: len,
                }),
            }
        });
        let ranges = try_list(ranges, OF_A_STEP)?;
        if offsets.is_none() && sum != len {
            return Err(Error::FlatLength {
                length: len,
                expected: sum,
            });
        }
        Ok(ranges)
    }

    /// The tensors in one buffer of gradients, for a [`step`](Optimizer::step).
    ///
    /// ```
    /// # use sonew::{layout::TensorSpec, options::{Options, StepOptions}, Optimizer};
    /// let tensors = [TensorSpec::new("w", &[2, 3]), TensorSpec::new("b", &[2])];
    /// let mut optimizer = Optimizer::new(Options::default(), &tensors)?;
    /// let (mut params, grads) = (vec![0.0f32; 8], vec![0.1f32; 8]);
    /// let mut params = optimizer.split_flat_mut(&mut params, None)?;
    /// let grads = optimizer.split_flat(&grads, None)?;
    /// let grads: Vec<_> = grads.into_iter().map(Some).collect();
    /// optimizer.step(&StepOptions::default(), &mut params, &grads)?;
    /// # Ok::<(), sonew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`flat_ranges`](Optimizer::flat_ranges).
    pub fn split_flat<'a, T>(
        &self,
        flat: &'a [T],
        offsets: Option<&[usize]>,
    ) -> Result<Vec<&'a [T]>> {
        let ranges = self.flat_ranges(flat.len(), offsets)?;
        list(ranges.into_iter().map(|range| &flat[range]), OF_A_STEP)
    }

    /// The tensors in one buffer of parameters.
    ///
    /// # Errors
    /// Those of [`flat_ranges`](Optimizer::flat_ranges); [`Error::Overlap`].
    pub fn split_flat_mut<'a, T>(
        &self,
        flat: &'a mut [T],
        offsets: Option<&[usize]>,
    ) -> Result<Vec<&'a mut [T]>> {
        let ranges = self.flat_ranges(flat.len(), offsets)?;
        let mut order = list(0..ranges.len(), OF_A_STEP)?;
        order.sort_unstable_by_key(|&i| (ranges[i].start, ranges[i].end));
        let name = |i: usize| format!("tensor \"{}\"", self.specs[i].name);
        let (mut rest, mut at, mut last) = (flat, 0, 0);
        let mut parts = list(ranges.iter().map(|_| &mut [][..]), OF_A_STEP)?;
        for i in order {
            let range = ranges[i].clone();
            if range.is_empty() {
                continue;
            }
            let Some(gap) = range.start.checked_sub(at) else {
                return Err(Error::Overlap {
                    first: name(last),
                    second: name(i),
                });
            };
            let (part, after) = take(&mut rest)[gap..].split_at_mut(range.len());
            (parts[i], rest, at, last) = (part, after, range.end, i);
        }
        Ok(parts)
    }
}
