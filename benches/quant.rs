//! Measures the weights per second and core of each encoder on each instruction set, compared with
//! ggml's encoder and with the memory bandwidth.
//!
//! `cargo bench --profile dev --bench quant -- Q4_K` measures one type, without compiling llama.cpp
//! for another profile. `imatrix` searches with an importance matrix. `memory` only reads as many
//! bytes as the weights have and writes as many as the blocks have, with buffers larger than the
//! caches.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use modelve::gguf::GgmlType;
use modelve::quant::{Encoder, Isa, SourceType};
use std::fmt;

const COLUMNS: usize = 3072;
const ROWS: usize = 256;
const TYPES: &[GgmlType] = &[
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::F16,
];

fn main() {
    divan::main();
}

/// A type and its encoder.
#[derive(Clone, Copy)]
struct Case {
    ty: GgmlType,
    /// The instruction set; `None` for ggml's encoder.
    isa: Option<Isa>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.ty, self.isa.map_or("ggml", Isa::name))
    }
}

impl Case {
    fn encoder(self) -> Encoder {
        let encoder = match self.isa {
            Some(isa) => Encoder::with_isa(self.ty, isa),
            None => Encoder::by_ggml(self.ty),
        };
        encoder.expect("an encoder for this CPU")
    }

    fn blocks(self, rows: usize) -> Vec<u8> {
        let row = self.ty.row_bytes(COLUMNS as u64).expect("whole blocks");
        vec![0; row as usize * rows]
    }
}

fn cases() -> Vec<Case> {
    let with = |ty| {
        let vectors = Isa::available().filter(|isa| isa.vectors() == *isa);
        let ours = vectors.map(move |isa| Case { ty, isa: Some(isa) });
        std::iter::once(Case { ty, isa: None }).chain(ours)
    };
    TYPES.iter().copied().flat_map(with).collect()
}

fn searched() -> Vec<Case> {
    let searches = |case: &Case| ![GgmlType::Q8_0, GgmlType::F16].contains(&case.ty);
    cases().into_iter().filter(searches).collect()
}

fn types() -> Vec<Case> {
    TYPES.iter().map(|&ty| Case { ty, isa: None }).collect()
}

/// Rows of weights with a bell-shaped distribution, as bf16.
fn weights() -> Vec<u8> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0
    };
    let mut bell = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    (0..ROWS * COLUMNS)
        .flat_map(|_| half::bf16::from_f32(0.02 * bell()).to_le_bytes())
        .collect()
}

fn run(bencher: Bencher<'_, '_>, case: Case, imatrix: Option<&[f32]>) {
    let (src, mut blocks, mut encoder) = (weights(), case.blocks(ROWS), case.encoder());
    bencher
        .counter(ItemsCount::new(ROWS * COLUMNS))
        .bench_local(|| {
            encoder
                .encode_rows(
                    SourceType::Bf16,
                    black_box(&src),
                    COLUMNS,
                    imatrix,
                    &mut blocks,
                )
                .expect("finite weights");
            black_box(&mut blocks);
        });
}

#[divan::bench(args = cases(), sample_count = 15, sample_size = 1)]
fn encode(bencher: Bencher<'_, '_>, case: Case) {
    run(bencher, case, None);
}

#[divan::bench(args = searched(), sample_count = 9, sample_size = 1)]
fn imatrix(bencher: Bencher<'_, '_>, case: Case) {
    let importance: Vec<f32> = (0..COLUMNS).map(|i| 0.1 + (i % 17) as f32).collect();
    run(bencher, case, Some(&importance));
}

#[divan::bench(args = types(), sample_count = 9, sample_size = 1)]
fn memory(bencher: Bencher<'_, '_>, case: Case) {
    const ROWS: usize = 16 * 1024;
    let src = vec![1u8; 2 * ROWS * COLUMNS];
    let mut blocks = case.blocks(ROWS);
    bencher
        .counter(ItemsCount::new(ROWS * COLUMNS))
        .bench_local(|| {
            let words = black_box(&src).as_chunks::<8>().0.iter();
            let sum = words.fold(0u64, |sum, word| sum ^ u64::from_le_bytes(*word));
            black_box(&mut blocks).fill(sum as u8);
        });
}
