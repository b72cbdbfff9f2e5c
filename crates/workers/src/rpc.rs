//! What is known here of ggml's RPC protocol: how requests are delimited, which of them are answered,
//! and how long the answers are.
//!
//! A request is a byte for the command, the length of its body in 8 bytes (little-endian), and the
//! body. An answer is its length in 8 bytes and the answer. The client sends a request only after it
//! has the answer to the one before, if that has one. Source: `ggml/src/ggml-rpc/ggml-rpc.cpp`,
//! protocol 7; a worker with another version of ggml is refused before any of this is used.

/// Bytes before the body of a request.
pub(crate) const HEAD: usize = 9;
/// Bytes of a tensor's description.
const TENSOR: usize = 296;
/// Bytes in the body of [`SET_TENSOR`] before the values: the tensor, a flag, and an offset.
pub(crate) const SET_TENSOR_HEAD: usize = TENSOR + 1 + 8;
/// The first bytes of a body that [`answer`] looks at.
pub(crate) const DECISIVE: usize = TENSOR + 16;
/// Bytes of the answer to [`HELLO`], without its length.
pub(crate) const GREETING: usize = 28;

const ALLOC_BUFFER: u8 = 0;
const GET_ALIGNMENT: u8 = 1;
const GET_MAX_SIZE: u8 = 2;
const BUFFER_GET_BASE: u8 = 3;
/// Writes values to a tensor.
pub(crate) const SET_TENSOR: u8 = 6;
/// Asks whether the server has a tensor's values on disk. The hash is FNV-1a of 64 bits, and what the
/// server has under it is not checked.
pub(crate) const SET_TENSOR_HASH: u8 = 7;
const GET_TENSOR: u8 = 8;
const COPY_TENSOR: u8 = 9;
const GET_DEVICE_MEMORY: u8 = 11;
const GET_ALLOC_SIZE: u8 = 13;
/// The first request of a connection.
pub(crate) const HELLO: u8 = 14;
const DEVICE_COUNT: u8 = 15;

/// The request that opens a connection; the body says that the client has no RDMA.
pub(crate) fn hello() -> [u8; HEAD + 24] {
    let mut request = [0; HEAD + 24];
    request[0] = HELLO;
    request[1..HEAD].copy_from_slice(&24u64.to_le_bytes());
    request
}

/// The number of bytes of the answer to a request, without those of its length; `None` if it has no
/// answer. `body` is the beginning of the request's body, up to [`DECISIVE`] bytes.
pub(crate) fn answer(command: u8, body: &[u8]) -> Option<u64> {
    match command {
        ALLOC_BUFFER | GET_DEVICE_MEMORY => Some(16),
        GET_ALIGNMENT | GET_MAX_SIZE | BUFFER_GET_BASE | GET_ALLOC_SIZE => Some(8),
        SET_TENSOR_HASH | COPY_TENSOR => Some(1),
        GET_TENSOR => Some(number(body, TENSOR + 8)),
        HELLO => Some(GREETING as u64),
        DEVICE_COUNT => Some(4),
        _ => None,
    }
}

/// The beginning of an answer that lets ggml's client go on without its server: buffers that seem to
/// be allocated, with sizes that it accepts. What it computes is worthless. The rest of the answer
/// is zeros.
pub(crate) fn pretend(command: u8, body: &[u8]) -> Vec<u8> {
    match command {
        // A handle that is not zero, and the requested size.
        ALLOC_BUFFER => [1, number(body, 4)].map(u64::to_le_bytes).concat(),
        GET_ALIGNMENT => 64u64.to_le_bytes().to_vec(),
        GET_MAX_SIZE => (u64::MAX / 2).to_le_bytes().to_vec(),
        BUFFER_GET_BASE => (1u64 << 40).to_le_bytes().to_vec(),
        SET_TENSOR_HASH | COPY_TENSOR => vec![1],
        DEVICE_COUNT => 1u32.to_le_bytes().to_vec(),
        _ => Vec::new(),
    }
}

fn number(body: &[u8], at: usize) -> u64 {
    let bytes = body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_an_answer_have_none() {
        // FREE_BUFFER, BUFFER_CLEAR, SET_TENSOR, GRAPH_COMPUTE, INIT_TENSOR, GRAPH_RECOMPUTE,
        // MEMSET_TENSOR
        for command in [4, 5, 6, 10, 12, 16, 17] {
            assert_eq!(answer(command, &[]), None, "{command}");
        }
        let mut body = vec![0; TENSOR + 16];
        body[TENSOR + 8..].copy_from_slice(&77u64.to_le_bytes());
        assert_eq!(answer(GET_TENSOR, &body), Some(77));
    }

    #[test]
    fn a_pretended_answer_is_never_longer_than_a_real_one() {
        let body = [1; DECISIVE];
        for command in 0..=17 {
            let length = answer(command, &body).unwrap_or(0);
            assert!(pretend(command, &body).len() as u64 <= length, "{command}");
        }
        let mut request = [0; 12];
        request[4..].copy_from_slice(&4096u64.to_le_bytes());
        assert_eq!(pretend(ALLOC_BUFFER, &request)[8..], 4096u64.to_le_bytes());
    }
}
