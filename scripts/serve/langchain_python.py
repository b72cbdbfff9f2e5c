"""LangChain's ChatOpenAI: one answer, a stream, a tool, a structured answer."""

import json
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from server import serving


class Animal(BaseModel):
    """An animal."""

    name: Literal["bat", "cat"]
    legs: int = Field(ge=0, le=8)


@tool
def look(at: Literal["bat", "ball"]) -> str:
    """Looks at something."""
    return at


with serving() as (url, _):
    llm = ChatOpenAI(base_url=url + "/v1", api_key="none", model="tiny", temperature=0,
                     max_tokens=120, stream_usage=True)
    messages = [SystemMessage("You are brief."), HumanMessage("What is a bat?")]
    answer = llm.invoke(messages)
    assert answer.content and answer.usage_metadata["output_tokens"] > 0, answer
    chunks = list(llm.stream(messages))
    assert "".join(chunk.content for chunk in chunks) == answer.content
    assert any(chunk.usage_metadata for chunk in chunks)
    called = llm.bind_tools([look], tool_choice="look").invoke("Where is it?")
    assert called.tool_calls[0]["name"] == "look", called
    assert called.tool_calls[0]["args"]["at"] in ("bat", "ball")
    whole = None
    for chunk in llm.bind_tools([look], tool_choice="any").stream("Where is it?"):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls == [{**called.tool_calls[0], "id": whole.tool_calls[0]["id"]}], whole
    for method in ("json_schema", "function_calling"):
        long = llm.model_copy(update={"max_tokens": 700})
        animal = long.with_structured_output(Animal, method=method).invoke("Name an animal.")
        assert isinstance(animal, Animal), (method, animal)
    print("langchain-openai: answer, stream, tools, structured output ok")
    print(json.dumps({"answer": answer.content[:40]}))
