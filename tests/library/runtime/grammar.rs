//! GBNF against llama.cpp's own grammars: both say of a text whether it follows.

#![allow(unsafe_code)]

use std::ffi::CString;

use llama_cpp_sys_2 as sys;
use modelve::runtime::{Grammar, Token, Vocab};

use super::{Tiny, file};

const GRAMMARS: [&str; 9] = [
    "root ::= \"yes\" | \"no\" \"!\"?",
    "root ::= [a-c]+ \"c\" [^a-y\\n]*",
    "root ::= \"ab\"{2,3} (\"c\" | \"d\" \"e\"){0,4}",
    "root ::= item (\",\" root)?\nitem ::= [0-9]+ | \"(\" root \")\"",
    "root ::= \"x\" root \"a\" | \"x\" root \"b\" | \"\"",
    "root ::= (\"a\"* | \"ab\")* \"c\"",
    "root ::= \"é\" [à-ü€] .",
    "root ::= (expr \"=\" ws term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= [a-z] ws | [0-9]+ ws | \"(\" ws expr \")\" ws\nws ::= [ \\t\\n]*",
    "root ::= \"{\" (str \":\" str (\",\" str \":\" str)*)? \"}\"\nstr ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" [\"\\\\n])* \"\\\"\"",
];

const TEXTS: [&str; 26] = [
    "",
    "yes",
    "no",
    "no!",
    "nope",
    "ac",
    "abcc",
    "abcz9",
    "c",
    "abab",
    "ababab",
    "ababcde",
    "abababab",
    "1",
    "1,2",
    "(1,2),3",
    "1,",
    "xxab",
    "xa",
    "aabc",
    "éàz",
    "é€日",
    "éé",
    "a+b*2= c\n",
    "{\"a\":\"b\\n\",\"c\":\"\"}",
    "{\"a\":}",
];

/// The token of a byte in [`Tiny`]'s vocabulary.
fn token(byte: u8) -> Token {
    Token(3 + i32::from(byte))
}

/// Whether a text follows a grammar, by llama.cpp.
fn follows(vocab: *const sys::llama_vocab, grammar: &str, text: &str) -> bool {
    let (grammar, root) = (CString::new(grammar).unwrap(), c"root");
    // SAFETY: the vocabulary outlives the sampler, strings end in zero, and only tokens that the
    // sampler allows are given to it.
    unsafe {
        let sampler = sys::llama_sampler_init_grammar(vocab, grammar.as_ptr(), root.as_ptr());
        assert!(!sampler.is_null());
        let end = sys::llama_vocab_eos(vocab);
        let mut fits = true;
        for id in text.bytes().map(|byte| token(byte).0).chain([end]) {
            let mut data = sys::llama_token_data {
                id,
                logit: 1.0,
                p: 0.0,
            };
            let mut array = sys::llama_token_data_array {
                data: &raw mut data,
                size: 1,
                selected: -1,
                sorted: false,
            };
            sys::llama_sampler_apply(sampler, &raw mut array);
            fits = data.logit.is_finite();
            if !fits {
                break;
            }
            if id != end {
                sys::llama_sampler_accept(sampler, id);
            }
        }
        sys::llama_sampler_free(sampler);
        fits
    }
}

#[test]
fn grammars_accept_what_llama_cpp_accepts() {
    let file = file(|path| Tiny::default().write(path));
    let ours = Vocab::load(&file.path).unwrap();
    assert_eq!(ours.piece(token(b'a'), false).unwrap(), b"a");
    let path = CString::new(file.path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in zero; the model is freed once, after all that uses it.
    unsafe {
        let mut params = sys::llama_model_default_params();
        params.vocab_only = true;
        let model = sys::llama_model_load_from_file(path.as_ptr(), params);
        assert!(!model.is_null());
        let vocab = sys::llama_model_get_vocab(model);
        let mut followed = 0;
        for grammar in GRAMMARS {
            let ours = Grammar::gbnf(grammar).unwrap();
            for text in TEXTS {
                let accepted = ours.accepts(text.as_bytes()).unwrap();
                assert_eq!(
                    accepted,
                    follows(vocab, grammar, text),
                    "{grammar}\n{text:?}"
                );
                followed += usize::from(accepted);
            }
        }
        assert!(followed >= GRAMMARS.len(), "{followed}");
        sys::llama_model_free(model);
    }
}
