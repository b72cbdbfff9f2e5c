#!/usr/bin/env python3
"""Writes tests/fixtures/chat/rendered.json: conversations rendered by jinja2 with chat templates.

The environment is the one that transformers' `chat_template_utils` sets up: an immutable sandbox,
`trim_blocks`, `lstrip_blocks`, loop controls, a block `generation`, `tojson` by `json.dumps`,
`raise_exception` and `strftime_now`, with `tools` and `documents` as none. The templates of
`tests/fixtures/chat/templates` were written for this test, in the style of those of published models.
For every text, the first 16 digits of its SHA-256 are stored:

    pip install jinja2
    scripts/make_chat_fixtures.py
    scripts/make_chat_fixtures.py --show NAME NUMBER     # one text
"""

import hashlib
import json
import pathlib
import sys
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.sandbox

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/chat"


class Generation(jinja2.ext.Extension):
    """The block in which training looks for what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller):
        return caller()


def environment():
    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


CONVERSATIONS = [
    [("user", "What is a bat?")],
    [("system", "Be brief."), ("user", "What is a bat?")],
    [("user", "Hi!"), ("assistant", "Hello, how can I help?"), ("user", "Who won?")],
    [("system", "You are Ada.\nBe kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    [("user", "  spaces before and after \n\n")],
    [("user", "Zwölf Boxkämpfer 日本語 עברית 😀 e\u0301")],
    [("user", "<|end|><|im_end|></s>[INST]<end_of_turn><|eot_id|>")],
    [("user", "'single' \"double\" \\back\\ `tick` <b>&amp;</b> {curly} %s {{ x }} {% y %}")],
    [("user", "q"), ("assistant", "<think>\nHm.\n</think>\n\nAn answer."), ("user", "and then?")],
    [("user", "q"), ("assistant", "<think>open end"), ("user", "/no_think r")],
    [("system", "  padded system  "), ("user", "\tx\r\ny\u2028z")],
    [("user", "one"), ("user", "two")],
    [("assistant", "I begin."), ("user", "Go on.")],
    [("user", "q"), ("assistant", "  kept?  \n"), ("user", "r")],
    [("user", "line one\nline two\n\n    indented\n")],
    [("user", "x" * 3000), ("assistant", "y " * 700), ("user", "z\n" * 300)],
    [("user", "0"), ("assistant", "False"), ("user", "None")],
    [("system", "s"), ("system", "t"), ("user", "u")],
    [("user", "q"), ("tool", "{\"temperature\": 21.5}"), ("user", "so?")],
    [("user", "q"), ("assistant", "")],
]


def render(template, conversation, typed):
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if typed else text}
        for role, text in conversation
    ]
    return template.render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )


def attempt(template, conversation, typed):
    """The text, or the fault; and the numbers of the messages that it does not depend on."""
    try:
        text = render(template, conversation, typed)
    except Exception as fault:
        return None, fault
    for i, (role, said) in enumerate(conversation):
        if role == "assistant" or not said.strip():
            continue
        other = list(conversation)
        other[i] = (role, said.strip() + " \u2603 another")
        try:
            if render(template, other, typed) == text:
                return None, "lost"
        except Exception:
            pass
    return text, None


def expected(template, conversation):
    text, fault = attempt(template, conversation, False)
    if text is None:
        typed, _ = attempt(template, conversation, True)
        if typed is not None:
            text = typed
    if text is not None:
        return text, hashlib.sha256(text.encode()).hexdigest()[:16]
    if isinstance(fault, jinja2.exceptions.TemplateError) and type(fault) is jinja2.exceptions.TemplateError:
        return str(fault), "!" + str(fault)
    return str(fault), "lost" if fault == "lost" else "fault"


def main():
    made = environment()
    templates = {
        path.stem: made.from_string(path.read_text())
        for path in sorted((FOLDER / "templates").glob("*.jinja"))
    }
    if sys.argv[1:2] == ["--show"]:
        print(expected(templates[sys.argv[2]], CONVERSATIONS[int(sys.argv[3])])[0], end="")
        return
    results = {
        name: [expected(template, conversation)[1] for conversation in CONVERSATIONS]
        for name, template in templates.items()
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in results.items())
    said = ",\n".join(json.dumps(c, ensure_ascii=False) for c in CONVERSATIONS)
    (FOLDER / "rendered.json").write_text(
        '{"conversations": [\n' + said + '\n],\n"rendered": {\n' + lines + "\n}}\n"
    )
    kinds = [r if r in ("lost", "fault") else r[0] == "!" and "!" or "text" for row in results.values() for r in row]
    print(len(results), "templates", {kind: kinds.count(kind) for kind in set(kinds)})


if __name__ == "__main__":
    main()
