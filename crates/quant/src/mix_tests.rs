use super::*;

/// A Phi-3 of `layers` layers in llama.cpp's order, with rows of `columns` weights.
fn phi3(layers: u32, columns: u64, tied: bool) -> Vec<(String, Vec<u64>)> {
    let mut tensors = Vec::new();
    let mut push = |name: String, shape: &[u64]| tensors.push((name, shape.to_vec()));
    if !tied {
        push("output.weight".into(), &[columns, 1000]);
    }
    push("output_norm.weight".into(), &[columns]);
    push("rope_factors_long.weight".into(), &[48]);
    push("token_embd.weight".into(), &[columns, 1000]);
    for layer in 0..layers {
        for name in [
            "attn_norm",
            "attn_output",
            "attn_qkv",
            "ffn_down",
            "ffn_norm",
            "ffn_up",
        ] {
            let shape = [columns, columns];
            let shape = if name.ends_with("norm") {
                &shape[..1]
            } else {
                &shape[..]
            };
            push(format!("blk.{layer}.{name}.weight"), shape);
        }
    }
    tensors
}

fn types(recipe: &str, facts: Facts, tensors: &[(String, Vec<u64>)]) -> Vec<(String, GgmlType)> {
    let refs: Vec<_> = tensors
        .iter()
        .map(|(n, s)| (n.as_str(), s.as_slice()))
        .collect();
    let recipe = Recipe::find(recipe).unwrap();
    let decisions = decide(recipe, &Overrides::default(), &facts, &refs).unwrap();
    let names = tensors.iter().map(|(name, _)| name.clone());
    names.zip(decisions.iter().map(|d| d.ty)).collect()
}

fn count(types: &[(String, GgmlType)], ty: GgmlType) -> usize {
    types.iter().filter(|(_, t)| *t == ty).count()
}

const PLAIN: Facts = Facts {
    layers: 32,
    heads_per_kv_head: 1,
    is_large: false,
    experts: 0,
    imatrix: false,
};

#[test]
fn phi3_mini_gets_the_types_that_llama_cpp_reports() {
    let types = types("q4_k_m", PLAIN, &phi3(32, 3072, false));
    // 197 tensors in the real model: 97 Q4_K, 33 Q6_K, 67 F32; one of the two rope tables is here.
    let seen = [T::Q4_K, T::Q6_K, T::F32].map(|ty| count(&types, ty));
    assert_eq!(seen, [97, 33, 66]);
}

#[test]
fn an_embedding_that_is_the_output_too_gets_its_type() {
    let tied = types("Q4_0", PLAIN, &phi3(2, 3072, true));
    assert!(tied.contains(&("token_embd.weight".into(), T::Q6_K)));
    let own = types("Q4_0", PLAIN, &phi3(2, 3072, false));
    assert!(own.contains(&("token_embd.weight".into(), T::Q4_0)));
    assert!(own.contains(&("output.weight".into(), T::Q6_K)));
}

#[test]
fn rows_that_fill_no_block_fall_back_with_a_reason() {
    let tensors = phi3(8, 96, false);
    let facts = Facts { layers: 8, ..PLAIN };
    let types = types("Q4_K_M", facts, &tensors);
    assert_eq!(count(&types, T::Q4_K), 0);
    assert!(types.contains(&("output.weight".into(), T::Q8_0)));
    assert!(types.contains(&("blk.3.ffn_up.weight".into(), T::Q5_0)));
    let odd = types_of_odd_rows();
    assert_eq!(odd.ty, T::F16);
    assert!(odd.reason.contains("40"), "{}", odd.reason);
}

fn types_of_odd_rows() -> Decision {
    let recipe = Recipe::find("Q4_0").unwrap();
    let tensors: [(&str, &[u64]); 2] = [
        ("output.weight", &[64, 8]),
        ("blk.0.ffn_up.weight", &[40, 8]),
    ];
    let facts = Facts { layers: 1, ..PLAIN };
    decide(recipe, &Overrides::default(), &facts, &tensors)
        .unwrap()
        .remove(1)
}

#[test]
fn grouped_heads_and_an_imatrix_change_what_a_recipe_does() {
    let tensors = phi3(16, 256, false);
    let grouped = Facts {
        layers: 16,
        heads_per_kv_head: 4,
        is_large: false,
        experts: 0,
        imatrix: false,
    };
    assert_eq!(count(&types("Q2_K", grouped, &tensors), T::Q4_K), 16);
    assert_eq!(count(&types("IQ4_XS", grouped, &tensors), T::Q5_K), 16 + 2);
    let weighted = Facts {
        imatrix: true,
        ..grouped
    };
    assert_eq!(count(&types("IQ4_XS", weighted, &tensors), T::Q5_K), 16);
    assert_eq!(count(&types("Q4_0", weighted, &tensors), T::Q4_1), 2);
}

/// What llama-quantize does with Llama of 80 layers and grouped heads: values never get less than Q5_K.
#[test]
fn values_of_a_large_model_get_more_bits() {
    let large = Facts {
        layers: 80,
        heads_per_kv_head: 4,
        is_large: true,
        experts: 0,
        imatrix: false,
    };
    let values: Vec<(String, Vec<u64>)> = (0..80)
        .map(|layer| (format!("blk.{layer}.attn_v.weight"), vec![256, 64]))
        .collect();
    for recipe in ["Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"] {
        let small = types(
            recipe,
            Facts {
                is_large: false,
                ..large
            },
            &values,
        );
        assert!(
            small.iter().any(|(_, ty)| matches!(*ty, T::Q3_K | T::Q4_K)),
            "{recipe}"
        );
        let types = types(recipe, large, &values);
        assert!(
            types.iter().all(|(_, ty)| matches!(*ty, T::Q5_K | T::Q6_K)),
            "{recipe}"
        );
    }
    assert_eq!(count(&types("Q4_0", large, &values), T::Q4_0), 80);
}

#[test]
fn what_is_asked_for_by_name_wins_over_the_recipe() {
    let overrides = Overrides {
        tensors: vec![
            (Regex::new(r"blk\.[01]\.ffn").unwrap(), T::Q8_0),
            (Regex::new("ffn_up").unwrap(), T::Q5_K),
        ],
        output: Some(T::BF16),
        token_embedding: Some(T::Q3_K),
    };
    let tensors = phi3(8, 256, false);
    let refs: Vec<_> = tensors
        .iter()
        .map(|(n, s)| (n.as_str(), s.as_slice()))
        .collect();
    let facts = Facts { layers: 8, ..PLAIN };
    let recipe = Recipe::find("Q4_K_M").unwrap();
    let decisions = decide(recipe, &overrides, &facts, &refs).unwrap();
    let of = |name: &str| {
        let at = refs.iter().position(|(n, _)| *n == name).unwrap();
        decisions[at].ty
    };
    assert_eq!(of("output.weight"), T::BF16);
    assert_eq!(of("token_embd.weight"), T::Q3_K);
    assert_eq!(of("blk.1.ffn_up.weight"), T::Q8_0);
    assert_eq!(of("blk.2.ffn_up.weight"), T::Q5_K);
    // llama.cpp counts only the tensors that the recipe decides: layer 2 is its first ffn_down.
    assert_eq!(of("blk.2.ffn_down.weight"), T::Q6_K);
    assert_eq!(of("blk.1.ffn_norm.weight"), T::F32);

    let tensors: [(&str, &[u64]); 1] = [("token_embd.weight", &[100, 8])];
    let error = decide(recipe, &overrides, &facts, &tensors).unwrap_err();
    assert!(error.to_string().contains("token_embd.weight"), "{error}");
}

#[test]
fn names_are_unique_and_found_in_any_case() {
    for recipe in RECIPES {
        let found = Recipe::find(&recipe.name.to_lowercase()).unwrap();
        assert!(std::ptr::eq(found, recipe), "{}", recipe.name);
    }
    assert!(Recipe::find("Q4").is_none());
}

/// `llama_tensor_get_type_impl` for `n_expert == 8`, as for Mixtral 8x7B.
#[test]
fn attention_beside_eight_experts_gets_more_bits() {
    let names = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down_exps"];
    let tensors: Vec<(String, Vec<u64>)> = names
        .iter()
        .map(|name| (format!("blk.0.{name}.weight"), vec![256, 256]))
        .collect();
    for (experts, recipe, wanted) in [
        (8, "Q4_K_M", [T::Q8_0, T::Q5_K, T::Q4_K, T::Q8_0, T::Q6_K]),
        (8, "Q3_K_L", [T::Q8_0, T::Q3_K, T::Q3_K, T::Q8_0, T::Q5_K]),
        (8, "Q4_0", [T::Q8_0, T::Q4_0, T::Q4_0, T::Q8_0, T::Q4_0]),
        (4, "Q4_K_M", [T::Q4_K, T::Q4_K, T::Q4_K, T::Q6_K, T::Q6_K]),
    ] {
        let facts = Facts {
            layers: 1,
            experts,
            ..PLAIN
        };
        let types = types(recipe, facts, &tensors);
        let types: Vec<T> = types.into_iter().map(|(_, ty)| ty).collect();
        assert_eq!(types, wanted, "{experts} {recipe}");
    }
}
