//! Shards: some of the rows of a tensor, and which entries of sub-diagonals a cut
//! between rows loses.

use std::ops::Range;

use super::tensor::{Chains, Shard, TensorSpec};

impl TensorSpec {
    /// The rows of the whole tensor that this one is: all of them, if it is no shard. A
    /// scalar is one row.
    pub(crate) fn rows(&self) -> Range<usize> {
        let first = self.shard.map_or(0, |shard| shard.first_row);
        first..first + self.dims.first().copied().unwrap_or(1)
    }

    /// Whether it has not all rows of the whole tensor.
    pub(crate) fn is_part(&self) -> bool {
        self.rows() != (0..self.whole_rows())
    }

    /// The number of rows of the whole tensor.
    pub(crate) fn whole_rows(&self) -> usize {
        let own = self.dims.first().copied().unwrap_or(1);
        self.shard.map_or(own, |shard| shard.whole_rows)
    }

    /// The number of elements of a row.
    pub(crate) fn row_len(&self) -> usize {
        self.dims.iter().skip(1).product()
    }

    /// The dimensions of the whole tensor.
    pub(crate) fn whole_dims(&self) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some(first) = dims.first_mut() {
            *first = self.whole_rows();
        }
        dims
    }

    /// The same tensor of other rows of the whole one. A scalar has no others.
    pub(crate) fn of_rows(&self, rows: Range<usize>) -> TensorSpec {
        let mut other = self.clone();
        if let Some(first) = other.dims.first_mut() {
            *first = rows.len();
            other.shard = Some(Shard {
                first_row: rows.start,
                whole_rows: self.whole_rows(),
            });
        }
        other.simplified()
    }

    /// The same tensor, which is no shard if it has all rows of the whole one. Files hold
    /// tensors in this form. The tensor need not be valid.
    pub(crate) fn simplified(mut self) -> TensorSpec {
        let all = Shard {
            first_row: 0,
            whole_rows: self.dims.first().copied().unwrap_or(0),
        };
        self.shard = self.shard.filter(|&own| self.dims.is_empty() || own != all);
        self
    }

    /// The elements of this tensor, counted in the whole one, whose entries in
    /// sub-diagonal `k` would be those of other pairs of elements than where they come
    /// from, the rows `from`: the neighbour lies beyond a cut, on one of the two sides.
    /// Such an entry is not known here, and 0.
    pub(crate) fn lost(&self, k: usize, from: &Range<usize>) -> Vec<Range<usize>> {
        let (to, len) = (self.rows(), self.row_len());
        let end = from.end.min(to.end);
        let last_rows = end.saturating_sub(k).max(from.start.max(to.start))..end;
        let of = |rows: Range<usize>| rows.start * len..rows.end * len;
        if *from == to || last_rows.is_empty() {
            return Vec::new();
        }
        match self.chains {
            Chains::ContiguousLines if self.dims.len() > 1 => Vec::new(),
            Chains::Contiguous | Chains::ContiguousLines => {
                let all = of(from.start.max(to.start)..end);
                std::iter::once(all.end.saturating_sub(k).max(all.start)..all.end).collect()
            }
            Chains::StridedLines => std::iter::once(of(last_rows)).collect(),
            Chains::Strided => {
                let other = |&row: &usize| neighbour(row, k, from) != neighbour(row, k, &to);
                last_rows.filter(other).map(|r| of(r..r + 1)).collect()
            }
        }
    }
}

/// Which sub-diagonal a plane is, if it is one.
pub(crate) fn sub_diagonal(plane: &str) -> Option<usize> {
    plane.strip_prefix("band.")?.parse().ok()
}

/// The row of the element `k` after one in `row`, in a strided chain through these
/// rows, and how many columns further it is.
fn neighbour(row: usize, k: usize, rows: &Range<usize>) -> (usize, usize) {
    let at = row - rows.start + k;
    (rows.start + at % rows.len(), at / rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Chains; 4] = [
        Chains::Contiguous,
        Chains::Strided,
        Chains::ContiguousLines,
        Chains::StridedLines,
    ];

    /// The chains of rows of a tensor, directly from the definition: lists of elements,
    /// which are counted in the whole tensor.
    fn chains(kind: Chains, dims: &[usize], rows: &Range<usize>) -> Vec<Vec<usize>> {
        let len: usize = dims[1..].iter().product();
        let last = dims.last().copied().unwrap_or(1);
        let elements: Vec<usize> = (rows.start * len..rows.end * len).collect();
        match kind {
            Chains::Contiguous => vec![elements],
            Chains::ContiguousLines if dims.len() == 1 => vec![elements],
            Chains::ContiguousLines => elements.chunks(last).map(<[usize]>::to_vec).collect(),
            Chains::StridedLines => (0..len)
                .map(|col| rows.clone().map(|row| row * len + col).collect())
                .collect(),
            Chains::Strided => {
                // The last dimension is the slowest.
                let mut in_order = elements;
                in_order.sort_by_key(|&element| {
                    let mut rest = element;
                    let digits = dims.iter().rev().map(|&d| {
                        let digit = rest % d;
                        rest /= d;
                        digit
                    });
                    digits.collect::<Vec<_>>()
                });
                vec![in_order]
            }
        }
    }

    fn neighbours(chains: &[Vec<usize>], k: usize) -> Vec<(usize, Option<usize>)> {
        let of_one = |chain: &Vec<usize>| {
            let pair = |(at, &element)| (element, chain.get(at + k).copied());
            chain.iter().enumerate().map(pair).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = chains.iter().flat_map(of_one).collect();
        all.sort_unstable();
        all
    }

    /// An entry is lost where its neighbour is another element, or none, on the other side.
    #[test]
    fn entries_of_other_pairs_are_lost_and_no_others() {
        for dims in [
            &[5][..],
            &[4, 3],
            &[6, 1],
            &[5, 2, 3],
            &[3, 1, 2],
            &[4, 2, 1, 2],
        ] {
            for kind in ALL {
                for (from, to) in all_ranges(dims[0])
                    .flat_map(|from| all_ranges(dims[0]).map(move |to| (from.clone(), to)))
                {
                    let spec = TensorSpec::new("t", dims).with_chains(kind);
                    let spec = spec.of_rows(to.clone());
                    for k in 1..6 {
                        let lost: Vec<usize> = spec.lost(k, &from).into_iter().flatten().collect();
                        let there = neighbours(&chains(kind, dims, &from), k);
                        let here = neighbours(&chains(kind, dims, &to), k);
                        for (element, neighbour) in here {
                            let found = there.iter().find(|(other, _)| *other == element);
                            let Some((_, other)) = found else {
                                continue;
                            };
                            let is_lost = lost.contains(&element);
                            // Where there is none on both sides, the entry is 0 anyway.
                            let either = neighbour.is_none() && other.is_none();
                            assert!(
                                either || is_lost == (neighbour != *other),
                                "{kind:?} {dims:?} {from:?} {to:?} {k}: {element}"
                            );
                        }
                    }
                }
            }
        }
    }

    fn all_ranges(rows: usize) -> impl Iterator<Item = Range<usize>> {
        (0..rows).flat_map(move |start| (start + 1..=rows).map(move |end| start..end))
    }

    #[test]
    fn all_rows_are_no_shard() {
        let whole = TensorSpec::new("t", &[4, 3]);
        assert_eq!(whole.clone().with_shard(0, 4).simplified(), whole);
        let part = whole.of_rows(1..3);
        assert_eq!((part.rows(), part.whole_dims()), (1..3, vec![4, 3]));
        assert_eq!(part.clone().simplified(), part);
        assert_eq!(part.of_rows(0..4), whole);
        let scalar = TensorSpec::new("s", &[]);
        assert_eq!(scalar.of_rows(0..0), scalar);
    }
}
