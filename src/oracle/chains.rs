//! Chains as explicit lists of memory indices.

use crate::layout::Chains;

/// The chains of a tensor with these dimensions, each the list of the memory
/// indices of its coordinates in order. Memory holds the last dimension
/// fastest, whatever the chains.
pub fn chains(dims: &[usize], chains: Chains) -> Vec<Vec<usize>> {
    let first_fastest: Vec<usize> = (0..dims.len()).collect();
    let last_fastest: Vec<usize> = (0..dims.len()).rev().collect();
    // Along a row the last dimension runs; along a column the first. Visiting
    // the coordinates with that one fastest lists one chain after the other.
    match chains {
        Chains::Contiguous => vec![visit(dims, &last_fastest)],
        Chains::Strided => vec![visit(dims, &first_fastest)],
        Chains::ContiguousLines => cut(visit(dims, &last_fastest), dims.last()),
        Chains::StridedLines => cut(visit(dims, &first_fastest), dims.first()),
    }
}

/// Memory indices of all coordinates, the dimensions in `order` running from
/// the fastest to the slowest.
fn visit(dims: &[usize], order: &[usize]) -> Vec<usize> {
    let stride = |d: usize| dims[d + 1..].iter().product::<usize>();
    let mut indices = vec![0];
    for &d in order {
        indices = (0..dims[d])
            .flat_map(|i| indices.iter().map(move |index| index + i * stride(d)))
            .collect();
    }
    indices
}

/// Pieces of this length; a scalar, which has no dimension, is a chain of one.
fn cut(indices: Vec<usize>, length: Option<&usize>) -> Vec<Vec<usize>> {
    let length = *length.unwrap_or(&1);
    indices.chunks(length).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_reads_four_ways() {
        let read = |c| chains(&[2, 3], c);
        assert_eq!(read(Chains::Contiguous), [[0, 1, 2, 3, 4, 5]]);
        assert_eq!(read(Chains::Strided), [[0, 3, 1, 4, 2, 5]]);
        assert_eq!(read(Chains::ContiguousLines), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(read(Chains::StridedLines), [[0, 3], [1, 4], [2, 5]]);
    }

    #[test]
    fn a_cube_fixes_all_other_indices() {
        let read = |c| chains(&[2, 2, 2], c);
        assert_eq!(read(Chains::Strided), [[0, 4, 2, 6, 1, 5, 3, 7]]);
        assert_eq!(
            read(Chains::ContiguousLines),
            [[0, 1], [2, 3], [4, 5], [6, 7]]
        );
        assert_eq!(read(Chains::StridedLines), [[0, 4], [2, 6], [1, 5], [3, 7]]);
    }

    #[test]
    fn a_scalar_is_a_chain_of_one() {
        for c in [
            Chains::Contiguous,
            Chains::Strided,
            Chains::ContiguousLines,
            Chains::StridedLines,
        ] {
            assert_eq!(chains(&[], c), [[0]]);
        }
    }
}
