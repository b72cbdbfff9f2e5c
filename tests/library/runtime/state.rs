//! Sequences that are saved and put back.

use super::*;
use modelve::runtime::StateFault;

/// A session with a sequence of 30 tokens in it, and the logits after two more.
fn saved(model: &Model, settings: &Settings) -> (Vec<u8>, Vec<f32>) {
    let mut session = Session::new(model, settings).unwrap();
    let seq = session.open().unwrap();
    let tokens: Vec<Token> = (0..30).map(|i| Token(262 + i * 5 % 100)).collect();
    all_logits(&mut session, &seq, &tokens);
    let bytes = session.save(&seq).unwrap();
    let rows = all_logits(&mut session, &seq, &[270, 271].map(Token));
    (bytes, rows[1].clone())
}

#[test]
fn a_sequence_goes_on_after_it_was_put_back() {
    let model = tiny();
    for kv_type in [KvType::F32, KvType::F16] {
        let settings = Settings {
            kv_type,
            flash_attention: FlashAttention::On,
            n_seq: 2,
            ..Settings::default()
        };
        let (bytes, expected) = saved(&model, &settings);
        let mut session = Session::new(&model, &settings).unwrap();
        let seq = session.restore(&bytes).unwrap();
        assert_eq!(session.len(&seq).unwrap(), 30);
        assert_eq!(session.free_cells(), session.n_ctx() - 30);
        let rows = all_logits(&mut session, &seq, &[270, 271].map(Token));
        assert_eq!(rows[1], expected, "the cells lie alike: not a bit differs");
        // Taken back and saved again it is the same; beside another the cells lie elsewhere.
        session.truncate(&seq, 30).unwrap();
        assert_eq!(session.save(&seq).unwrap().len(), bytes.len());
        let mut other = Session::new(&model, &settings).unwrap();
        let first = other.open().unwrap();
        all_logits(&mut other, &first, &[300, 301, 302, 303, 304].map(Token));
        let second = other.restore(&bytes).unwrap();
        let rows = all_logits(&mut other, &second, &[270, 271].map(Token));
        let bound = if kv_type == KvType::F32 { 1e-5 } else { 1e-2 };
        assert!(distance(&rows[1], &expected) < bound);
        assert!(matches!(
            other.restore(&bytes),
            Err(Error::NoSequence { n_seq: 2 })
        ));
    }
}

#[test]
fn a_state_that_does_not_belong_here_is_refused() {
    let model = tiny();
    let (bytes, _) = saved(&model, &exact());
    let fault = |settings: &Settings, model: &Model, bytes: &[u8]| {
        let mut session = Session::new(model, settings).unwrap();
        let error = session.restore(bytes).unwrap_err();
        assert_eq!(session.free_sequences(), settings.n_seq as usize);
        assert_eq!(session.free_cells(), session.n_ctx());
        match error {
            Error::State(fault) => fault,
            error => panic!("{error}"),
        }
    };
    let here = |bytes: &[u8]| fault(&exact(), &model, bytes);
    assert_eq!(here(b"GGUF"), StateFault::NotASavedSequence);
    assert_eq!(here(b""), StateFault::NotASavedSequence);
    // Cut anywhere, or with any byte changed.
    for n in [8, 11, 12, 44, 60, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(here(&bytes[..n]), StateFault::Damaged, "{n}");
    }
    for at in [
        12,
        44,
        48,
        52,
        180,
        bytes.len() / 2,
        bytes.len() - 40,
        bytes.len() - 1,
    ] {
        let mut spoiled = bytes.clone();
        spoiled[at] ^= 1;
        assert_eq!(here(&spoiled), StateFault::Damaged, "{at}");
    }
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert_eq!(here(&newer), StateFault::Version { version: 2 });
    let half = Settings {
        kv_type: KvType::F16,
        ..exact()
    };
    let what = "cache type";
    assert_eq!(
        fault(&half, &model, &bytes),
        StateFault::OtherSettings { what }
    );
    let short = Settings {
        n_ctx: 256,
        ..exact()
    };
    assert_eq!(fault(&short, &model, &bytes), {
        let what = "RoPE factors";
        StateFault::OtherSettings { what }
    });
    let another = file(|path| {
        let tiny = Tiny {
            seed: 2,
            ..Tiny::default()
        };
        tiny.write(path);
    });
    let another = Model::load(&another.path, &LoadOptions::default()).unwrap();
    assert_eq!(fault(&exact(), &another, &bytes), StateFault::OtherModel);
}
