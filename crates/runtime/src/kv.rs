//! The size of a token in the KV cache of a model, computed from the header of its file.

use super::families::family;
use modelve_gguf::GgmlType;

/// llama.cpp rounds the size of a context up to a multiple of this number of tokens.
pub const CONTEXT_STEP: u32 = 256;

/// Maximum number of layers in llama.cpp (`LLAMA_MAX_LAYERS`).
pub(super) const MAX_LAYERS: u64 = 512;

/// The number of values that a token adds to the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvShape {
    /// The number of values of keys and of values for each layer.
    layers: Vec<(u64, u64)>,
    /// Whether no layer keeps a recurrent state instead of tokens. If one does, the sizes are upper
    /// bounds.
    pub exact: bool,
}

/// The header of a model, from a GGUF file or elsewhere.
pub trait Header {
    /// The architecture, such as `phi3`.
    fn architecture(&self) -> &str;
    /// The integer under a key of the architecture, such as `block_count`.
    fn number(&self, key: &str) -> Option<u64>;
    /// An integer for each layer, from a key that holds one for all layers or a list.
    fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>>;
    /// The number of entries of a list, by the full name of its key.
    fn entries(&self, key: &str) -> Option<u64>;
    /// A boolean for each layer, from a key that holds a list.
    fn flags(&self, key: &str, layers: u64) -> Option<Vec<bool>>;
    /// Returns whether layers keep a recurrent state, with or without the tokens.
    fn is_recurrent(&self) -> bool;
}

impl KvShape {
    /// The cache of the model with this header; `None` if the header lacks the sizes.
    ///
    /// Layers with a sliding window keep every token like the others, because contexts use llama.cpp's
    /// `swa_full` so that sequences can be forked and truncated.
    pub fn of(header: &dyn Header) -> Option<KvShape> {
        // The header may come from a hostile file and claim any number of layers.
        let layers = header.number("block_count").filter(|&n| n <= MAX_LAYERS)?;
        let heads = header.per_layer("attention.head_count", layers)?;
        let kv_heads = header.per_layer("attention.head_count_kv", layers);
        let kv_heads = kv_heads.unwrap_or_else(|| heads.clone());
        let width = header.number("embedding_length")?;
        // Layers without heads have no cache; the first layer with heads gives the size of a head.
        let head = heads.iter().find(|&&n| n > 0).map_or(0, |n| width / n);
        let length = |name: &str, usual: u64| header.number(name).unwrap_or(usual);
        let key = length("attention.key_length", head);
        let value = length("attention.value_length", head);
        // Layers with a sliding window can have heads of another size.
        let sliding = header.flags("attention.sliding_window_pattern", layers);
        let key_sliding = length("attention.key_length_swa", key);
        let value_sliding = length("attention.value_length_swa", value);
        // With latent attention the values are a part of the keys.
        let is_latent = length("attention.key_length_mla", 0) > 0;
        // The last layers can look into the cache of an earlier one.
        let shared = length("attention.shared_kv_layers", 0);
        let own = family(header.architecture()).and_then(|family| family.layers_with_kv);
        let own = own.unwrap_or(layers.saturating_sub(shared)) as usize;
        let mut shape = Vec::with_capacity(kv_heads.len());
        for (layer, &heads) in kv_heads.iter().enumerate().take(own) {
            let slides = sliding.as_ref().and_then(|flags| flags.get(layer)) == Some(&true);
            let (key, value) = match slides {
                true => (key_sliding, value_sliding),
                false => (key, value),
            };
            let value = if is_latent { 0 } else { value };
            shape.push((heads.checked_mul(key)?, heads.checked_mul(value)?));
        }
        Some(KvShape {
            exact: kv_heads.iter().any(|&n| n > 0) && !header.is_recurrent(),
            layers: shape,
        })
    }

    /// The cache of `layers` layers of the same size, each of which keeps every token.
    pub fn even(layers: usize, keys: u64, values: u64) -> KvShape {
        KvShape {
            layers: vec![(keys, values); layers],
            exact: true,
        }
    }

    /// The bytes that a token takes in each layer's part of a cache of type `ty`, for the first layers
    /// of a model: the others keep nothing. `None` as for [`KvShape::token_bytes`].
    pub fn layer_bytes(&self, ty: GgmlType) -> Option<Vec<u64>> {
        let layer =
            |&(keys, values): &(u64, u64)| ty.row_bytes(keys)?.checked_add(ty.row_bytes(values)?);
        self.layers.iter().map(layer).collect()
    }

    /// The bytes that a token takes in a cache of type `ty`; `None` if the values of a layer are
    /// not a whole number of its blocks.
    pub fn token_bytes(&self, ty: GgmlType) -> Option<u64> {
        let mut sum = 0u64;
        for &(keys, values) in &self.layers {
            for row in [keys, values] {
                sum = sum.checked_add(ty.row_bytes(row)?)?;
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with two layers of four heads of 32 values, and overrides.
    struct Small(&'static str, &'static [(&'static str, u64)]);

    impl Header for Small {
        fn architecture(&self) -> &str {
            self.0
        }

        fn number(&self, key: &str) -> Option<u64> {
            let changed = self.1.iter().find(|(name, _)| *name == key);
            let usual = [("block_count", 2), ("embedding_length", 128)];
            let usual = usual.iter().find(|(name, _)| *name == key);
            changed.or(usual).map(|(_, number)| *number)
        }

        fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>> {
            let all = self
                .number(key)
                .or((key == "attention.head_count").then_some(4));
            all.map(|n| vec![n; layers as usize])
        }

        fn entries(&self, _: &str) -> Option<u64> {
            None
        }

        fn flags(&self, _: &str, layers: u64) -> Option<Vec<bool>> {
            Some((0..layers).map(|layer| layer == 0).collect())
        }

        fn is_recurrent(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_token_takes_the_keys_and_values_of_all_layers() {
        let bytes = |changes| {
            let shape = KvShape::of(&Small("llama", changes)).unwrap();
            assert!(shape.exact);
            shape.token_bytes(GgmlType::F16).unwrap()
        };
        assert_eq!(bytes(&[]), 2 * 2 * 128 * 2);
        assert_eq!(bytes(&[("attention.head_count_kv", 1)]), 2 * 2 * 32 * 2);
        assert_eq!(bytes(&[("attention.value_length", 16)]), 2 * (128 + 64) * 2);
        let latent = &[
            ("attention.head_count_kv", 1),
            ("attention.key_length", 72),
            ("attention.value_length", 64),
            ("attention.key_length_mla", 48),
        ];
        assert_eq!(bytes(latent), 2 * 72 * 2);
    }

    #[test]
    fn layers_that_slide_keep_every_token_and_those_that_share_none() {
        let bytes = |architecture, changes| {
            let shape = KvShape::of(&Small(architecture, changes)).unwrap();
            shape.token_bytes(GgmlType::F16).unwrap()
        };
        let window = &[("attention.sliding_window", 512)];
        assert_eq!(bytes("gemma2", window), bytes("gemma2", &[]));
        assert!(KvShape::of(&Small("gemma2", window)).unwrap().exact);
        // The first layer slides, the second does not.
        let smaller = &[
            ("attention.key_length_swa", 16),
            ("attention.value_length_swa", 8),
        ];
        assert_eq!(bytes("gemma4", smaller), 2 * (4 * (16 + 8) + 2 * 128));
        let shared = &[("attention.shared_kv_layers", 1)];
        assert_eq!(bytes("gemma4", shared), 2 * 2 * 128);
    }

    #[test]
    fn heads_that_are_no_whole_blocks_have_no_size() {
        let odd = &[("attention.key_length", 20)];
        let odd = KvShape::of(&Small("llama", odd)).unwrap();
        assert_eq!(odd.token_bytes(GgmlType::Q8_0), None);
    }
}
