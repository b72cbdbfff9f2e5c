//! Our encoders against ggml's, byte for byte: every type, every instruction set of this CPU, with
//! and without an importance matrix, more than ten million weights per type.
//!
//! `Encoder::by_ggml` is `ggml_quantize_chunk`; everything else about the two is shared.

use modelve::gguf::GgmlType;
use modelve::quant::{Encoder, Error, Isa, SourceType};
use rayon::prelude::*;
use std::path::Path;

const TYPES: &[GgmlType] = &[
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::F16,
    GgmlType::BF16,
];

/// Eleven super-blocks: no multiple of any vector's lanes, and batches straddle rows.
const COLUMNS: usize = 11 * 256;
/// Rows that go through one encoder call.
const ROWS: usize = 32;
/// Calls per kind of weights and type: 13 kinds, so 10.5 million weights.
const CALLS: usize = 9;

/// A generator of uniform bits (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    fn gauss(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }
}

/// Fills a run of weights.
type Kind = fn(&mut Random, &mut [f32]);

const KINDS: &[(&str, Kind)] = &[
    ("gaussian", |r, x| x.fill_with(|| 0.02 * r.gauss())),
    ("heavy tails", |r, x| {
        x.fill_with(|| 0.01 * r.gauss() / (r.uniform() + 1e-3));
    }),
    ("constant", |r, x| x.fill((r.uniform() - 0.5) * 0.1)),
    ("zeros", |r, x| {
        x.fill_with(|| if r.below(2) == 0 { 0.0 } else { -0.0 });
        if r.below(4) == 0 {
            let at = r.below(x.len());
            x[at] = r.gauss();
        }
    }),
    ("one outlier", |r, x| {
        x.fill_with(|| 1e-3 * r.gauss());
        let at = r.below(x.len());
        x[at] = if r.below(2) == 0 { 40.0 } else { -40.0 };
    }),
    ("tiny", |r, x| {
        let scale = 10f32.powi(-(r.below(24) as i32) - 6);
        x.fill_with(|| scale * r.gauss());
    }),
    ("denormal", |r, x| {
        let top = 1 << (1 + r.below(23));
        x.fill_with(|| f32::from_bits((r.bits() as u32 % top) | (r.bits() as u32 & 0x8000_0000)));
    }),
    ("large", |r, x| {
        let scale = 10f32.powi(r.below(7) as i32);
        x.fill_with(|| scale * r.gauss());
    }),
    ("huge", |r, x| {
        let scale = 10f32.powi(r.below(33) as i32 + 4);
        x.fill_with(|| scale * r.gauss().clamp(-8.0, 8.0));
    }),
    ("ties", |r, x| {
        let unit = 2f32.powi(r.below(12) as i32 - 10);
        x.fill_with(|| unit * (r.below(33) as f32 - 16.0));
    }),
    ("one-sided", |r, x| {
        let sign = if r.below(2) == 0 { -1.0 } else { 1.0 };
        let offset = r.uniform();
        x.fill_with(|| sign * (offset + 0.01 * r.uniform()));
    }),
    ("rounded to bf16", |r, x| {
        x.fill_with(|| f32::from_bits((0.02 * r.gauss()).to_bits() & 0xffff_0000));
    }),
];

/// Fills `x` with one kind, or past the last with another kind in each run of 16 or 32.
fn fill(kind: usize, random: &mut Random, x: &mut [f32]) {
    if let Some((_, fill)) = KINDS.get(kind) {
        return x.chunks_mut(256).for_each(|run| fill(random, run));
    }
    let run = if random.below(2) == 0 { 16 } else { 32 };
    for run in x.chunks_mut(run) {
        // "Huge" among others would leave nothing but infinite scales.
        let kind = KINDS[random.below(KINDS.len())];
        let kind = if kind.0 == "huge" { KINDS[0] } else { kind };
        kind.1(random, run);
    }
}

/// Importances over four orders of magnitude; in two calls of three with runs of zeros.
fn importances(random: &mut Random, n: usize) -> Vec<f32> {
    let zeros = [0, 1, 4][random.below(3)];
    let mut importance: Vec<f32> = (0..n)
        .map(|_| random.gauss().powi(2) * 10f32.powi(random.below(4) as i32 - 2))
        .collect();
    for run in importance.chunks_mut(16) {
        if random.below(8) < zeros {
            let n = 1 + random.below(run.len());
            run[..n].fill(0.0);
        }
    }
    importance
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn weight(source: SourceType, src: &[u8], i: usize) -> f32 {
    let half = |i: usize| u16::from_le_bytes([src[2 * i], src[2 * i + 1]]);
    match source {
        SourceType::F32 => f32::from_le_bytes(src[4 * i..4 * i + 4].try_into().expect("4 bytes")),
        SourceType::F16 => half::f16::from_bits(half(i)).to_f32(),
        SourceType::Bf16 => half::bf16::from_bits(half(i)).to_f32(),
    }
}

/// Where the f16 of a block's header are.
fn header(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        _ => &[0],
    }
}

/// Encodes both ways and compares blocks and verdicts; returns the number of weights compared.
fn compare(
    ty: GgmlType,
    (source, src): (SourceType, &[u8]),
    columns: usize,
    imatrix: Option<&[f32]>,
    what: &str,
) -> usize {
    let weights = src.len() / source.bytes();
    let info = ty.info().expect("a known type");
    let (per_block, block) = (info.block_size as usize, info.block_bytes as usize);
    let mut expected = vec![0u8; weights / per_block * block];
    let mut by_ggml = Encoder::by_ggml(ty).expect("an encoder");
    let verdict = by_ggml.encode_rows(source, src, columns, imatrix, &mut expected);
    // What ggml's levels are under an infinite scale nobody reads: llama.cpp refuses the block.
    let refused = |block: &[u8]| header(ty).iter().any(|&at| block[at + 1] & 0x7c == 0x7c);
    for isa in Isa::available() {
        let mut blocks = vec![0xa5u8; expected.len()];
        let mut encoder = Encoder::with_isa(ty, isa).expect("an encoder");
        assert_eq!(encoder.kernel(), isa.name());
        let ours = encoder.encode_rows(source, src, columns, imatrix, &mut blocks);
        let what = format!("{ty} on {isa}, {what}, imatrix: {}", imatrix.is_some());
        assert_eq!(ours, verdict, "{what}");
        for (b, (ours, theirs)) in blocks.chunks(block).zip(expected.chunks(block)).enumerate() {
            let both_refused =
                matches!(verdict, Err(Error::Overflow { .. })) && refused(ours) && refused(theirs);
            if ours != theirs && !both_refused {
                let at = b * per_block;
                let x: Vec<f32> = (at..at + per_block)
                    .map(|i| weight(source, src, i))
                    .collect();
                panic!("{what}: block {b}\nours {ours:?}\nggml {theirs:?}\nweights {x:?}");
            }
        }
    }
    weights
}

#[test]
fn every_type_and_instruction_set_gives_ggmls_bytes() {
    for &ty in TYPES {
        let compared: usize = (0..(KINDS.len() + 1) * CALLS)
            .into_par_iter()
            .map(|job| {
                let (kind, call) = (job % (KINDS.len() + 1), job / (KINDS.len() + 1));
                let mut random = Random(job as u64);
                let mut x = vec![0.0; ROWS * COLUMNS];
                fill(kind, &mut random, &mut x);
                let name = KINDS.get(kind).map_or("a mixture", |kind| kind.0);
                let what = format!("{name}, call {call}");
                let src = bytes(&x);
                if call % 3 == 0 && ty.block_size() > Some(1) {
                    let importance = importances(&mut random, COLUMNS);
                    compare(
                        ty,
                        (SourceType::F32, &src),
                        COLUMNS,
                        Some(&importance),
                        &what,
                    );
                }
                compare(ty, (SourceType::F32, &src), COLUMNS, None, &what)
            })
            .sum();
        assert!(compared >= 10_000_000, "{ty}: only {compared} weights");
    }
}

#[test]
fn half_precision_rows_are_widened_exactly() {
    for &ty in TYPES {
        let mut random = Random(7);
        // A row that is no multiple of a vector, for the types without blocks.
        let columns = if ty.block_size() == Some(1) { 37 } else { 512 };
        for source in [SourceType::F16, SourceType::Bf16] {
            let src: Vec<u8> = (0..9 * columns)
                .flat_map(|_| match source {
                    SourceType::F16 => half::f16::from_f32(random.gauss()).to_le_bytes(),
                    _ => half::bf16::from_f32(random.gauss()).to_le_bytes(),
                })
                .collect();
            let wide: Vec<f32> = (0..9 * columns).map(|i| weight(source, &src, i)).collect();
            let info = ty.info().expect("a known type");
            let size = wide.len() / info.block_size as usize * info.block_bytes as usize;
            let encode = |isa, source, src: &[u8]| {
                let mut blocks = vec![0u8; size];
                Encoder::with_isa(ty, isa)
                    .and_then(|mut e| e.encode_rows(source, src, columns, None, &mut blocks))
                    .expect("encoded");
                blocks
            };
            let expected = encode(Isa::Plain, SourceType::F32, &bytes(&wide));
            for isa in Isa::available() {
                assert!(
                    encode(isa, source, &src) == expected,
                    "{ty} from {source:?} on {isa}"
                );
            }
        }
    }
}

#[test]
fn trained_weights_give_ggmls_bytes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-phi3/model.safetensors");
    let Ok(file) = std::fs::read(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return;
    };
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    let mut compared = 0;
    for (name, tensor) in tensors.iter() {
        let &[rows, columns] = tensor.shape() else {
            continue;
        };
        let source = match tensor.dtype() {
            safetensors::Dtype::F32 => SourceType::F32,
            safetensors::Dtype::F16 => SourceType::F16,
            safetensors::Dtype::BF16 => SourceType::Bf16,
            other => panic!("{name} is {other:?}"),
        };
        for &ty in TYPES {
            if !columns.is_multiple_of(ty.block_size().expect("a known type") as usize) {
                continue;
            }
            let importance = importances(&mut Random(rows as u64), columns);
            compared += compare(ty, (source, tensor.data()), columns, None, name);
            if ty.block_size() > Some(1) {
                compared += compare(
                    ty,
                    (source, tensor.data()),
                    columns,
                    Some(&importance),
                    name,
                );
            }
        }
    }
    assert!(compared > 0, "no matrix in {}", path.display());
}
