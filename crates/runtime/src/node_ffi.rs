//! Access to ggml's nodes during a pass: their description, and reading and writing their values.
//! The code is unsafe, as in `ffi.rs`.

#![allow(unsafe_code)]

use std::ops::ControlFlow;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::error::{Error, Result};
use super::ffi::copy;
use super::node::NodeInfo;
use super::trace::{RawInput, RawNode};
use super::values::Layout;
use modelve_gguf::GgmlType;

/// Receives the nodes of a pass.
pub(super) trait Watcher {
    /// Called before a node is computed. Returns whether its value is wanted.
    fn ask(&mut self, node: RawNode) -> bool;
    /// Called with the node of the last call of `ask` once it is computed. `Break` ends the pass.
    fn computed(&mut self, tensor: Tensor<'_>) -> ControlFlow<()>;
}

/// A live node of the graph that has been computed.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a>(&'a sys::ggml_tensor);

impl<'a> Tensor<'a> {
    /// Wraps a computed node.
    ///
    /// # Safety
    /// ggml has just computed the tensor, and computes nothing else during `'a`.
    pub unsafe fn new(tensor: &'a sys::ggml_tensor) -> Self {
        Tensor(tensor)
    }

    fn layout(self) -> Layout {
        Layout {
            ty: self.0.type_,
            shape: lengths(self.0),
            strides: self.0.nb,
        }
    }

    fn fetch(self, bytes: &mut Vec<u8>) {
        // SAFETY: a computed tensor, or an input of one, has a buffer of `ggml_nbytes` bytes, which
        // accounts for its strides; `bytes` is made as long.
        unsafe {
            bytes.resize(sys::ggml_nbytes(self.0), 0);
            if !bytes.is_empty() {
                sys::ggml_backend_tensor_get(self.0, bytes.as_mut_ptr().cast(), 0, bytes.len());
            }
        }
    }

    fn store(self, bytes: &[u8]) {
        // SAFETY: as in `fetch`; there are as many bytes as were fetched. ggml changes the tensor's
        // values through this pointer, and nothing else accesses them during the callback.
        unsafe {
            if !bytes.is_empty() {
                let tensor = std::ptr::from_ref(self.0).cast_mut();
                sys::ggml_backend_tensor_set(tensor, bytes.as_ptr().cast(), 0, bytes.len());
            }
        }
    }
}

fn lengths(tensor: &sys::ggml_tensor) -> [usize; 4] {
    match tensor.ne.contains(&0) {
        true => tensor.ne.map(|n| usize::try_from(n).unwrap_or(0)),
        false => tensor.ne.map(|n| usize::try_from(n).unwrap_or(1)),
    }
}

/// The original name of a tensor. ggml renames copies for a backend: `blk.0.attn_q.weight` becomes
/// `CUDA0#blk.0.attn_q.weight#0`.
fn own_name(name: String) -> String {
    let mut parts = name.split('#');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(own), Some(_), None) => own.to_owned(),
        _ => name,
    }
}

/// Describes a node.
///
/// # Safety
/// `tensor` is a live node of a graph.
pub(super) unsafe fn describe(tensor: &sys::ggml_tensor) -> RawNode {
    // SAFETY: names are fixed-size arrays that ggml keeps zero-terminated; the operation's name is
    // static; inputs are null or live as long as the graph.
    unsafe {
        let inputs = tensor.src.iter().filter_map(|input| input.as_ref());
        let inputs = inputs.map(|input| RawInput {
            id: std::ptr::from_ref(input).addr(),
            name: own_name(copy(input.name.as_ptr())),
            leaf: input.op == sys::GGML_OP_NONE,
            shape: lengths(input),
        });
        let [a, b, c, d, ..] = tensor.op_params;
        RawNode {
            id: std::ptr::from_ref(tensor).addr(),
            name: copy(tensor.name.as_ptr()),
            op: copy(sys::ggml_op_name(tensor.op)),
            op_params: [a, b, c, d],
            shape: lengths(tensor),
            // C enumerations are signed on Windows.
            #[allow(clippy::unnecessary_cast)]
            ty: GgmlType(tensor.type_ as u32),
            inputs: inputs.collect(),
        }
    }
}

/// A node that was computed, whose values a hook can read and write.
pub struct Node<'a> {
    info: NodeInfo<'a>,
    tensor: Tensor<'a>,
    scratch: &'a mut Scratch,
}

/// Buffers for the values of a node, reused for the next.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    floats: Vec<f32>,
}

impl<'a> Node<'a> {
    pub(super) fn new(info: NodeInfo<'a>, tensor: Tensor<'a>, scratch: &'a mut Scratch) -> Self {
        Node {
            info,
            tensor,
            scratch,
        }
    }

    /// The description of the node.
    pub fn info(&self) -> NodeInfo<'a> {
        self.info
    }

    /// Reads its values, in the order of its shape.
    ///
    /// # Errors
    /// [`Error::NodeType`] for values that are not F32, F16 or BF16.
    pub fn read(&mut self) -> Result<&[f32]> {
        self.values(self.tensor)
    }

    /// Replaces its values, in the order of its shape; the pass continues with them.
    ///
    /// # Errors
    /// [`Error::NodeType`]; [`Error::NodeLength`] for another number of values.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        if values.len() != self.info.len() {
            return Err(Error::NodeLength {
                node: self.info.name.to_owned(),
                have: self.info.len(),
                given: values.len(),
            });
        }
        self.tensor.fetch(&mut self.scratch.bytes);
        let written = (self.tensor.layout()).write(values, &mut self.scratch.bytes);
        written.ok_or_else(|| self.wrong_type())?;
        self.tensor.store(&self.scratch.bytes);
        Ok(())
    }

    /// Reads the values that a matrix product (`MUL_MAT`, `MUL_MAT_ID`) multiplied its weights
    /// with; returns them and their shape. Other inputs cannot be read: ggml may have overwritten
    /// them by now, and weights are in the file.
    ///
    /// # Errors
    /// [`Error::NoActivations`] for another operation, [`Error::NodeType`].
    pub fn read_activations(&mut self) -> Result<(&[f32], [usize; 4])> {
        let input = self.input(1, &[sys::GGML_OP_MUL_MAT, sys::GGML_OP_MUL_MAT_ID])?;
        Ok((self.values(Tensor(input))?, lengths(input)))
    }

    /// The shape of the weights of a matrix product (`MUL_MAT`, `MUL_MAT_ID`): columns, rows, and
    /// the number of matrices, which is that of the experts.
    ///
    /// # Errors
    /// [`Error::NoActivations`] for another operation.
    pub fn weights_shape(&self) -> Result<[usize; 4]> {
        let products = [sys::GGML_OP_MUL_MAT, sys::GGML_OP_MUL_MAT_ID];
        Ok(lengths(self.input(0, &products)?))
    }

    /// Reads which expert's matrix each input of a product with experts (`MUL_MAT_ID`) was multiplied
    /// with; returns the numbers of the experts, token after token, and how many each token has.
    ///
    /// # Errors
    /// [`Error::NoActivations`] for another operation.
    pub fn read_experts(&mut self) -> Result<(Vec<usize>, usize)> {
        let ids = self.input(2, &[sys::GGML_OP_MUL_MAT_ID])?;
        let mut bytes = Vec::new();
        Tensor(ids).fetch(&mut bytes);
        let ([used, tokens, ..], strides) = (lengths(ids), ids.nb);
        let places = (0..tokens)
            .flat_map(|token| (0..used).map(move |i| token * strides[1] + i * strides[0]));
        let read = places.map(|at| {
            let four = bytes.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(i32::from_le_bytes(four)).ok()
        });
        let experts: Option<Vec<usize>> = match ids.type_ {
            sys::GGML_TYPE_I32 => read.collect(),
            _ => None,
        };
        Ok((experts.ok_or_else(|| self.wrong_type())?, used))
    }

    /// The inputs that the graph does not compute, and their names: weights, the cache, and the
    /// inputs of the pass.
    pub(super) fn leaves(&self) -> Vec<(String, NonNull<sys::ggml_tensor>)> {
        let inputs = self
            .tensor
            .0
            .src
            .iter()
            .filter_map(|input| NonNull::new(*input));
        let named = inputs.filter_map(|input| {
            // SAFETY: inputs of a live node live as long as it; their names are zero-terminated.
            let name = unsafe {
                let tensor = input.as_ref();
                (tensor.op == sys::GGML_OP_NONE).then(|| copy(tensor.name.as_ptr()))
            };
            Some((name?, input))
        });
        named.collect()
    }

    /// An input of this node, which must be computed by one of `ops`.
    fn input(&self, i: usize, ops: &[sys::ggml_op]) -> Result<&'a sys::ggml_tensor> {
        let raw = self.tensor.0;
        // SAFETY: inputs of a live node are null or live as long as it; those of a matrix product are
        // not overwritten before it is computed, and it has only just been computed.
        let input = unsafe { raw.src[i].as_ref() };
        let input = input.filter(|_| ops.contains(&raw.op));
        input.ok_or_else(|| Error::NoActivations {
            node: self.info.name.to_owned(),
            op: self.info.op.to_owned(),
        })
    }

    fn values(&mut self, tensor: Tensor<'_>) -> Result<&[f32]> {
        let Scratch { bytes, floats } = &mut *self.scratch;
        if tensor.layout().size().is_none() {
            return Err(self.wrong_type());
        }
        tensor.fetch(bytes);
        match tensor.layout().read(bytes, floats) {
            Some(()) => Ok(&self.scratch.floats),
            None => Err(self.wrong_type()),
        }
    }

    fn wrong_type(&self) -> Error {
        Error::NodeType {
            node: self.info.name.to_owned(),
            ty: self.info.ty.name().into_owned(),
        }
    }
}
