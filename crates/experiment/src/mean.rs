//! The mean of several patching maps, with confidence intervals.

use serde::Serialize;

use super::error::{Error, Result};
use super::measure::Named;
use super::patch::{Noise, Patch, What};
use modelve_probe::math::Mean;
use modelve_probe::{Piece, Subject};

/// The mean of several maps of the same kind.
#[derive(Debug, Clone, Serialize)]
pub struct MeanPatch {
    /// The model.
    pub model: Subject,
    /// The kind of value that is replaced.
    pub what: What,
    /// The layers, one for each row of the map.
    pub layers: Vec<usize>,
    /// The positions as given, one for each column; negative positions count from the end.
    pub positions: Vec<i32>,
    /// The text at each of these positions in the corrupt prompt of the first pair.
    pub pieces: Vec<Piece>,
    /// The heads, one for each column, in a map of heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<usize>>,
    /// The mean of (patched − corrupt) / (clean − corrupt) for each place.
    pub recovered: Vec<Vec<Option<f64>>>,
    /// Half the width of the 95 % confidence interval of each mean (Student's t); null for a single
    /// map.
    pub interval: Vec<Vec<Option<f64>>>,
    /// The pairs of prompts, in order.
    pub pairs: Vec<Pair>,
    /// The numbers, from 1, of pairs left out because the measure is the same for both prompts.
    pub alike: Vec<usize>,
    /// Whether all pairs were computed completely.
    pub complete: bool,
}

/// One pair of prompts.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The clean prompt.
    pub clean: String,
    /// The corrupt prompt.
    pub corrupt: String,
    /// The noise, where the corrupt prompt is the clean one with noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// The token whose logit is measured.
    pub token: Named,
    /// The token it is compared with; `None` means the mean logit of the vocabulary.
    pub against: Option<Named>,
    /// Value of the measure after the clean prompt.
    pub clean_value: f64,
    /// Value of the measure after the corrupt prompt.
    pub corrupt_value: f64,
}

/// Accumulates maps; only their sums are kept.
#[derive(Debug, Default)]
pub struct Averaging {
    first: Option<Shape>,
    cells: Vec<Vec<Mean>>,
    pairs: Vec<Pair>,
    alike: Vec<usize>,
    seen: usize,
}

#[derive(Debug)]
struct Shape {
    model: Subject,
    what: What,
    layers: Vec<usize>,
    positions: Vec<i32>,
    pieces: Vec<Piece>,
    heads: Option<Vec<usize>>,
}

/// The smallest difference between two prompts of which a share is computed, in units of the
/// measure.
const LEAST: f64 = 1e-4;

impl Averaging {
    /// Adds a complete map. `positions` are its columns as given, which may count from the end so
    /// that prompts of different lengths can be compared; `None` means the map's own.
    ///
    /// # Errors
    /// [`Error::Unaligned`] for a map whose columns differ from those of the first.
    pub fn add(&mut self, map: Patch, positions: Option<&[i32]>) -> Result<()> {
        self.seen += 1;
        let own = || {
            map.positions
                .iter()
                .map(|&at| i32::try_from(at).unwrap_or(i32::MAX))
        };
        let positions = positions.map_or_else(|| own().collect(), <[i32]>::to_vec);
        let first = self.first.get_or_insert_with(|| Shape {
            model: map.model.clone(),
            what: map.what,
            layers: map.layers.clone(),
            positions: positions.clone(),
            pieces: map
                .positions
                .iter()
                .map(|&at| map.corrupt_pieces[at].clone())
                .collect(),
            heads: map.heads.clone(),
        });
        // A column of a head does not depend on the position.
        if map.heads.is_none() && positions != first.positions {
            let what = format!(
                "pair {} has {} columns where the first has {}, so there is no mean: \
                 positions counted from the end fit prompts of different lengths",
                self.seen,
                positions.len(),
                first.positions.len()
            );
            return Err(Error::Unaligned { what });
        }
        if (map.clean_value - map.corrupt_value).abs() < LEAST {
            self.alike.push(self.seen);
            return Ok(());
        }
        self.cells.resize(map.recovered.len(), Vec::new());
        for (means, row) in self.cells.iter_mut().zip(&map.recovered) {
            means.resize(row.len(), Mean::default());
            for (mean, share) in means.iter_mut().zip(row) {
                if let Some(share) = share {
                    mean.add(*share);
                }
            }
        }
        self.pairs.push(Pair {
            clean: map.clean,
            corrupt: map.corrupt,
            noise: map.noise,
            token: map.measure.token,
            against: map.measure.against,
            clean_value: map.clean_value,
            corrupt_value: map.corrupt_value,
        });
        Ok(())
    }

    /// Returns the mean of the added maps; `None` if there are none.
    pub fn finish(self, complete: bool) -> Option<MeanPatch> {
        let first = self.first?;
        let each = |of: &dyn Fn(&Mean) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
            let rows = self.cells.iter();
            rows.map(|row| row.iter().map(of).collect()).collect()
        };
        Some(MeanPatch {
            recovered: each(&|mean| (!mean.is_empty()).then(|| mean.mean())),
            interval: each(&|mean| {
                (mean.len() > 1).then(|| quantile(mean.len() - 1) * mean.error())
            }),
            model: first.model,
            what: first.what,
            layers: first.layers,
            positions: first.positions,
            pieces: first.pieces,
            heads: first.heads,
            pairs: self.pairs,
            alike: self.alike,
            complete,
        })
    }
}

/// The 97.5 % quantile of Student's t distribution.
fn quantile(degrees: usize) -> f64 {
    const FEW: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    let of_few = degrees.checked_sub(1).and_then(|at| FEW.get(at));
    // For larger numbers, the first two terms of the expansion of Fisher and Cornish (1960) are
    // accurate to 0.001.
    of_few.copied().unwrap_or_else(|| {
        let (z, n) = (1.959_964_f64, degrees.max(1) as f64);
        let first = (z.powi(3) + z) / (4.0 * n);
        let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
        z + first + second
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_go_on_where_the_table_ends() {
        assert_eq!(quantile(1), 12.706);
        assert_eq!(quantile(30), 2.042);
        assert!((quantile(31) - 2.0395).abs() < 1e-3);
        assert!((quantile(60) - 2.0003).abs() < 1e-3);
        assert!((quantile(100_000) - 1.96).abs() < 1e-3);
    }
}
