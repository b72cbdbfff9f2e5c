//! A text that changes is judged as one that is read anew.

use modelve::probe::live::{self, Live, Texts};
use modelve::probe::next::{self, next};
use modelve::probe::score::{Windows, score};
use modelve::probe::{Prompt, text_of};
use modelve::runtime::{FlashAttention, KvType, LoadOptions, Model, Session, Settings, Token};

use crate::probe_tiny::converted;

fn base() -> Settings {
    Settings {
        n_ctx: 256,
        threads: Some(1),
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..Settings::default()
    }
}

fn alone(model: &Model, prompt: &Prompt) -> (next::Next, Vec<Option<f64>>) {
    let mut session = Session::new(model, &base()).unwrap();
    let options = next::Options {
        top: 5,
        ..next::Options::default()
    };
    let next = next(&mut session, prompt, &options, &mut |_| {}).unwrap();
    let windows = Windows {
        size: 256,
        stride: 128,
    };
    let scores = match prompt.ids.len() {
        1 => vec![None],
        _ => {
            let score = score(&mut session, prompt, windows, &mut |_| {}).unwrap();
            score.tokens.iter().map(|token| token.logprob).collect()
        }
    };
    (next, scores)
}

#[track_caller]
fn assert_same(live: &Live, (next, scores): &(next::Next, Vec<Option<f64>>)) {
    let ids = |next: &next::Next| next.top.iter().map(|c| c.id).collect::<Vec<Token>>();
    assert_eq!(ids(&live.next), ids(next));
    for (a, b) in live.next.top.iter().zip(&next.top) {
        assert!((a.logprob - b.logprob).abs() < 1e-4, "{a:?} {b:?}");
    }
    assert_eq!(live.score.tokens.len(), scores.len());
    for (a, b) in live.score.tokens.iter().zip(scores) {
        assert_eq!(a.logprob.is_some(), b.is_some());
        let (a, b) = (a.logprob.unwrap_or(0.0), b.unwrap_or(0.0));
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn a_text_that_changes_is_judged_as_one_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::load(&converted(dir.path(), "F32"), &LoadOptions::default()).unwrap();
    let vocab = model.vocab();
    let mut session = Session::new(&model, &live::settings(base(), 32)).unwrap();
    let mut texts = Texts::default();
    let whole = "It was night in the cave. The ball hit the bat, and it opened its wings and flew";
    let prompts = |text: &str| Prompt::new(vocab, text).unwrap();
    let mut typed: Vec<String> = (1..=whole.len()).map(|n| whole[..n].to_owned()).collect();
    // Taken back, changed in the middle, back to what was, another text, and the same once more.
    typed.extend((60..whole.len()).rev().map(|n| whole[..n].to_owned()));
    typed.extend([
        whole.replace("cave", "park"),
        whole.replace("night", "noon"),
        whole.to_owned(),
        "Today is".to_owned(),
        whole.to_owned(),
        whole.to_owned(),
    ]);
    let (mut computed, mut read) = (0, 0);
    for text in &typed {
        let prompt = prompts(text);
        let options = live::Options {
            top: 5,
            also: &prompt.ids[..1],
        };
        let found = texts.read(&mut session, &prompt, options, &mut |_| {});
        let found = found.unwrap();
        assert_same(&found, &alone(&model, &prompt));
        assert_eq!(found.also[0].id, prompt.ids[0]);
        assert_eq!(found.score.text, *text);
        read += prompt.ids.len();
        computed += prompt.ids.len() - found.reused;
    }
    // A key press costs a few tokens, not the text.
    assert!(computed * 4 < read, "{computed} of {read}");
    // What is read again as it stands costs nothing.
    let prompt = prompts(whole);
    let again = texts.read(&mut session, &prompt, live::Options::default(), &mut |_| {});
    assert_eq!(again.unwrap().reused, prompt.ids.len());

    // In another session, and where others have to give way.
    let mut other = Session::new(&model, &live::settings(base(), 32)).unwrap();
    for seed in 0..8 {
        let ids: Vec<Token> = (0..200)
            .map(|i| Token(300 + (i * 7 + seed * 31) % 1500))
            .collect();
        let text = text_of(vocab, &ids);
        let prompt = Prompt { text, ids };
        let found = texts.read(
            &mut other,
            &prompt,
            live::Options { top: 5, also: &[] },
            &mut |_| {},
        );
        assert_same(&found.unwrap(), &alone(&model, &prompt));
    }
    let empty = Prompt {
        text: String::new(),
        ids: Vec::new(),
    };
    assert!(
        texts
            .read(&mut other, &empty, live::Options::default(), &mut |_| {})
            .is_err()
    );
}
