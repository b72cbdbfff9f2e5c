//! Measures multiplications of weights with activations per second and core, by modelve's kernels
//! and by ggml's dot product of a row and a column, for a few columns at a time.
//!
//! `cargo bench --profile dev --bench matmul -- Q4_K` measures one type. As in a model, the weights
//! do not fit into the caches.

#![allow(unsafe_code)]

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use llama_cpp_sys_2 as sys;
use modelve::gguf::GgmlType;
use modelve::matmul::Kernel;
use modelve::quant::{Encoder, SourceType};
use std::fmt;

const WIDTH: usize = 3072;
const COLUMNS: [usize; 6] = [1, 2, 6, 12, 32, 512];

fn main() {
    divan::main();
}

/// The number of rows: more than the caches hold, or, where each case is only tried once because
/// `cargo test` started this, few.
fn row_count() -> usize {
    match std::env::args().any(|argument| argument == "--bench") {
        true => 64 << 10,
        false => 64,
    }
}

/// [`row_count`] rows, which repeat every 64 rows, and `n` columns.
fn operands(ty: GgmlType, n: usize) -> (Vec<u8>, Vec<f32>) {
    let wave = |i: usize| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 0.02;
    let weights: Vec<f32> = (0..64 * WIDTH).map(wave).collect();
    let row_bytes = ty.row_bytes(WIDTH as u64).expect("whole blocks") as usize;
    let mut rows = vec![0; 64 * row_bytes];
    Encoder::new(ty)
        .and_then(|mut encoder| {
            let weights = bytemuck::cast_slice(&weights);
            encoder.encode_rows(SourceType::F32, weights, WIDTH, None, &mut rows)
        })
        .expect("an encoder");
    (
        rows.repeat(row_count() / 64),
        (0..n * WIDTH).map(wave).collect(),
    )
}

/// A type, a kernel (`None` for ggml's), and a number of columns.
#[derive(Clone, Copy)]
struct Case {
    ty: GgmlType,
    kernel: Option<Kernel>,
    n: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = self.kernel.map_or("ggml", Kernel::isa);
        write!(f, "{} {whose} {}", self.ty, self.n)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for ty in Kernel::TYPES {
        let kernels: Vec<_> = Kernel::all(ty, WIDTH).collect();
        for n in COLUMNS.into_iter().filter(|_| !kernels.is_empty()) {
            let kernels = kernels.iter().copied().map(Some).chain([None]);
            cases.extend(kernels.map(|kernel| Case { ty, kernel, n }));
        }
    }
    cases
}

#[divan::bench(args = cases(), sample_count = 5, sample_size = 1)]
fn products(bencher: Bencher<'_, '_>, case: Case) {
    let Case { ty, kernel, n } = case;
    let (rows, x) = operands(ty, n);
    let bencher = bencher.counter(ItemsCount::new(row_count() * WIDTH * n));
    match kernel {
        Some(kernel) => bencher.bench_local(|| by_kernel(kernel, black_box(&rows), &x, n)),
        None => bencher.bench_local(|| by_ggml(ty, black_box(&rows), &x)),
    }
}

fn by_kernel(kernel: Kernel, rows: &[u8], x: &[f32], n: usize) -> f32 {
    let packed = kernel.pack(x);
    let mut sum = 0.0;
    kernel.multiply(rows, &packed, n, &mut |_, _, values| sum += values[0]);
    sum
}

fn by_ggml(ty: GgmlType, rows: &[u8], x: &[f32]) -> f32 {
    let row_bytes = rows.len() / row_count();
    let mut packed = vec![0u8; 4 * x.len()];
    let mut sum = 0.0;
    // SAFETY: rows and columns have `WIDTH` numbers, a multiple of every block; a packed column
    // is smaller than its floats.
    unsafe {
        sys::ggml_cpu_init();
        let traits = *sys::ggml_get_type_traits_cpu(ty.0 as sys::ggml_type);
        let activations = *sys::ggml_get_type_traits_cpu(traits.vec_dot_type);
        let (Some(pack), Some(dot)) = (activations.from_float, traits.vec_dot) else {
            return sum;
        };
        for (x, packed) in x.chunks(WIDTH).zip(packed.chunks_mut(4 * WIDTH)) {
            pack(x.as_ptr(), packed.as_mut_ptr().cast(), WIDTH as i64);
        }
        // Like ggml: sixteen rows, then the next column.
        for rows in rows.chunks(16 * row_bytes) {
            for packed in packed.chunks(4 * WIDTH) {
                for row in rows.chunks(row_bytes) {
                    let (mut out, row, packed) = (0.0, row.as_ptr(), packed.as_ptr());
                    dot(
                        WIDTH as i32,
                        &mut out,
                        0,
                        row.cast(),
                        0,
                        packed.cast(),
                        0,
                        1,
                    );
                    sum += out;
                }
            }
        }
    }
    sum
}
