//! The layout of a file, computed before any of it is written.
//!
//! [`Layout`] holds the header and the offset of every tensor. The caller then writes each tensor
//! at its offset, in any order, and zeros between them. The same metadata and tensors always give
//! the same bytes.

use std::collections::HashSet;
use std::path::PathBuf;

use super::header::tensor_bytes;
use super::{
    Array, DEFAULT_ALIGNMENT, Error, GgmlType, Problem, TensorInfo, VERSION, Value, ValueType,
};

/// The header of a file and the offset of every tensor in it.
#[derive(Debug)]
pub struct Layout {
    header: Vec<u8>,
    tensors: Vec<TensorInfo>,
    file_size: u64,
}

impl Layout {
    /// Lays out a file. `tensors` are name, shape (in GGUF order, the fastest dimension first) and
    /// type. The alignment is `general.alignment` of `metadata`, or [`DEFAULT_ALIGNMENT`].
    ///
    /// # Errors
    /// A key or a tensor's name occurs twice, or a tensor has a type or shape that the format does
    /// not allow.
    pub fn new(
        metadata: &[(String, Value)],
        tensors: &[(String, Vec<u64>, GgmlType)],
    ) -> Result<Self, Error> {
        Self::build(metadata, tensors).map_err(|problem| Error {
            path: PathBuf::from("the file to write"),
            problem,
        })
    }

    fn build(
        metadata: &[(String, Value)],
        tensors: &[(String, Vec<u64>, GgmlType)],
    ) -> Result<Self, Problem> {
        let alignment = stated_alignment(metadata)?;
        let mut header = Vec::with_capacity(1 << 20);
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        let mut names = HashSet::new();
        for (key, value) in metadata {
            if !names.insert(key.as_str()) {
                return Err(Problem::DuplicateKey { key: key.clone() });
            }
            put_string(&mut header, key.as_bytes());
            put_value(&mut header, value);
        }
        names.clear();
        let mut placed = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for (name, shape, ty) in tensors {
            if !names.insert(name.as_str()) {
                return Err(Problem::DuplicateTensor { name: name.clone() });
            }
            if shape.is_empty() || shape.len() > super::MAX_DIMENSIONS {
                return Err(Problem::Dimensions {
                    tensor: name.clone(),
                    n: shape.len() as u32,
                });
            }
            let bytes = tensor_bytes(name, shape, *ty)?.ok_or_else(|| Problem::UnknownType {
                tensor: name.clone(),
                ty: *ty,
            })?;
            put_string(&mut header, name.as_bytes());
            header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
            for size in shape {
                header.extend_from_slice(&size.to_le_bytes());
            }
            header.extend_from_slice(&ty.0.to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            placed.push(TensorInfo {
                name: name.clone(),
                shape: shape.clone(),
                ty: *ty,
                offset,
                bytes: Some(bytes),
                part: 0,
            });
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| Problem::Overflow {
                    tensor: name.clone(),
                    shape: shape.clone(),
                })?;
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let data_start = header.len() as u64;
        for tensor in &mut placed {
            tensor.offset += data_start;
        }
        Ok(Self {
            header,
            tensors: placed,
            file_size: data_start + offset,
        })
    }

    /// The bytes of the header, padded to where the tensor data starts.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The tensors with their offsets from the start of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Size of the whole file in bytes. The last tensor is padded too, as by llama.cpp's writers.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }
}

fn stated_alignment(metadata: &[(String, Value)]) -> Result<u64, Problem> {
    match metadata.iter().find(|(key, _)| key == "general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok((*alignment).into()),
        Some((_, other)) => Err(Problem::Alignment(format!("{other:?}"))),
    }
}

fn put_string(header: &mut Vec<u8>, bytes: &[u8]) {
    header.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    header.extend_from_slice(bytes);
}

fn put_value(header: &mut Vec<u8>, value: &Value) {
    macro_rules! put {
        ($ty:ident, $bytes:expr) => {{
            header.extend_from_slice(&(ValueType::$ty as u32).to_le_bytes());
            header.extend_from_slice($bytes);
        }};
    }
    match value {
        Value::U8(v) => put!(U8, &v.to_le_bytes()),
        Value::I8(v) => put!(I8, &v.to_le_bytes()),
        Value::U16(v) => put!(U16, &v.to_le_bytes()),
        Value::I16(v) => put!(I16, &v.to_le_bytes()),
        Value::U32(v) => put!(U32, &v.to_le_bytes()),
        Value::I32(v) => put!(I32, &v.to_le_bytes()),
        Value::F32(v) => put!(F32, &v.to_le_bytes()),
        Value::Bool(v) => put!(Bool, &[u8::from(*v)]),
        Value::U64(v) => put!(U64, &v.to_le_bytes()),
        Value::I64(v) => put!(I64, &v.to_le_bytes()),
        Value::F64(v) => put!(F64, &v.to_le_bytes()),
        Value::String(v) => {
            put!(String, &[]);
            put_string(header, v.as_bytes());
        }
        Value::Array(v) => {
            put!(Array, &[]);
            put_array(header, v);
        }
    }
}

fn put_array(header: &mut Vec<u8>, array: &Array) {
    macro_rules! put {
        ($ty:ident, $values:expr) => {{
            header.extend_from_slice(&(ValueType::$ty as u32).to_le_bytes());
            header.extend_from_slice(&($values.len() as u64).to_le_bytes());
            for value in $values {
                header.extend_from_slice(&value.to_le_bytes());
            }
        }};
    }
    match array {
        Array::U8(v) => put!(U8, v),
        Array::I8(v) => put!(I8, v),
        Array::U16(v) => put!(U16, v),
        Array::I16(v) => put!(I16, v),
        Array::U32(v) => put!(U32, v),
        Array::I32(v) => put!(I32, v),
        Array::F32(v) => put!(F32, v),
        Array::U64(v) => put!(U64, v),
        Array::I64(v) => put!(I64, v),
        Array::F64(v) => put!(F64, v),
        Array::Bool(v) => {
            header.extend_from_slice(&(ValueType::Bool as u32).to_le_bytes());
            header.extend_from_slice(&(v.len() as u64).to_le_bytes());
            header.extend(v.iter().map(|&value| u8::from(value)));
        }
        Array::String(v) => {
            header.extend_from_slice(&(ValueType::String as u32).to_le_bytes());
            header.extend_from_slice(&(v.len() as u64).to_le_bytes());
            for bytes in v {
                put_string(header, bytes);
            }
        }
    }
}
