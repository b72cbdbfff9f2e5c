use super::super::Checkpoint;
use super::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Opens a fixture as a checkpoint of one matrix.
fn checkpoint(file: &Path) -> (tempfile::TempDir, Checkpoint) {
    let bytes = fs::read(file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let about = metadata.metadata().clone().unwrap();
    let quantization: Value = serde_json::from_str(&about["quantization_config"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"quantization_config": quantization});
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

fn read(checkpoint: &Checkpoint, step: u64) -> Vec<u8> {
    let shards = Shards::open(checkpoint).unwrap();
    let mut tensors = checkpoint.tensors();
    let tensor = tensors.find(|tensor| tensor.packed.is_some()).unwrap();
    let (rows, mut all, mut piece) = (tensor.shape[0], Vec::new(), Vec::new());
    for row in (0..rows).step_by(step as usize) {
        let height = rows.min(row.saturating_add(step)) - row;
        piece.resize((height * tensor.row_bytes()) as usize, 0);
        let offset = row * tensor.row_bytes();
        shards.read_at(tensor, offset, &mut piece).unwrap();
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, tensor.bytes);
    all
}

/// The rows of a word, a group or a block may be in different pieces.
#[test]
fn pieces_of_any_height_make_the_same_matrix() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/packed");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (_dir, checkpoint) = checkpoint(&path);
        let whole = read(&checkpoint, u64::MAX / 2);
        for step in [1, 3, 7, 33] {
            let pieces = read(&checkpoint, step);
            assert!(pieces == whole, "{}: pieces of {step}", path.display());
        }
        let tensor = checkpoint.tensors().find(|tensor| tensor.packed.is_some());
        let tensor = tensor.unwrap();
        // Part of a row, as for matrices whose columns become rows.
        let mut part = [0; 4 * 9];
        let offset = 5 * tensor.row_bytes() + 4 * 50;
        let shards = Shards::open(&checkpoint).unwrap();
        shards.read_at(tensor, offset, &mut part).unwrap();
        assert!(whole[offset as usize..].starts_with(&part));
        let stored = tensor.stored_bytes();
        let file = fs::metadata(&path).unwrap().len();
        assert!(stored < file && file < stored + 2048, "{stored} of {file}");
    }
}
