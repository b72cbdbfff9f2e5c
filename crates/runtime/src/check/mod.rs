//! Reads the properties of a model from its GGUF, and rejects files that would make llama.cpp
//! abort.
//!
//! llama.cpp reports most faults of a file as errors, but asserts on some (counts out of range,
//! duplicate tokens) and finds others only when it builds or computes the graph, where every
//! check is an assertion (types and shapes that do not multiply). Those are checked here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::path::Path;

mod table;

use super::error::{Error, Result};
use super::families::family;
use super::kv::{Header, KvShape, MAX_LAYERS};
use super::token::Token;
use super::working::Working;
use modelve_gguf::{ArrayRef, GgmlType, Gguf, TensorInfo, ValueRef};

/// The properties of a model that are known before it is loaded.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `general.architecture`, such as `phi3`.
    pub arch: String,
    /// `general.name`, if given.
    pub name: Option<String>,
    /// The number of transformer blocks.
    pub n_layer: u32,
    /// The width of the residual stream.
    pub n_embd: u32,
    /// The number of attention heads of the first block.
    pub n_head: u32,
    /// The number of key and value heads of the first block.
    pub n_head_kv: u32,
    /// The length of the longest text that the model was trained on, in tokens.
    pub n_ctx_train: u32,
    /// The length above which a model with two sets of RoPE factors uses the long ones.
    pub rope_boundary: Option<u32>,
    /// The size of a token in the KV cache.
    pub kv: KvShape,
    /// The memory that a pass needs besides weights and KV cache.
    pub working: Working,
    /// The numbers of values of a key head and a value head; quantized caches need whole blocks.
    pub head_sizes: (u32, u32),
    /// The bytes of weights of each type, largest first. The token embeddings, of which a pass
    /// reads only single rows, count only if they are the output matrix, too.
    pub weights: Vec<(GgmlType, u64)>,
    /// The bytes of all tensors.
    pub tensor_bytes: u64,
    /// `tokenizer.chat_template`, if given.
    pub chat_template: Option<String>,
    /// The tokens that end a text.
    pub stop_tokens: StopTokens,
    /// The texts that the vocabulary can express.
    pub alphabet: Alphabet,
    /// Whether the checks cover everything that is known to make llama.cpp end the process, which
    /// they do for some architectures and kinds of vocabulary. Any other file should first be tried
    /// in a process of its own. If only the vocabulary is read, this is about the vocabulary alone.
    pub covered: bool,
}

/// Which tokens end a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopTokens {
    /// Exactly these: the checkpoint's generation settings, as the converter wrote them.
    Exactly(Vec<Token>),
    /// Those that llama.cpp finds by metadata and by name, and these.
    Besides(Vec<Token>),
}

impl Default for StopTokens {
    fn default() -> Self {
        StopTokens::Besides(Vec::new())
    }
}

/// The byte tokens that llama.cpp's SentencePiece tokenizer falls back to for characters without a
/// token.
#[derive(Debug, Clone, Default)]
pub struct Alphabet {
    /// The bytes without a token, and the texts of all tokens, to look up characters in. `None` if
    /// every byte has a token, or the tokenizer is of another kind, which skips unknown characters.
    missing: Option<(Vec<u8>, HashSet<Vec<u8>>)>,
}

impl Alphabet {
    /// The first character of `text` that is neither a token nor a sequence of byte tokens, on
    /// which llama.cpp's tokenizer would throw an exception.
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
            // The tokenizer replaces spaces by U+2581.
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

/// Maximum length of a token in bytes. llama.cpp keeps some vocabularies as trees of characters and
/// frees those by recursion, which overflows the stack if they are too deep. The longest tokens in
/// use have some hundred bytes.
const MAX_TOKEN: usize = 4096;

/// The kinds of vocabulary for which everything that could make llama.cpp end the process is
/// checked: SentencePiece and BPE.
const COVERED_VOCABULARIES: [&str; 2] = ["llama", "gpt2"];

/// The start of an assistant's turn in chat formats like Phi-3's, where each turn starts with a
/// token of its own and ends with [`TURN_END`]. Checkpoints list it as a stop token, but files by
/// other converters do not, and the model would then continue with another turn of its own.
const TURN_OF_MODEL: &[u8] = b"<|assistant|>";
/// See [`TURN_OF_MODEL`].
const TURN_END: &[u8] = b"<|end|>";

/// The kinds of vocabulary in which tokens of type byte, written as `<0xNN>`, stand for a byte.
const BYTE_VOCABULARIES: [&str; 3] = ["llama", "gpt2", "t5"];

/// ggml's `TENSOR_ALIGNMENT`: data must start at multiples of it in memory.
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

    /// The integer under the architecture's key `{arch}.{key}`.
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

    /// An integer for each layer, from a key that holds one for all layers or an array.
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
            None => self.fault(format!("{name} holds other values than whole numbers")),
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

    fn entries(&self, key: &str) -> Option<u64> {
        let array = self.gguf.get(key)?.as_array()?;
        Some(array.len() as u64)
    }

    fn flags(&self, key: &str, layers: u64) -> Option<Vec<bool>> {
        let array = self.gguf.get(&format!("{}.{key}", self.arch))?;
        let array = array
            .as_array()
            .filter(|array| array.len() as u64 == layers)?;
        let flags = array.iter().map(|value| match value {
            ValueRef::Bool(flag) => Some(flag),
            _ => value.as_u64().map(|number| number != 0),
        });
        flags.collect()
    }

    fn is_recurrent(&self) -> bool {
        let mut keys = self.gguf.metadata();
        keys.any(|(key, _)| key.contains(".ssm.") || key.contains(".wkv."))
    }
}

/// Returns whether a file's vocabulary cannot make llama.cpp end the process once [`vocabulary`]
/// has accepted it.
pub(super) fn covers_vocabulary(gguf: &Gguf) -> bool {
    let kind = gguf.get("tokenizer.ggml.model");
    let kind = kind.and_then(|value| value.as_str().map(Cow::into_owned));
    kind.is_some_and(|kind| COVERED_VOCABULARIES.contains(&&*kind))
}

/// Checks the vocabulary, which suffices for loading with `vocab_only`.
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
        return file.fault(format!("{key} is missing or not an array"));
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
                "{key}[{id}] has the type of byte tokens but is not a byte token of a vocabulary of kind {kind:?}"
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
    // llama.cpp asserts that names are distinct. Comparing sorted hashes saves every start the
    // milliseconds of building a set of all names; only if two hashes are equal, which nearly
    // always means equal names, is the set built.
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

/// For each token, whether its type is that of byte tokens; empty if the file has no types.
fn byte_tokens(gguf: &Gguf) -> Vec<bool> {
    const BYTE: u64 = 6;
    let types = gguf.get("tokenizer.ggml.token_type");
    let types = types.and_then(|value| value.as_array());
    let types = types.iter().flat_map(|types| types.iter());
    types.map(|kind| kind.as_u64() == Some(BYTE)).collect()
}

/// llama.cpp's name of a token: its text as a C string, or a name made from its index if that is
/// empty.
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

/// The tokens that end a text. `answer` is the token that starts an assistant's turn, if the chat
/// format has one.
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

/// Checks everything that must be checked before a model is loaded with its weights.
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
    facts.working = Working::of(&file);
    facts.head_sizes = (head_k as u32, head_v as u32);
    facts.n_layer = n_layer as u32;
    facts.n_embd = n_embd as u32;
    facts.n_head = first as u32;
    facts.n_head_kv = heads_kv.first().copied().unwrap_or(0) as u32;
    facts.n_ctx_train = n_ctx_train as u32;
    Ok(facts)
}

/// Checks what llama.cpp asserts about experts (`llama_model_base::load_hparams`).
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
/// for integers, doubles, and the formats that activations are quantized to.
pub fn is_weight_type(ty: GgmlType) -> bool {
    let unusable = ["I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"];
    !unusable.contains(&&*ty.name())
}

/// The size of a tensor in bytes, after checking that ggml can use its type for such a tensor.
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
    // ggml asserts the alignment of every buffer, and weights are used in place in the mapped file.
    if !tensor.offset.is_multiple_of(ALIGNMENT) {
        return file.fault(format!(
            "tensor {name} begins at byte {}, not at a multiple of {ALIGNMENT}",
            tensor.offset
        ));
    }
    let vector = shape.iter().skip(1).all(|&n| n == 1);
    // Norms, biases and RoPE factors are added and multiplied element-wise.
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
