//! The GGUF reader against files built byte by byte, and the writer against other readers.

use std::fs;
use std::path::Path;
use std::process::Command;

use modelve::gguf::{Array, GgmlType, Gguf, Header, Layout, Problem, Value, ValueRef};
use proptest::prelude::*;

mod refusal;
mod writing;

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
fn keeps_values_that_are_not_utf8_as_bytes() {
    let File(bytes) = File::new(3, 0, 1).string(b"k").u32(8).string(b"a\xffb");
    let header = Header::parse(&bytes).unwrap();
    assert!(matches!(
        header.get(&bytes, "k"),
        Some(ValueRef::String(b"a\xffb"))
    ));
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
