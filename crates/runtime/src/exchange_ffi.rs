//! A model whose weights can be replaced between passes, one tensor at a time, to find out what a
//! change of single tensors does. The code is unsafe, as in `ffi.rs`.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::error::{Error, Result};
use super::graph::{Hook, Node, NodeInfo};
use super::model::{GpuLayers, LoadOptions, Model};
use super::session::{Session, WantLogits};
use super::settings::Settings;
use super::token::Token;
use super::vocab::Vocab;
use modelve_gguf::{GgmlType, Gguf};

/// A model with a session of its own and a copy of the weights that no one else uses. It computes on
/// the CPU.
#[derive(Debug)]
pub struct Exchange {
    /// Not handed out: nothing else may compute with the model while its weights change.
    session: Session,
    held: BTreeMap<String, Held>,
}

/// The weights of one name. A graph may hold them as several tensors, as those of an embedding that
/// is the output, too.
#[derive(Debug)]
struct Held {
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    ty: GgmlType,
}

impl Exchange {
    /// Loads a file and makes a session with `settings`, for one text at a time.
    ///
    /// # Errors
    /// See [`Model::load`] and [`Session::new`].
    pub fn open(path: &Path, settings: &Settings) -> Result<Exchange> {
        let options = LoadOptions {
            gpu_layers: GpuLayers::Count(0),
            cancel: settings.cancel.clone(),
            ..LoadOptions::default()
        };
        let model = Model::load_private(Model::inspect(path)?, &options)?;
        let settings = Settings {
            hooks: true,
            n_seq: 1,
            ..settings.clone()
        };
        let mut session = Session::new(&model, &settings)?;
        let mut finder = Finder {
            gguf: model.gguf(),
            held: BTreeMap::new(),
        };
        // Any tokens will do; a batch of several has the graph of a text.
        let ids = vec![Token(0); 2.min(session.longest())];
        let seq = session.open()?;
        let pass = session.feed_hooked(&seq, &ids, WantLogits::All, &mut finder, &mut |_, _| {})?;
        debug_assert_eq!(pass, super::graph::Pass::Complete);
        let held = finder.held;
        session.close(seq);
        Ok(Exchange { session, held })
    }

    /// The model's vocabulary.
    pub fn vocab(&self) -> &Vocab {
        self.session.model().vocab()
    }

    /// The number of tokens of the longest text that can be read.
    pub fn longest(&self) -> usize {
        self.session.longest()
    }

    /// The type of a tensor that can be replaced; `None` for one that the graph does not use.
    pub fn ty(&self, name: &str) -> Option<GgmlType> {
        self.held.get(name).map(|held| held.ty)
    }

    /// Replaces the weights of a tensor by others of the same type and size.
    ///
    /// # Errors
    /// [`Error::NoWeights`] for a name that [`Exchange::ty`] does not know; [`Error::NodeLength`] for
    /// another number of bytes.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let no_weights = || Error::NoWeights {
            tensor: name.to_owned(),
        };
        let held = self.held.get(name).ok_or_else(no_weights)?;
        for tensor in &held.tensors {
            // SAFETY: the tensor belongs to the model, which lives as long as the session; its data
            // are memory that llama.cpp allocated for this model alone, not a mapped file, see
            // `Model::load_private`. Nothing computes with it now: the session is only used by
            // methods that borrow this object mutably, and no clone of the model was handed out. The
            // number of bytes is checked.
            unsafe {
                let have = sys::ggml_nbytes(tensor.as_ptr());
                if have != bytes.len() {
                    return Err(Error::NodeLength {
                        node: name.to_owned(),
                        have,
                        given: bytes.len(),
                    });
                }
                sys::ggml_backend_tensor_set(tensor.as_ptr(), bytes.as_ptr().cast(), 0, have);
            }
        }
        Ok(())
    }

    /// Gives a tensor the weights of the file again.
    ///
    /// # Errors
    /// See [`Exchange::put`].
    pub fn restore(&mut self, name: &str) -> Result<()> {
        let model = self.session.model().clone();
        let gguf = model.gguf();
        let tensor = gguf.tensor(name).ok_or_else(|| Error::NoWeights {
            tensor: name.to_owned(),
        })?;
        self.put(name, gguf.data(tensor))
    }

    /// Reads a text with the weights as they are now, see [`Session::feed`].
    ///
    /// # Errors
    /// See [`Session::feed`].
    pub fn read(
        &mut self,
        ids: &[Token],
        want: WantLogits<'_>,
        on_logits: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let seq = self.session.open()?;
        let read = self.session.feed(&seq, ids, want, on_logits);
        self.session.close(seq);
        read
    }
}

/// The hook that finds the tensors of weights in the graph.
struct Finder<'a> {
    gguf: &'a Gguf,
    held: BTreeMap<String, Held>,
}

impl Hook for Finder<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        let matrix = |name: &String| {
            let tensor = self.gguf.tensor(name);
            tensor.is_some_and(|tensor| tensor.shape.len() > 1)
        };
        node.inputs.iter().any(matrix)
    }

    fn node(&mut self, node: &mut Node<'_>) -> Result<ControlFlow<()>> {
        for (name, tensor) in node.leaves() {
            let Some(info) = self.gguf.tensor(&name) else {
                continue;
            };
            // SAFETY: an input of a live node; its type and size are read.
            let (ty, bytes) = unsafe {
                let input = tensor.as_ref();
                // C enumerations are signed on Windows.
                #[allow(clippy::unnecessary_cast)]
                (GgmlType(input.type_ as u32), sys::ggml_nbytes(input))
            };
            if ty != info.ty || Some(bytes as u64) != info.bytes {
                continue;
            }
            let held = self.held.entry(name).or_insert_with(|| Held {
                tensors: Vec::new(),
                ty,
            });
            if !held.tensors.contains(&tensor) {
                held.tensors.push(tensor);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
