//! An importance matrix: what it was measured on, and which columns dominate.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::base::human;
use crate::commands::probing::percent;
use crate::output::{BOLD, DIM, Output, WARN};
use crate::quant::imatrix::{Entry, Imatrix};
use crate::table::{Columns, cell, plain};

/// What is in the file.
#[derive(Debug, Serialize)]
pub(super) struct Importance {
    datasets: Vec<String>,
    chunks: u64,
    /// Chunks of the whole text; `null` where the file does not say.
    planned_chunks: Option<u64>,
    chunk_size: u64,
    /// The model that it was measured with; `null` where the file does not say.
    model: Option<String>,
    /// Matrices, the most dominated by few columns first.
    matrices: Vec<Matrix>,
}

/// One matrix, or those of all experts of a layer.
#[derive(Debug, Serialize)]
struct Matrix {
    name: String,
    columns: usize,
    experts: usize,
    /// Experts that no token was sent to.
    unseen_experts: usize,
    /// Inputs of all experts.
    count: f64,
    /// The share that the largest hundredth of the columns has of the whole sum.
    largest_hundredth: f64,
    /// The column with the largest sum, that of an expert within its own columns.
    largest_column: usize,
    /// Its share of the whole sum.
    largest_share: f64,
}

impl Matrix {
    fn of(name: &str, entry: &Entry) -> Self {
        let (sums, counts) = (entry.sums(), entry.counts());
        let columns = sums.len() / counts.len();
        let total: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
        let share = |part: f64| if total > 0.0 { part / total } else { 0.0 };
        let mut order: Vec<usize> = (0..sums.len()).collect();
        order.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
        let largest = order[..sums.len().div_ceil(100)].iter();
        let largest: f64 = largest.map(|&at| f64::from(sums[at])).sum();
        Matrix {
            name: name.to_owned(),
            columns,
            experts: if counts.len() > 1 { counts.len() } else { 0 },
            unseen_experts: counts.iter().filter(|&&count| count == 0.0).count(),
            count: counts.iter().map(|&count| f64::from(count)).sum(),
            largest_hundredth: share(largest),
            largest_column: order[0] % columns,
            largest_share: share(f64::from(sums[order[0]])),
        }
    }
}

impl Importance {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = Imatrix::open(path)?;
        let entries = file.entries().iter();
        let mut matrices: Vec<Matrix> = entries
            .map(|(name, entry)| Matrix::of(name, entry))
            .collect();
        matrices.sort_by(|a, b| b.largest_hundredth.total_cmp(&a.largest_hundredth));
        Ok(Importance {
            datasets: file.datasets().to_vec(),
            chunks: file.chunks(),
            planned_chunks: file.origin().map(|origin| origin.planned),
            chunk_size: file.chunk_size(),
            model: file.origin().map(|origin| origin.model.clone()),
            matrices,
        })
    }

    /// Prints it.
    pub(super) fn print(&self, name: &str, out: &mut Output) -> anyhow::Result<()> {
        let escaped = |text: &str| human::escape(text.as_bytes());
        let title = format!("{}: an importance matrix", escaped(name));
        writeln!(out, "{}", out.paint(BOLD, title))?;
        let text = match &self.datasets[..] {
            [] => "a text without a name".to_owned(),
            names => escaped(&names.join(", ")),
        };
        let size = match self.chunk_size {
            0 => String::new(),
            size => format!(" of {} tokens", human::count(size)),
        };
        let chunks = human::count(self.chunks);
        writeln!(out, "measured on {text}: {chunks} chunks{size}")?;
        if let Some(model) = &self.model {
            writeln!(
                out,
                "{}",
                out.paint(DIM, format!("with {}", escaped(model)))
            )?;
        }
        if let Some(planned) = self.planned_chunks.filter(|&planned| planned > self.chunks) {
            let line = format!(
                "interrupted: {} of {} chunks; `modelve imatrix … --resume` goes on",
                human::count(self.chunks),
                human::count(planned)
            );
            writeln!(out, "{}", out.paint(WARN, line))?;
        }
        let unseen: usize = self
            .matrices
            .iter()
            .map(|matrix| matrix.unseen_experts)
            .sum();
        if unseen > 0 {
            let line = format!(
                "{} matrices of experts got no token: all their columns weigh alike",
                human::count(unseen as u64)
            );
            writeln!(out, "{}", out.paint(WARN, line))?;
        }
        let n = self.matrices.len();
        let title = format!(
            "{} matrices, where few columns dominate first",
            human::count(n as u64)
        );
        writeln!(out, "\n{}", out.paint(BOLD, title))?;
        let titles = [
            "top 1 %>", "largest>", "column>", "columns>", "experts>", "matrix",
        ];
        let mut rows = Columns::new(out, &titles);
        let shown = n.min(SHOWN);
        for matrix in &self.matrices[..shown] {
            rows.add([
                plain(percent(matrix.largest_hundredth)),
                plain(percent(matrix.largest_share)),
                plain(matrix.largest_column),
                plain(human::count(matrix.columns as u64)),
                match matrix.experts {
                    0 => cell("–", DIM),
                    n => plain(human::count(n as u64)),
                },
                plain(escaped(&matrix.name)),
            ]);
        }
        out.write_all(rows.lines().as_bytes())?;
        let note =
            "top 1 %, largest: the share that these columns have of the sum of squared inputs";
        writeln!(out, "{}", out.paint(DIM, note))?;
        if shown < n {
            let note = format!(
                "and {} more: --json lists all",
                human::count((n - shown) as u64)
            );
            writeln!(out, "{}", out.paint(DIM, note))?;
        }
        Ok(())
    }
}

/// Maximum number of matrices to show.
const SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_that_dominate_are_named() {
        let mut sums = vec![1.0; 200];
        sums[130] = 801.0;
        let entry = Entry::new("m", sums, vec![4.0, 0.0]).unwrap();
        let matrix = Matrix::of("m", &entry);
        assert_eq!(
            (matrix.columns, matrix.experts, matrix.unseen_experts),
            (100, 2, 1)
        );
        assert_eq!(matrix.largest_column, 30);
        assert!((matrix.largest_share - 0.801).abs() < 1e-9);
        // Two of 200 columns.
        assert!((matrix.largest_hundredth - 0.802).abs() < 1e-9);
    }
}
