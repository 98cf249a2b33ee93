//! The order of columns in a strided chain.
//!
//! In memory, a tensor `[d0, d1, .., dk]` is a matrix of `d0` lines. A
//! strided chain goes down one column and continues at the top of the next
//! one, where columns are ordered with `d1` fastest. Memory has the last
//! dimension fastest, so the next column in the chain is not the adjacent one.
//! However, for long runs of adjacent columns the next one is at a constant distance,
//! which is what the kernels need.

/// The columns of a tensor, `d1 * .. * dk` of them.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    levels: Vec<Level>,
    count: usize,
}

/// A run of adjacent columns whose next column in the chain is found by adding 1
/// to the index along one dimension, because the indices along the dimensions
/// before it are at their ends.
#[derive(Debug, Clone)]
struct Level {
    /// The first column of the run.
    first: usize,
    /// The next column in the chain after `first`.
    target: usize,
    /// The number of columns in the run; their next columns are adjacent, too.
    len: usize,
}

impl Columns {
    /// Columns of a tensor whose dimensions after the first are `dims`.
    pub(crate) fn new(dims: &[usize]) -> Self {
        let count = dims.iter().product();
        let mut levels = Vec::with_capacity(dims.len());
        let (mut first, mut stride) = (0, count);
        for &d in dims {
            stride /= d;
            let len = (d - 1) * stride;
            levels.push(Level {
                first,
                target: stride,
                len,
            });
            first += len;
        }
        Columns { levels, count }
    }

    /// The column that is `steps` columns further along the chain (backwards if
    /// negative), and for how many adjacent columns from this one on the
    /// distance is the same. `None` if the chain ends before.
    pub(crate) fn walk(&self, column: usize, steps: isize) -> (Option<usize>, usize) {
        let (mut at, mut run) = (column, self.count - column);
        for _ in 0..steps.unsigned_abs() {
            let step = if steps > 0 {
                self.next(at)
            } else {
                self.previous(at)
            };
            match step {
                Some((column, len)) => (at, run) = (column, run.min(len)),
                None => return (None, 1),
            }
        }
        (Some(at), run)
    }

    fn next(&self, column: usize) -> Option<(usize, usize)> {
        let level = self
            .levels
            .iter()
            .find(|l| (l.first..l.first + l.len).contains(&column))?;
        let offset = column - level.first;
        Some((level.target + offset, level.len - offset))
    }

    fn previous(&self, column: usize) -> Option<(usize, usize)> {
        let level = self
            .levels
            .iter()
            .find(|l| (l.target..l.target + l.len).contains(&column))?;
        let offset = column - level.target;
        Some((level.first + offset, level.len - offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns in chain order, computed directly from the definition.
    fn order(dims: &[usize]) -> Vec<usize> {
        let count: usize = dims.iter().product();
        (0..count)
            .map(|mut i| {
                let mut stride = count;
                dims.iter().fold(0, |column, &d| {
                    stride /= d;
                    let digit = i % d;
                    i /= d;
                    column + digit * stride
                })
            })
            .collect()
    }

    #[test]
    fn walks_follow_the_definition_in_both_directions() {
        for dims in [
            &[7][..],
            &[3, 4],
            &[4, 1, 3],
            &[2, 3, 2, 4],
            &[1, 5],
            &[1],
            &[],
        ] {
            let columns = Columns::new(dims);
            let order = order(dims);
            for (i, &column) in order.iter().enumerate() {
                for steps in -4isize..=4 {
                    let expected = i.checked_add_signed(steps).and_then(|j| order.get(j));
                    let (target, run) = columns.walk(column, steps);
                    assert_eq!(target.as_ref(), expected, "{dims:?} {column} {steps}");
                    let Some(target) = target else { continue };
                    for r in 1..run {
                        let (other, _) = columns.walk(column + r, steps);
                        assert_eq!(other, Some(target + r), "{dims:?} {column}+{r} {steps}");
                    }
                }
            }
        }
    }
}
