//! The GGUF reader against files built byte by byte, and the writer against other readers.

use std::fs;
use std::path::Path;
use std::process::Command;

use modelve::gguf::{Array, GgmlType, Gguf, Header, Layout, Problem, Value, ValueRef};
use proptest::prelude::*;

/// A GGUF file, written field by field so that any of them can lie.
#[derive(Clone)]
struct File(Vec<u8>);

impl File {
    fn new(version: u32, n_tensors: u64, n_entries: u64) -> Self {
        File(b"GGUF".to_vec())
            .u32(version)
            .u64(n_tensors)
            .u64(n_entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn string(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).bytes(text)
    }

    fn tensor(self, name: &str, shape: &[u64], ty: u32, offset: u64) -> Self {
        let file = self.string(name.as_bytes()).u32(shape.len() as u32);
        shape
            .iter()
            .fold(file, |file, &size| file.u64(size))
            .u32(ty)
            .u64(offset)
    }

    /// Pads to the alignment and adds `n` bytes of data.
    fn data(mut self, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }

    fn error(&self) -> String {
        Header::parse(&self.0)
            .expect_err("this file must be refused")
            .to_string()
    }
}

/// A small header with a bit of everything.
fn small() -> File {
    File::new(3, 2, 4)
        .string(b"general.architecture")
        .u32(8)
        .string(b"phi3")
        .string(b"general.alignment")
        .u32(4)
        .u32(32)
        .string(b"tokenizer.ggml.tokens")
        .u32(9)
        .u32(8)
        .u64(2)
        .string(b"<s>")
        .string("▁bat".as_bytes())
        .string(b"flags")
        .u32(9)
        .u32(7)
        .u64(3)
        .bytes(&[0, 1, 1])
        .tensor("token_embd.weight", &[64, 2], 2, 0)
        .tensor("output_norm.weight", &[8], 0, 96)
        .data(96 + 32)
}

#[test]
fn reads_a_small_file() {
    let File(bytes) = small();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!((header.version(), header.alignment()), (3, 32));
    let tokens = header
        .get(&bytes, "tokenizer.ggml.tokens")
        .unwrap()
        .as_array()
        .unwrap();
    let tokens: Vec<_> = tokens
        .iter()
        .map(|token| token.as_str().unwrap().into_owned())
        .collect();
    assert_eq!(tokens, ["<s>", "▁bat"]);
    let flags = header.get(&bytes, "flags").unwrap().as_array().unwrap();
    assert_eq!(flags.get(1).unwrap().as_bool(), Some(true));
    assert!(flags.get(3).is_none());
    let tensor = &header.tensors()[0];
    assert_eq!(
        (tensor.name.as_str(), &tensor.shape[..], tensor.bytes),
        ("token_embd.weight", &[64, 2][..], Some(72))
    );
    assert_eq!(header.tensors()[1].offset, header.data_start() + 96);
}

#[test]
fn reads_version_2_and_unknown_types_without_losing_the_rest() {
    let file = File::new(2, 2, 0)
        .tensor("strange", &[7], 99, 0)
        .tensor("known", &[8], 0, 32)
        .data(64);
    let header = Header::parse(&file.0).unwrap();
    assert_eq!(header.tensors()[0].ty.to_string(), "type 99");
    assert_eq!(header.tensors()[0].bytes, None);
    assert_eq!(header.tensors()[1].bytes, Some(32));
}

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
fn accepts_other_powers_of_two() {
    for alignment in [1u32, 8, 4096] {
        let metadata = [("general.alignment".to_owned(), Value::U32(alignment))];
        let tensors = [
            ("a".to_owned(), vec![3], GgmlType::I8),
            ("b".to_owned(), vec![8], GgmlType::F32),
        ];
        let layout = Layout::new(&metadata, &tensors).unwrap();
        let mut bytes = layout.header().to_vec();
        bytes.resize(layout.file_size() as usize, 0);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.alignment(), u64::from(alignment));
        assert_eq!(header.tensors(), layout.tensors());
    }
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
fn keeps_values_that_are_not_utf8_as_bytes() {
    let File(bytes) = File::new(3, 0, 1).string(b"k").u32(8).string(b"a\xffb");
    let header = Header::parse(&bytes).unwrap();
    assert!(matches!(
        header.get(&bytes, "k"),
        Some(ValueRef::String(b"a\xffb"))
    ));
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
fn reads_arrays_of_arrays() {
    let File(bytes) = File::new(3, 0, 1)
        .string(b"k")
        .u32(9)
        .u32(9)
        .u64(2)
        .u32(0)
        .u64(2)
        .bytes(&[1, 2])
        .u32(8)
        .u64(1)
        .string(b"x");
    let header = Header::parse(&bytes).unwrap();
    let outer = header.get(&bytes, "k").unwrap().as_array().unwrap();
    let lens: Vec<usize> = outer
        .iter()
        .map(|inner| inner.as_array().unwrap().len())
        .collect();
    assert_eq!(lens, [2, 1]);
    assert_eq!(
        outer
            .get(1)
            .unwrap()
            .as_array()
            .unwrap()
            .get(0)
            .unwrap()
            .as_str()
            .unwrap(),
        "x"
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

fn write(path: &Path, metadata: &[(String, Value)], tensors: &[(String, Vec<u64>, GgmlType)]) {
    let layout = Layout::new(metadata, tensors).unwrap();
    let mut bytes = layout.header().to_vec();
    bytes.resize(layout.file_size() as usize, 0);
    for tensor in layout.tensors() {
        for (at, byte) in bytes[tensor.offset as usize..][..tensor.bytes.unwrap() as usize]
            .iter_mut()
            .enumerate()
        {
            *byte = (at % 251) as u8;
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn reads_a_split_model_from_any_of_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let part = |no: u16, count: u16, name: &str| {
        let metadata = [
            ("split.no".to_owned(), Value::U16(no)),
            ("split.count".to_owned(), Value::U16(count)),
        ];
        let path = dir
            .path()
            .join(format!("m-{:05}-of-{count:05}.gguf", no + 1));
        write(
            &path,
            &metadata,
            &[(name.to_owned(), vec![32], GgmlType::F32)],
        );
        path
    };
    let first = part(0, 3, "a");
    let second = part(1, 3, "b");
    let error = Gguf::open(&second).unwrap_err().to_string();
    assert!(error.contains("m-00003-of-00003.gguf"), "{error}");
    let third = part(2, 3, "c");
    for path in [&first, &second, &third] {
        let model = Gguf::open(path).unwrap();
        let names: Vec<_> = model
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.part))
            .collect();
        assert_eq!(names, [("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(model.paths().len(), 3);
        assert_eq!(model.data(model.tensor("c").unwrap())[..3], [0, 1, 2]);
    }
    part(2, 3, "a");
    assert!(
        Gguf::open(&first)
            .unwrap_err()
            .to_string()
            .contains("`a` stands twice")
    );
    let renamed = dir.path().join("renamed.gguf");
    fs::copy(&first, &renamed).unwrap();
    assert!(
        Gguf::open(&renamed)
            .unwrap_err()
            .to_string()
            .contains("-00001-of-00003.gguf")
    );
}

#[test]
fn writer_refuses_what_no_reader_accepts() {
    let tensor = |shape: Vec<u64>, ty| {
        Layout::new(&[], &[("w".into(), shape, ty)])
            .unwrap_err()
            .problem
    };
    assert!(matches!(
        tensor(vec![], GgmlType::F32),
        Problem::Dimensions { n: 0, .. }
    ));
    assert!(matches!(
        tensor(vec![100], GgmlType::Q4_K),
        Problem::Row { .. }
    ));
    assert!(matches!(
        tensor(vec![1], GgmlType(99)),
        Problem::UnknownType { .. }
    ));
    assert!(matches!(
        tensor(vec![u64::MAX, 4], GgmlType::F32),
        Problem::Overflow { .. }
    ));
    let twice = [
        ("k".to_owned(), Value::U8(1)),
        ("k".to_owned(), Value::U8(1)),
    ];
    assert!(matches!(
        Layout::new(&twice, &[]).unwrap_err().problem,
        Problem::DuplicateKey { .. }
    ));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        ".{0,40}".prop_map(Value::String),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)
            .prop_map(|v| Value::Array(Array::String(v))),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(|v| Value::Array(Array::F32(v))),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(|v| Value::Array(Array::I32(v))),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(|v| Value::Array(Array::Bool(v))),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(|v| Value::Array(Array::U64(v))),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(|v| Value::Array(Array::I16(v))),
    ]
}

fn tensors() -> impl Strategy<Value = Vec<(String, Vec<u64>, GgmlType)>> {
    let types = GgmlType::all().len();
    let tensor = (0..types, prop::collection::vec(1u64..4, 1..=4)).prop_map(|(ty, mut shape)| {
        let info = &GgmlType::all()[ty];
        shape[0] *= info.block_size;
        (shape, info.ty)
    });
    prop::collection::vec(tensor, 0..6).prop_map(|tensors| {
        tensors
            .into_iter()
            .enumerate()
            .map(|(i, (shape, ty))| (format!("blk.{i}.w"), shape, ty))
            .collect()
    })
}

/// Compares bit patterns, so that NaN equals itself.
fn debug_bits(value: &Value) -> String {
    match value {
        Value::F32(v) => format!("F32 {:x}", v.to_bits()),
        Value::F64(v) => format!("F64 {:x}", v.to_bits()),
        Value::Array(Array::F32(v)) => format!(
            "F32s {:x?}",
            v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        ),
        other => format!("{other:?}"),
    }
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::U8(v) => Value::U8(v),
        ValueRef::I8(v) => Value::I8(v),
        ValueRef::U16(v) => Value::U16(v),
        ValueRef::I16(v) => Value::I16(v),
        ValueRef::U32(v) => Value::U32(v),
        ValueRef::I32(v) => Value::I32(v),
        ValueRef::F32(v) => Value::F32(v),
        ValueRef::Bool(v) => Value::Bool(v),
        ValueRef::U64(v) => Value::U64(v),
        ValueRef::I64(v) => Value::I64(v),
        ValueRef::F64(v) => Value::F64(v),
        ValueRef::String(v) => Value::String(String::from_utf8(v.to_vec()).unwrap()),
        ValueRef::Array(array) => {
            let items: Vec<ValueRef> = array.iter().collect();
            assert_eq!(items.len(), array.len());
            Value::Array(match array.element_type() {
                modelve::gguf::ValueType::String => Array::String(
                    items
                        .iter()
                        .map(|v| v.as_bytes().unwrap().to_vec())
                        .collect(),
                ),
                modelve::gguf::ValueType::F32 => Array::F32(
                    items
                        .iter()
                        .map(|v| match v {
                            ValueRef::F32(v) => *v,
                            _ => panic!(),
                        })
                        .collect(),
                ),
                modelve::gguf::ValueType::I32 => {
                    Array::I32(items.iter().map(|v| v.as_i64().unwrap() as i32).collect())
                }
                modelve::gguf::ValueType::I16 => {
                    Array::I16(items.iter().map(|v| v.as_i64().unwrap() as i16).collect())
                }
                modelve::gguf::ValueType::U64 => {
                    Array::U64(items.iter().map(|v| v.as_u64().unwrap()).collect())
                }
                modelve::gguf::ValueType::Bool => {
                    Array::Bool(items.iter().map(|v| v.as_bool().unwrap()).collect())
                }
                other => panic!("{other:?} is not written by this test"),
            })
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(value(), 0..12), tensors in tensors()) {
        let metadata: Vec<(String, Value)> = values.into_iter().enumerate().map(|(i, v)| (format!("key.{i}"), v)).collect();
        let layout = Layout::new(&metadata, &tensors).unwrap();
        let again = Layout::new(&metadata, &tensors).unwrap();
        prop_assert_eq!(layout.header(), again.header());
        let mut bytes = layout.header().to_vec();
        bytes.resize(layout.file_size() as usize, 0);
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(header.tensors(), layout.tensors());
        let read: Vec<(String, String)> = header.metadata(&bytes).map(|(k, v)| (k.to_owned(), debug_bits(&owned(v)))).collect();
        let written: Vec<(String, String)> = metadata.iter().map(|(k, v)| (k.clone(), debug_bits(v))).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn flipped_bytes_never_panic(at in 0usize..600, byte: u8, second in 0usize..600, other: u8) {
        let File(mut bytes) = small();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes[second % len] = other;
        if let Ok(header) = Header::parse(&bytes) {
            for (_, value) in header.metadata(&bytes) {
                if let Some(array) = value.as_array() {
                    prop_assert_eq!(array.iter().count(), array.len());
                }
            }
        }
    }
}

/// The table of types is ggml's own.
#[test]
fn types_agree_with_ggml() {
    for id in 0..64 {
        // SAFETY: both functions read a static table; ids at or beyond GGML_TYPE_COUNT are not asked for.
        #[allow(unsafe_code)]
        let (name, size, block) = unsafe {
            if id >= llama_cpp_sys_2::GGML_TYPE_COUNT {
                break;
            }
            let name = llama_cpp_sys_2::ggml_type_name(id);
            let name = if name.is_null() {
                String::new()
            } else {
                std::ffi::CStr::from_ptr(name)
                    .to_string_lossy()
                    .into_owned()
            };
            (
                name,
                llama_cpp_sys_2::ggml_type_size(id),
                llama_cpp_sys_2::ggml_blck_size(id),
            )
        };
        match GgmlType(id).info() {
            Some(info) => {
                assert_eq!(info.name.to_lowercase(), name.to_lowercase(), "type {id}");
                assert_eq!(
                    (info.block_bytes, info.block_size),
                    (size as u64, block as u64),
                    "{name}"
                );
            }
            None => assert!(
                size == 0 || name.contains("removed") || name.contains("DEPRECATED"),
                "type {id} `{name}` is missing from the table"
            ),
        }
    }
}

/// gguf-py, which we did not write, reads what we write.
#[test]
#[allow(clippy::print_stderr)]
fn gguf_py_reads_what_is_written() {
    let python = std::env::var("MODELVE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    if !Command::new(&python)
        .args(["-c", "import gguf"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: {python} has no module `gguf` (pip install gguf)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.gguf");
    let metadata = [
        ("general.architecture".to_owned(), Value::from("phi3")),
        ("phi3.block_count".to_owned(), Value::U32(32)),
        (
            "numbers".to_owned(),
            Value::Array(Array::F32(vec![0.5, -1.0])),
        ),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array(["<s>", "▁bat"].iter().collect()),
        ),
        ("flag".to_owned(), Value::Bool(true)),
        ("large".to_owned(), Value::U64(1 << 40)),
    ];
    let tensors = [
        ("a.weight".to_owned(), vec![256, 3], GgmlType::Q4_K),
        ("b.weight".to_owned(), vec![5], GgmlType::F32),
        ("c.weight".to_owned(), vec![64, 2, 2], GgmlType::BF16),
    ];
    write(&path, &metadata, &tensors);
    let script = r"
import sys, json
from gguf import GGUFReader
r = GGUFReader(sys.argv[1])
fields = {k: f.contents() for k, f in r.fields.items() if not k.startswith('GGUF.')}
tensors = [[t.name, [int(n) for n in t.shape], t.tensor_type.name, int(t.n_bytes), int(t.data_offset), int(t.data.reshape(-1).view('uint8')[1])] for t in r.tensors]
print(json.dumps([fields, tensors]))
";
    let output = Command::new(&python)
        .arg("-c")
        .arg(script)
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = Gguf::open(&path).unwrap();
    assert_eq!(
        read[0],
        serde_json::json!({"general.architecture": "phi3", "phi3.block_count": 32, "numbers": [0.5, -1.0],
            "tokenizer.ggml.tokens": ["<s>", "▁bat"], "flag": true, "large": 1u64 << 40})
    );
    let expected: Vec<_> = ours
        .tensors()
        .iter()
        .map(|t| {
            serde_json::json!([
                t.name,
                t.shape,
                t.ty.to_string(),
                t.bytes,
                t.offset,
                ours.data(t)[1]
            ])
        })
        .collect();
    assert_eq!(read[1], serde_json::json!(expected));
}
