//! How much the predictions of a model change with the products of its matrices, before anything is
//! measured.

use modelve_quant::mix::Role;

/// The divergence in nats per relative error of the products of all matrices of this role together:
/// it spreads over the layers about evenly, however many there are. `tied` says that the token
/// embedding is the output, too.
///
/// Measured on SmolLM2-135M, whose embedding is tied, and for an output of its own on the built-in
/// model. What counts is how the roles compare: another model may be several times as sensitive in all.
pub(super) fn sensitivity(role: Role, tied: bool) -> f64 {
    match role {
        Role::Output => 9.0,
        Role::TokenEmbedding if tied => 9.4,
        Role::TokenEmbedding => 5.6,
        Role::AttentionValue => 5.8,
        Role::AttentionKey => 2.4,
        Role::AttentionQuery => 1.5,
        Role::AttentionOutput => 3.3,
        Role::FfnGate => 6.5,
        Role::FfnUp => 6.4,
        Role::FfnDown => 12.5,
        Role::Other => 5.0,
    }
}
