//! Multiplications of weights with activations per second and core, by the kernels of this
//! program and by ggml's product of a row and a column, for a few columns at a time.
//!
//! `cargo bench --profile dev --bench matmul -- Q4_K` for one type. The weights are more than the
//! caches hold, as in a model.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use llama_cpp_sys_2 as sys;
use modelve::gguf::GgmlType;
use modelve::matmul::{BLOCK, Block, Kernel};
use modelve::quant::{Encoder, SourceType};

const WIDTH: usize = 3072;
const ROWS: usize = 64 << 10;
const COLUMNS: [usize; 6] = [1, 2, 4, 6, 8, 32];

fn main() {
    divan::main();
}

/// [`ROWS`] rows of which every 64 are the same, and `n` columns.
fn operands(ty: GgmlType, n: usize) -> (Vec<u8>, Vec<f32>) {
    let wave = |i: usize| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 0.02;
    let weights: Vec<f32> = (0..64 * WIDTH).map(wave).collect();
    let kernel = Kernel::new(ty, WIDTH).expect("a CPU with kernels");
    let mut rows = vec![0; 64 * WIDTH / BLOCK * kernel.block_bytes()];
    Encoder::new(ty)
        .and_then(|mut encoder| {
            let weights = bytemuck::cast_slice(&weights);
            encoder.encode_rows(SourceType::F32, weights, WIDTH, None, &mut rows)
        })
        .expect("an encoder");
    (rows.repeat(ROWS / 64), (0..n * WIDTH).map(wave).collect())
}

fn ours(bencher: Bencher, ty: GgmlType, n: usize) {
    let Some(kernel) = Kernel::new(ty, WIDTH) else {
        return;
    };
    let (rows, x) = operands(ty, n);
    let mut packed = vec![bytemuck::Zeroable::zeroed(); x.len() / BLOCK];
    bencher
        .counter(ItemsCount::new(ROWS * WIDTH * n))
        .bench_local(|| {
            for (i, numbers) in x.as_chunks().0.iter().enumerate() {
                let (column, block) = (i * BLOCK / WIDTH, i % (WIDTH / BLOCK));
                packed[Kernel::place(column, block, n, WIDTH / BLOCK)] = kernel.pack(numbers);
            }
            let mut sum = 0.0;
            let packed: &[Block] = black_box(&packed);
            kernel.multiply(&rows, packed, n, &mut |_, _, values| sum += values[0]);
            sum
        });
}

fn ggml(bencher: Bencher, ty: GgmlType, n: usize) {
    let Some(kernel) = Kernel::new(ty, WIDTH) else {
        return;
    };
    let (rows, x) = operands(ty, n);
    let row_bytes = WIDTH / BLOCK * kernel.block_bytes();
    let mut packed = vec![0u8; 4 * x.len()];
    bencher
        .counter(ItemsCount::new(ROWS * WIDTH * n))
        .bench_local(|| {
            let mut sum = 0.0;
            // SAFETY: rows and columns have `WIDTH` numbers, a multiple of every block; a packed
            // column is smaller than its floats.
            unsafe {
                sys::ggml_cpu_init();
                let traits = *sys::ggml_get_type_traits_cpu(ty.0 as sys::ggml_type);
                let activations = *sys::ggml_get_type_traits_cpu(traits.vec_dot_type);
                let (pack, dot) = (activations.from_float.unwrap(), traits.vec_dot.unwrap());
                for (x, packed) in x.chunks(WIDTH).zip(packed.chunks_mut(4 * WIDTH)) {
                    pack(x.as_ptr(), packed.as_mut_ptr().cast(), WIDTH as i64);
                }
                // As ggml does: sixteen rows, then the next column.
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
        });
}

macro_rules! types {
    ($($ty:ident),*) => {$(
        #[allow(non_snake_case)]
        mod $ty {
            use super::*;

            #[divan::bench(args = COLUMNS, sample_count = 5, sample_size = 1)]
            fn ours(bencher: Bencher, n: usize) {
                super::ours(bencher, GgmlType::$ty, n);
            }

            #[divan::bench(args = COLUMNS, sample_count = 5, sample_size = 1)]
            fn ggml(bencher: Bencher, n: usize) {
                super::ggml(bencher, GgmlType::$ty, n);
            }
        }
    )*};
}

types!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
