//! Saves sequences as bytes, to be restored in another session or another process.
//!
//! A saved sequence records what it belongs to, and is checked before llama.cpp sees any of it:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MODELVEQ` |
//! | 4 | version of this table, 1 |
//! | 32 | [`Model::fingerprint`] |
//! | 4 | type of the cache, RoPE factors, whether attention is fused, whether a control vector is added |
//! | 32 or 0 | SHA-256 of that control vector |
//! | 4 | number of tokens |
//! | 4 each | the tokens |
//! | 8 | size of llama.cpp's state in bytes |
//! | … | that state |
//! | 32 | SHA-256 of everything before |
//!
//! Numbers are little-endian. The checksum detects damage, not malice: do not restore bytes from
//! sources whose libraries you would not load.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::error::{Error, Result, StateFault};
use super::model::Model;
use super::rope::RopeFactors;
use super::seq::Seq;
use super::session::Session;
use super::settings::{FlashAttention, KvType, Settings};
use super::token::Token;
use modelve_gguf::Gguf;

const MAGIC: &[u8; 8] = b"MODELVEQ";
const VERSION: u32 = 1;
const DIGEST: usize = 32;
/// Maximum number of tokens of a sequence that is read from a file.
const MAX_TOKENS: u32 = 1 << 24;
/// The number of bytes at the start and the end of each tensor that enter the fingerprint.
const SAMPLE: usize = 4096;

impl Model {
    /// A fingerprint that identifies the model's file: SHA-256 of the names, types and shapes of
    /// its tensors, its metadata except lists and the tokenizer's, and the first and last 4 KiB of
    /// every tensor. Computed once.
    pub fn fingerprint(&self) -> [u8; DIGEST] {
        *self
            .inner
            .fingerprint
            .get_or_init(|| fingerprint(self.gguf()))
    }
}

fn fingerprint(gguf: &Gguf) -> [u8; DIGEST] {
    let mut hash = Sha256::new();
    for (key, value) in gguf.metadata() {
        // The vocabulary does not matter for a cache of token ids.
        if !key.starts_with("tokenizer.") && value.as_array().is_none() {
            hash.update(format!("{key}={value:?}\n"));
        }
    }
    for tensor in gguf.tensors() {
        hash.update(format!(
            "{} {} {:?}\n",
            tensor.name, tensor.ty, tensor.shape
        ));
        let data = gguf.data(tensor);
        hash.update(&data[..data.len().min(SAMPLE)]);
        hash.update(&data[data.len().saturating_sub(SAMPLE)..]);
    }
    hash.finalize().into()
}

/// What a state belongs to: a model, and the settings that it was computed with.
pub(crate) struct Origin {
    fingerprint: [u8; DIGEST],
    kind: [u8; 4],
    control: Vec<u8>,
}

impl Origin {
    /// The origin of the states of a session.
    pub fn of(session: &Session) -> Self {
        Origin::new(session.model(), session.settings(), session.rope_factors())
    }

    /// The origin of the states of a session that is made with these settings.
    pub fn new(model: &Model, settings: &Settings, rope_factors: RopeFactors) -> Self {
        Origin {
            fingerprint: model.fingerprint(),
            kind: kind(settings, rope_factors),
            control: control(settings),
        }
    }

    /// SHA-256 of the origin and of the version of the program: llama.cpp's part of a state has no
    /// version of its own.
    pub fn digest(&self) -> [u8; DIGEST] {
        let mut hash = Sha256::new();
        hash.update(VERSION.to_le_bytes());
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update(self.fingerprint);
        hash.update(self.kind);
        hash.update(&self.control);
        hash.finalize().into()
    }
}

/// The tokens of a saved sequence, read from the start of its bytes; `None` if these are no saved
/// sequence.
pub(crate) fn tokens_at_start(bytes: &mut impl Read) -> Option<Vec<Token>> {
    let mut start = [0; 8 + 4 + DIGEST + 4];
    bytes.read_exact(&mut start).ok()?;
    if !start.starts_with(MAGIC) || start[8..12] != VERSION.to_le_bytes() {
        return None;
    }
    let has_control = start[start.len() - 1] != 0;
    if has_control {
        bytes.read_exact(&mut [0; DIGEST]).ok()?;
    }
    let mut n = [0; 4];
    bytes.read_exact(&mut n).ok()?;
    let n = Some(u32::from_le_bytes(n)).filter(|&n| n <= MAX_TOKENS)?;
    let mut tokens = Vec::new();
    let read = bytes.take(4 * u64::from(n)).read_to_end(&mut tokens).ok()?;
    (read as u64 == 4 * u64::from(n)).then(|| parse_tokens(&tokens))
}

fn parse_tokens(bytes: &[u8]) -> Vec<Token> {
    let tokens = bytes.chunks_exact(4);
    let tokens = tokens.map(|t| Token(i32::from_le_bytes([t[0], t[1], t[2], t[3]])));
    tokens.collect()
}

/// Completes a saved sequence with its checksum.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    let digest = Sha256::digest(&*bytes);
    bytes.extend(digest);
}

/// The settings that a state depends on.
fn kind(settings: &Settings, rope_factors: RopeFactors) -> [u8; 4] {
    let cache = match settings.kv_type {
        KvType::F32 => 0,
        KvType::F16 => 1,
        KvType::Q8_0 => 2,
        KvType::Q4_0 => 3,
    };
    let rope_factors = match rope_factors {
        RopeFactors::Short => 0,
        RopeFactors::Long => 1,
    };
    let fused = u8::from(settings.flash_attention != FlashAttention::Off);
    [
        cache,
        rope_factors,
        fused,
        u8::from(settings.control.is_some()),
    ]
}

/// The digest of a control vector; empty if there is none.
fn control(settings: &Settings) -> Vec<u8> {
    let control = settings.control.as_ref();
    control.map_or(Vec::new(), |control| control.digest().to_vec())
}

/// Reads the bytes of a saved sequence from the start.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StateFault> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(StateFault::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateFault> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| StateFault::Damaged)
    }
}

impl Session {
    /// Saves a sequence as bytes: its tokens and what the model's memory holds of them.
    ///
    /// # Errors
    /// [`Error::ForeignSequence`]; [`Error::State`] if llama.cpp gives nothing.
    pub fn save(&mut self, seq: &Seq) -> Result<Vec<u8>> {
        let mut bytes = self.save_unsealed(seq)?;
        seal(&mut bytes);
        Ok(bytes)
    }

    /// [`Session::save`] without the checksum.
    pub(crate) fn save_unsealed(&mut self, seq: &Seq) -> Result<Vec<u8>> {
        let tokens = self.tokens(seq)?.to_vec();
        let state = self.state_of(seq)?;
        let mut bytes = Vec::with_capacity(128 + 4 * tokens.len() + state.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.model().fingerprint());
        bytes.extend(kind(self.settings(), self.rope_factors()));
        bytes.extend(control(self.settings()));
        bytes.extend((tokens.len() as u32).to_le_bytes());
        bytes.extend(tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        bytes.extend((state.len() as u64).to_le_bytes());
        bytes.extend(state);
        Ok(bytes)
    }

    /// Opens a sequence from [saved](Session::save) bytes. Its next logits are those of the saved
    /// sequence, except for rounding where the cells of the cache are in another order.
    ///
    /// # Errors
    /// [`Error::State`] for bytes that are damaged, truncated, from another model, or saved by a
    /// session with other settings; [`Error::ContextFull`]; [`Error::NoSequence`]. The session is
    /// unchanged then.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<Seq> {
        let (tokens, state) = self.check_state(bytes)?;
        for &token in &tokens {
            self.model().vocab().check(token)?;
        }
        let room = self.free_cells().min(self.longest());
        if tokens.len() > room {
            return Err(Error::ContextFull {
                need: tokens.len(),
                n_ctx: room,
            });
        }
        let seq = self.open()?;
        self.put_state(&seq, tokens, state)?;
        Ok(seq)
    }

    /// Checks a saved sequence; returns its tokens and llama.cpp's state.
    fn check_state<'a>(&self, bytes: &'a [u8]) -> Result<(Vec<Token>, &'a [u8])> {
        let fault = |fault| Err(Error::State(fault));
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return fault(StateFault::NotASavedSequence);
        }
        let mut reader = Reader(&bytes[MAGIC.len()..]);
        let version = u32::from_le_bytes(reader.array()?);
        if version != VERSION {
            return fault(StateFault::Version { version });
        }
        let Some((before, digest)) = bytes.split_last_chunk::<DIGEST>() else {
            return fault(StateFault::Damaged);
        };
        if *Sha256::digest(before) != *digest {
            return fault(StateFault::Damaged);
        }
        if reader.array()? != self.model().fingerprint() {
            return fault(StateFault::OtherModel);
        }
        let here = kind(self.settings(), self.rope_factors());
        let saved = reader.array::<4>()?;
        let names = [
            "cache type",
            "RoPE factors",
            "flash attention",
            "control vector",
        ];
        for ((saved, here), what) in saved.iter().zip(here).zip(names) {
            if *saved != here {
                return fault(StateFault::OtherSettings { what });
            }
        }
        let own = control(self.settings());
        if reader.take(own.len())? != own {
            return fault(StateFault::OtherSettings { what: names[3] });
        }
        let n_tokens = u32::from_le_bytes(reader.array()?) as usize;
        let tokens = reader.take(n_tokens.checked_mul(4).ok_or(StateFault::Damaged)?)?;
        let n_state = usize::try_from(u64::from_le_bytes(reader.array()?));
        let state = reader.take(n_state.map_err(|_| StateFault::Damaged)?)?;
        match reader.0.len() {
            DIGEST => Ok((parse_tokens(tokens), state)),
            _ => fault(StateFault::Damaged),
        }
    }
}
