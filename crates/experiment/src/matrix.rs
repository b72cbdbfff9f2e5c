//! Rows of a matrix in the file, unpacked to numbers when needed.

use rayon::prelude::*;

use super::error::{Error, Result};
use modelve_gguf::{GgmlType, Gguf, TensorInfo};
use modelve_quant::dequantize_rows;

/// A matrix of the file, `n_out` rows of `n_in` values.
pub struct Matrix<'a> {
    info: &'a TensorInfo,
    data: &'a [u8],
    /// Number of values in a row.
    pub n_in: usize,
    /// Number of rows.
    pub n_out: usize,
    row_bytes: usize,
}

/// Number of rows that a thread unpacks at once.
const ROWS: usize = 32;

impl<'a> Matrix<'a> {
    /// Finds the matrix of this name; `None` if the file has none, or one whose size does not fit
    /// its shape.
    pub fn of(gguf: &'a Gguf, name: &str) -> Option<Self> {
        let info = gguf.tensor(name)?;
        let [n_in, n_out] = info.shape[..] else {
            return None;
        };
        let row_bytes = usize::try_from(info.ty.row_bytes(n_in)?).ok()?;
        let (n_in, n_out) = (usize::try_from(n_in).ok()?, usize::try_from(n_out).ok()?);
        let data = gguf.data(info);
        let sound = n_in > 0 && row_bytes.checked_mul(n_out) == Some(data.len());
        sound.then_some(Matrix {
            info,
            data,
            n_in,
            n_out,
            row_bytes,
        })
    }

    fn rows(&self, from: usize, values: &mut [f32]) -> Result<()> {
        let n = values.len() / self.n_in;
        let bytes = from * self.row_bytes..(from + n) * self.row_bytes;
        let data = self.data.get(bytes).unwrap_or(&[]);
        dequantize_rows(self.info.ty, data, values).map_err(|source| Error::Weights {
            tensor: self.info.name.clone(),
            source,
        })
    }

    /// Unpacks one row; `None` if there is no row of this number.
    ///
    /// # Errors
    /// [`Error::Weights`] for a type that cannot be unpacked.
    pub fn row(&self, row: usize) -> Result<Option<Vec<f32>>> {
        if row >= self.n_out {
            return Ok(None);
        }
        let mut values = vec![0.0; self.n_in];
        self.rows(row, &mut values)?;
        Ok(Some(values))
    }

    /// Multiplies the matrix with a column of `n_in` values, and its transpose with each vector of
    /// `back` (`n_out` values each), in one pass over the weights.
    ///
    /// # Errors
    /// See [`Matrix::row`].
    pub fn both_ways(&self, column: &[f32], back: &[&[f64]]) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
        let starts: Vec<usize> = (0..self.n_out).step_by(ROWS).collect();
        let zero = || {
            let pulled = vec![vec![0.0f64; self.n_in]; back.len()];
            (vec![0.0f32; ROWS * self.n_in], Vec::new(), pulled)
        };
        let work = |(mut rows, mut products, mut pulled): Work, &from: &usize| -> Result<Work> {
            let n = ROWS.min(self.n_out - from);
            self.rows(from, &mut rows[..n * self.n_in])?;
            let mut part = vec![0.0f32; self.n_in];
            for (i, row) in rows.chunks_exact(self.n_in).take(n).enumerate() {
                products.push((from + i, dot(row, column)));
            }
            for (pulled, direction) in pulled.iter_mut().zip(back) {
                part.fill(0.0);
                for (row, &weight) in rows.chunks_exact(self.n_in).take(n).zip(&direction[from..]) {
                    let weight = weight as f32;
                    part.iter_mut().zip(row).for_each(|(p, x)| *p += weight * x);
                }
                pulled
                    .iter_mut()
                    .zip(&part)
                    .for_each(|(sum, p)| *sum += f64::from(*p));
            }
            Ok((rows, products, pulled))
        };
        let join =
            |(rows, mut products, mut pulled): Work, (_, others, more): Work| -> Result<Work> {
                products.extend(others);
                for (sum, other) in pulled.iter_mut().zip(more) {
                    sum.iter_mut().zip(other).for_each(|(x, y)| *x += y);
                }
                Ok((rows, products, pulled))
            };
        let (_, products, pulled) = starts
            .par_iter()
            .try_fold(zero, work)
            .try_reduce(zero, join)?;
        let mut product = vec![0.0; self.n_out];
        for (row, value) in products {
            product[row] = value;
        }
        Ok((product, pulled))
    }

    /// Splits a column into `n` equal parts and multiplies each with the matching columns of the
    /// matrix, `[part][row]`. The results add up to the product with the whole column.
    ///
    /// # Errors
    /// See [`Matrix::row`].
    pub fn by_parts(&self, column: &[f32], n: usize) -> Result<Vec<Vec<f32>>> {
        let size = (self.n_in / n.max(1)).max(1);
        let starts: Vec<usize> = (0..self.n_out).step_by(ROWS).collect();
        let blocks: Vec<Vec<f32>> = starts
            .par_iter()
            .map(|&from| {
                let mut rows = vec![0.0; ROWS.min(self.n_out - from) * self.n_in];
                self.rows(from, &mut rows)?;
                let parts = rows.chunks_exact(self.n_in).flat_map(|row| {
                    let parts = row.chunks(size).zip(column.chunks(size)).take(n);
                    parts.map(|(weights, values)| dot(weights, values) as f32)
                });
                Ok(parts.collect())
            })
            .collect::<Result<_>>()?;
        let products = blocks.concat();
        let of = |part: usize| products.iter().skip(part).step_by(n.max(1)).copied();
        Ok((0..n).map(|part| of(part).collect()).collect())
    }

    /// Computes the mean of all rows.
    ///
    /// # Errors
    /// See [`Matrix::row`].
    pub fn mean_row(&self) -> Result<Vec<f64>> {
        let each = vec![1.0 / self.n_out.max(1) as f64; self.n_out];
        let column = vec![0.0; self.n_in];
        let (_, mut pulled) = self.both_ways(&column, &[&each])?;
        Ok(pulled.pop().unwrap_or_default())
    }
}

/// The working memory of a thread: unpacked rows, products by row, and sums of the transposed
/// products.
type Work = (Vec<f32>, Vec<(usize, f64)>, Vec<Vec<f64>>);

/// Σ a · b, accumulated in lanes so that the compiler can vectorize it.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (chunks, others) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = chunks.remainder().iter().zip(others.remainder());
    let rest: f32 = rest.map(|(x, y)| x * y).sum();
    for (a, b) in chunks.zip(others) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() + f64::from(rest)
}

/// Reads an F32 vector, if the file has one of this name and length.
pub fn vector(gguf: &Gguf, name: &str, n: usize) -> Option<Vec<f32>> {
    let info = gguf.tensor(name)?;
    if info.ty != GgmlType::F32 || info.n_elements() != n as u64 {
        return None;
    }
    let mut values = vec![0.0; n];
    dequantize_rows(info.ty, gguf.data(info), &mut values).ok()?;
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_have_every_term() {
        for n in [0, 1, 15, 16, 33] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let expected: f64 = (0..n).map(|i| f64::from(i * i)).sum();
            assert_eq!(dot(&a, &a), expected, "{n}");
        }
    }
}
