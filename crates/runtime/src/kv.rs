//! What a token leaves in the KV cache of a model, by what its file's header says.

use super::families::family;
use modelve_gguf::GgmlType;

/// Contexts come in multiples of so many tokens, as llama.cpp rounds them.
pub const CONTEXT_STEP: u32 = 256;

/// The largest number of layers llama.cpp has arrays for.
pub(super) const MAX_LAYERS: u64 = 512;

/// Values that a token adds to the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvShape {
    /// Of keys and of values, layer by layer.
    layers: Vec<(u64, u64)>,
    /// Whether every layer keeps every token: no sliding window, no recurrent state. Where not,
    /// the sizes told here are the most there can be.
    pub exact: bool,
}

/// What a header says, whatever it was read from.
pub trait Header {
    /// The architecture, such as `phi3`.
    fn architecture(&self) -> &str;
    /// A whole number of the architecture, such as `block_count`.
    fn number(&self, key: &str) -> Option<u64>;
    /// A whole number for each layer, given as one for all or as a list.
    fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>>;
    /// Returns whether layers keep a state in place of, or besides, the tokens.
    fn is_recurrent(&self) -> bool;
}

impl KvShape {
    /// The cache of the model with this header; `None` if it does not say.
    pub fn of(header: &dyn Header) -> Option<KvShape> {
        // A header can claim any number of them.
        let layers = header.number("block_count").filter(|&n| n <= MAX_LAYERS)?;
        let heads = header.per_layer("attention.head_count", layers)?;
        let kv_heads = header.per_layer("attention.head_count_kv", layers);
        let kv_heads = kv_heads.unwrap_or_else(|| heads.clone());
        let width = header.number("embedding_length")?;
        // Layers without heads of their own have no cache.
        let head = heads.iter().find(|&&n| n > 0).map_or(0, |n| width / n);
        let key = header.number("attention.key_length").unwrap_or(head);
        let value = header.number("attention.value_length").unwrap_or(head);
        // With latent attention the cache holds one narrow vector and the rotated part of the key.
        let latent = header.number("attention.kv_lora_rank");
        let latent = latent.filter(|&rank| rank > 0);
        let latent =
            latent.and_then(|rank| rank.checked_add(header.number("rope.dimension_count")?));
        let mut shape = Vec::with_capacity(kv_heads.len());
        for &heads in &kv_heads {
            shape.push(match latent {
                Some(width) => (width, 0),
                None => (heads.checked_mul(key)?, heads.checked_mul(value)?),
            });
        }
        let window = header.number("attention.sliding_window").unwrap_or(0);
        let ignored = family(header.architecture()).is_some_and(|family| family.ignores_window);
        let sliding = window > 0 && !ignored;
        Some(KvShape {
            exact: kv_heads.iter().any(|&n| n > 0) && !sliding && !header.is_recurrent(),
            layers: shape,
        })
    }

    /// A cache of so many layers that are alike, each of which keeps every token.
    pub fn even(layers: usize, keys: u64, values: u64) -> KvShape {
        KvShape {
            layers: vec![(keys, values); layers],
            exact: true,
        }
    }

    /// Bytes that a token takes in a cache of this type; `None` where a head is no whole number
    /// of its blocks.
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

    /// Two layers of four heads of 32 values, with changes.
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
        let latent = &[("attention.kv_lora_rank", 64), ("rope.dimension_count", 8)];
        assert_eq!(bytes(latent), 2 * 72 * 2);
    }

    #[test]
    fn a_window_makes_it_the_most_there_can_be_but_not_in_phi3() {
        let window = &[("attention.sliding_window", 512)];
        assert!(!KvShape::of(&Small("gemma2", window)).unwrap().exact);
        assert!(KvShape::of(&Small("phi3", window)).unwrap().exact);
        let odd = &[("attention.key_length", 20)];
        let odd = KvShape::of(&Small("llama", odd)).unwrap();
        assert_eq!(odd.token_bytes(GgmlType::Q8_0), None);
    }
}
