use super::*;
use crate::{Array, Layout, Value};

fn file() -> (Vec<u8>, usize) {
    let text = |text: &str| Value::String(text.to_owned());
    let tokens = Array::String(vec![b"a".to_vec(), b"bc".to_vec()]);
    let metadata = [
        ("general.architecture".to_owned(), text("llama")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens)),
        ("llama.block_count".to_owned(), Value::U32(1)),
    ];
    let tensor = ("x.weight".to_owned(), vec![32, 2], GgmlType::F32);
    let layout = Layout::new(&metadata, &[tensor]).unwrap();
    let mut file = layout.header().to_vec();
    let end = file.len();
    file.resize(layout.file_size() as usize, 7);
    (file, end)
}

#[test]
fn a_prefix_is_enough_once_it_holds_the_header_and_no_sooner() {
    let (file, end) = file();
    let whole = Header::parse(&file).unwrap();
    let len = file.len() as u64;
    let enough = (0..=end)
        .find(|&n| Header::parse_prefix(&file[..n], len).unwrap().is_some())
        .unwrap();
    assert!(enough <= end && enough + 32 > end, "{enough} of {end}");
    let header = Header::parse_prefix(&file[..enough], len).unwrap().unwrap();
    assert_eq!(header.tensors(), whole.tensors());
    assert_eq!(header.data_start(), end as u64);
}

#[test]
fn claims_are_held_against_the_whole_file_and_allocate_nothing() {
    let (mut bytes, end) = file();
    let len = bytes.len() as u64;
    // More tensors than memory could hold, in a file that is long enough to.
    bytes[8..16].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let entries = end - 40;
    let long = Header::parse_prefix(&bytes[..entries], 1 << 60);
    assert!(long.is_ok_and(|header| header.is_none()));
    let short = Header::parse_prefix(&bytes, len).unwrap_err();
    assert!(matches!(short, Problem::Count { .. }), "{short}");
    assert!(matches!(
        Header::parse_prefix(b"<htm", len),
        Err(Problem::Magic(_))
    ));
}

#[test]
fn of_damaged_files_a_prefix_says_what_the_whole_says_or_nothing() {
    let (sound, _) = file();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut file = sound.clone();
        for _ in 0..random(3) {
            let at = random(file.len());
            file[at] = [0, 1, 0x7f, 0xff, b'a'][random(5)];
        }
        let cut = random(file.len() + 1);
        let whole = Header::parse(&file);
        match Header::parse_prefix(&file[..cut], file.len() as u64) {
            Ok(None) => assert!(cut < file.len()),
            Ok(Some(header)) => {
                assert_eq!(header.tensors(), whole.unwrap().tensors());
                accepted += 1;
            }
            Err(problem) => {
                assert_eq!(problem.to_string(), whole.unwrap_err().to_string());
                refused += 1;
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted}, {refused}");
}
