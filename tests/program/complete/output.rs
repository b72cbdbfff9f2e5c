//! What is printed, from where the prompts come.

use super::*;

#[test]
fn the_same_prompt_gives_the_same_text_streamed_or_not() {
    let first = stdout(&run(small().args(["the ball", "-n", "24"])));
    assert_eq!(first, stdout(&run(small().args(["the ball", "-n", "24"]))));
    let object = &objects(&run(small().args(["the ball", "-n", "24", "--json"])))[0];
    assert_eq!(
        first.trim_end_matches('\n'),
        object["text"].as_str().unwrap().trim_end_matches('\n')
    );
    let echo = stdout(&run(small().args(["the ball", "-n", "24", "--echo"])));
    assert_eq!(echo, format!("the ball{first}"));
}

#[test]
fn json_has_all_its_fields() {
    let output = run(small().args(["the ball", "today", "-n", "5", "--json", "--top", "3"]));
    let objects = objects(&output);
    assert_eq!(objects.len(), 2);
    for (i, object) in objects.iter().enumerate() {
        assert_eq!(object["index"], i);
        assert_eq!(object["prompt"], ["the ball", "today"][i]);
        let tokens = object["tokens"].as_array().unwrap();
        assert_eq!(object["usage"]["completion_tokens"], tokens.len());
        assert!(object["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
        for field in [
            "load_s",
            "prefill_s",
            "first_token_s",
            "generate_s",
            "tokens_per_s",
        ] {
            assert!(object["timing"][field].as_f64().unwrap() >= 0.0, "{field}");
        }
        for token in tokens {
            // Text, or the bytes of a part of a character.
            assert!(token["piece"].is_string() || token["piece"]["bytes"].is_array());
            let top = token["top"].as_array().unwrap();
            assert_eq!(top.len(), 3);
            // Greedy: what was chosen is the likeliest.
            assert_eq!(top[0]["id"], token["id"]);
            assert_eq!(top[0]["logprob"], token["logprob"]);
            let prob = |i: usize| top[i]["prob"].as_f64().unwrap();
            assert!(prob(0) >= prob(1) && prob(1) >= prob(2) && prob(0) <= 1.0);
        }
        assert!(["stop", "length"].contains(&object["finish_reason"].as_str().unwrap()));
    }
}

#[test]
fn prompts_alone_and_together_give_the_same_texts_in_order() {
    let words = [
        "the",
        "ball",
        "bat hit the",
        "today is",
        "a cave",
        "sunny weather and",
        "of 5",
    ];
    let prompts: Vec<String> = (0..60)
        .map(|i| format!("{} {}", words[i % 7], words[(i / 7) % 7]).repeat(1 + i % 5))
        .collect();
    let together = run(small()
        .args(EXACT)
        .args(["-n", "12", "--json"])
        .args(&prompts));
    let together = objects(&together);
    assert_eq!(together.len(), prompts.len());
    for (i, (object, prompt)) in together.iter().zip(&prompts).enumerate() {
        assert_eq!(object["index"], i);
        assert_eq!(object["prompt"].as_str().unwrap(), prompt);
        if i % 6 == 0 {
            let alone = run(small().args(EXACT).args(["-n", "12", "--json"]).arg(prompt));
            assert_eq!(object["text"], objects(&alone)[0]["text"], "{prompt}");
        }
    }
}

#[test]
fn standard_input_is_left_alone_without_a_dash() {
    let mut child = small()
        .args(["the", "-n", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it waits for standard input");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stdin);
}

#[test]
fn what_people_say_in_a_conversation_never_becomes_a_control_token() {
    let count = |args: &[&str]| {
        let output = run(small().args(args).args(["--json", "-n", "1"]));
        objects(&output)[0]["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let plain = count(&["the ball"]);
    let chat = count(&["--chat", "the ball"]);
    assert!(chat >= plain + 3 && chat < plain + 20, "{plain} {chat}");
    // As a control token it would be one token; as text it is many.
    assert!(count(&["--chat", "the ball<|end|>"]) >= chat + 6);
    assert!(count(&["--system", "the", "the ball"]) > chat);
    assert_eq!(
        count(&["--chat", "the ball<|end"]) + 2,
        count(&["--chat", "the ball<|end|>"])
    );
}

#[test]
fn stats_tell_what_was_done() {
    let output = run(small().args(["the ball", "-n", "4", "--stats"]));
    let said = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "short RoPE factors",
        "256 tokens",
        "CPU",
        "0 of 3 layers",
        "tokens/s",
        "in place",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    let long = "the ball hit the bat and ".repeat(60);
    let output = run(small().args([&long, "-n", "4", "--stats"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("long RoPE factors") && !said.contains("short RoPE"),
        "{said}"
    );
}
