//! Prints everything as JSON, streamed, so that a long array is never held in memory twice.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer};

use super::Place;
use super::importance::Importance;
use super::lists::Show;
use super::sizing::Sizing;
use super::subject::Identity;
use crate::commands::kind::Kind;
use crate::commands::vocab::JsonText;
use crate::gguf::{ArrayRef, Gguf, TensorInfo, ValueRef};
use crate::output::Output;

/// Prints the object that docs/json.md describes.
pub fn print(
    place: &Place<'_>,
    gguf: &Gguf,
    show: &Show<'_>,
    identity: &Identity,
    sizing: &Sizing,
    importance: Option<&Importance>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let report = Report {
        place,
        gguf,
        show,
        identity,
        sizing,
        importance,
    };
    Ok(out.json(&report)?)
}

struct Report<'a> {
    place: &'a Place<'a>,
    gguf: &'a Gguf,
    show: &'a Show<'a>,
    identity: &'a Identity,
    sizing: &'a Sizing,
    importance: Option<&'a Importance>,
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        let place = self.place;
        object.serialize_entry("file", &place.shown(place.path).to_string_lossy())?;
        if let Some(remote) = place.remote {
            object.serialize_entry("remote", remote)?;
        }
        if self.gguf.paths().len() > 1 {
            let paths = self
                .gguf
                .paths()
                .map(|path| place.shown(path).to_string_lossy());
            let parts: Vec<_> = paths.collect();
            object.serialize_entry("parts", &parts)?;
        }
        let kind = Kind::of(self.gguf).map_or("model", Kind::name);
        object.serialize_entry("kind", kind)?;
        object.serialize_entry("gguf_version", &self.gguf.version())?;
        object.serialize_entry("alignment", &self.gguf.alignment())?;
        object.serialize_entry("size_bytes", &self.gguf.size_bytes())?;
        object.serialize_entry("n_params", &self.gguf.n_params())?;
        object.serialize_entry("summary", self.identity)?;
        object.serialize_entry("sizing", self.sizing)?;
        if let Some(importance) = self.importance {
            object.serialize_entry("imatrix", importance)?;
        }
        object.serialize_entry("metadata", &Metadata(self))?;
        object.serialize_entry("shape_order", "fastest dimension first")?;
        object.serialize_entry("tensors", &Tensors(self))?;
        object.end()
    }
}

struct Metadata<'a>(&'a Report<'a>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (key, value) in self.0.show.metadata(self.0.gguf) {
            object.serialize_entry(key, &Entry(value, self.0.show))?;
        }
        object.end()
    }
}

/// Serializes as `{"type", "value"}`, for an array also with its element type and length.
struct Entry<'a>(ValueRef<'a>, &'a Show<'a>);

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("type", self.0.ty().name())?;
        if let Some(array) = self.0.as_array() {
            object.serialize_entry("element_type", array.element_type().name())?;
            object.serialize_entry("length", &array.len())?;
            let cut = self.1.shown(array.len()) < array.len();
            if cut {
                object.serialize_entry("cut", &cut)?;
            }
        }
        object.serialize_entry("value", &Value(self.0, self.1))?;
        object.end()
    }
}

struct Value<'a>(ValueRef<'a>, &'a Show<'a>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ValueRef::U8(v) => serializer.serialize_u8(v),
            ValueRef::I8(v) => serializer.serialize_i8(v),
            ValueRef::U16(v) => serializer.serialize_u16(v),
            ValueRef::I16(v) => serializer.serialize_i16(v),
            ValueRef::U32(v) => serializer.serialize_u32(v),
            ValueRef::I32(v) => serializer.serialize_i32(v),
            ValueRef::F32(v) => serializer.serialize_f32(v),
            ValueRef::Bool(v) => serializer.serialize_bool(v),
            ValueRef::U64(v) => serializer.serialize_u64(v),
            ValueRef::I64(v) => serializer.serialize_i64(v),
            ValueRef::F64(v) => serializer.serialize_f64(v),
            ValueRef::String(bytes) => JsonText(bytes).serialize(serializer),
            ValueRef::Array(array) => Elements(array, self.1).serialize(serializer),
        }
    }
}

struct Elements<'a>(ArrayRef<'a>, &'a Show<'a>);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = self.1.shown(self.0.len());
        let mut list = serializer.serialize_seq(None)?;
        for item in self.0.iter().take(shown) {
            list.serialize_element(&Value(item, self.1))?;
        }
        list.end()
    }
}

struct Tensors<'a>(&'a Report<'a>);

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let split = self.0.gguf.paths().len() > 1;
        let tensors = self.0.show.tensors(self.0.gguf);
        serializer.collect_seq(tensors.into_iter().map(|tensor| Tensor { tensor, split }))
    }
}

struct Tensor<'a> {
    tensor: &'a TensorInfo,
    split: bool,
}

impl Serialize for Tensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tensor = self.tensor;
        let mut object = serializer.serialize_struct("tensor", 7)?;
        object.serialize_field("name", &tensor.name)?;
        object.serialize_field("shape", &tensor.shape)?;
        object.serialize_field("type", &tensor.ty.name())?;
        object.serialize_field("n_elements", &tensor.n_elements())?;
        object.serialize_field("bytes", &tensor.bytes)?;
        object.serialize_field("offset", &tensor.offset)?;
        if self.split {
            object.serialize_field("part", &(tensor.part + 1))?;
        }
        object.end()
    }
}
