//! Metadata values, of the thirteen types that the format has: owned for writing, borrowed from
//! the file for reading.

use std::borrow::Cow;

/// The number that stands for a value's type in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with that number.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .get(id as usize)
        .copied()
    }

    /// The name in the specification, in lower case: `uint32`, `string`.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "uint8",
            I8 => "int8",
            U16 => "uint16",
            I16 => "int16",
            U32 => "uint32",
            I32 => "int32",
            F32 => "float32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "uint64",
            I64 => "int64",
            F64 => "float64",
        }
    }

    /// Bytes of a value; `None` for strings and arrays, which carry their own length.
    pub fn fixed_size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array to write: its elements have one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    /// Strings may be any bytes: vocabularies hold pieces that are not valid UTF-8.
    String(Vec<Vec<u8>>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: AsRef<str>> FromIterator<S> for Array {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        Array::String(
            strings
                .into_iter()
                .map(|s| s.as_ref().as_bytes().to_vec())
                .collect(),
        )
    }
}

macro_rules! value_from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}
value_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
            String => String, &str => String, Array => Array, u64 => U64, i64 => I64, f64 => F64);

/// A metadata value in a file. Strings and arrays borrow the mapped bytes; strings are bytes
/// because nothing forces a file to hold valid UTF-8.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum ValueRef<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a [u8]),
    Array(ArrayRef<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> ValueRef<'a> {
    /// The type in the file.
    pub fn ty(&self) -> ValueType {
        match self {
            ValueRef::U8(_) => ValueType::U8,
            ValueRef::I8(_) => ValueType::I8,
            ValueRef::U16(_) => ValueType::U16,
            ValueRef::I16(_) => ValueType::I16,
            ValueRef::U32(_) => ValueType::U32,
            ValueRef::I32(_) => ValueType::I32,
            ValueRef::F32(_) => ValueType::F32,
            ValueRef::Bool(_) => ValueType::Bool,
            ValueRef::String(_) => ValueType::String,
            ValueRef::Array(_) => ValueType::Array,
            ValueRef::U64(_) => ValueType::U64,
            ValueRef::I64(_) => ValueType::I64,
            ValueRef::F64(_) => ValueType::F64,
        }
    }

    /// A string, with replacement characters where it is not valid UTF-8.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        Some(String::from_utf8_lossy(self.as_bytes()?))
    }

    /// A string's bytes.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match self {
            ValueRef::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        u64::try_from(self.as_i128()?).ok()
    }

    /// Any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        i64::try_from(self.as_i128()?).ok()
    }

    fn as_i128(&self) -> Option<i128> {
        match *self {
            ValueRef::U8(v) => Some(v.into()),
            ValueRef::I8(v) => Some(v.into()),
            ValueRef::U16(v) => Some(v.into()),
            ValueRef::I16(v) => Some(v.into()),
            ValueRef::U32(v) => Some(v.into()),
            ValueRef::I32(v) => Some(v.into()),
            ValueRef::U64(v) => Some(v.into()),
            ValueRef::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            ValueRef::F32(v) => Some(v.into()),
            ValueRef::F64(v) => Some(v),
            _ => self.as_i128().map(|v| v as f64),
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            ValueRef::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<ArrayRef<'a>> {
        match *self {
            ValueRef::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// An array in a file; elements are decoded as they are asked for. The reader has walked it
/// once, so that every element lies within `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct ArrayRef<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> ArrayRef<'a> {
    pub(super) fn new(element: ValueType, len: usize, bytes: &'a [u8]) -> Self {
        Self {
            element,
            len,
            bytes,
        }
    }

    /// The type of each element.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'a>> + use<'a> {
        let (element, mut rest) = (self.element, self.bytes);
        (0..self.len).map_while(move |_| decode(element, &mut rest))
    }

    /// Element `index`, in constant time for types of fixed size; strings and arrays are stepped
    /// over one by one.
    pub fn get(&self, index: usize) -> Option<ValueRef<'a>> {
        if index >= self.len {
            return None;
        }
        match self.element.fixed_size() {
            Some(size) => decode(self.element, &mut self.bytes.get(index * size..)?),
            None => self.iter().nth(index),
        }
    }

    /// The elements as the file holds them, in little endian. Only types of fixed size have a
    /// constant stride.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Takes `n` bytes off the front of `rest`.
pub(super) fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

pub(super) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take_array(rest).map(u32::from_le_bytes)
}

pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take_array(rest).map(u64::from_le_bytes)
}

/// Decodes a value that the reader has checked; the nesting of arrays is bounded by the reader.
pub(super) fn decode<'a>(ty: ValueType, rest: &mut &'a [u8]) -> Option<ValueRef<'a>> {
    Some(match ty {
        ValueType::U8 => ValueRef::U8(u8::from_le_bytes(take_array(rest)?)),
        ValueType::I8 => ValueRef::I8(i8::from_le_bytes(take_array(rest)?)),
        ValueType::U16 => ValueRef::U16(u16::from_le_bytes(take_array(rest)?)),
        ValueType::I16 => ValueRef::I16(i16::from_le_bytes(take_array(rest)?)),
        ValueType::U32 => ValueRef::U32(take_u32(rest)?),
        ValueType::I32 => ValueRef::I32(i32::from_le_bytes(take_array(rest)?)),
        ValueType::F32 => ValueRef::F32(f32::from_le_bytes(take_array(rest)?)),
        ValueType::Bool => ValueRef::Bool(take_array::<1>(rest)?[0] != 0),
        ValueType::U64 => ValueRef::U64(take_u64(rest)?),
        ValueType::I64 => ValueRef::I64(i64::from_le_bytes(take_array(rest)?)),
        ValueType::F64 => ValueRef::F64(f64::from_le_bytes(take_array(rest)?)),
        ValueType::String => {
            let len = usize::try_from(take_u64(rest)?).ok()?;
            ValueRef::String(take(rest, len)?)
        }
        ValueType::Array => {
            let element = ValueType::from_id(take_u32(rest)?)?;
            let len = usize::try_from(take_u64(rest)?).ok()?;
            let start = *rest;
            match element.fixed_size() {
                Some(size) => {
                    take(rest, len.checked_mul(size)?)?;
                }
                None => {
                    for _ in 0..len {
                        decode(element, rest)?;
                    }
                }
            }
            let bytes = &start[..start.len() - rest.len()];
            ValueRef::Array(ArrayRef::new(element, len, bytes))
        }
    })
}
