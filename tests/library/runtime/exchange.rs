//! Weights that are replaced in a loaded model.

use super::*;
use crate::support::archs;
use modelve::gguf::Gguf;
use modelve::quant::mix;
use modelve::runtime::Exchange;

fn read(exchange: &mut Exchange, tokens: &[Token]) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    exchange
        .read(tokens, WantLogits::All, &mut |_, row| {
            rows.push(row.to_vec())
        })
        .unwrap();
    rows
}

fn tokens() -> Vec<Token> {
    (3..23).map(Token).collect()
}

#[test]
fn a_model_with_all_matrices_of_another_is_the_other() {
    let ours = Tiny::default().parts();
    let mut theirs = Tiny {
        seed: 99,
        ..Tiny::default()
    }
    .parts();
    // Vectors cannot be replaced, so both have the same.
    for (tensor, own) in theirs.tensors.iter_mut().zip(&ours.tensors) {
        if tensor.1.len() == 1 {
            tensor.3.clone_from(&own.3);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let paths = ["ours", "theirs"].map(|name| dir.path().join(name));
    ours.write(&paths[0]);
    theirs.write(&paths[1]);
    let expected = paths.each_ref().map(|path| {
        let model = Model::load(path, &LoadOptions::default()).unwrap();
        alone(&mut Session::new(&model, &exact()).unwrap(), &tokens())
    });
    assert_ne!(expected[0], expected[1]);

    let mut exchange = Exchange::open(&paths[0], &exact()).unwrap();
    assert_eq!(read(&mut exchange, &tokens()), expected[0]);
    for (name, shape, ty, bytes) in &theirs.tensors {
        if shape.len() > 1 {
            assert_eq!(exchange.ty(name), Some(*ty), "{name}");
            exchange.put(name, bytes).unwrap();
        }
    }
    assert_eq!(read(&mut exchange, &tokens()), expected[1]);
    for (name, shape, ..) in &ours.tensors {
        if shape.len() > 1 {
            exchange.restore(name).unwrap();
        }
    }
    assert_eq!(read(&mut exchange, &tokens()), expected[0]);

    let wrong = exchange.put("output.weight", &[0; 8]).unwrap_err();
    assert!(wrong.to_string().contains("not 8"), "{wrong}");
    let unknown = exchange.put("no.weight", &[]).unwrap_err();
    assert!(unknown.to_string().contains("`no.weight`"), "{unknown}");
}

#[test]
fn every_matrix_of_every_family_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for (arch, path) in archs::models(dir.path()) {
        let gguf = Gguf::open(&path).unwrap();
        let mut exchange = Exchange::open(&path, &exact()).unwrap();
        let before = read(&mut exchange, &tokens());
        for tensor in gguf.tensors() {
            if !mix::is_quantized(&tensor.name, tensor.shape.len()) {
                continue;
            }
            assert_eq!(
                exchange.ty(&tensor.name),
                Some(tensor.ty),
                "{arch} {}",
                tensor.name
            );
            let zeros = vec![0; gguf.data(tensor).len()];
            exchange.put(&tensor.name, &zeros).unwrap();
            let without = read(&mut exchange, &tokens());
            assert!(without != before, "{arch}: {} does nothing", tensor.name);
            exchange.restore(&tensor.name).unwrap();
        }
        assert_eq!(read(&mut exchange, &tokens()), before, "{arch}");
    }
}
