//! The recipes: which type most matrices get, and which get another one. A new recipe is a row here; its
//! rules are those of `llama_tensor_get_type_impl` in llama.cpp (src/llama-quant.cpp).

use super::{Recipe, Role, When};
use modelve_gguf::GgmlType;

use GgmlType as T;
use Role::{
    AttentionKey, AttentionOutput, AttentionQuery, AttentionValue, FfnDown, FfnGate, FfnUp, Output,
    TokenEmbedding,
};
use When::{
    Always, BesideEight, First, FirstPart, FirstPartUnweighted, FirstPartWeighted, GroupedHeads,
    GroupedHeadsOrExperts, Middle, MoreBits, MoreBitsBesideEight,
};

/// Quantizations that files have and no recipe here writes.
#[rustfmt::skip]
pub(super) static READ_ONLY: &[(u64, &str)] = &[
    (21, "Q2_K_S"), (24, "IQ1_S"), (31, "IQ1_M"), (36, "TQ1_0"), (37, "TQ2_0"),
    (38, "MXFP4_MOE"), (39, "NVFP4"),
];

/// Every recipe, from the smallest to the largest.
#[rustfmt::skip]
pub static RECIPES: &[Recipe] = &[
    Recipe { name: "IQ2_XXS", file_type: 19, base: T::IQ2_XXS,
        about: "2 bits, with --imatrix only: for models that fit no other way",
        rules: &[
            (Output, Always, T::Q5_K), (TokenEmbedding, Always, T::Q2_K),
            (AttentionValue, GroupedHeadsOrExperts, T::Q4_K), (AttentionValue, Always, T::Q2_K),
            (AttentionKey, BesideEight, T::Q4_K), (AttentionOutput, BesideEight, T::Q5_K),
            (FfnDown, FirstPart(8), T::Q2_K),
        ] },
    Recipe { name: "IQ2_XS", file_type: 20, base: T::IQ2_XS,
        about: "a little more than IQ2_XXS; with --imatrix only",
        rules: &[
            (Output, Always, T::Q5_K), (TokenEmbedding, Always, T::Q2_K),
            (AttentionValue, GroupedHeadsOrExperts, T::Q4_K), (AttentionValue, Always, T::Q2_K),
            (AttentionKey, BesideEight, T::Q4_K), (AttentionOutput, BesideEight, T::Q5_K),
            (FfnDown, FirstPart(8), T::Q2_K),
        ] },
    Recipe { name: "IQ2_S", file_type: 28, base: T::IQ2_XS,
        about: "IQ2_XS with more bits where they count; with --imatrix only",
        rules: &[
            (Output, Always, T::Q5_K), (TokenEmbedding, Always, T::IQ3_S),
            (AttentionValue, GroupedHeadsOrExperts, T::Q4_K), (AttentionValue, Always, T::IQ3_S),
            (AttentionKey, BesideEight, T::Q4_K),
            (AttentionOutput, BesideEight, T::Q5_K), (AttentionOutput, Always, T::IQ3_S),
            (FfnDown, FirstPart(8), T::IQ3_S),
        ] },
    Recipe { name: "IQ2_M", file_type: 29, base: T::IQ2_S,
        about: "the best of 2 bits; with --imatrix only",
        rules: &[
            (Output, Always, T::Q5_K), (TokenEmbedding, Always, T::IQ3_S),
            (AttentionValue, GroupedHeadsOrExperts, T::Q4_K), (AttentionValue, Always, T::IQ3_S),
            (AttentionKey, BesideEight, T::Q4_K),
            (AttentionOutput, BesideEight, T::Q5_K), (AttentionOutput, Always, T::IQ3_S),
            (FfnDown, FirstPart(8), T::IQ3_S),
        ] },
    Recipe { name: "Q2_K", file_type: 10, base: T::Q2_K,
        about: "small; visibly worse text",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q4_K), (AttentionValue, Always, T::Q3_K),
            (AttentionOutput, Always, T::Q3_K), (FfnDown, Always, T::Q3_K),
        ] },
    Recipe { name: "IQ3_XXS", file_type: 23, base: T::IQ3_XXS,
        about: "3 bits, with --imatrix only: better than Q2_K at its size",
        rules: &[
            (Output, Always, T::Q5_K), (TokenEmbedding, Always, T::IQ3_S),
            (AttentionValue, GroupedHeads, T::Q4_K),
            (AttentionKey, Always, T::IQ2_S), (AttentionQuery, Always, T::IQ2_S),
            (AttentionOutput, Always, T::IQ3_S),
        ] },
    Recipe { name: "IQ3_XS", file_type: 22, base: T::IQ3_S,
        about: "a little more than IQ3_XXS; with --imatrix only",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q4_K),
            (AttentionKey, Always, T::IQ3_XXS), (AttentionQuery, Always, T::IQ3_XXS),
            (FfnGate, Middle, T::IQ3_XXS), (FfnUp, Middle, T::IQ3_XXS),
        ] },
    Recipe { name: "IQ3_S", file_type: 26, base: T::IQ3_S,
        about: "better than Q3_K_S at its size, slower on CPUs",
        rules: &[(AttentionValue, GroupedHeads, T::Q4_K)] },
    Recipe { name: "Q3_K_S", file_type: 11, base: T::Q3_K,
        about: "very small, high loss", rules: &[] },
    Recipe { name: "IQ3_M", file_type: 27, base: T::IQ3_S,
        about: "IQ3_S with more bits where they count",
        rules: &[
            (AttentionValue, Always, T::Q4_K), (AttentionOutput, Always, T::Q4_K),
            (FfnDown, FirstPart(8), T::Q4_K), (FfnDown, MoreBitsBesideEight, T::Q4_K),
        ] },
    Recipe { name: "Q3_K_M", file_type: 12, base: T::Q3_K,
        about: "very small, with more bits where they count",
        rules: &[
            (AttentionValue, First(2), T::Q5_K), (AttentionValue, Always, T::Q4_K),
            (AttentionOutput, Always, T::Q4_K),
            (FfnDown, FirstPart(16), T::Q5_K), (FfnDown, Always, T::Q4_K),
        ] },
    Recipe { name: "Q3_K_L", file_type: 13, base: T::Q3_K,
        about: "small, substantial loss",
        rules: &[
            (AttentionValue, Always, T::Q5_K), (AttentionOutput, Always, T::Q5_K),
            (FfnDown, Always, T::Q5_K),
        ] },
    Recipe { name: "IQ4_XS", file_type: 30, base: T::IQ4_XS,
        about: "smaller than Q4_K_S at like quality; slower on some CPUs",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q5_K), (FfnDown, FirstPartUnweighted(8), T::Q5_K),
        ] },
    Recipe { name: "Q4_0", file_type: 2, base: T::Q4_0,
        about: "the plain 4 bits: fastest to convert and, repacked, to run",
        rules: &[(FfnDown, FirstPartWeighted(8), T::Q4_1)] },
    Recipe { name: "IQ4_NL", file_type: 25, base: T::IQ4_NL,
        about: "4 bits on a non-linear scale, for rows that are no multiple of 256",
        rules: &[
            (AttentionValue, GroupedHeads, T::Q5_K), (FfnDown, FirstPartUnweighted(8), T::Q5_K),
        ] },
    Recipe { name: "Q4_K_S", file_type: 14, base: T::Q4_K,
        about: "small, with little loss",
        rules: &[(AttentionValue, First(4), T::Q5_K), (FfnDown, FirstPart(8), T::Q5_K)] },
    Recipe { name: "Q4_K_M", file_type: 15, base: T::Q4_K,
        about: "the one to start with: small, fast, and close to the original",
        rules: &[(AttentionValue, MoreBits, T::Q6_K), (FfnDown, MoreBits, T::Q6_K)] },
    Recipe { name: "Q4_1", file_type: 3, base: T::Q4_1,
        about: "Q4_0 with an offset per block; Q4_K_S is better", rules: &[] },
    Recipe { name: "Q5_0", file_type: 8, base: T::Q5_0,
        about: "the plain 5 bits; Q5_K_S is better",
        rules: &[(FfnDown, FirstPartWeighted(8), T::Q5_1)] },
    Recipe { name: "Q5_K_S", file_type: 16, base: T::Q5_K,
        about: "low loss", rules: &[] },
    Recipe { name: "Q5_K_M", file_type: 17, base: T::Q5_K,
        about: "very low loss",
        rules: &[(AttentionValue, MoreBits, T::Q6_K), (FfnDown, MoreBits, T::Q6_K)] },
    Recipe { name: "Q5_1", file_type: 9, base: T::Q5_1,
        about: "Q5_0 with an offset per block; Q5_K_M is better", rules: &[] },
    Recipe { name: "Q6_K", file_type: 18, base: T::Q6_K,
        about: "hardly to be told from the original", rules: &[] },
    Recipe { name: "Q8_0", file_type: 7, base: T::Q8_0,
        about: "as good as the original, half its size", rules: &[] },
    Recipe { name: "F16", file_type: 1, base: T::F16,
        about: "half precision; exact for checkpoints in f16", rules: &[] },
    Recipe { name: "BF16", file_type: 32, base: T::BF16,
        about: "exact for checkpoints in bf16", rules: &[] },
    Recipe { name: "F32", file_type: 0, base: T::F32,
        about: "exact, twice the size of the checkpoint", rules: &[] },
];

/// Recipes that store the output of attention in Q5_K beside eight experts.
#[rustfmt::skip]
pub(super) static BESIDE_EIGHT: &[&str] = &[
    "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S", "Q3_K_S", "IQ3_M", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M",
];
