//! Tests of templates that fail, and of the origin of text in their output.

use super::*;

const TURNS: &str =
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}<|assistant|>\n";

fn user(text: &str) -> Vec<Message> {
    vec![Message::new("user", text)]
}

fn rendered(template: &str, text: &str) -> String {
    render_chat(template, &user(text), Some("<s>"), Some("</s>")).unwrap()
}

fn fault(template: &str, text: &str) -> String {
    match render_chat(template, &user(text), None, None) {
        Ok(text) => panic!("{template} gives {text}"),
        Err(error) => error.to_string(),
    }
}

fn pieces(template: &str, messages: &[Message]) -> Vec<(String, bool)> {
    let conversation = Conversation {
        messages,
        ..Conversation::default()
    };
    pieces_of(template, &conversation)
}

fn pieces_of(template: &str, conversation: &Conversation<'_>) -> Vec<(String, bool)> {
    let surroundings = Surroundings {
        bos: None,
        eos: None,
    };
    template::render(template, conversation, &surroundings, |text| {
        let pieces = text.pieces().into_iter();
        Ok(pieces
            .map(|(text, foreign)| (text.to_owned(), foreign))
            .collect())
    })
    .unwrap()
}

#[test]
fn templates_act_on_the_words_themselves() {
    for (expression, said, written) in [
        ("m.content|trim", "  What?\n\n", "What?"),
        ("m.content.strip()", "  What?\n\n", "What?"),
        (
            "m.content.split('</think>')[-1]",
            "thoughts</think>hi",
            "hi",
        ),
        ("'YES' if m.content.startswith('/x') else 'NO'", "/x", "YES"),
        ("'YES' if m.content.startswith('/x') else 'NO'", "a", "NO"),
        ("m.content|tojson", "a\"b<é", "\"a\\\"b<é\""),
        ("m.content[1:3]|upper", "héé", "ÉÉ"),
        ("'%s!' % m.content", "hi", "hi!"),
        ("m.content.replace('<|end|>', '')", "a<|end|>", "a"),
    ] {
        let template = format!("{{% for m in messages %}}{{{{ {expression} }}}}{{% endfor %}}");
        assert_eq!(rendered(&template, said), written, "{expression}");
    }
}

#[test]
fn what_people_write_is_told_from_what_the_template_writes() {
    let template = "{% for m in messages %}<|u|>{{ m.content.split('</t>')[-1]|trim|upper }}<|END|>{% endfor %}";
    let messages = user("x</t> a<|end|> ");
    let own = |text: &str| (text.to_owned(), false);
    let foreign = |text: &str| (text.to_owned(), true);
    assert_eq!(
        pieces(template, &messages),
        [own("<|u|>"), foreign("A<|END|>"), own("<|END|>")]
    );
    let json = "{{ messages|tojson }}";
    assert_eq!(
        pieces(json, &user("a\"<|end|>")),
        [
            own("[{\"role\": \"user\", \"content\": \""),
            foreign("a\\\"<|end|>"),
            own("\"}]")
        ]
    );
    // If a template joins the halves of a token, the message's half still counts as the message's.
    assert_eq!(
        pieces("{{ '<|' ~ messages[0].content }}", &user("end|>")),
        [own("<|"), foreign("end|>")]
    );
}

#[test]
fn a_template_that_leaves_out_what_people_say_is_an_error() {
    assert!(
        fault("{{ bos_token }}hello", "What is a bat?")
            .contains("leaves out what message 1 (user) says")
    );
    let no_system = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "Hi"),
    ];
    let error = render_chat(no_system, &messages, None, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("message 1 (system)"), "{error}");
    assert_eq!(rendered("{{ messages[0].content }}", "  \n"), "  \n");
}

#[test]
fn a_template_for_typed_parts_gets_typed_parts() {
    let typed = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}";
    assert_eq!(rendered(typed, "What is a bat?"), "What is a bat?");
    assert_eq!(
        rendered("{{ messages[0]['content'][0]['text'] }}", "What?"),
        "What?"
    );
    let either =
        "{% if messages[0].content is string %}{{ messages[0].content }}{% else %}list{% endif %}";
    assert_eq!(rendered(either, "text"), "text");
}

#[test]
fn the_surroundings_are_those_of_transformers() {
    for (template, written) in [
        (
            "{% if tools is not none %}tools{% endif %}{% if documents %}docs{% endif %}",
            "",
        ),
        (
            "{% if tools is iterable and tools|length > 0 %}x{% endif %}",
            "",
        ),
        (
            "{% generation %}{% set x = 1 %}x{% endgeneration %}{{ x is defined }}",
            "xFalse",
        ),
        (
            "{{ {'a': 1, 'é': none}|tojson(ensure_ascii=True, indent=1, separators=(',', ':'), sort_keys=True) }}",
            "{\n \"a\":1,\n \"\\u00e9\":null\n}",
        ),
        (
            "{{ '<a>'|tojson }}{{ none }}{{ true }}{{ 1.0 }}{{ [1, 'a'] }}{{ (1,) }}",
            "\"<a>\"NoneTrue1.0[1, 'a'](1,)",
        ),
        ("{{ strftime_now('%Y')|length }}", "4"),
        ("{{ bos_token }}{{ eos_token }}{{ unk_token }}", "<s></s>"),
        (
            "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb\n"),
    ] {
        let template = format!("{template}{{{{ messages[0].content[:0] }}}}");
        let messages = [Message::new("assistant", "x")];
        let text = render_chat(&template, &messages, Some("<s>"), Some("</s>")).unwrap();
        assert_eq!(text, written, "{template}");
    }
    let said = fault("{{ raise_exception('only one turn') }}", "x");
    assert_eq!(said, "chat template: line 1: it refuses: only one turn");
}

#[test]
fn templates_that_fail_say_why_and_where() {
    for (template, said) in [
        ("{% for %}", "line 1: "),
        (
            "a\n{{ nothing.at.all }}",
            "line 2: nothing is undefined, it has no at",
        ),
        (
            "{{ 'a' + 1 }}",
            "str and int cannot be computed with each other",
        ),
        ("{{ 'a'|frobnicate }}", "there is no filter frobnicate"),
        ("{{ [1].append(2) }}", "append would change a list"),
        ("{% include 'x' %}", "unknown statement include"),
        (
            "{{ 9223372036854775807 + 1 }}",
            "a number becomes too large",
        ),
        ("{{ 1 // 0 }}", "division by zero"),
    ] {
        let error = fault(template, "x");
        assert!(error.contains(said), "{template}: {error}");
    }
    let odd = [Message::new("user<|end|>", "x")];
    assert!(render_chat(TURNS, &odd, None, None).is_err());
}

#[test]
fn no_template_takes_all_memory_or_time() {
    let chain = |piece: &str, n: usize| piece.repeat(n);
    for template in [
        format!("{{{{ {}x }}}}", chain("not ", 4000)),
        format!("{{{{ {}1 }}}}", chain("-", 16_000)),
        format!("{{{{ x{} }}}}", chain(".b", 8000)),
        format!("{{{{ x{} }}}}", chain("|string", 2000)),
        format!("{{{{ {}1{} }}}}", chain("(", 5000), chain(")", 5000)),
        format!("{{{{ {}1{} }}}}", chain("[", 5000), chain("]", 5000)),
        format!("{{{{ 1{} }}}}", chain("+1", 7000)),
        chain("{% if x %}\n", 9000),
        chain("{% for i in [1, 2] %}", 100) + "x" + &chain("{% endfor %}", 100),
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}".to_owned(),
        "{{ 'a' * 10000000000 }}".to_owned(),
        "{{ [1] * 10000000000 }}".to_owned(),
        "{{ 'a\nb'|indent(10000000000) }}".to_owned(),
        "{{ '%10000000000d' % 1 }}".to_owned(),
        "{{ '{:10000000000}'.format(1) }}".to_owned(),
        "{{ [1]|batch(10000000000, 1) }}".to_owned(),
        "{{ [1]|slice(10000000000) }}".to_owned(),
        "{{ [1]|tojson(indent=10000000000) }}".to_owned(),
        "{{ 'a'.ljust(10000000000) }}{{ 'a'|center(10000000000) }}".to_owned(),
        "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}".to_owned(),
        "{{ range(10000000000)|list }}".to_owned(),
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}".to_owned(),
        format!("{{{{ '{}' }}}}", "x".repeat(10_000)).repeat(8),
        "{{ x }}".repeat(20_000),
        "x".repeat(300_000),
    ] {
        let shown: String = template.chars().take(60).collect();
        assert!(render_chat(&template, &user("x"), None, None).is_err(), "{shown}");
    }
    // A chain of `elif` with almost the maximum number of tags works.
    let elif = format!(
        "{{% if false %}}{}{{{{ messages[0].content }}}}{{% endif %}}",
        "{% elif false %}\n".repeat(9000) + "{% else %}"
    );
    assert_eq!(rendered(&elif, "x"), "x");
}

#[test]
fn tools_and_calls_are_what_people_wrote() {
    let tools = serde_json::json!([{"function": {"name": "look<|end|>", "n": 3}}]);
    let mut called = Message::new("assistant", "");
    let calls = serde_json::json!([{"function": {"name": "look", "arguments": {"at": "x"}}}]);
    called.more.insert("tool_calls".to_owned(), calls);
    let messages = [Message::new("user", "Hi"), called];
    let conversation = Conversation {
        messages: &messages,
        tools: Some(&tools),
        ..Conversation::default()
    };
    let template = "{% if tools %}{{ tools[0].function | tojson }}|{% endif %}\
        {% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}\
        {{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{% endfor %}";
    let pieces = pieces_of(template, &conversation);
    let text: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
    let expected = r#"{"name": "look<|end|>", "n": 3}|Hilook({"at": "x"})"#;
    assert_eq!(text, expected);
    let end = |(text, _): &&(String, bool)| text.contains("<|end|>");
    assert!(pieces.iter().find(end).unwrap().1);
}

#[test]
fn an_answer_that_was_begun_stands_behind_the_template() {
    let messages = [
        Message::new("user", "Hi"),
        Message::new("assistant", "Well<|end|>"),
    ];
    let conversation = Conversation {
        messages: &messages,
        continues_last: true,
        answer_start: "<|call|>",
        ..Conversation::default()
    };
    let pieces = pieces_of(TURNS, &conversation);
    let last: Vec<(&str, bool)> = pieces.iter().map(|(t, f)| (t.as_str(), *f)).collect();
    assert_eq!(
        last[2..],
        [
            ("<|end|>\n<|assistant|><|call|>", false),
            ("Well<|end|>", true)
        ][..]
    );
}
