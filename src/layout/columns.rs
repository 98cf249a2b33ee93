//! The order of columns in a column-major chain.
//!
//! A tensor `[d0, d1, .., dk]` is in memory a matrix of `d0` lines; a chain
//! runs down one column and goes on at the top of the next, columns being
//! taken with `d1` fastest. Memory has the last dimension fastest, so the next
//! column is not the one beside it; but within long runs of columns it is at a
//! constant distance, and runs are what the kernels want.

/// The columns of a tensor, `d1 * .. * dk` of them.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    levels: Vec<Level>,
    count: usize,
}

/// Columns whose index along one dimension can be counted up, while those
/// along the dimensions before it are at their ends.
#[derive(Debug, Clone)]
struct Level {
    /// The first such column: all earlier dimensions at their ends.
    first: usize,
    /// Where it goes.
    target: usize,
    /// How many such columns there are, in a row, as are their targets.
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

    /// The column `steps` columns further along the chain (back, where
    /// negative), and for how many columns from this one the distance is the
    /// same; `None` where the chain ends before.
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

    /// Columns in chain order, straight from the definition.
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
