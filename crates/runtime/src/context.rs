//! The memory that a context takes, and whether it fits.

use super::check::Facts;
use super::error::{Error, MemoryShortage, Result};
use super::host;
use super::kv::CONTEXT_STEP;
use super::model::{Model, Weights};
use super::settings::{KvType, Settings};
use super::working::Working;

/// The size in bytes of a KV cache of `n_ctx` tokens (keys and values of all layers).
pub fn kv_bytes(facts: &Facts, kv_type: KvType, n_ctx: u64) -> u64 {
    let token = facts.kv.token_bytes(kv_type.gguf());
    // Heads that are not a whole number of blocks are rejected later; until then, assume four bytes
    // a value.
    let token = token.or_else(|| facts.kv.token_bytes(KvType::F32.gguf()));
    n_ctx.saturating_mul(token.unwrap_or(u64::MAX))
}

/// Checks that there is enough memory for a context. `weights` is the number of bytes of the model
/// that are not in memory yet.
///
/// # Errors
/// [`Error::Memory`].
pub fn check_fit(
    facts: &Facts,
    kv_type: KvType,
    n_ctx: u64,
    free: Option<u64>,
    weights: u64,
) -> Result<()> {
    let (Some(free), true) = (free, facts.kv.exact) else {
        return Ok(());
    };
    let room = free.saturating_sub(weights);
    let room = room.saturating_sub(facts.working.fixed);
    let per_token = kv_bytes(facts, kv_type, 1).saturating_add(Working::PER_TOKEN);
    if n_ctx.saturating_mul(per_token) <= room {
        return Ok(());
    }
    let step = u64::from(CONTEXT_STEP);
    let largest = room.checked_div(per_token).unwrap_or(0) / step * step;
    Err(Error::Memory(MemoryShortage {
        n_ctx,
        per_token,
        free: room,
        largest,
        kv_type,
    }))
}

/// [`check_fit`] for a loaded model; on a GPU the device itself decides.
pub(super) fn check_memory(model: &Model, settings: &Settings) -> Result<()> {
    match model.gpu_layers() {
        0 => check_host_memory(model, settings),
        _ => Ok(()),
    }
}

/// [`check_fit`] for a cache in the host's memory; the weights may be on a device.
pub(super) fn check_host_memory(model: &Model, settings: &Settings) -> Result<()> {
    // The memory of mapped weights counts as free until they are read; that of copies no longer
    // does, and weights on a device take none.
    let weights = match model.weights() {
        Weights::Mapped if model.gpu_layers() == 0 => model.facts().tensor_bytes,
        _ => 0,
    };
    let n_ctx = u64::from(settings.n_ctx);
    check_fit(
        model.facts(),
        settings.kv_type,
        n_ctx,
        host::free_memory(),
        weights,
    )
}

#[cfg(test)]
mod tests {
    use super::super::kv::KvShape;
    use super::*;

    /// Phi-3-mini: 32 layers, 32 heads of 96 values.
    fn phi3() -> Facts {
        Facts {
            kv: KvShape::even(32, 3072, 3072),
            ..Facts::default()
        }
    }

    #[test]
    fn a_token_of_phi3_costs_384_kib_in_f16() {
        assert_eq!(kv_bytes(&phi3(), KvType::F16, 1), 384 << 10);
        assert_eq!(kv_bytes(&phi3(), KvType::F32, 4096), 3 << 30);
        assert_eq!(kv_bytes(&phi3(), KvType::Q8_0, 1), 2 * 32 * 3072 / 32 * 34);
    }

    #[test]
    fn a_refusal_shows_its_arithmetic() {
        let free = 21 << 30;
        let error = check_fit(&phi3(), KvType::F16, 131_072, Some(free), 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a context of 131072 tokens × 387 KiB = 48.4 GiB does not fit; 21.0 GiB free; \
             the largest that fits is 56832 tokens"
        );
        assert!(check_fit(&phi3(), KvType::F16, 56_832, Some(free), 0).is_ok());
        assert!(check_fit(&phi3(), KvType::F16, 57_088, Some(free), 0).is_err());
        assert!(check_fit(&phi3(), KvType::F16, 56_832, Some(free), 1 << 30).is_err());
    }

    #[test]
    fn nothing_is_refused_on_a_guess() {
        assert!(check_fit(&phi3(), KvType::F16, 1 << 40, None, 0).is_ok());
        let mut recurrent = phi3();
        recurrent.kv.exact = false;
        assert!(check_fit(&recurrent, KvType::F16, 1 << 40, Some(0), 0).is_ok());
    }
}
