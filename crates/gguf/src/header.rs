//! Parsing of a header from untrusted bytes. The fuzzer runs [`Header::parse`].

use std::collections::HashSet;
use std::ops::Range;

use super::value::{ValueRef, ValueType, decode, take, take_u32, take_u64};
use super::{DEFAULT_ALIGNMENT, GgmlType, MAX_ARRAY_DEPTH, MAX_DIMENSIONS, Problem};

/// The entry of one tensor in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, at most 63 bytes in files that llama.cpp loads.
    pub name: String,
    /// Sizes in GGUF order: the fastest dimension first, so the reverse of Hugging Face's.
    pub shape: Vec<u64>,
    /// The type of its weights.
    pub ty: GgmlType,
    /// Where the data starts, in bytes from the start of its file.
    pub offset: u64,
    /// Bytes of data; `None` when the type is unknown.
    pub bytes: Option<u64>,
    /// Which file of a split model holds it; 0 otherwise.
    pub part: usize,
}

impl TensorInfo {
    /// Number of weights; the reader has checked that it does not overflow.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A checked header. It owns the keys and the tensors' entries; the values of metadata stay in the
/// file's bytes and are decoded when they are asked for.
#[derive(Debug)]
pub struct Header {
    version: u32,
    alignment: u64,
    entries: Vec<Entry>,
    tensors: Vec<TensorInfo>,
    data_start: u64,
}

#[derive(Debug)]
struct Entry {
    key: String,
    ty: ValueType,
    value: Range<usize>,
}

impl Header {
    /// Parses and checks the header of `file`, the bytes of the whole file. Tensor data is not
    /// read, but the header is checked against the file's length.
    ///
    /// # Errors
    /// The first [`Problem`] found.
    pub fn parse(file: &[u8]) -> Result<Self, Problem> {
        Self::read(&mut Cursor::new(file, file.len() as u64))
    }

    /// Parses the header of a file of `len` bytes that begins with `prefix`, and checks it as
    /// [`parse`](Self::parse) does. Returns `None` where the header goes on after the prefix. Nothing
    /// that a header claims makes it allocate more than a multiple of the prefix.
    ///
    /// # Errors
    /// The first [`Problem`] found. Claims are checked against `len`.
    pub fn parse_prefix(prefix: &[u8], len: u64) -> Result<Option<Self>, Problem> {
        let len = len.max(prefix.len() as u64);
        let mut cursor = Cursor::new(prefix, len);
        match Self::read(&mut cursor) {
            Err(_) if cursor.ran_out && (prefix.len() as u64) < len => Ok(None),
            result => result.map(Some),
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Problem> {
        let version = cursor.magic_and_version()?;
        let n_tensors = cursor.u64("the number of tensors")?;
        let n_entries = cursor.u64("the number of metadata keys")?;
        // The least bytes that an entry takes bound how many the file can hold. A metadata key
        // takes its length, a type and one byte of value; a tensor takes the length of its name,
        // the number of dimensions, one size, a type and an offset.
        let n_entries = cursor.count(n_entries, 8 + 4 + 1, "metadata keys")?;
        let mut entries = Vec::with_capacity(cursor.capacity(n_entries, 8 + 4 + 1));
        let mut keys = HashSet::with_capacity(entries.capacity());
        for _ in 0..n_entries {
            let entry = cursor.entry()?;
            if !keys.insert(entry.key.clone()) {
                return Err(Problem::DuplicateKey { key: entry.key });
            }
            entries.push(entry);
        }
        let n_tensors = cursor.count(n_tensors, 8 + 4 + 8 + 4 + 8, "tensors")?;
        let mut tensors = Vec::with_capacity(cursor.capacity(n_tensors, 8 + 4 + 8 + 4 + 8));
        for _ in 0..n_tensors {
            tensors.push(cursor.tensor()?);
        }
        let header_end = cursor.offset();
        let mut header = Header {
            version,
            alignment: DEFAULT_ALIGNMENT,
            entries,
            tensors,
            data_start: 0,
        };
        header.alignment = header.stated_alignment(cursor.file)?;
        header.place_tensors(header_end, cursor.len)?;
        Ok(header)
    }

    /// The version in the file: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where tensor data starts, in bytes from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Metadata in the file's order; `file` is what the header was parsed from.
    pub fn metadata<'a>(&'a self, file: &'a [u8]) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> {
        self.entries
            .iter()
            .filter_map(|entry| Some((entry.key.as_str(), entry.read(file)?)))
    }

    /// The value of one key; `file` is what the header was parsed from.
    pub fn get<'a>(&self, file: &'a [u8], key: &str) -> Option<ValueRef<'a>> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)?
            .read(file)
    }

    fn stated_alignment(&self, file: &[u8]) -> Result<u64, Problem> {
        let Some(value) = self.get(file, "general.alignment") else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        // llama.cpp asserts on any other type.
        let ValueRef::U32(alignment) = value else {
            return Err(Problem::Alignment(format!(
                "of type {}, not uint32",
                value.ty().name()
            )));
        };
        if !alignment.is_power_of_two() {
            return Err(Problem::Alignment(alignment.to_string()));
        }
        Ok(alignment.into())
    }

    /// Turns offsets from the start of the data into offsets from the start of the file, and
    /// checks that every tensor lies within the file and that no two overlap.
    fn place_tensors(&mut self, header_end: u64, len: u64) -> Result<(), Problem> {
        self.data_start = header_end.next_multiple_of(self.alignment);
        if self.data_start > len && self.tensors.iter().any(|t| t.bytes != Some(0)) {
            return Err(Problem::DataStart {
                alignment: self.alignment,
                start: self.data_start,
                len,
            });
        }
        for tensor in &mut self.tensors {
            if !tensor.offset.is_multiple_of(self.alignment) {
                return Err(Problem::Misaligned {
                    tensor: tensor.name.clone(),
                    offset: tensor.offset,
                    alignment: self.alignment,
                });
            }
            let start = self.data_start.saturating_add(tensor.offset);
            let end = start.saturating_add(tensor.bytes.unwrap_or(0));
            if end > len && tensor.bytes != Some(0) {
                return Err(Problem::PastEnd {
                    tensor: tensor.name.clone(),
                    start,
                    end,
                    len,
                });
            }
            tensor.offset = start;
        }
        let mut by_offset: Vec<&TensorInfo> =
            self.tensors.iter().filter(|t| t.bytes != Some(0)).collect();
        by_offset.sort_by_key(|tensor| tensor.offset);
        for pair in by_offset.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            // A tensor of unknown type, and so of unknown size, has at least one byte.
            if first.offset + first.bytes.unwrap_or(1) > second.offset {
                return Err(Problem::Overlap {
                    first: first.name.clone(),
                    second: second.name.clone(),
                    at: second.offset,
                });
            }
        }
        let mut names = HashSet::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(Problem::DuplicateTensor {
                    name: tensor.name.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Entry {
    fn read<'a>(&self, file: &'a [u8]) -> Option<ValueRef<'a>> {
        decode(self.ty, &mut file.get(self.value.clone())?)
    }
}

/// Reads forward through the beginning of a file and keeps the offset, which errors state.
struct Cursor<'a> {
    /// The bytes that are here: all, or the first of them.
    file: &'a [u8],
    /// What of them was not read yet.
    rest: &'a [u8],
    /// The length of the whole file.
    len: u64,
    /// Whether something was to be read that ends after the bytes that are here.
    ran_out: bool,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a [u8], len: u64) -> Self {
        Cursor {
            file,
            rest: file,
            len,
            ran_out: false,
        }
    }

    fn offset(&self) -> u64 {
        (self.file.len() - self.rest.len()) as u64
    }

    /// The bytes of the whole file that were not read yet.
    fn remaining(&self) -> u64 {
        self.len - self.offset()
    }

    /// Notes that the bytes that are here end within `what`.
    fn truncated(&mut self, what: &str) -> Problem {
        self.ran_out = true;
        Problem::Truncated {
            what: what.to_owned(),
            offset: self.offset(),
            len: self.file.len() as u64,
        }
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], Problem> {
        take(&mut self.rest, n).ok_or_else(|| self.truncated(what))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        take_u32(&mut self.rest).ok_or_else(|| self.truncated(what))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        take_u64(&mut self.rest).ok_or_else(|| self.truncated(what))
    }

    /// Checks that `n` items of at least `least` bytes each fit into the bytes that remain.
    fn count(&self, n: u64, least: usize, what: &str) -> Result<usize, Problem> {
        let remaining = self.remaining();
        match usize::try_from(n) {
            Ok(items) if n <= remaining / least as u64 => Ok(items),
            _ => Err(Problem::Count {
                what: format!("the list of {what}"),
                offset: self.offset(),
                claimed: format!("{n} {what}"),
                remaining,
            }),
        }
    }

    /// How many of `n` items can be in the bytes that are here.
    fn capacity(&self, n: usize, least: usize) -> usize {
        n.min(self.rest.len() / least)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Problem> {
        let offset = self.offset();
        let len = self.u64(what)?;
        let remaining = self.remaining();
        match usize::try_from(len) {
            Ok(n) if len <= remaining => self.take(n, what),
            _ => Err(Problem::Count {
                what: what.to_owned(),
                offset,
                claimed: format!("a length of {len} bytes"),
                remaining,
            }),
        }
    }

    fn name(&mut self, what: &'static str) -> Result<String, Problem> {
        let offset = self.offset();
        let bytes = self.string(what)?;
        let name = std::str::from_utf8(bytes).map_err(|_| Problem::Utf8 { what, offset })?;
        Ok(name.to_owned())
    }

    fn magic_and_version(&mut self) -> Result<u32, Problem> {
        if self.len == 0 {
            return Err(Problem::Empty);
        }
        match take(&mut self.rest, 4) {
            Some(b"GGUF") => {}
            None if (self.file.len() as u64) < self.len => {
                return Err(self.truncated("the first bytes"));
            }
            _ => return Err(Problem::Magic(what_it_looks_like(self.file))),
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => Ok(version),
            _ if version != 0 && version.trailing_zeros() >= 16 => {
                Err(Problem::BigEndian(version.to_le_bytes()))
            }
            _ => Err(Problem::Version(version)),
        }
    }

    fn entry(&mut self) -> Result<Entry, Problem> {
        let key = self.name("key")?;
        let type_offset = self.offset();
        let ty = self.u32("the type of a value")?;
        let ty = ValueType::from_id(ty).ok_or_else(|| Problem::ValueType {
            key: key.clone(),
            ty,
            offset: type_offset,
        })?;
        let start = self.file.len() - self.rest.len();
        self.walk_value(&key, ty, 0)?;
        let end = self.file.len() - self.rest.len();
        Ok(Entry {
            key,
            ty,
            value: start..end,
        })
    }

    /// Steps over a value and checks it, so that decoding it later cannot fail.
    fn walk_value(&mut self, key: &str, ty: ValueType, depth: usize) -> Result<(), Problem> {
        match ty {
            ValueType::String => {
                self.string("a string")?;
            }
            ValueType::Array => {
                let offset = self.offset();
                if depth == MAX_ARRAY_DEPTH {
                    return Err(Problem::TooDeep {
                        key: key.to_owned(),
                        offset,
                    });
                }
                let id = self.u32("the element type of an array")?;
                let element = ValueType::from_id(id).ok_or_else(|| Problem::ValueType {
                    key: key.to_owned(),
                    ty: id,
                    offset,
                })?;
                let len = self.u64("the length of an array")?;
                // A string takes at least its length, an array its element type and its length.
                let least = element
                    .fixed_size()
                    .unwrap_or(if element == ValueType::String { 8 } else { 12 });
                let len = self.count(len, least, "array elements")?;
                match element.fixed_size() {
                    Some(size) => {
                        let start = self.offset();
                        let bytes = self.take(len * size, "an array")?;
                        if element == ValueType::Bool
                            && let Some(at) = bytes.iter().position(|&byte| byte > 1)
                        {
                            let (offset, value) = (start + at as u64, bytes[at]);
                            return Err(Problem::Bool {
                                key: key.to_owned(),
                                offset,
                                value,
                            });
                        }
                    }
                    None => {
                        for _ in 0..len {
                            self.walk_value(key, element, depth + 1)?;
                        }
                    }
                }
            }
            _ => {
                let offset = self.offset();
                let size = ty.fixed_size().unwrap_or_default();
                let bytes = self.take(size, &format!("the value of `{key}`"))?;
                if ty == ValueType::Bool && bytes[0] > 1 {
                    return Err(Problem::Bool {
                        key: key.to_owned(),
                        offset,
                        value: bytes[0],
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads the entry of one tensor. Its offset is still relative to the start of the data.
    fn tensor(&mut self) -> Result<TensorInfo, Problem> {
        let name = self.name("tensor name")?;
        let n = self.u32("the number of dimensions")?;
        if n == 0 || n as usize > MAX_DIMENSIONS {
            return Err(Problem::Dimensions { tensor: name, n });
        }
        let mut shape = Vec::with_capacity(n as usize);
        for _ in 0..n {
            shape.push(self.u64("a tensor's shape")?);
        }
        let ty = GgmlType(self.u32("a tensor's type")?);
        let offset = self.u64("a tensor's offset")?;
        let bytes = tensor_bytes(&name, &shape, ty)?;
        Ok(TensorInfo {
            name,
            shape,
            ty,
            offset,
            bytes,
            part: 0,
        })
    }
}

/// Bytes of a tensor's data; `None` for an unknown type.
///
/// # Errors
/// A number of elements or bytes overflows signed 64 bits, in which ggml counts.
pub(super) fn tensor_bytes(
    name: &str,
    shape: &[u64],
    ty: GgmlType,
) -> Result<Option<u64>, Problem> {
    let overflow = || Problem::Overflow {
        tensor: name.to_owned(),
        shape: shape.to_vec(),
    };
    let product = |sizes: &[u64]| {
        sizes
            .iter()
            .try_fold(1u64, |product, &size| product.checked_mul(size))
            .filter(|&n| n <= i64::MAX as u64)
    };
    // Each size is checked by itself too, because a zero among them would hide an overflow.
    if shape.iter().any(|&size| size > i64::MAX as u64) {
        return Err(overflow());
    }
    product(shape).ok_or_else(overflow)?;
    let Some(info) = ty.info() else {
        return Ok(None);
    };
    let row = shape.first().copied().unwrap_or(1);
    if !row.is_multiple_of(info.block_size) {
        return Err(Problem::Row {
            tensor: name.to_owned(),
            ty,
            row,
            block: info.block_size,
        });
    }
    let row_bytes = ty.row_bytes(row).ok_or_else(overflow)?;
    let rows = product(&shape[1..]).ok_or_else(overflow)?;
    row_bytes
        .checked_mul(rows)
        .filter(|&bytes| bytes <= i64::MAX as u64)
        .map(Some)
        .ok_or_else(overflow)
}

/// Describes what a file that is not GGUF probably is, from its first bytes.
fn what_it_looks_like(file: &[u8]) -> String {
    let head = &file[..file.len().min(64)];
    let text = String::from_utf8_lossy(head);
    if head.starts_with(b"version https://git-lfs") {
        "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`".into()
    } else if head.starts_with(b"PK\x03\x04") {
        "it looks like a PyTorch checkpoint (a zip archive)".into()
    } else if head.len() > 9 && head[8] == b'{' {
        "it looks like a safetensors file".into()
    } else if head.starts_with(b"ggml") || head.starts_with(b"lmgg") || head.starts_with(b"tjgg") {
        "it is in a format older than GGUF".into()
    } else if text.trim_start().starts_with('<') {
        "it looks like a web page; was it downloaded from the page instead of the file's link?"
            .into()
    } else {
        let magic: String = head
            .iter()
            .take(4)
            .map(|byte| byte.escape_ascii().to_string())
            .collect();
        format!("it starts with \"{magic}\" instead of \"GGUF\"")
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
