use super::*;
use crate::quant::{self, Encoder, SourceType};
use proptest::prelude::*;

const WIDTH: usize = 512;

/// Numbers from −1 to 1, other ones for every seed.
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

fn encoded(ty: GgmlType, weights: &[f32], width: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(ty).unwrap();
    let mut bytes = vec![0; weights.len() / 256 * block_bytes(ty.0)];
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

/// Columns of rows.
fn product(ty: GgmlType, rows: &[u8], x: &[f32], width: usize) -> Option<Vec<Vec<f32>>> {
    let kernel = Kernel::new(ty, width)?;
    let mut blocks = vec![bytemuck::Zeroable::zeroed(); x.len() / BLOCK];
    let n = x.len() / width;
    for (i, numbers) in x.as_chunks().0.iter().enumerate() {
        let (column, block, count) = (i * BLOCK / width, i % (width / BLOCK), width / BLOCK);
        blocks[Kernel::place(column, block, n, count)] = kernel.pack(numbers);
    }
    let mut columns = vec![vec![]; n];
    kernel.multiply(rows, &blocks, n, &mut |column, row, values| {
        assert_eq!(columns[column].len(), row, "rows come in order");
        columns[column].extend_from_slice(values);
    });
    Some(columns)
}

/// ggml's own product of a row and a column.
fn by_ggml(ty: GgmlType, row: &[u8], x: &[f32]) -> f32 {
    quant::ggml_ffi::product(ty, row, x).unwrap()
}

/// How far ggml's products may be from ours, over the lengths of the vectors: its scales of 32
/// activations have 16 bits, ours 32.
fn tolerance(ty: GgmlType) -> f32 {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q8_0 => 2e-4,
        _ => 2e-6,
    }
}

/// What to measure errors by: the length of both vectors.
fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
#[allow(clippy::print_stderr)]
fn products_are_those_of_ggml() {
    for ty in Kernel::TYPES {
        let (rows, n) = (21, 11);
        let weights = numbers(rows * WIDTH, 1);
        let bytes = encoded(ty, &weights, WIDTH);
        let x = numbers(n * WIDTH, 2);
        let Some(columns) = product(ty, &bytes, &x, WIDTH) else {
            eprintln!("skipped: this CPU has no kernel for {ty}");
            continue;
        };
        let mut decoded = vec![0f32; weights.len()];
        quant::dequantize_rows(ty, &bytes, &mut decoded).unwrap();
        let row_bytes = bytes.len() / rows;
        for (x, column) in x.chunks(WIDTH).zip(&columns) {
            assert_eq!(column.len(), rows);
            for ((row, decoded), ours) in bytes
                .chunks(row_bytes)
                .zip(decoded.chunks(WIDTH))
                .zip(column)
            {
                let scale = norm(decoded) * norm(x);
                let theirs = by_ggml(ty, row, x);
                assert!(
                    (ours - theirs).abs() < tolerance(ty) * scale,
                    "{ty}: {ours} {theirs}"
                );
                let exact: f32 = decoded.iter().zip(x).map(|(a, b)| a * b).sum();
                assert!((ours - exact).abs() < 5e-3 * scale, "{ty}: {ours} {exact}");
            }
        }
    }
}

#[test]
fn a_column_does_not_depend_on_its_neighbours() {
    for ty in Kernel::TYPES {
        let width = 33 * BLOCK;
        let bytes = encoded(ty, &numbers(9 * width, 3), width);
        let x = numbers(17 * width, 4);
        let Some(all) = product(ty, &bytes, &x, width) else {
            continue;
        };
        for n in 1..=17 {
            let some = product(ty, &bytes, &x[..n * width], width).unwrap();
            assert_eq!(some[..], all[..n], "{ty}, {n} columns");
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
    assert_eq!(Kernel::new(GgmlType::F16, 256), None);
    assert_eq!(Kernel::new(GgmlType::Q4_0, 288), None);
    assert_eq!(Kernel::new(GgmlType::Q4_0, 0), None);
}

proptest! {
    /// Whatever bytes a file holds, there is a result, and ggml's if it is a number.
    #[test]
    fn any_bytes_are_multiplied(seed: u64, ty in 0..Kernel::TYPES.len()) {
        let ty = Kernel::TYPES[ty];
        let bytes: Vec<u8> = numbers(block_bytes(ty.0), seed)
            .iter().map(|x| (x * 128.0) as i32 as u8).collect();
        let x = numbers(BLOCK, !seed);
        let mut decoded = vec![0f32; BLOCK];
        quant::dequantize_rows(ty, &bytes, &mut decoded).unwrap();
        if let Some(columns) = product(ty, &bytes, &x, BLOCK) {
            let (ours, theirs) = (columns[0][0], by_ggml(ty, &bytes, &x));
            let scale = norm(&decoded) * norm(&x);
            if scale.is_finite() {
                prop_assert!((ours - theirs).abs() <= 5.0 * tolerance(ty) * scale, "{}: {} {} of {}", ty, ours, theirs, scale);
            }
        }
    }
}
