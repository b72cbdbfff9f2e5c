"""openai (Python): completions, chat, streams, tools, schemas, errors, hanging up."""

import asyncio
import json
import time

import openai
from server import metrics, serving

TOOLS = [{"type": "function", "function": {
    "name": "look", "description": "Looks at something.",
    "parameters": {"type": "object", "properties": {"at": {"enum": ["bat", "ball"]}},
                   "required": ["at"], "additionalProperties": False}}}]
MESSAGES = [{"role": "user", "content": "What is a bat?"}]


def completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="x", prompt="Today is", max_tokens=8, temperature=0)
    text = answer.choices[0].text
    assert text and answer.usage.completion_tokens == 8, answer
    stream = client.completions.create(
        model="x", prompt="Today is", max_tokens=8, temperature=0, stream=True,
        stream_options={"include_usage": True})
    parts = list(stream)
    assert "".join(p.choices[0].text for p in parts if p.choices) == text
    assert parts[-1].usage.completion_tokens == 8
    echo = client.completions.create(
        model="x", prompt="Today is a", max_tokens=0, echo=True, logprobs=2, temperature=0)
    told = echo.choices[0].logprobs
    assert told.token_logprobs[0] is None and all(x <= 0 for x in told.token_logprobs[1:])
    assert echo.choices[0].text == "Today is a" and len(told.tokens) == len(told.text_offset)
    several = client.completions.create(
        model="x", prompt=["Today is", "The ball"], n=2, max_tokens=4, seed=3)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]


def chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="x", messages=MESSAGES, max_tokens=16, temperature=0, logprobs=True, top_logprobs=2)
    text = answer.choices[0].message.content
    assert text and answer.choices[0].finish_reason in ("stop", "length")
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in told).decode().startswith(text[:3])
    with client.chat.completions.stream(
            model="x", messages=MESSAGES, max_tokens=16, temperature=0) as stream:
        streamed = "".join(e.delta for e in stream if e.type == "content.delta")
        final = stream.current_completion_snapshot
    assert streamed == text == final.choices[0].message.content


def tools(client: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        answer = client.chat.completions.create(
            model="x", messages=MESSAGES, tools=TOOLS, tool_choice=choice,
            max_tokens=200, temperature=0)
        call = answer.choices[0].message.tool_calls[0]
        assert call.function.name == "look" and answer.choices[0].finish_reason == "tool_calls"
        assert json.loads(call.function.arguments)["at"] in ("bat", "ball")
    with client.chat.completions.stream(
            model="x", messages=MESSAGES, tools=TOOLS, tool_choice="required",
            max_tokens=200, temperature=0) as stream:
        for _ in stream:
            pass
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert call.function.name == "look" and json.loads(call.function.arguments)
    history = MESSAGES + [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": call.id, "type": "function",
             "function": {"name": "look", "arguments": call.function.arguments}}]},
        {"role": "tool", "tool_call_id": call.id, "content": "It sleeps."}]
    answer = client.chat.completions.create(
        model="x", messages=history, tools=TOOLS, tool_choice="none", max_tokens=8)
    assert answer.choices[0].message.content


def schema(client: openai.OpenAI) -> None:
    wanted = {"type": "object", "properties": {
        "animal": {"enum": ["bat", "cat"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 8}},
        "required": ["animal", "legs"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model="x", messages=MESSAGES, max_tokens=400, temperature=0,
        response_format={"type": "json_schema",
                         "json_schema": {"name": "animal", "strict": True, "schema": wanted}})
    value = json.loads(answer.choices[0].message.content)
    assert value["animal"] in ("bat", "cat") and 0 <= value["legs"] <= 8
    answer = client.responses.create(model="x", input="What is a bat?", max_output_tokens=8)
    assert answer.output_text
    events = list(client.responses.create(
        model="x", input="What is a bat?", max_output_tokens=8, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    streamed = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert streamed == events[-1].response.output_text
    called = client.responses.create(
        model="x", input="Where is it?", tool_choice="required", temperature=0,
        tools=[{"type": "function", "name": "look", "strict": True,
                "parameters": TOOLS[0]["function"]["parameters"]}])
    assert called.output[0].type == "function_call" and json.loads(called.output[0].arguments)


def errors(client: openai.OpenAI) -> None:
    for wrong, param in (({"temperature": -1}, "temperature"), ({"n": 0}, "n"),
                         ({"max_tokens": -1}, "max_tokens"), ({"top_logprobs": 3}, "top_logprobs")):
        try:
            client.chat.completions.create(model="x", messages=MESSAGES, **wrong)
            raise SystemExit(f"{wrong} is taken")
        except openai.BadRequestError as error:
            assert error.param == param and error.type == "invalid_request_error", error
    try:
        client.completions.create(model="x", prompt="bat " * 100_000)
        raise SystemExit("a prompt beyond the context is taken")
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error
    try:
        client.embeddings.create(model="x", input="bat")
        raise SystemExit("embeddings are given")
    except openai.BadRequestError as error:
        assert "embeddings" in error.message
    assert [model.id for model in client.models.list()]


async def hanging_up(url: str) -> None:
    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none")
    before = metrics(url)["cancelled_total"]
    tasks = [asyncio.create_task(client.completions.create(
        model="x", prompt="Once", max_tokens=900, extra_body={"ignore_eos": True}))
        for _ in range(8)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stream = await client.completions.create(
        model="x", prompt="Once", max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    async for _ in stream:
        break
    await stream.close()
    deadline = time.time() + 30
    while metrics(url)["completions_active"] > 0:
        assert time.time() < deadline, "it goes on for nobody"
        await asyncio.sleep(0.05)
    assert metrics(url)["cancelled_total"] > before


with serving() as (url, _):
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    for test in (completions, chat, tools, schema, errors):
        test(client)
        print(f"openai {openai.__version__}: {test.__name__} ok")
    asyncio.run(hanging_up(url))
    print(f"openai {openai.__version__}: hanging up ok")
