//! What the automatic settings would choose for the default model, and why.

use serde::Serialize;

use crate::base::human;
use crate::commands::find;
use crate::hub::locate::Located;
use crate::runtime::weights::{self, Work};
use crate::runtime::{
    CheckedFile, Error, Facts, KvType, LoadOptions, Model, Weights, context, host, own_kernels,
};

/// The choices for a model on this machine.
#[derive(Debug, Serialize)]
pub struct Auto {
    /// The file.
    pub path: String,
    /// The number of layers on a GPU.
    pub gpu_layers: u32,
    /// The number of layers, including the output.
    pub layers: u32,
    pub device: String,
    pub gpu_why: String,
    /// The length of an answer, in tokens, from which the weights are repacked; `None` for never.
    pub repacked_from_tokens: Option<usize>,
    pub weights_why: String,
    /// The longest text that fits the memory, in tokens.
    pub longest_text: u64,
    pub context_why: String,
}

impl Auto {
    /// The choices for the default model; the error says why there are none.
    pub fn of_default() -> Result<Self, String> {
        let path = match find::locate(None).map_err(|error| error.to_string())? {
            Located::Gguf(path) => path,
            Located::Checkpoint(path) => {
                return Err(format!("{} is a checkpoint", path.display()));
            }
        };
        let checked = Model::inspect(&path).map_err(|error| error.to_string())?;
        let facts = checked.facts();
        let (gpu_layers, device, gpu_why) = layers(&checked);
        let (repacked_from_tokens, weights_why) = repacking(facts, host::free_memory());
        let (longest_text, context_why) = longest(facts, host::free_memory());
        Ok(Self {
            path: path.display().to_string(),
            gpu_layers,
            layers: facts.n_layer + 1,
            device,
            gpu_why,
            repacked_from_tokens,
            weights_why,
            longest_text,
            context_why,
        })
    }
}

fn layers(checked: &CheckedFile) -> (u32, String, String) {
    let facts = checked.facts();
    let all = facts.n_layer + 1;
    let options = LoadOptions {
        gpu_reserve: context::kv_bytes(facts, KvType::F16, 512),
        ..LoadOptions::default()
    };
    match checked.choose_device(&options) {
        Err(error) => (0, "none".to_owned(), error.to_string()),
        Ok((0, device)) if crate::runtime::devices().iter().all(|device| !device.gpu) => (
            0,
            device,
            "there is no GPU that this build can use".to_owned(),
        ),
        Ok((count, device)) => {
            let size = human::bytes(facts.tensor_bytes);
            let why = match count == all {
                true => format!("the weights ({size}) and a cache for 512 tokens fit"),
                false => format!("that many fit, of {size} of weights"),
            };
            (count, device, why)
        }
    }
}

/// The number of tokens of the prompt that the choices assume.
const PROMPT: usize = 8;

/// The length of a single prompt's answer, in tokens, from which repacking pays off, and the
/// reason.
fn repacking(facts: &Facts, free: Option<u64>) -> (Option<usize>, String) {
    let chosen = |max_tokens, free| {
        weights::choose(facts, Work::one(PROMPT, max_tokens), free) == Weights::Repacked
    };
    let ty = facts.weights.first().map(|(ty, _)| *ty);
    if own_kernels().any(|own| Some(own) == ty) {
        let why = "modelve's kernels multiply this type as the file holds it";
        return (None, why.to_owned());
    }
    const MOST: usize = 1 << 16;
    if !chosen(MOST, free) {
        let why = match chosen(MOST, None) {
            true => "there is no memory for a repacked copy",
            false => "repacking is not known to pay off for this type",
        };
        return (None, why.to_owned());
    }
    // Repacking pays off more for longer answers, so a binary search finds the length.
    let (mut never, mut always) = (0, MOST);
    while always - never > 1 {
        let middle = (never + always) / 2;
        match chosen(middle, free) {
            true => always = middle,
            false => never = middle,
        }
    }
    let why = "repacking takes time at the start and makes passes faster".to_owned();
    (Some(always), why)
}

fn longest(facts: &Facts, free: Option<u64>) -> (u64, String) {
    let trained = u64::from(facts.n_ctx_train);
    match context::check_fit(facts, KvType::F16, trained, free, facts.tensor_bytes) {
        Err(Error::Memory(refusal)) => (refusal.largest, refusal.to_string()),
        _ => (
            trained,
            "the model's own; memory is only taken as needed".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgmlType;
    use crate::runtime::kv::KvShape;

    fn phi3(ty: GgmlType) -> Facts {
        Facts {
            weights: vec![(ty, 2 << 30)],
            tensor_bytes: 2 << 30,
            kv: KvShape::even(32, 3072, 3072),
            n_ctx_train: 131_072,
            ..Facts::default()
        }
    }

    #[test]
    fn repacking_begins_where_it_is_chosen() {
        let facts = phi3(GgmlType::IQ4_NL);
        let tokens = repacking(&facts, None).0.unwrap();
        let chosen = |tokens| weights::choose(&facts, Work::one(PROMPT, tokens), None);
        assert_eq!(chosen(tokens), Weights::Repacked);
        assert_eq!(chosen(tokens - 1), Weights::Mapped);
    }

    #[test]
    fn what_keeps_the_weights_in_place_is_said() {
        let (from, why) = repacking(&phi3(GgmlType::IQ4_NL), Some(1 << 20));
        assert!(from.is_none() && why.contains("no memory"), "{why}");
        let (from, why) = repacking(&phi3(GgmlType::F32), None);
        assert!(from.is_none() && why.contains("this type"), "{why}");
    }

    #[test]
    fn the_longest_text_is_what_fits() {
        let facts = phi3(GgmlType::Q4_K);
        assert_eq!(longest(&facts, None).0, 131_072);
        let (tokens, why) = longest(&facts, Some(4 << 30));
        assert!((1..131_072).contains(&tokens), "{tokens}");
        assert!(why.contains(&tokens.to_string()), "{why}");
    }
}
