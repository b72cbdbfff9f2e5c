#![allow(unsafe_code)]

use super::*;
use llama_cpp_sys_2 as sys;
use modelve_quant::{Encoder, SourceType};
use proptest::prelude::*;

/// Pseudo-random numbers from −1 to 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The size in bytes of `n` weights.
fn bytes_of(ty: GgmlType, n: usize) -> usize {
    ty.row_bytes(n as u64).unwrap() as usize
}

fn encoded(ty: GgmlType, weights: &[f32], width: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(ty).unwrap();
    let mut bytes = vec![0; bytes_of(ty, weights.len())];
    encoder
        .encode_rows(
            SourceType::F32,
            bytemuck::cast_slice(weights),
            width,
            None,
            &mut bytes,
        )
        .unwrap();
    bytes
}

/// The kernels of this CPU, for every instruction set; says so on standard error if there are none.
#[allow(clippy::print_stderr)]
fn kernels(width: usize) -> Vec<Kernel> {
    let kernels: Vec<_> = Kernel::TYPES
        .into_iter()
        .flat_map(|ty| Kernel::all(ty, width))
        .collect();
    if kernels.is_empty() {
        eprintln!("skipped: there are no kernels for this CPU");
    }
    kernels
}

/// The product of `rows` and the columns `x`, column by column.
fn product(kernel: Kernel, rows: &[u8], x: &[f32], width: usize) -> Vec<Vec<f32>> {
    let n = x.len() / width;
    let mut columns = vec![vec![]; n];
    kernel.multiply(rows, &kernel.pack(x), n, &mut |column, row, values| {
        assert_eq!(columns[column].len(), row, "rows come in order");
        columns[column].extend_from_slice(values);
    });
    columns
}

/// ggml's own product of a row and a column, by its `vec_dot`, which rounds the column first.
fn by_ggml(ty: GgmlType, row: &[u8], x: &[f32]) -> f32 {
    assert!(row.len() == bytes_of(ty, x.len()) && fits(ty, x.len()));
    let mut product = 0.0;
    // SAFETY: the type is one of ggml's; `row` holds `x.len()` weights, and the buffer has room
    // for as many activations of any type of whole blocks. Initialisation fills ggml's tables.
    unsafe {
        sys::ggml_cpu_init();
        let weights = *sys::ggml_get_type_traits_cpu(ty.0 as sys::ggml_type);
        let activations = *sys::ggml_get_type_traits_cpu(weights.vec_dot_type);
        let pack = activations.from_float.expect("activations are rounded");
        let vec_dot = weights.vec_dot.expect("weights are multiplied");
        let mut packed = vec![0u64; x.len()];
        pack(x.as_ptr(), packed.as_mut_ptr().cast(), x.len() as i64);
        let (row, packed) = (row.as_ptr().cast(), packed.as_ptr().cast());
        vec_dot(x.len() as i32, &mut product, 0, row, 0, packed, 0, 1);
    }
    product
}

/// How far ggml's products may differ from ours, relative to the product of the vectors' norms.
/// ggml's scales of 32 activations have 16 bits, ours 32, and so have the sums of 32 activations
/// that it multiplies with offsets; these may be much larger than the weights.
fn tolerance(ty: GgmlType) -> f32 {
    match ty {
        GgmlType::Q4_K | GgmlType::Q5_K | GgmlType::Q6_K => 2e-6,
        GgmlType::Q4_1 | GgmlType::Q5_1 => 1e-3,
        _ => 2e-4,
    }
}

/// Activations as they are after they were rounded to 8 bits, with a scale of 32 bits for each
/// group.
fn rounded(ty: GgmlType, x: &[f32]) -> Vec<f32> {
    let round = |group: &[f32]| {
        let largest = group.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scaled = |x: &f32| (x * (127.0 / largest)).round_ties_even() * (largest / 127.0);
        group.iter().map(scaled).collect::<Vec<_>>()
    };
    x.chunks(columns::group(ty)).flat_map(round).collect()
}

/// The Euclidean norm. Errors are measured relative to the product of both vectors' norms.
fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn products_are_those_of_ggml() {
    // The second width ends with a block of 64 weights, the third is less than a block.
    for (width, n) in [512, 576, 96]
        .into_iter()
        .flat_map(|w| [(w, 3), (w, 11), (w, 50)])
    {
        for kernel in kernels(width) {
            products_of(kernel, width, n);
        }
    }
}

fn products_of(kernel: Kernel, width: usize, n: usize) {
    let (ty, isa) = (kernel.ty, kernel.isa());
    let rows = 21;
    let weights = numbers(rows * width, 1);
    let bytes = encoded(ty, &weights, width);
    let x = numbers(n * width, 2);
    let columns = product(kernel, &bytes, &x, width);
    let mut decoded = vec![0f32; weights.len()];
    modelve_quant::dequantize_rows(ty, &bytes, &mut decoded).unwrap();
    let row_bytes = bytes.len() / rows;
    assert_eq!(row_bytes, kernel.row_bytes());
    for (x, column) in x.chunks(width).zip(&columns) {
        let rounded = rounded(ty, x);
        assert_eq!(column.len(), rows);
        for ((row, decoded), ours) in bytes
            .chunks(row_bytes)
            .zip(decoded.chunks(width))
            .zip(column)
        {
            let scale = norm(decoded) * norm(x);
            let theirs = by_ggml(ty, row, x);
            assert!(
                (ours - theirs).abs() < tolerance(ty) * scale,
                "{ty}, {isa}: {ours} {theirs}"
            );
            let exact = |x: &[f32]| {
                let products = decoded
                    .iter()
                    .zip(x)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b));
                products.sum::<f64>() as f32
            };
            for (x, tolerance) in [(&rounded[..], 2e-6), (x, 5e-3)] {
                assert!(
                    (ours - exact(x)).abs() < tolerance * scale,
                    "{ty}, {isa}: {ours} {}",
                    exact(x)
                );
            }
        }
    }
}

#[test]
fn a_column_does_not_depend_on_its_neighbours() {
    for (width, kernel) in [33 * BLOCK, 32 * BLOCK + 32].into_iter().flat_map(|width| {
        kernels(width)
            .into_iter()
            .map(move |kernel| (width, kernel))
    }) {
        let (ty, isa) = (kernel.ty, kernel.isa());
        let bytes = encoded(ty, &numbers(9 * width, 3), width);
        let x = numbers(35 * width, 4);
        let all = product(kernel, &bytes, &x, width);
        for n in (1..=17).chain([31, 32, 33]) {
            let some = product(kernel, &bytes, &x[..n * width], width);
            assert_eq!(some[..], all[..n], "{ty}, {isa}, {n} columns");
        }
    }
}

#[test]
fn blocks_are_as_long_as_in_files() {
    for ty in Kernel::TYPES {
        assert_eq!(
            ty.row_bytes(BLOCK as u64),
            Some(block_bytes(ty.0) as u64),
            "{ty}"
        );
    }
}

#[test]
fn other_types_and_widths_have_no_kernel() {
    for (ty, width) in [
        (GgmlType::F16, 256),
        (GgmlType::Q4_K, 288),
        (GgmlType::Q4_K, 0),
        (GgmlType::Q4_1, 0),
        (GgmlType::Q4_1, 48),
    ] {
        assert_eq!(Kernel::all(ty, width).next(), None);
        assert_eq!(Kernel::best(ty, width, 1), None);
    }
}

proptest! {
    /// Arbitrary bytes give a result, which agrees with ggml's if the weights are finite.
    #[test]
    fn any_bytes_are_multiplied(seed: u64, ty in 0..Kernel::TYPES.len()) {
        let ty = Kernel::TYPES[ty];
        let bytes: Vec<u8> = numbers(block_bytes(ty.0), seed)
            .iter().map(|x| (x * 128.0) as i32 as u8).collect();
        let x = numbers(BLOCK, !seed);
        let mut decoded = vec![0f32; BLOCK];
        modelve_quant::dequantize_rows(ty, &bytes, &mut decoded).unwrap();
        let theirs = by_ggml(ty, &bytes, &x);
        let scale = norm(&decoded) * norm(&x);
        for kernel in Kernel::all(ty, BLOCK) {
            let ours = product(kernel, &bytes, &x, BLOCK)[0][0];
            if scale.is_finite() {
                prop_assert!((ours - theirs).abs() <= 5.0 * tolerance(ty) * scale, "{:?}: {} {} of {}", kernel, ours, theirs, scale);
            }
        }
    }
}
