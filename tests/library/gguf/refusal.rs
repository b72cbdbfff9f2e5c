//! Files that the reader refuses.

use super::*;

#[test]
fn rejects_truncation_at_every_byte() {
    let File(bytes) = small();
    for len in 0..bytes.len() {
        let error = Header::parse(&bytes[..len])
            .expect_err("a truncated file must be refused")
            .to_string();
        assert!(
            [
                "empty",
                "not a GGUF",
                "ends at byte",
                "remain",
                "past the end"
            ]
            .iter()
            .any(|words| error.contains(words)),
            "cut at {len}: {error}"
        );
    }
}

#[test]
fn rejects_bad_magic() {
    assert!(
        File(b"GGML0000".to_vec())
            .error()
            .contains("starts with \"GGML\"")
    );
    assert!(File(b"PK\x03\x04....".to_vec()).error().contains("PyTorch"));
    assert!(
        File(b"version https://git-lfs.github.com/spec/v1\n".to_vec())
            .error()
            .contains("git lfs pull")
    );
    assert!(
        File(b"<!doctype html>".to_vec())
            .error()
            .contains("web page")
    );
    assert!(
        File(b"\x40\0\0\0\0\0\0\0{\"a\":1}   ".to_vec())
            .error()
            .contains("safetensors")
    );
}

#[test]
fn rejects_versions_it_cannot_read() {
    for version in [0, 1, 4, 99] {
        assert!(
            File::new(version, 0, 0)
                .error()
                .contains(&format!("version {version};"))
        );
    }
    assert!(
        File::new(3u32.swap_bytes(), 0, 0)
            .error()
            .contains("big-endian")
    );
}

#[test]
fn rejects_counts_and_lengths_near_two_to_the_63() {
    for n in [1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
        assert!(File::new(3, n, 0).error().contains(&format!("{n} tensors")));
        assert!(
            File::new(3, 0, n)
                .error()
                .contains(&format!("{n} metadata keys"))
        );
        assert!(
            File::new(3, 0, 1)
                .u64(n)
                .data(64)
                .error()
                .contains(&format!("length of {n} bytes"))
        );
        let value = |ty| File::new(3, 0, 1).string(b"k").u32(ty);
        assert!(
            value(8)
                .u64(n)
                .data(64)
                .error()
                .contains(&format!("length of {n} bytes"))
        );
        for element in 0..=12 {
            assert!(
                value(9)
                    .u32(element)
                    .u64(n)
                    .data(64)
                    .error()
                    .contains(&format!("{n} array elements"))
            );
        }
        assert!(
            File::new(3, 1, 0)
                .u64(n)
                .data(64)
                .error()
                .contains(&format!("length of {n} bytes"))
        );
    }
}

#[test]
fn rejects_shapes_whose_product_overflows() {
    let shapes: [&[u64]; 5] = [
        &[u64::MAX],
        &[1 << 62, 2],
        &[1 << 32, 1 << 32, 1 << 32],
        &[1 << 61],
        &[32, 1 << 60, 1, 2],
    ];
    for shape in shapes {
        let error = File::new(3, 1, 0).tensor("w", shape, 0, 0).data(64).error();
        assert!(
            error.contains("`w`") && error.contains("overflows"),
            "{shape:?}: {error}"
        );
    }
}

#[test]
fn rejects_zero_and_five_dimensions() {
    for n in [0usize, 5, 1000] {
        let error = File::new(3, 1, 0)
            .tensor("w", &vec![1; n], 0, 0)
            .data(64)
            .error();
        assert!(
            error.contains(&format!("`w` has {n} dimensions")),
            "{error}"
        );
    }
}

#[test]
fn rejects_alignments_that_are_no_power_of_two_or_not_uint32() {
    let aligned = |ty: u32, value: u32| {
        File::new(3, 0, 1)
            .string(b"general.alignment")
            .u32(ty)
            .u32(value)
            .u32(0)
    };
    for alignment in [0, 3, 33, u32::MAX] {
        assert!(
            aligned(4, alignment)
                .error()
                .contains(&format!("alignment` is {alignment};"))
        );
    }
    assert!(aligned(10, 32).error().contains("uint64, not uint32"));
}

#[test]
fn rejects_an_alignment_beyond_the_end() {
    let file = File::new(3, 1, 1)
        .string(b"general.alignment")
        .u32(4)
        .u32(1 << 31)
        .tensor("w", &[8], 0, 0)
        .data(32);
    assert!(file.error().contains("alignment of 2147483648"));
}

#[test]
fn rejects_duplicate_keys_and_tensors() {
    let twice = File::new(3, 0, 2)
        .string(b"k")
        .u32(0)
        .bytes(&[1])
        .string(b"k")
        .u32(0)
        .bytes(&[1]);
    assert!(twice.error().contains("key `k` stands twice"));
    let twice = File::new(3, 2, 0)
        .tensor("w", &[8], 0, 0)
        .tensor("w", &[8], 0, 32)
        .data(64);
    assert!(twice.error().contains("tensor `w` stands twice"));
}

#[test]
fn rejects_offsets_that_are_misaligned_overlapping_or_past_the_end() {
    assert!(
        File::new(3, 1, 0)
            .tensor("w", &[8], 0, 16)
            .data(64)
            .error()
            .contains("not a multiple of the alignment 32")
    );
    for offset in [64, 1 << 40, u64::MAX - 31] {
        let error = File::new(3, 1, 0)
            .tensor("w", &[8], 0, offset)
            .data(64)
            .error();
        assert!(
            error.contains("`w`") && error.contains("past the end"),
            "{error}"
        );
    }
    let error = File::new(3, 2, 0)
        .tensor("a", &[16], 0, 0)
        .tensor("b", &[8], 0, 32)
        .data(64)
        .error();
    assert!(error.contains("`a` and `b` overlap"), "{error}");
}

#[test]
fn rejects_rows_that_are_no_whole_number_of_blocks() {
    let error = File::new(3, 1, 0)
        .tensor("w", &[100, 2], 12, 0)
        .data(4096)
        .error();
    assert!(
        error.contains("rows of 100 weights") && error.contains("Q4_K"),
        "{error}"
    );
}

#[test]
fn rejects_names_that_are_not_utf8() {
    assert!(
        File::new(3, 0, 1)
            .string(b"k\xff")
            .u32(0)
            .bytes(&[1])
            .error()
            .contains("key at byte 24 is not valid UTF-8")
    );
    let tensor = File::new(3, 1, 0)
        .string(b"\xc3\x28")
        .u32(1)
        .u64(8)
        .u32(0)
        .u64(0)
        .data(32);
    assert!(
        tensor
            .error()
            .contains("tensor name at byte 24 is not valid UTF-8")
    );
}

#[test]
fn rejects_unknown_value_types_and_truth_values() {
    assert!(
        File::new(3, 0, 1)
            .string(b"k")
            .u32(13)
            .u64(0)
            .error()
            .contains("`k` has unknown type 13")
    );
    let array = File::new(3, 0, 1).string(b"k").u32(9).u32(77).u64(0);
    assert!(array.error().contains("`k` has unknown type 77"));
    assert!(
        File::new(3, 0, 1)
            .string(b"k")
            .u32(7)
            .bytes(&[2])
            .error()
            .contains("neither 0 nor 1")
    );
}

#[test]
fn rejects_arrays_of_arrays_a_thousand_deep() {
    let mut file = File::new(3, 0, 1).string(b"k").u32(9);
    for _ in 0..1000 {
        file = file.u32(9).u64(1);
    }
    assert!(
        file.data(64)
            .error()
            .contains("`k` nests arrays more than 4 deep")
    );
}

#[test]
fn rejects_what_is_no_regular_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Gguf::open(path).unwrap_err().to_string();
    assert!(error(dir.path()).contains("is a directory"));
    let empty = dir.path().join("empty.gguf");
    fs::write(&empty, b"").unwrap();
    assert!(error(&empty).contains("is empty"));
    assert!(error(&dir.path().join("none.gguf")).contains("none.gguf"));
    let pipe = dir.path().join("pipe.gguf");
    if Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .is_ok_and(|status| status.success())
    {
        assert!(error(&pipe).contains("not a regular file"));
    }
}
