"""LangChain's ChatOpenAI against the server."""

import sys
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from common import BASE, KEY, LINSPACE, run

model = ChatOpenAI(model="gemma4", base_url=BASE + "/v1", api_key=KEY, temperature=0, max_retries=0, timeout=60)


@tool
def get_weather(city: str = Field(description="Name of the city.")) -> str:
    """Current weather of a city."""
    return f"21 degrees in {city}"


class Paint(BaseModel):
    """What to paint."""

    color: Literal["red", "green"]
    count: int = Field(ge=1, le=9)


def test_a_plain_answer():
    answer = model.invoke("What does numpy.linspace do?")
    assert answer.content == LINSPACE and answer.usage_metadata["output_tokens"] == 13, answer


def test_a_streamed_answer():
    chunks = list(model.stream("What does numpy.linspace do?"))
    assert "".join(chunk.content for chunk in chunks) == LINSPACE
    assert sum(1 for chunk in chunks if chunk.content) > 3


def test_a_tool_round_trip():
    tools = model.bind_tools([get_weather])
    messages = [HumanMessage("What is the weather in Paris?")]
    first = tools.invoke(messages)
    (call,) = first.tool_calls
    assert call["name"] == "get_weather" and call["args"] == {"city": "Paris"}, first
    messages += [first, ToolMessage("21 degrees", tool_call_id=call["id"])]
    assert tools.invoke(messages).content == "It is 21 degrees in Paris."
    gathered = None
    for chunk in tools.stream(messages[:1]):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered.tool_calls[0]["args"] == {"city": "Paris"}, gathered


def test_structured_output():
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Paint, method=method).invoke("Paint it.")
        assert found.color in ("red", "green") and 1 <= found.count <= 9, (method, found)


def test_logprobs_and_responses():
    answer = model.bind(logprobs=True).invoke("What does numpy.linspace do?")
    assert "".join(t["token"] for t in answer.response_metadata["logprobs"]["content"]) == LINSPACE
    responses = ChatOpenAI(model="gemma4", base_url=BASE + "/v1", api_key=KEY, temperature=0, use_responses_api=True, max_retries=0)
    assert responses.invoke("What does numpy.linspace do?").text == LINSPACE


if __name__ == "__main__":
    run(sys.modules[__name__])
