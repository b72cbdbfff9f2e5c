//! Reads what a GGUF says about its model and refuses what llama.cpp would abort on.
//!
//! llama.cpp reports most faults of a file as errors, but asserts on some (counts out of range,
//! duplicate tokens) and finds others only when it builds or computes the graph, where every
//! check is an assertion (types and shapes that do not multiply). Those are looked for here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::path::Path;

mod table;

use super::error::{Error, Result};
use super::families::family;
use super::kv::{Header, KvShape, MAX_LAYERS};
use super::token::Token;
use modelve_gguf::{ArrayRef, GgmlType, Gguf, TensorInfo, ValueRef};

/// What the runtime needs to know of a model before it loads it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `general.architecture`, such as `phi3`.
    pub arch: String,
    /// `general.name`, if given.
    pub name: Option<String>,
    /// Transformer blocks.
    pub n_layer: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Attention heads of the first block.
    pub n_head: u32,
    /// Key and value heads of the first block.
    pub n_head_kv: u32,
    /// Tokens the model was trained on at most.
    pub n_ctx_train: u32,
    /// The length above which a model with two sets of RoPE factors uses the long ones.
    pub rope_boundary: Option<u32>,
    /// What a token leaves in the KV cache.
    pub kv: KvShape,
    /// Values of one key head and one value head: quantized caches need whole blocks.
    pub head_sizes: (u32, u32),
    /// Bytes of weights by type, largest first; the token table, of which a pass reads only
    /// single rows, not counted unless it is the output matrix too.
    pub weights: Vec<(GgmlType, u64)>,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// `tokenizer.chat_template`, if given.
    pub chat_template: Option<String>,
    /// Tokens that end a text.
    pub stop_tokens: StopTokens,
    /// What the vocabulary can express.
    pub alphabet: Alphabet,
    /// Whether everything that is known to end llama.cpp has been looked for: it has in files of
    /// few architectures and kinds of vocabulary. Any other should be tried in a process of its own
    /// before one relies on it. Where only the vocabulary is read, this speaks of that alone.
    pub covered: bool,
}

/// Which tokens end a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopTokens {
    /// These and no others: the checkpoint's generation settings, as the converter wrote them.
    Exactly(Vec<Token>),
    /// Those llama.cpp knows, by metadata and by name, and these.
    Besides(Vec<Token>),
}

impl Default for StopTokens {
    fn default() -> Self {
        StopTokens::Besides(Vec::new())
    }
}

/// What llama.cpp's SentencePiece tokenizer can fall back to for a text it has no token for.
#[derive(Debug, Clone, Default)]
pub struct Alphabet {
    /// Bytes without a token, and all tokens to look up whole characters in. `None`: every byte
    /// has one, or the tokenizer is of another kind, which skips what it does not know.
    missing: Option<(Vec<u8>, HashSet<Vec<u8>>)>,
}

impl Alphabet {
    /// The first character of `text` that neither is a token nor can be spelled in byte tokens:
    /// llama.cpp's tokenizer throws on it.
    pub(super) fn unknown<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let (missing, tokens) = self.missing.as_ref()?;
        let mut rest = text;
        while let Some(&first) = rest.first() {
            let length = match first {
                0xC0..=0xDF => 2,
                0xE0..=0xEF => 3,
                0xF0..=0xFF => 4,
                _ => 1,
            };
            let (character, tail) = rest.split_at(length.min(rest.len()));
            // The tokenizer writes spaces as U+2581.
            let spelled: &[u8] = if character == b" " {
                "\u{2581}".as_bytes()
            } else {
                character
            };
            if !tokens.contains(spelled) && spelled.iter().any(|byte| missing.contains(byte)) {
                return Some(character);
            }
            rest = tail;
        }
        None
    }
}

/// Bytes of the longest token: llama.cpp keeps some vocabularies as trees of characters and takes
/// those apart by recursion, which overflows the stack. Tokens in use have some hundred.
const MAX_TOKEN: usize = 4096;

/// Kinds of vocabulary of which all that could end llama.cpp is checked here: SentencePiece and BPE.
const COVERED_VOCABULARIES: [&str; 2] = ["llama", "gpt2"];

/// A chat form in which each turn begins with a token of its own and ends with [`TURN_END`], as
/// Phi-3's does. The token that begins a turn of the model's is a stop token of its checkpoints;
/// files that other programs wrote leave that out, and the model then goes on with a turn that
/// nobody asked for.
const TURN_OF_MODEL: &[u8] = b"<|assistant|>";
/// See [`TURN_OF_MODEL`].
const TURN_END: &[u8] = b"<|end|>";

/// Kinds in which a token can stand for a byte by its type, and is written as `<0xNN>`.
const BYTE_VOCABULARIES: [&str; 3] = ["llama", "gpt2", "t5"];

/// Where data may begin in memory: at multiples of ggml's `TENSOR_ALIGNMENT`.
const ALIGNMENT: u64 = 32;

struct File<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    arch: String,
}

impl File<'_> {
    fn fault<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::Invalid {
            path: self.path.to_owned(),
            what: what.into(),
        })
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.gguf.get(key) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text.into_owned())),
                None => self.fault(format!("{key} is not a string")),
            },
        }
    }

    /// An integer of the architecture, `{arch}.{key}`.
    fn number(&self, key: &str) -> Result<Option<u64>> {
        let key = format!("{}.{key}", self.arch);
        match self.gguf.get(&key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => self.fault(format!("{key} is not a whole number")),
            },
        }
    }

    fn required(&self, key: &str) -> Result<u64> {
        match self.number(key)? {
            Some(number) if number > 0 && number <= u64::from(u32::MAX) => Ok(number),
            Some(number) => self.fault(format!("{}.{key} is {number}", self.arch)),
            None => self.fault(format!("{}.{key} is missing", self.arch)),
        }
    }

    /// A number per layer, given as one for all or as an array.
    fn per_layer(&self, key: &str, n_layer: u64) -> Result<Option<Vec<u64>>> {
        let name = format!("{}.{key}", self.arch);
        let Some(value) = self.gguf.get(&name) else {
            return Ok(None);
        };
        let Some(array) = value.as_array() else {
            return Ok(self.number(key)?.map(|n| vec![n; n_layer as usize]));
        };
        if array.len() as u64 != n_layer {
            return self.fault(format!(
                "{name} has {} entries for {n_layer} layers",
                array.len()
            ));
        }
        match array.iter().map(|v| v.as_u64()).collect() {
            Some(numbers) => Ok(Some(numbers)),
            None => self.fault(format!("{name} holds something else than whole numbers")),
        }
    }
}

impl Header for File<'_> {
    fn architecture(&self) -> &str {
        &self.arch
    }

    fn number(&self, key: &str) -> Option<u64> {
        File::number(self, key).ok().flatten()
    }

    fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>> {
        File::per_layer(self, key, layers).ok().flatten()
    }

    fn is_recurrent(&self) -> bool {
        let mut keys = self.gguf.metadata();
        keys.any(|(key, _)| key.contains(".ssm.") || key.contains(".wkv."))
    }
}

/// Returns whether nothing in a file's vocabulary could end llama.cpp once [`vocabulary`] has found
/// it sound.
pub(super) fn covers_vocabulary(gguf: &Gguf) -> bool {
    let kind = gguf.get("tokenizer.ggml.model");
    let kind = kind.and_then(|value| value.as_str().map(Cow::into_owned));
    kind.is_some_and(|kind| COVERED_VOCABULARIES.contains(&&*kind))
}

/// Checks the vocabulary; enough for loading with `vocab_only`.
pub(super) fn vocabulary(path: &Path, gguf: &Gguf) -> Result<Facts> {
    let mut file = File {
        path,
        gguf,
        arch: String::new(),
    };
    let Some(arch) = file.text("general.architecture")? else {
        return file.fault("general.architecture is missing");
    };
    file.arch.clone_from(&arch);
    let chat_template = file.text("tokenizer.chat_template")?;
    let name = file.text("general.name")?;
    let Some(kind) = file.text("tokenizer.ggml.model")? else {
        return file.fault("tokenizer.ggml.model is missing: the file has no vocabulary");
    };
    let key = "tokenizer.ggml.tokens";
    let Some(tokens) = gguf.get(key).and_then(|value| value.as_array()) else {
        return file.fault(format!("{key} is missing or no array"));
    };
    if tokens.len() as u64 > i32::MAX as u64 {
        return file.fault(format!("{key} has {} entries", tokens.len()));
    }

    let is_byte = byte_tokens(gguf);
    let hasher = foldhash::fast::RandomState::default();
    let mut hashes = Vec::with_capacity(tokens.len());
    let mut has_byte = [false; 256];
    let (mut end, mut answer) = (None, None);
    for (id, token) in tokens.iter().enumerate() {
        let ValueRef::String(text) = token else {
            return file.fault(format!("{key}[{id}] is not a string"));
        };
        let name = token_name(id, text);
        if name.len() > MAX_TOKEN {
            let bytes = name.len();
            return file.fault(format!(
                "{key}[{id}] has {bytes} bytes; up to {MAX_TOKEN} are possible"
            ));
        }
        if is_byte.get(id).is_some_and(|&byte| byte)
            && !(BYTE_VOCABULARIES.contains(&&*kind) && name.len() > 3)
        {
            return file.fault(format!(
                "{key}[{id}] is of the type of byte tokens, and none that a vocabulary of kind {kind:?} can have"
            ));
        }
        hashes.push(hasher.hash_one(&*name));
        match &*name {
            [byte] => has_byte[*byte as usize] = true,
            [b'<', b'0', b'x', digits @ .., b'>'] if digits.len() == 2 => {
                let digits = std::str::from_utf8(digits).ok();
                if let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                    has_byte[byte as usize] = true;
                }
            }
            TURN_END => end = Some(id),
            TURN_OF_MODEL => answer = Some(id),
            _ => {}
        }
    }
    // llama.cpp asserts that names are distinct. Equal hashes, which nearly always mean equal
    // names, are rare enough to look at every name again: a set of them all would cost every
    // start milliseconds.
    hashes.sort_unstable();
    if hashes.windows(2).any(|pair| pair[0] == pair[1]) {
        let mut seen = HashSet::new();
        for (id, name) in token_names(&tokens).enumerate() {
            if let Some(name) = seen.replace(name) {
                let text = String::from_utf8_lossy(&name);
                return file.fault(format!("{key}[{id}] repeats the token {text:?}"));
            }
        }
    }
    let stop_tokens = stop_tokens(gguf, tokens.len(), end.and(answer));
    let missing: Vec<u8> = (0..=255).filter(|&b| !has_byte[b as usize]).collect();
    let alphabet = Alphabet {
        missing: (kind == "llama" && !missing.is_empty())
            .then(|| (missing, token_names(&tokens).map(Cow::into_owned).collect())),
    };
    Ok(Facts {
        arch,
        name,
        chat_template,
        stop_tokens,
        alphabet,
        covered: COVERED_VOCABULARIES.contains(&&*kind),
        ..Facts::default()
    })
}

/// For each token whether its type says that it stands for a byte; empty if no types are given.
fn byte_tokens(gguf: &Gguf) -> Vec<bool> {
    const BYTE: u64 = 6;
    let types = gguf.get("tokenizer.ggml.token_type");
    let types = types.and_then(|value| value.as_array());
    let types = types.iter().flat_map(|types| types.iter());
    types.map(|kind| kind.as_u64() == Some(BYTE)).collect()
}

/// What llama.cpp calls a token: its text as a C string, and something made of its index
/// where that is empty.
fn token_name(id: usize, text: &[u8]) -> Cow<'_, [u8]> {
    match text.split(|&byte| byte == 0).next().unwrap_or_default() {
        [] => Cow::Owned(format!("[EMPTY_{id}]").into_bytes()),
        name => Cow::Borrowed(name),
    }
}

fn token_names<'a>(tokens: &ArrayRef<'a>) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let texts = tokens.iter().map_while(|token| token.as_bytes());
    texts.enumerate().map(|(id, text)| token_name(id, text))
}

/// The tokens that end a text. `answer` is a token that begins a turn of the model's, in a
/// vocabulary of the chat form that has one.
fn stop_tokens(gguf: &Gguf, n_tokens: usize, answer: Option<usize>) -> StopTokens {
    let id = |value: ValueRef<'_>| {
        let id = value.as_u64().filter(|&id| id < n_tokens as u64)?;
        Token::try_from(id).ok()
    };
    let stated = gguf
        .get("modelve.stop_token_ids")
        .and_then(|value| value.as_array());
    let stated: Vec<_> = stated
        .iter()
        .flat_map(|list| list.iter().filter_map(id))
        .collect();
    match stated.is_empty() {
        false => StopTokens::Exactly(stated),
        true => StopTokens::Besides(answer.map(Token::at).into_iter().collect()),
    }
}

/// Checks everything before a model is loaded whole.
pub(super) fn model(path: &Path, gguf: &Gguf) -> Result<Facts> {
    let mut facts = vocabulary(path, gguf)?;
    let file = File {
        path,
        gguf,
        arch: facts.arch.clone(),
    };
    let arch = &file.arch;

    let n_layer = file.required("block_count")?;
    if n_layer > MAX_LAYERS {
        return file.fault(format!(
            "{arch}.block_count is {n_layer}, more than {MAX_LAYERS}"
        ));
    }
    if file.number("nextn_predict_layers")?.unwrap_or(0) > n_layer {
        return file.fault(format!(
            "{arch}.nextn_predict_layers is more than {arch}.block_count"
        ));
    }
    check_experts(&file, n_layer)?;
    let n_ctx_train = file.required("context_length")?;
    let n_embd = file.required("embedding_length")?;
    facts.covered &= table::check(&file, n_layer, n_embd)?;
    check_rope_scaling(&file)?;

    let heads = file
        .per_layer("attention.head_count", n_layer)?
        .unwrap_or_default();
    let heads_kv = file.per_layer("attention.head_count_kv", n_layer)?;
    let heads_kv = heads_kv.unwrap_or_else(|| heads.clone());
    let first = heads.first().copied().unwrap_or(0);
    if first > n_embd {
        return file.fault(format!(
            "{arch}.attention.head_count is {first} for a width of {n_embd}"
        ));
    }
    for (layer, (&q, &kv)) in heads.iter().zip(&heads_kv).enumerate() {
        if kv > q || (kv > 0 && q % kv != 0) {
            return file.fault(format!(
                "layer {layer} has {q} attention heads that do not divide among {kv} key heads"
            ));
        }
    }
    let even = n_embd.checked_div(first).unwrap_or(0);
    let head_k = file.number("attention.key_length")?.unwrap_or(even);
    let head_v = file.number("attention.value_length")?.unwrap_or(even);
    let limit = u64::from(u32::MAX) / 512;
    if head_k > limit || head_v > limit || heads.iter().any(|&h| h > limit) {
        return file.fault("attention heads of an impossible size".to_owned());
    }
    let n_rot = file.number("rope.dimension_count")?.unwrap_or(head_k);
    if n_rot > head_k || n_rot % 2 != 0 {
        return file.fault(format!(
            "{arch}.rope.dimension_count is {n_rot}, which must be even and at most the head size {head_k}"
        ));
    }
    let family = family(arch);
    let fills = family.is_some_and(|family| family.heads_fill_width);
    if fills && (first == 0 || head_k != head_v || first * head_k != n_embd) {
        return file.fault(format!(
            "{first} heads of {head_k} and {head_v} values do not make a width of {n_embd}"
        ));
    }
    for key in [
        "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon",
    ] {
        let key = format!("{arch}.{key}");
        if let Some(value) = gguf.get(&key)
            && !value
                .as_f64()
                .is_some_and(|eps| eps.is_finite() && eps >= 0.0)
        {
            return file.fault(format!("{key} is not a number of 0 or more"));
        }
    }

    let mut weights: Vec<(GgmlType, u64)> = Vec::new();
    let tied = gguf.tensor("output.weight").is_none();
    for tensor in gguf.tensors() {
        let bytes = check_tensor(&file, tensor)?;
        facts.tensor_bytes += bytes;
        if tensor.name == "token_embd.weight" && !tied {
            continue;
        }
        match weights.iter_mut().find(|(ty, _)| *ty == tensor.ty) {
            Some((_, sum)) => *sum += bytes,
            None => weights.push((tensor.ty, bytes)),
        }
    }
    weights.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    facts.weights = weights;

    let two_sets = gguf.tensor("rope_factors_long.weight").is_some()
        && gguf.tensor("rope_factors_short.weight").is_some();
    if two_sets {
        let original = file.number("rope.scaling.original_context_length")?;
        let boundary = original.unwrap_or(n_ctx_train);
        facts.rope_boundary = Some(u32::try_from(boundary).unwrap_or(u32::MAX));
    }
    file.number("attention.sliding_window")?;
    facts.kv = KvShape::of(&file).unwrap_or_default();
    facts.head_sizes = (head_k as u32, head_v as u32);
    facts.n_layer = n_layer as u32;
    facts.n_embd = n_embd as u32;
    facts.n_head = first as u32;
    facts.n_head_kv = heads_kv.first().copied().unwrap_or(0) as u32;
    facts.n_ctx_train = n_ctx_train as u32;
    Ok(facts)
}

/// llama.cpp asserts on every one of these (`llama_model_base::load_hparams`).
fn check_experts(file: &File<'_>, n_layer: u64) -> Result<()> {
    let arch = &file.arch;
    let experts = file.number("expert_count")?.unwrap_or(0);
    let used = file
        .per_layer("expert_used_count", n_layer)?
        .unwrap_or_default();
    let used = used.into_iter().max().unwrap_or(0);
    let groups = file.number("expert_group_count")?.unwrap_or(0);
    let groups_used = file.number("expert_group_used_count")?.unwrap_or(0);
    let sound = match experts {
        0 => used == 0 && groups == 0,
        1..=1024 => {
            let grouped = groups <= 1
                || (experts.is_multiple_of(groups) && groups_used > 0 && groups_used < groups);
            used > 0 && used <= experts && groups < experts && grouped
        }
        _ => false,
    };
    if sound {
        return Ok(());
    }
    file.fault(format!(
        "{arch}.expert_count is {experts} with {used} used, in {groups} groups of which {groups_used} are used"
    ))
}

fn check_rope_scaling(file: &File<'_>) -> Result<()> {
    let key = format!("{}.rope.scaling.type", file.arch);
    match file.text(&key)?.as_deref() {
        None | Some("none" | "linear" | "yarn" | "longrope") => Ok(()),
        Some(other) => file.fault(format!("{key} is {other:?}, which llama.cpp does not know")),
    }
}

/// Returns whether ggml has a kernel that multiplies matrices of this type as weights. It has none
/// for whole numbers, doubles, and the formats that activations are quantized to.
pub fn is_weight_type(ty: GgmlType) -> bool {
    let unusable = ["I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"];
    !unusable.contains(&&*ty.name())
}

/// The tensor's bytes, if its type can do what its place in a graph asks for.
fn check_tensor(file: &File<'_>, tensor: &TensorInfo) -> Result<u64> {
    let TensorInfo {
        name, ty, shape, ..
    } = tensor;
    let Some(bytes) = tensor.bytes else {
        return file.fault(format!(
            "tensor {name} is of {}, whose size is not known",
            ty.name()
        ));
    };
    // ggml asserts it of every buffer, and weights are used where they lie in the file.
    if !tensor.offset.is_multiple_of(ALIGNMENT) {
        return file.fault(format!(
            "tensor {name} begins at byte {}, not at a multiple of {ALIGNMENT}",
            tensor.offset
        ));
    }
    let vector = shape.iter().skip(1).all(|&n| n == 1);
    // Norms, biases and RoPE factors are added and multiplied value by value.
    if vector && *ty != GgmlType::F32 {
        return file.fault(format!(
            "tensor {name} is a vector of {}, not of F32",
            ty.name()
        ));
    }
    if !vector && !is_weight_type(*ty) {
        return file.fault(format!("tensor {name} is a matrix of {}", ty.name()));
    }
    Ok(bytes)
}
