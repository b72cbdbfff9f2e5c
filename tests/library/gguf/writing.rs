//! What the writer writes, and what it refuses to write.

use super::*;

fn write(path: &Path, metadata: &[(String, Value)], tensors: &[(String, Vec<u64>, GgmlType)]) {
    let layout = Layout::new(metadata, tensors).unwrap();
    let mut bytes = layout.header().to_vec();
    bytes.resize(layout.file_size() as usize, 0);
    for tensor in layout.tensors() {
        for (at, byte) in bytes[tensor.offset as usize..][..tensor.bytes.unwrap() as usize]
            .iter_mut()
            .enumerate()
        {
            *byte = (at % 251) as u8;
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn reads_a_split_model_from_any_of_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let part = |no: u16, count: u16, name: &str| {
        let metadata = [
            ("split.no".to_owned(), Value::U16(no)),
            ("split.count".to_owned(), Value::U16(count)),
        ];
        let path = dir
            .path()
            .join(format!("m-{:05}-of-{count:05}.gguf", no + 1));
        write(
            &path,
            &metadata,
            &[(name.to_owned(), vec![32], GgmlType::F32)],
        );
        path
    };
    let first = part(0, 3, "a");
    let second = part(1, 3, "b");
    let error = Gguf::open(&second).unwrap_err().to_string();
    assert!(error.contains("m-00003-of-00003.gguf"), "{error}");
    let third = part(2, 3, "c");
    for path in [&first, &second, &third] {
        let model = Gguf::open(path).unwrap();
        let names: Vec<_> = model
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.part))
            .collect();
        assert_eq!(names, [("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(model.paths().len(), 3);
        assert_eq!(model.data(model.tensor("c").unwrap())[..3], [0, 1, 2]);
    }
    part(2, 3, "a");
    assert!(
        Gguf::open(&first)
            .unwrap_err()
            .to_string()
            .contains("`a` stands twice")
    );
    let renamed = dir.path().join("renamed.gguf");
    fs::copy(&first, &renamed).unwrap();
    assert!(
        Gguf::open(&renamed)
            .unwrap_err()
            .to_string()
            .contains("-00001-of-00003.gguf")
    );
}

#[test]
fn writer_refuses_what_no_reader_accepts() {
    let tensor = |shape: Vec<u64>, ty| {
        Layout::new(&[], &[("w".into(), shape, ty)])
            .unwrap_err()
            .problem
    };
    assert!(matches!(
        tensor(vec![], GgmlType::F32),
        Problem::Dimensions { n: 0, .. }
    ));
    assert!(matches!(
        tensor(vec![100], GgmlType::Q4_K),
        Problem::Row { .. }
    ));
    assert!(matches!(
        tensor(vec![1], GgmlType(99)),
        Problem::UnknownType { .. }
    ));
    assert!(matches!(
        tensor(vec![u64::MAX, 4], GgmlType::F32),
        Problem::Overflow { .. }
    ));
    let twice = [
        ("k".to_owned(), Value::U8(1)),
        ("k".to_owned(), Value::U8(1)),
    ];
    assert!(matches!(
        Layout::new(&twice, &[]).unwrap_err().problem,
        Problem::DuplicateKey { .. }
    ));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        ".{0,40}".prop_map(Value::String),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)
            .prop_map(|v| Value::Array(Array::String(v))),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(|v| Value::Array(Array::F32(v))),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(|v| Value::Array(Array::I32(v))),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(|v| Value::Array(Array::Bool(v))),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(|v| Value::Array(Array::U64(v))),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(|v| Value::Array(Array::I16(v))),
    ]
}

fn tensors() -> impl Strategy<Value = Vec<(String, Vec<u64>, GgmlType)>> {
    let types = GgmlType::all().len();
    let tensor = (0..types, prop::collection::vec(1u64..4, 1..=4)).prop_map(|(ty, mut shape)| {
        let info = &GgmlType::all()[ty];
        shape[0] *= info.block_size;
        (shape, info.ty)
    });
    prop::collection::vec(tensor, 0..6).prop_map(|tensors| {
        tensors
            .into_iter()
            .enumerate()
            .map(|(i, (shape, ty))| (format!("blk.{i}.w"), shape, ty))
            .collect()
    })
}

/// Compares bit patterns, so that NaN equals itself.
fn debug_bits(value: &Value) -> String {
    match value {
        Value::F32(v) => format!("F32 {:x}", v.to_bits()),
        Value::F64(v) => format!("F64 {:x}", v.to_bits()),
        Value::Array(Array::F32(v)) => format!(
            "F32s {:x?}",
            v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        ),
        other => format!("{other:?}"),
    }
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::U8(v) => Value::U8(v),
        ValueRef::I8(v) => Value::I8(v),
        ValueRef::U16(v) => Value::U16(v),
        ValueRef::I16(v) => Value::I16(v),
        ValueRef::U32(v) => Value::U32(v),
        ValueRef::I32(v) => Value::I32(v),
        ValueRef::F32(v) => Value::F32(v),
        ValueRef::Bool(v) => Value::Bool(v),
        ValueRef::U64(v) => Value::U64(v),
        ValueRef::I64(v) => Value::I64(v),
        ValueRef::F64(v) => Value::F64(v),
        ValueRef::String(v) => Value::String(String::from_utf8(v.to_vec()).unwrap()),
        ValueRef::Array(array) => {
            let items: Vec<ValueRef> = array.iter().collect();
            assert_eq!(items.len(), array.len());
            Value::Array(match array.element_type() {
                modelve::gguf::ValueType::String => Array::String(
                    items
                        .iter()
                        .map(|v| v.as_bytes().unwrap().to_vec())
                        .collect(),
                ),
                modelve::gguf::ValueType::F32 => Array::F32(
                    items
                        .iter()
                        .map(|v| match v {
                            ValueRef::F32(v) => *v,
                            _ => panic!(),
                        })
                        .collect(),
                ),
                modelve::gguf::ValueType::I32 => {
                    Array::I32(items.iter().map(|v| v.as_i64().unwrap() as i32).collect())
                }
                modelve::gguf::ValueType::I16 => {
                    Array::I16(items.iter().map(|v| v.as_i64().unwrap() as i16).collect())
                }
                modelve::gguf::ValueType::U64 => {
                    Array::U64(items.iter().map(|v| v.as_u64().unwrap()).collect())
                }
                modelve::gguf::ValueType::Bool => {
                    Array::Bool(items.iter().map(|v| v.as_bool().unwrap()).collect())
                }
                other => panic!("{other:?} is not written by this test"),
            })
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(value(), 0..12), tensors in tensors()) {
        let metadata: Vec<(String, Value)> = values.into_iter().enumerate().map(|(i, v)| (format!("key.{i}"), v)).collect();
        let layout = Layout::new(&metadata, &tensors).unwrap();
        let again = Layout::new(&metadata, &tensors).unwrap();
        prop_assert_eq!(layout.header(), again.header());
        let mut bytes = layout.header().to_vec();
        bytes.resize(layout.file_size() as usize, 0);
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(header.tensors(), layout.tensors());
        let read: Vec<(String, String)> = header.metadata(&bytes).map(|(k, v)| (k.to_owned(), debug_bits(&owned(v)))).collect();
        let written: Vec<(String, String)> = metadata.iter().map(|(k, v)| (k.clone(), debug_bits(v))).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn flipped_bytes_never_panic(at in 0usize..600, byte: u8, second in 0usize..600, other: u8) {
        let File(mut bytes) = small();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes[second % len] = other;
        if let Ok(header) = Header::parse(&bytes) {
            for (_, value) in header.metadata(&bytes) {
                if let Some(array) = value.as_array() {
                    prop_assert_eq!(array.iter().count(), array.len());
                }
            }
        }
    }
}

/// gguf-py, which we did not write, reads what we write.
#[test]
#[allow(clippy::print_stderr)]
fn gguf_py_reads_what_is_written() {
    let python = std::env::var("MODELVE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    if !Command::new(&python)
        .args(["-c", "import gguf"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: {python} has no module `gguf` (pip install gguf)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.gguf");
    let metadata = [
        ("general.architecture".to_owned(), Value::from("phi3")),
        ("phi3.block_count".to_owned(), Value::U32(32)),
        (
            "numbers".to_owned(),
            Value::Array(Array::F32(vec![0.5, -1.0])),
        ),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array(["<s>", "▁bat"].iter().collect()),
        ),
        ("flag".to_owned(), Value::Bool(true)),
        ("large".to_owned(), Value::U64(1 << 40)),
    ];
    let tensors = [
        ("a.weight".to_owned(), vec![256, 3], GgmlType::Q4_K),
        ("b.weight".to_owned(), vec![5], GgmlType::F32),
        ("c.weight".to_owned(), vec![64, 2, 2], GgmlType::BF16),
    ];
    write(&path, &metadata, &tensors);
    let script = r"
import sys, json
from gguf import GGUFReader
r = GGUFReader(sys.argv[1])
fields = {k: f.contents() for k, f in r.fields.items() if not k.startswith('GGUF.')}
tensors = [[t.name, [int(n) for n in t.shape], t.tensor_type.name, int(t.n_bytes), int(t.data_offset), int(t.data.reshape(-1).view('uint8')[1])] for t in r.tensors]
print(json.dumps([fields, tensors]))
";
    let output = Command::new(&python)
        .arg("-c")
        .arg(script)
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = Gguf::open(&path).unwrap();
    assert_eq!(
        read[0],
        serde_json::json!({"general.architecture": "phi3", "phi3.block_count": 32, "numbers": [0.5, -1.0],
            "tokenizer.ggml.tokens": ["<s>", "▁bat"], "flag": true, "large": 1u64 << 40})
    );
    let expected: Vec<_> = ours
        .tensors()
        .iter()
        .map(|t| {
            serde_json::json!([
                t.name,
                t.shape,
                t.ty.to_string(),
                t.bytes,
                t.offset,
                ours.data(t)[1]
            ])
        })
        .collect();
    assert_eq!(read[1], serde_json::json!(expected));
}
