//! `modelve meta` of what is not here: the same as of what is, from the headers alone.

use std::fs;

use modelve::gguf::{GgmlType, Layout, Value};
use serde_json::Value as Json;

use super::{Bench, LABELS, REPO, file};
use crate::support::hub_server::{Fault, HubServer};

const TINY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/crates/hub/tiny/tiny-phi3-Q4_K_M.gguf"
);
const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-phi3");

fn tiny() -> Vec<u8> {
    fs::read(TINY).unwrap()
}

/// A Hub with one GGUF file.
fn one(bytes: &[u8]) -> Bench {
    let server = HubServer::start();
    server.repo("org/one-GGUF");
    server.large("org/one-GGUF", "one-Q4_K_M.gguf", bytes);
    Bench::of(server)
}

fn json(out: &str) -> Json {
    serde_json::from_str(out).unwrap()
}

impl Bench {
    /// What must fail with these words, and leave nothing behind.
    fn fails(&self, id: &str, said: &str) {
        let temporary = self.dir.path().join("tmp");
        fs::create_dir_all(&temporary).unwrap();
        let ran = self.paste(&format!("TMPDIR={} modelve meta {id}", temporary.display()));
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains(said), "{}", ran.said);
        assert!(
            !ran.said.contains(temporary.to_str().unwrap()),
            "{}",
            ran.said
        );
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0, "{}", ran.said);
    }
}

#[test]
fn a_gguf_file_is_shown_as_if_it_were_here() {
    let bench = one(&tiny());
    let id = "org/one-GGUF:Q4_K_M";
    for flags in [
        &["--memory", "8GiB"][..],
        &["--kv"],
        &["--tensors", "--sort", "size"],
    ] {
        let run = |model| bench.run(&[&["meta", model], flags].concat());
        let (remote, here) = (run(id), run(TINY));
        assert_eq!(remote.code, Some(0), "{}", remote.said);
        assert_eq!(remote.out, here.out, "{flags:?}");
        assert!(
            remote.said.contains("1.00 MiB of its files were read"),
            "{}",
            remote.said
        );
        assert!(
            remote
                .said
                .contains("fetches 3.04 MiB: modelve get org/one-GGUF:Q4_K_M")
        );
    }
    let asked = bench.server.ranges("one-Q4_K_M.gguf");
    assert_eq!(asked, vec![Some("bytes=0-1048575".to_owned()); 3]);

    let ran = bench.run(&["meta", "org/one-GGUF", "--json"]);
    let (remote, mut here) = (json(&ran.out), json(&bench.good(&["meta", TINY, "--json"])));
    assert_eq!(remote["file"], "org/one-GGUF/one-Q4_K_M.gguf");
    assert_eq!(remote["remote"]["bytes_read"], 1 << 20);
    assert_eq!(remote["remote"]["bytes"], tiny().len());
    for key in ["summary", "metadata", "tensors", "size_bytes", "kind"] {
        assert_eq!(remote[key], here[key].take(), "{key}");
    }
    let get = remote["remote"]["get"].as_str().unwrap();
    assert_eq!(bench.paste(get).code, Some(0));
    assert!(ran.said.is_empty(), "{}", ran.said);
    let here = json(&bench.good(&["meta", "org/one-GGUF", "--json"]));
    assert!(here.get("remote").is_none(), "it is here now");
}

#[test]
fn a_checkpoint_is_shown_by_its_shards_headers() {
    let server = HubServer::start();
    server.folder("org/tiny", CHECKPOINT.as_ref()).unwrap();
    let bench = Bench::of(server);
    let remote = json(&bench.good(&["meta", "org/tiny", "--json"]));
    let local = json(&bench.good(&["meta", CHECKPOINT, "--json"]));
    assert_eq!(remote["folder"], "org/tiny");
    for key in ["tensors", "config", "size_bytes", "n_params"] {
        assert_eq!(remote[key], local[key], "{key}");
    }
    assert_eq!(remote["summary"]["license"], local["summary"]["license"]);
    let read = remote["remote"]["bytes_read"].as_u64().unwrap();
    let all = remote["remote"]["bytes"].as_u64().unwrap();
    assert!(read < all / 10, "{read} of {all}");
    let text = bench.run(&["meta", "org/tiny:Q4_K_M"]);
    assert!(text.out.contains("Phi3ForCausalLM"), "{}", text.out);
    bench.paste_all(&text.said);
}

#[test]
fn a_split_file_is_one_model() {
    let server = HubServer::start();
    server.repo("org/Big-GGUF");
    for no in 0..2u16 {
        let architecture = Value::String("llama".to_owned());
        let metadata = [
            ("general.architecture".to_owned(), architecture),
            ("split.no".to_owned(), Value::U16(no)),
            ("split.count".to_owned(), Value::U16(2)),
        ];
        let tensor = (
            format!("blk.{no}.ffn_up.weight"),
            vec![1 << 18],
            GgmlType::F32,
        );
        let layout = Layout::new(&metadata, &[tensor]).unwrap();
        let mut file = layout.header().to_vec();
        file.resize(layout.file_size() as usize, 0);
        let name = format!("F32/Big-F32-0000{}-of-00002.gguf", no + 1);
        server.large("org/Big-GGUF", &name, &file);
    }
    let bench = Bench::of(server);
    let report = json(&bench.good(&["meta", "org/Big-GGUF:f32", "--json"]));
    assert_eq!(report["n_params"], 2 << 18);
    let part = |no| format!("org/Big-GGUF/F32/Big-F32-0000{no}-of-00002.gguf");
    assert_eq!(report["parts"], serde_json::json!([part(1), part(2)]));
    assert_eq!(report["tensors"][1]["part"], 2);
    // All of the first is asked for at once, of the second only what its header takes.
    let read = report["remote"]["bytes_read"].as_u64().unwrap();
    assert!(read < (1 << 20) + (1 << 18), "{read}");
    let get = report["remote"]["get"].as_str().unwrap();
    assert_eq!(get, "modelve get org/Big-GGUF:F32");
    assert_eq!(bench.paste(get).code, Some(0));
}

#[test]
fn all_files_of_a_repository_stand_in_a_table_with_one_to_take() {
    let bench = Bench::new();
    let ran = bench.run(&["meta", REPO]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    for label in LABELS {
        assert!(ran.out.contains(label), "{label}: {}", ran.out);
    }
    for said in [
        "phi3",
        "5.02 M parameters",
        "1,024 (all)",
        "upper limit",
        "GB/s",
    ] {
        assert!(ran.out.contains(said), "{said}: {}", ran.out);
    }
    // One header is enough for all, which share the rest of their name.
    let read: usize = LABELS
        .iter()
        .map(|label| bench.server.ranges(&file(label)).len())
        .sum();
    assert_eq!(read, 1);
    assert_eq!(bench.paste_all(&ran.out).len(), 1, "{}", ran.out);

    let bench = Bench::new();
    let table = json(&bench.good(&["meta", REPO, "--json", "--memory", "1GiB"]));
    let models = table["models"].as_array().unwrap();
    assert_eq!(models.len(), LABELS.len());
    for model in models {
        assert_eq!(model["bytes"], tiny().len());
        assert_eq!(model["largest_context"], 1024);
        let bits = model["bits_per_weight"].as_f64().unwrap();
        assert!((5.0..5.1).contains(&bits), "{bits}");
        assert!(
            model["most_tokens_per_second"].is_null(),
            "another machine's"
        );
    }
    let take = table["recommended"].as_str().unwrap();
    let get = table["remote"]["get"].as_str().unwrap();
    assert_eq!(get, format!("modelve get {REPO}:{}", take.to_uppercase()));
    assert_eq!(bench.paste(get).code, Some(0));

    let ran = bench.run(&["meta", "org/Phi-GGUF:nothing"]);
    assert!(
        ran.said.contains("has no GGUF file NOTHING"),
        "{}",
        ran.said
    );
    let bench = Bench::new();
    let small = bench.good(&["meta", REPO, "--memory", "16MiB"]);
    assert!(small.contains("does not fit"), "{small}");
}

#[test]
fn the_usual_type_is_recommended_and_else_the_best_that_fits() {
    let server = HubServer::start();
    let repo = "org/Sizes-GGUF";
    server.repo(repo);
    let mut header = tiny();
    for (label, more) in [("Q2_K", 0), ("Q4_K_M", 1), ("Q8_0", 2), ("F16", 3)] {
        // As if each further type took 16 MiB more.
        header.resize(tiny().len() + (more << 24), 0);
        server.large(repo, &format!("m-{label}.gguf"), &header);
    }
    let bench = Bench::of(server);
    for (memory, label) in [
        ("16GiB", "Q4_K_M"),
        ("64MiB", "Q4_K_M"),
        ("45MiB", "Q2_K"),
        ("1MiB", "Q2_K"),
    ] {
        let table = json(&bench.good(&["meta", repo, "--json", "--memory", memory]));
        assert_eq!(table["recommended"], label, "{memory}: {table}");
    }
}

#[test]
fn servers_that_ignore_ranges_are_read_no_further_than_needed() {
    let bench = one(&[tiny(), vec![0; 64 << 20]].concat());
    bench.server.spoil("one-Q4_K_M", 99, Fault::NoRanges);
    let remote = json(&bench.good(&["meta", "org/one-GGUF", "--json"]));
    let read = remote["remote"]["bytes_read"].as_u64().unwrap();
    assert!((1 << 20..3 << 20).contains(&read), "{read}");
}

#[test]
fn answers_that_are_cut_go_on_and_lies_end_in_words() {
    let id = "org/one-GGUF";
    let bench = one(&tiny());
    bench.server.spoil("one-Q4_K_M", 2, Fault::CutAfter(1000));
    let ran = bench.run(&["meta", id]);
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    assert!(ran.said.contains("trying again"), "{}", ran.said);

    // Another length than the listing states.
    let bench = one(&tiny());
    bench
        .server
        .spoil("one-Q4_K_M", 9, Fault::Body("x".repeat(2000), Vec::new()));
    bench.fails(id, "2000 bytes were received, but the Hub states");
    // No GGUF, and a header that claims what the file cannot hold.
    let bench = one(&vec![b'<'; 5000]);
    bench.fails(id, "org/one-GGUF/one-Q4_K_M.gguf: is not a GGUF file");
    let mut claims = tiny();
    claims[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    one(&claims).fails(id, "claims 18446744073709551615 metadata keys");
    // A header without an end: one text of 80 MiB.
    let mut endless = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    endless.extend(1u64.to_le_bytes());
    endless.extend(b"k\x08\0\0\0");
    endless.extend((80u64 << 20).to_le_bytes());
    endless.resize(100 << 20, b'a');
    let bench = one(&endless);
    bench.fails(id, "more than 64.0 MiB would have to be read");
    let asked = bench.server.ranges("one-Q4_K_M");
    assert!(asked.len() < 8, "{asked:?}");
    // A length that no file has.
    let listing = format!(
        r#"[{{"type":"file","path":"a.gguf","size":{},"oid":"{}"}}]"#,
        u64::MAX,
        "a".repeat(40)
    );
    let bench = one(&tiny());
    bench
        .server
        .fault("GET", "/tree/", 9, Fault::Body(listing, Vec::new()));
    bench.fails(id, "it lists a.gguf with");
}

#[test]
fn a_damaged_shard_is_named_as_the_repository_names_it() {
    let server = HubServer::start();
    server.folder("org/tiny", CHECKPOINT.as_ref()).unwrap();
    server.spoil("model.safetensors", 99, Fault::Flip(9));
    Bench::of(server).fails("org/tiny", "org/tiny/model.safetensors");
}

#[test]
fn offline_asks_nobody_and_tells_what_it_would_read() {
    let bench = one(&tiny());
    for id in ["org/one-GGUF", "org/one-GGUF:q4"] {
        let ran = bench.run(&["meta", id, "--offline"]);
        assert_eq!(ran.code, Some(1), "{}", ran.said);
        assert!(ran.said.contains("is not on this machine"), "{}", ran.said);
        assert!(ran.said.contains("at most 64.0 MiB"), "{}", ran.said);
    }
    for command in ["vocab", "complete", "next", "serve", "convert", "get"] {
        let ran = match command {
            "vocab" | "complete" | "next" => {
                bench.run(&[command, "--offline", "-m", "org/one-GGUF:q4", "1"])
            }
            _ => bench.run(&[command, "--offline", "org/one-GGUF:q4"]),
        };
        assert_eq!(ran.code, Some(1), "{command}: {}", ran.said);
    }
    assert!(bench.server.requests().is_empty());
    // Where the network may be used, looking is proposed with what it costs.
    let (_, command) = bench.hinted(&["complete", "-m", "org/one-GGUF:q4", "x"]);
    assert_eq!(command, "modelve get org/one-GGUF:Q4");
}
