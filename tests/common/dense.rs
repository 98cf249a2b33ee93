//! Small dense matrices in float64, as lists of rows.

/// The rows of the identity.
pub fn unit_vectors(n: usize) -> impl Iterator<Item = Vec<f64>> {
    (0..n).map(move |i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
}

/// Gauss-Jordan elimination with partial pivoting.
pub fn inverse(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = matrix.len();
    let mut rows: Vec<Vec<f64>> = matrix
        .iter()
        .zip(unit_vectors(n))
        .map(|(row, unit)| [row.clone(), unit].concat())
        .collect();
    for column in 0..n {
        let size = |row: &usize| rows[*row][column].abs();
        let pivot = (column..n)
            .max_by(|a, b| size(a).total_cmp(&size(b)))
            .unwrap();
        rows.swap(column, pivot);
        let head = rows[column][column];
        rows[column].iter_mut().for_each(|x| *x /= head);
        let pivot_row = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = if i == column { 0.0 } else { row[column] };
            row.iter_mut()
                .zip(&pivot_row)
                .for_each(|(x, p)| *x -= factor * p);
        }
    }
    rows.iter().map(|row| row[n..].to_vec()).collect()
}

/// Pivots of the elimination from the top: all positive exactly if the matrix,
/// whose lower triangle is read, is positive definite.
pub fn pivots(matrix: &[Vec<f64>]) -> Vec<f64> {
    let n = matrix.len();
    let mut rest = matrix.to_vec();
    for k in 0..n {
        let column: Vec<f64> = rest.iter().map(|row| row[k]).collect();
        for i in k + 1..n {
            let factor = column[i] / column[k];
            for (x, below) in rest[i].iter_mut().zip(&column).skip(k + 1) {
                *x -= factor * below;
            }
        }
    }
    (0..n).map(|k| rest[k][k]).collect()
}
