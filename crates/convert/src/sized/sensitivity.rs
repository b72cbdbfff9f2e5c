//! How much the predictions of a model change with the products of its matrices, before anything is
//! measured.

use modelve_quant::mix::Role;

/// The divergence in nats per relative error of the products of all matrices of this role together:
/// it spreads over the layers about evenly, however many there are. `tied` says that the token
/// embedding is the output, too.
pub(super) fn sensitivity(role: Role, tied: bool) -> f64 {
    match role {
        Role::Output => 0.8,
        Role::TokenEmbedding if tied => 1.2,
        Role::TokenEmbedding => 0.5,
        Role::AttentionValue => 0.7,
        Role::AttentionKey | Role::AttentionQuery => 0.2,
        Role::AttentionOutput => 0.5,
        Role::FfnGate => 0.4,
        Role::FfnUp => 0.9,
        Role::FfnDown => 1.2,
        Role::Other => 0.5,
    }
}
