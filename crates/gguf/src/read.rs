//! Opening a model: one file, or all the parts of a split one.

use std::path::{Path, PathBuf};

use super::{Error, Header, Problem, TensorInfo, ValueRef};
use modelve_base::map::MappedFile;

/// The GGUF files of a model, mapped into memory. Opening reads only their headers.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: MappedFile,
    header: Header,
}

impl Part {
    fn open(path: &Path) -> Result<Self, Error> {
        let with_path = |problem| Error {
            path: path.to_owned(),
            problem,
        };
        let file = MappedFile::open(path).map_err(|error| with_path(Problem::Io(error)))?;
        let header = Header::parse(&file).map_err(with_path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
        })
    }

    fn error(&self, problem: Problem) -> Error {
        Error {
            path: self.path.clone(),
            problem,
        }
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.header.get(&self.file, key)?.as_u64()
    }
}

impl Gguf {
    /// Opens the file at `path` and, where it is a part of a split model
    /// (`…-00001-of-00003.gguf`), all the others beside it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let part = Part::open(path)?;
        let count = part.number("split.count").unwrap_or(1);
        let mut parts = if count > 1 {
            open_parts(part, count)?
        } else {
            vec![part]
        };
        let mut tensors = Vec::new();
        let mut names = std::collections::HashSet::new();
        let single = parts.len() == 1;
        for (index, part) in parts.iter_mut().enumerate() {
            for tensor in part.header.tensors() {
                if !single && !names.insert(tensor.name.clone()) {
                    return Err(part.error(Problem::DuplicateTensor {
                        name: tensor.name.clone(),
                    }));
                }
                tensors.push(TensorInfo {
                    part: index,
                    ..tensor.clone()
                });
            }
        }
        Ok(Self { parts, tensors })
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts[0].header.version()
    }

    /// The alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.parts[0].header.alignment()
    }

    /// The files, in order; one, unless the model is split.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// Metadata in the file's order. For a split model it is that of the first file, which holds
    /// all of it.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, ValueRef<'_>)> {
        self.parts[0].header.metadata(&self.parts[0].file)
    }

    /// The value of one key.
    pub fn get(&self, key: &str) -> Option<ValueRef<'_>> {
        self.parts[0].header.get(&self.parts[0].file, key)
    }

    /// The value of `key` below the architecture's name: `arch("block_count")` is
    /// `phi3.block_count` in a Phi-3.
    pub fn arch(&self, key: &str) -> Option<ValueRef<'_>> {
        let architecture = self.get("general.architecture")?.as_str()?;
        self.get(&format!("{architecture}.{key}"))
    }

    /// Every tensor, in the files' order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// A tensor's data; empty when its type, and so its size, is unknown.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let range = usize::try_from(tensor.offset)
            .ok()
            .zip(tensor.bytes.and_then(|n| usize::try_from(n).ok()));
        range
            .and_then(|(start, len)| {
                self.parts
                    .get(tensor.part)?
                    .file
                    .get(start..start.checked_add(len)?)
            })
            .unwrap_or_default()
    }

    /// Size of all files together, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file.len() as u64).sum()
    }

    /// Number of weights of all tensors together.
    pub fn n_params(&self) -> u64 {
        self.tensors
            .iter()
            .map(TensorInfo::n_elements)
            .fold(0, u64::saturating_add)
    }
}

/// Opens all parts of a split model from one of them, which states that there are `count`.
fn open_parts(known: Part, count: u64) -> Result<Vec<Part>, Error> {
    let no = known.number("split.no").unwrap_or(0);
    if no >= count || count > u64::from(u16::MAX) {
        let beside = format!("split.count {count}");
        return Err(known.error(Problem::SplitKey {
            key: "no",
            value: no,
            beside,
        }));
    }
    let name = known
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let suffix = |no: u64| format!("-{:05}-of-{count:05}.gguf", no + 1);
    let Some(stem) = name.strip_suffix(&suffix(no)) else {
        return Err(known.error(Problem::SplitName { no, count }));
    };
    let mut parts = Vec::new();
    for other in (0..count).filter(|&other| other != no) {
        let part = Part::open(
            &known
                .path
                .with_file_name(format!("{stem}{}", suffix(other))),
        )?;
        if part.number("split.count") != Some(count) || part.number("split.no") != Some(other) {
            let value = part.number("split.no").unwrap_or(0);
            let beside = format!("{}, part {no} of {count}", known.path.display());
            return Err(part.error(Problem::SplitKey {
                key: "no",
                value,
                beside,
            }));
        }
        parts.push(part);
    }
    parts.insert(no as usize, known);
    Ok(parts)
}
