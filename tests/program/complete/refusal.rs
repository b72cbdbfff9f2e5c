//! Mistakes and what does not fit.

use super::*;

#[test]
fn mistakes_are_told_with_the_right_exit_code() {
    let (code, said) = failure(&mut small());
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("hint:") && said.contains("modelve complete"),
        "{said}"
    );
    for usage in [
        &["a", "--top", "3"][..],
        &["a", "--kv-type", "q5"],
        &["a", "--threads", "0"],
        &["a", "--temp", "NaN"],
        &["a", "--temp", "-1"],
        &["a", "--top-p", "1.5"],
        &["a", "--min-p", "-0.1"],
        &["a", "--typical-p", "inf"],
        &["a", "--repeat-penalty", "0"],
        &["a", "--presence-penalty", "x"],
        &["a", "--max-tokens", "-3"],
        &["a", "--seed", "4294967296"],
        &["a", "--logit-bias", "5=much"],
    ] {
        let (code, said) = failure(small().args(usage));
        assert_eq!(code, 2, "{usage:?}");
        // The flag and what is wrong with it.
        assert!(said.contains(usage[1]), "{usage:?}: {said}");
    }
    // A number is a prompt, and no flag.
    assert!(run(small().args(["-5", "-n", "1"])).status.success());
    let (code, said) = failure(&mut modelve(&files().small.with_file_name("none.gguf")));
    assert_eq!(code, 2, "no prompt either: {said}");
    let (code, said) = failure(modelve(&files().small.with_file_name("none.gguf")).arg("a"));
    assert_eq!(code, 1);
    assert!(said.contains("none.gguf"), "{said}");
    for (flags, expected) in [
        (["--logit-bias", "999999=1"], "999999"),
        (["--logit-bias", "-1=1"], "token id -1"),
        (["--device", "quantum"], "quantum"),
        (["--gpu-layers", "all"], "GPU"),
        (["--file", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let (code, said) = failure(small().arg("a").args(flags));
        assert_eq!(code, 1, "{flags:?}: {said}");
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let (_, said) = failure(small().args(["a", "--gpu-layers", "3"]));
    assert!(said.contains("--features"), "{said}");
    let quantized = failure(small().args(["a", "--kv-type", "q8_0", "--flash-attn", "off"]));
    assert!(quantized.1.contains("flash attention"), "{}", quantized.1);
}

#[test]
fn a_context_that_cannot_fit_is_refused_with_its_arithmetic() {
    let (code, said) = failure(small().args(["a", "--ctx-size", "4000000000"]));
    assert_eq!(code, 1);
    assert!(
        said.contains("4000000000 tokens × 3.25 KiB = 12.1 TiB"),
        "{said}"
    );
    assert!(
        said.contains("the largest that fits is") && said.contains("--kv-type q8_0"),
        "{said}"
    );
    let (code, said) = failure(small().args(["a", "-n", "4000000000"]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("free; the largest that fits"), "{said}");
    let (_, said) = failure(modelve(&files().large).args(["a", "--ctx-size", "131073"]));
    assert!(said.contains("131072 the model was trained on"), "{said}");
    let (_, said) = failure(small().args(["the ball hit the bat", "--ctx-size", "3"]));
    assert!(said.contains("do not fit into a context of 3"), "{said}");
    let short = run(small().args(["the ball", "-n", "50", "--json", "--ctx-size", "8"]));
    let object = &objects(&short)[0];
    assert_eq!(object["finish_reason"], "length");
    let usage = &object["usage"];
    let total =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(total, 9, "the context is full and one more token is known");
}

#[test]
fn prompts_longer_than_the_batch_and_empty_ones_work() {
    let long = "the ball hit the bat and ".repeat(150);
    let output = run(small().args(["-n", "3", "--json", &long, "", "a"]));
    let objects = objects(&output);
    assert!(objects[0]["usage"]["prompt_tokens"].as_u64().unwrap() > 800);
    assert_eq!(objects[1]["usage"]["prompt_tokens"], 1);
    assert_eq!(objects.len(), 3);
    let none = run(small().args(["a", "-n", "0", "--json"]));
    assert_eq!(self::objects(&none)[0]["finish_reason"], "length");
}
