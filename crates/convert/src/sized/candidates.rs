//! The types that a tensor can have, and the divergence that each is expected to cause.

use super::Surveyed;
use modelve_gguf::GgmlType;

use GgmlType as T;

/// Types for rows of whole super-blocks of 256 weights, smallest first. modelve encodes and
/// multiplies all of them fast; the types of 32 weights are no better at any size.
const SUPER_BLOCKS: &[GgmlType] = &[
    T::Q2_K,
    T::Q3_K,
    T::IQ4_XS,
    T::Q4_K,
    T::Q5_K,
    T::Q6_K,
    T::Q8_0,
    T::F16,
];

/// Types of 2 and 3 bits that ggml encodes and multiplies slowly. They are better than the others of
/// their size, given an importance matrix.
const SLOW: &[GgmlType] = &[T::IQ2_XXS, T::IQ2_XS, T::IQ2_S, T::IQ3_XXS, T::IQ3_S];

/// Types for all other rows of whole blocks of 32.
const BLOCKS: &[GgmlType] = &[
    T::Q4_0,
    T::IQ4_NL,
    T::Q4_1,
    T::Q5_0,
    T::Q5_1,
    T::Q8_0,
    T::F16,
];

/// The bits for a weight below which the slow types are candidates. A file of IQ4_XS with a larger
/// output matrix has a little less.
pub(super) const FEW_BITS: f64 = 4.75;

/// The types that a tensor with rows of `columns` weights is chosen from. `weighted` says whether an
/// importance matrix has weights for it.
pub(super) fn types_for(columns: u64, weighted: bool, few_bits: bool) -> Vec<GgmlType> {
    match columns {
        n if n.is_multiple_of(256) && weighted && few_bits => [SLOW, SUPER_BLOCKS].concat(),
        n if n.is_multiple_of(256) => SUPER_BLOCKS.to_vec(),
        n if n.is_multiple_of(32) => BLOCKS.to_vec(),
        _ => vec![T::F16],
    }
}

/// How the divergence of a candidate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// From its relative error.
    Estimated,
    /// From that and the tensor's divergence in other types.
    Scaled,
    /// It was measured.
    Measured,
}

/// A type that a tensor can have.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The type.
    pub ty: GgmlType,
    /// The size of the tensor in bytes, with its padding.
    pub bytes: u64,
    /// The squared error of the tensor's products, relative to their square.
    pub relative: f64,
    /// The divergence that it causes alone, in nats.
    pub loss: f64,
    pub(super) known: Knowledge,
}

impl Candidate {
    /// Returns whether its divergence was measured.
    pub fn is_measured(&self) -> bool {
        self.known == Knowledge::Measured
    }
}

impl Surveyed {
    /// The relative errors of the candidates that were measured, and their divergence per relative
    /// error.
    pub(super) fn ratios(&self) -> impl Iterator<Item = (f64, f64)> {
        let measured = self.candidates.iter().filter(|candidate| {
            candidate.is_measured() && candidate.relative > 0.0 && candidate.loss > 0.0
        });
        measured.map(|candidate| (candidate.relative, candidate.loss / candidate.relative))
    }

    /// Expects the divergence of the candidates that were not measured. `scale` corrects the prior.
    pub(super) fn expect(&mut self, scale: f64) {
        let mut ratios: Vec<(f64, f64)> = self.ratios().collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let prior = self.prior * scale;
        for candidate in &mut self.candidates {
            if candidate.is_measured() {
                continue;
            }
            let ratio = interpolated(&ratios, candidate.relative);
            candidate.loss = candidate.relative * ratio.unwrap_or(prior);
            candidate.known = match ratio {
                Some(_) => Knowledge::Scaled,
                None => Knowledge::Estimated,
            };
        }
    }

    /// The reason for the choice of a candidate: its divergence, and that of its neighbours.
    pub(super) fn reason(&self, at: usize) -> String {
        let chosen = &self.candidates[at];
        let known = match chosen.known {
            Knowledge::Measured => "measured",
            Knowledge::Scaled | Knowledge::Estimated => "estimated",
        };
        let mut reason = format!("KL {:.1e} {known}", chosen.loss);
        let smaller = self.candidates[..at].iter().rev();
        let smaller = smaller.clone().find(|other| other.bytes < chosen.bytes);
        let mut larger = self.candidates[at..].iter();
        let larger = larger.find(|other| other.bytes > chosen.bytes && other.loss < chosen.loss);
        for other in [smaller, larger].into_iter().flatten() {
            reason += &format!("; {} {:.1e}", other.ty, other.loss);
        }
        reason
    }
}

/// The ratio at a relative error, on straight lines through the logarithms of the measured ones, and
/// beyond the first and the last of these the same as theirs.
fn interpolated(ratios: &[(f64, f64)], relative: f64) -> Option<f64> {
    let after = ratios.partition_point(|(error, _)| *error < relative);
    match (
        after.checked_sub(1).map(|before| ratios[before]),
        ratios.get(after),
    ) {
        (None, None) => None,
        (Some((_, only)), None) | (None, Some(&(_, only))) => Some(only),
        (Some((x0, y0)), Some(&(x1, y1))) => {
            let t = match x1 > x0 {
                true => (relative / x0).ln() / (x1 / x0).ln(),
                false => 0.0,
            };
            Some((y0.ln() + t.clamp(0.0, 1.0) * (y1 / y0).ln()).exp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(ty: GgmlType, bytes: u64, relative: f64) -> Candidate {
        Candidate {
            ty,
            bytes,
            relative,
            loss: 0.0,
            known: Knowledge::Estimated,
        }
    }

    #[test]
    fn what_was_not_measured_is_proportional_to_its_error() {
        let mut tensor = Surveyed {
            tensor: 0,
            name: "blk.0.ffn_up.weight".into(),
            candidates: vec![
                candidate(T::Q2_K, 84, 0.08),
                candidate(T::Q3_K, 110, 0.02),
                candidate(T::Q4_K, 144, 0.005),
                candidate(T::Q6_K, 210, 0.0003),
            ],
            prior: 2.0,
        };
        tensor.expect(0.5);
        let losses = |tensor: &Surveyed| -> Vec<f64> {
            tensor
                .candidates
                .iter()
                .map(|candidate| candidate.loss)
                .collect()
        };
        assert_eq!(losses(&tensor), [0.08, 0.02, 0.005, 0.0003]);
        // One measurement scales all of them, and two interpolate what lies between.
        tensor.candidates[2].loss = 0.01;
        tensor.candidates[2].known = Knowledge::Measured;
        tensor.expect(0.5);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
        let found = losses(&tensor);
        assert!(near(found[0], 0.16) && near(found[3], 0.0006), "{found:?}");
        tensor.candidates[0].loss = 0.08 * 8.0;
        tensor.candidates[0].known = Knowledge::Measured;
        tensor.expect(0.5);
        let found = losses(&tensor);
        // 0.02 is half way between 0.005 and 0.08, so its ratio is the geometric mean of 2 and 8.
        assert!(near(found[1], 0.02 * 4.0), "{found:?}");
        assert_eq!((found[0], found[2]), (0.64, 0.01));
        assert_eq!(
            tensor.reason(2),
            "KL 1.0e-2 measured; Q3_K 8.0e-2; Q6_K 6.0e-4"
        );
    }

    #[test]
    fn rows_decide_which_types_there_are() {
        assert_eq!(types_for(576, true, true), BLOCKS);
        assert_eq!(types_for(30, true, true), [T::F16]);
        assert_eq!(types_for(512, false, true), SUPER_BLOCKS);
        assert_eq!(types_for(512, true, false), SUPER_BLOCKS);
        assert!(types_for(512, true, true).contains(&T::IQ3_XXS));
        for (columns, types) in [(512, [SLOW, SUPER_BLOCKS].concat()), (32, BLOCKS.to_vec())] {
            assert!(types.iter().all(|ty| ty.row_bytes(columns).is_some()));
        }
    }
}
