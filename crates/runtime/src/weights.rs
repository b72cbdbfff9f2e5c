//! Decides whether repacking the weights for the CPU is worth the time it takes.
//!
//! Repacking copies every matrix when the model is loaded. Passes are then faster for some types
//! and sizes and slower for others, so the choice depends on the work ahead, unless modelve's own
//! kernels ([`modelve_matmul`]) multiply the weights in place. The tables have the seconds of one
//! decode call of n tokens, measured on a 2.3 GB model with two AVX-512 cores. Both loading and
//! passes scale with the size of the model, so only the ratios matter. The entry for one token is
//! measured during a long generation.

use super::check::Facts;
use super::model::Weights;
use super::start::own_kernels;
use modelve_gguf::GgmlType;

/// The amount of work that lies ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// The number of tokens of all prompts together.
    pub prompt_tokens: usize,
    /// The number of tokens to generate for each prompt.
    pub max_tokens: usize,
    /// The number of prompts.
    pub prompts: usize,
    /// The number of prompts that are computed at once.
    pub parallel: usize,
}

impl Work {
    /// One prompt of `prompt_tokens` tokens, and `max_tokens` tokens to generate.
    pub fn one(prompt_tokens: usize, max_tokens: usize) -> Self {
        Work {
            prompt_tokens,
            max_tokens,
            prompts: 1,
            parallel: 1,
        }
    }
}

/// The measured numbers of tokens in a decode call.
const SIZES: [f64; 11] = [1., 2., 4., 6., 8., 16., 32., 64., 128., 256., 512.];

struct Costs {
    mapped: [f64; 11],
    repacked: [f64; 11],
}

const Q4_K: Costs = Costs {
    mapped: [
        0.11, 0.17, 0.28, 0.39, 0.62, 0.61, 0.88, 1.43, 2.52, 4.56, 9.24,
    ],
    repacked: [
        0.087, 0.12, 0.21, 0.30, 0.45, 0.57, 0.99, 1.78, 3.42, 7.18, 15.5,
    ],
};

const Q4_0: Costs = Costs {
    mapped: [
        0.22, 0.18, 0.31, 0.46, 0.44, 0.91, 1.52, 3.27, 6.31, 14.4, 30.3,
    ],
    repacked: [
        0.12, 0.21, 0.18, 0.28, 0.32, 0.47, 0.94, 1.82, 3.66, 7.55, 15.5,
    ],
};

/// The seconds that repacking takes, for the model of the tables.
const REPACKING: f64 = 3.0;

/// The choice that finishes the work sooner. `free` is the memory available for a copy.
pub fn choose(facts: &Facts, work: Work, free: Option<u64>) -> Weights {
    match facts.weights.first() {
        // modelve's kernels read the file's blocks at memory bandwidth.
        Some((ty, _)) if own_kernels().any(|own| own == *ty) => Weights::Mapped,
        Some(&(ty, _)) => by_cost(ty, facts, work, free),
        None => Weights::Mapped,
    }
}

/// The choice for weights that ggml's kernels multiply.
fn by_cost(ty: GgmlType, facts: &Facts, work: Work, free: Option<u64>) -> Weights {
    let costs = match ty {
        GgmlType::Q4_0 | GgmlType::IQ4_NL => &Q4_0,
        GgmlType::Q4_K => &Q4_K,
        // Not repacked by ggml on every CPU, or not measured: the cost of loading is certain, the
        // gain is not.
        _ => return Weights::Mapped,
    };
    let copy = facts.tensor_bytes + facts.tensor_bytes / 8;
    if free.is_some_and(|free| free < copy) {
        return Weights::Mapped;
    }
    let repacked = REPACKING + seconds(&costs.repacked, work);
    if repacked < seconds(&costs.mapped, work) {
        Weights::Repacked
    } else {
        Weights::Mapped
    }
}

fn seconds(costs: &[f64; 11], work: Work) -> f64 {
    let largest = SIZES[SIZES.len() - 1];
    let prompt = work.prompt_tokens as f64;
    let full = (prompt / largest).floor();
    let prefill = full * costs[costs.len() - 1] + one_call(costs, prompt - full * largest);
    let parallel = work.parallel.clamp(1, work.prompts.max(1)) as f64;
    let rounds = (work.prompts.max(1) as f64 / parallel).ceil();
    let steps = work.max_tokens.saturating_sub(1) as f64;
    prefill + rounds * steps * one_call(costs, parallel)
}

/// The seconds of a call of `n` tokens, interpolated linearly between the measured sizes.
fn one_call(costs: &[f64; 11], n: f64) -> f64 {
    if n <= 0.0 {
        return 0.0;
    }
    let above = SIZES
        .iter()
        .position(|&size| size >= n)
        .unwrap_or(SIZES.len() - 1);
    let Some(below) = above.checked_sub(1) else {
        return costs[0];
    };
    let part = (n - SIZES[below]) / (SIZES[above] - SIZES[below]);
    costs[below] + part * (costs[above] - costs[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phi3(ty: GgmlType) -> Facts {
        Facts {
            weights: vec![(ty, 2 << 30)],
            tensor_bytes: 2 << 30,
            ..Facts::default()
        }
    }

    fn cheaper(ty: GgmlType, work: Work, free: Option<u64>) -> Weights {
        by_cost(ty, &phi3(ty), work, free)
    }

    #[test]
    fn own_kernels_need_no_copy() {
        for ty in own_kernels() {
            let work = Work::one(440, 100_000);
            assert_eq!(choose(&phi3(ty), work, None), Weights::Mapped, "{ty}");
        }
    }

    #[test]
    fn short_answers_start_at_once() {
        for ty in [GgmlType::Q4_K, GgmlType::Q4_0] {
            assert_eq!(cheaper(ty, Work::one(6, 16), None), Weights::Mapped);
        }
    }

    #[test]
    fn long_work_with_q4_0_pays_for_repacking() {
        let ty = GgmlType::Q4_0;
        assert_eq!(cheaper(ty, Work::one(6, 256), None), Weights::Repacked);
        assert_eq!(cheaper(ty, Work::one(440, 16), None), Weights::Repacked);
        // Not if there is no memory for the copy.
        assert_eq!(
            cheaper(ty, Work::one(440, 16), Some(1 << 30)),
            Weights::Mapped
        );
    }

    #[test]
    fn long_answers_pay_for_repacking_q4_k_too() {
        let ty = GgmlType::Q4_K;
        assert_eq!(cheaper(ty, Work::one(6, 256), None), Weights::Repacked);
        assert_eq!(cheaper(ty, Work::one(6, 64), None), Weights::Mapped);
    }

    #[test]
    fn a_long_prompt_with_q4_k_stays_mapped() {
        assert_eq!(
            cheaper(GgmlType::Q4_K, Work::one(440, 16), None),
            Weights::Mapped
        );
    }

    #[test]
    fn calls_between_measured_sizes_cost_between() {
        assert_eq!(one_call(&Q4_K.mapped, 1.0), 0.11);
        assert!((one_call(&Q4_K.mapped, 3.0) - 0.225).abs() < 1e-9);
        assert_eq!(one_call(&Q4_K.mapped, 512.0), 9.24);
    }
}
