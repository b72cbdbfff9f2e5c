//! How much the predictions of a model change with the products of a matrix, before anything is
//! measured.

use modelve_quant::mix::Role;

/// The divergence in nats per relative error of the products of one matrix of this role. `tied` says
/// that the token embedding is the output, too.
pub(super) fn sensitivity(role: Role, tied: bool) -> f64 {
    match role {
        Role::TokenEmbedding if tied => 1.0,
        _ => 1.0,
    }
}
