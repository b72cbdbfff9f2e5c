//! Attention beside its definition.

use super::*;
use half::f16;

/// Pseudo-random numbers from −1 to 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn halves(numbers: &[f32]) -> Vec<u16> {
    numbers
        .iter()
        .map(|x| f16::from_f32(*x).to_bits())
        .collect()
}

struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    value_width: usize,
    q: Vec<f32>,
    k: Vec<u16>,
    v: Vec<u16>,
    /// Whether a query sees a key.
    sees: fn(usize, usize) -> bool,
}

impl Case {
    fn new(sizes: [usize; 6], sees: fn(usize, usize) -> bool) -> Case {
        let [queries, keys, heads, kv_heads, width, value_width] = sizes;
        let four = |n: usize, seed| numbers(n, seed).iter().map(|x| 4.0 * x).collect::<Vec<_>>();
        Case {
            queries,
            keys,
            heads,
            kv_heads,
            width,
            value_width,
            q: four(heads * queries * width, 1),
            k: halves(&numbers(kv_heads * keys * width, 2)),
            v: halves(&numbers(kv_heads * keys * value_width, 3)),
            sees,
        }
    }

    fn computed(&self) -> Vec<f32> {
        let mask: Vec<f32> = (0..self.queries * self.keys)
            .map(|i| match (self.sees)(i / self.keys, i % self.keys) {
                true => 0.0,
                false => f32::NEG_INFINITY,
            })
            .collect();
        let mask = halves(&mask);
        let mut out = vec![f32::NAN; self.queries * self.heads * self.value_width];
        let operands = Operands {
            q: self.q.as_ptr().cast(),
            q_strides: [4 * self.width, 4 * self.width * self.queries, 0],
            k: self.k.as_ptr().cast(),
            k_strides: [2 * self.width, 2 * self.width * self.keys, 0],
            v: self.v.as_ptr().cast(),
            v_strides: [2 * self.value_width, 2 * self.value_width * self.keys, 0],
            mask: mask.as_ptr().cast(),
            mask_strides: [2 * self.keys, 0, 0],
            out: out.as_mut_ptr().cast(),
            out_stride: 4 * self.value_width,
            key_width: self.width,
            value_width: self.value_width,
            queries: self.queries,
            keys: self.keys,
            heads: self.heads,
            kv_heads: self.kv_heads,
            batches: 1,
            kv_batches: 1,
            mask_heads: 1,
            mask_batches: 1,
            scale: 0.3,
        };
        let mut room = vec![f32::NAN; scratch(self.width, self.value_width)];
        for tile in 0..tiles(&operands) {
            // SAFETY: the operands are as they say.
            unsafe { compute(&operands, tile, &mut room) };
        }
        out
    }

    /// The same in 64 bits, by the definition.
    fn expected(&self) -> Vec<f64> {
        let wide = |half: u16| f64::from(f16::from_bits(half).to_f32());
        let mut out = vec![];
        for i in 0..self.queries {
            for head in 0..self.heads {
                let kv = head / (self.heads / self.kv_heads);
                let q = &self.q[(head * self.queries + i) * self.width..][..self.width];
                let seen = (0..self.keys).filter(|&key| (self.sees)(i, key));
                let scored: Vec<(usize, f64)> = seen
                    .map(|key| {
                        let k = &self.k[(kv * self.keys + key) * self.width..][..self.width];
                        let dot = q.iter().zip(k).map(|(q, k)| f64::from(*q) * wide(*k));
                        (key, 0.3 * dot.sum::<f64>())
                    })
                    .collect();
                let most = scored
                    .iter()
                    .fold(f64::MIN, |most, (_, score)| most.max(*score));
                let sum: f64 = scored.iter().map(|(_, score)| (score - most).exp()).sum();
                for d in 0..self.value_width {
                    let at = |key: usize| self.v[(kv * self.keys + key) * self.value_width + d];
                    let weighed = scored
                        .iter()
                        .map(|(key, score)| (score - most).exp() * wide(at(*key)));
                    out.push(if sum > 0.0 {
                        weighed.sum::<f64>() / sum
                    } else {
                        0.0
                    });
                }
            }
        }
        out
    }
}

#[allow(clippy::print_stderr)]
fn available() -> bool {
    let available = has_kernel(64, 64, 64);
    if !available {
        eprintln!("skipped: there is no kernel for this CPU");
    }
    available
}

#[test]
fn attention_is_that_of_its_definition() {
    if !available() {
        return;
    }
    let causal: fn(usize, usize) -> bool = |query, key| key <= query + 30;
    let window = |query: usize, key: usize| key <= query && key + 20 > query;
    let nothing = |query: usize, key: usize| query != 3 && key < 7;
    for case in [
        Case::new([64, 96, 2, 2, 96, 96], |_, _| true),
        Case::new([100, 131, 4, 2, 64, 64], causal),
        Case::new([70, 256, 2, 1, 128, 128], window),
        Case::new([16, 40, 3, 3, 80, 16], causal),
        Case::new([17, 49, 1, 1, 256, 32], nothing),
    ] {
        // Scores are up to 40, in 32 bits.
        let (ours, exact) = (case.computed(), case.expected());
        for (i, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
            assert!(
                (f64::from(*ours) - exact).abs() < 1e-5,
                "{i}: {ours} {exact}"
            );
        }
    }
}

#[test]
fn a_query_does_not_depend_on_the_queries_beside_it() {
    if !available() {
        return;
    }
    let all = Case::new([130, 150, 1, 1, 32, 32], |query, key| key <= query + 20);
    let mut some = Case::new([77, 150, 1, 1, 32, 32], all.sees);
    some.q = all.q[..77 * 32].to_vec();
    assert_eq!(some.computed()[..], all.computed()[..77 * 32]);
}
