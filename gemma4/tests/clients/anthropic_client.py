"""The Anthropic SDK against the server, with what Claude Code sends."""

import sys

import anthropic
import httpx

from common import ARGSORT, BASE, KEY, LINSPACE, THOUGHT, WEATHER, run

client = anthropic.Anthropic(base_url=BASE, api_key=KEY, max_retries=0, timeout=60)
MODEL = "claude-sonnet-4-5"
TOOL = {"name": "get_weather", "description": WEATHER["description"], "input_schema": WEATHER["parameters"]}


# The library has no parameter for it.
GREEDY = {"temperature": 0}


def ask(text, extra_body=None, **more):
    more.setdefault("max_tokens", 200)
    body = {**GREEDY, **(extra_body or {})}
    return client.messages.create(model=MODEL, messages=[{"role": "user", "content": text}], extra_body=body, **more)


def test_a_plain_answer():
    answer = ask("What does numpy.linspace do?")
    assert answer.content[0].text == LINSPACE and answer.stop_reason == "end_turn", answer
    assert answer.usage.output_tokens == 13
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == 20, answer.usage
    assert client.models.list().data[0].id


def test_a_streamed_answer_has_its_events_in_order():
    kinds = []
    with client.messages.stream(
        model=MODEL, max_tokens=200, extra_body=GREEDY, messages=[{"role": "user", "content": "What does numpy.linspace do?"}]
    ) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    raw = [kind for kind in kinds if kind not in ("text", "ping")]
    assert raw[0] == "message_start" and raw[1] == "content_block_start", raw
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"], raw
    assert final.content[0].text == LINSPACE and final.usage.output_tokens == 13


def test_thinking_is_a_block_of_its_own():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = ask("What does numpy.argsort do?", thinking=thinking, max_tokens=2000)
    first, second = answer.content
    assert first.type == "thinking" and first.thinking.startswith(THOUGHT) and first.signature
    assert second.text == ARGSORT
    with client.messages.stream(model=MODEL, max_tokens=2000, extra_body=GREEDY, thinking=thinking,
                                messages=[{"role": "user", "content": "What does numpy.argsort do?"}]) as stream:
        kinds = [event.delta.type for event in stream if event.type == "content_block_delta"]
        final = stream.get_final_message()
    assert kinds[0] == "thinking_delta" and "signature_delta" in kinds and kinds[-1] == "text_delta", kinds
    assert final.content[0].thinking == first.thinking


def test_a_tool_round_trip():
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    more = dict(model=MODEL, max_tokens=200, extra_body=GREEDY, tools=[TOOL])
    with client.messages.stream(messages=messages, **more) as stream:
        kinds = [event.delta.type for event in stream if event.type == "content_block_delta"]
        first = stream.get_final_message()
    assert "input_json_delta" in kinds and first.stop_reason == "tool_use", first
    (use,) = [block for block in first.content if block.type == "tool_use"]
    assert use.name == "get_weather" and use.input == {"city": "Paris"} and use.id.startswith("toolu_")
    messages += [
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "21 degrees"}],
                                      "cache_control": {"type": "ephemeral"}}]},
    ]
    second = client.messages.create(messages=messages, **more)
    assert second.content[0].text == "It is 21 degrees in Paris.", second
    forced = ask("Hello!", tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True})
    assert forced.stop_reason == "tool_use" and forced.content[0].name == "get_weather"


def test_a_changing_billing_line_does_not_cost_the_prefix():
    def system(number):
        return [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.{number}; cc_entrypoint=cli; cch={number:05x};"},
            {"type": "text", "text": "You answer questions about Python. " * 12, "cache_control": {"type": "ephemeral"}},
        ]

    counts = [client.messages.count_tokens(model=MODEL, system=system(n), messages=[{"role": "user", "content": "Hi"}]).input_tokens for n in (1, 70000)]
    assert counts[0] == counts[1] > 40, counts
    ask("What does numpy.sum do?", system=system(11), max_tokens=4)
    second = ask("What does numpy.sum do?", system=system(99999), max_tokens=4)
    assert second.usage.cache_read_input_tokens >= counts[0] - 20, second.usage


def test_stop_sequences_limits_and_prefill():
    stopped = ask("What does numpy.linspace do?", stop_sequences=[" numbers"])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == " numbers"
    assert stopped.content[0].text == "Return evenly spaced"
    assert ask("What does numpy.linspace do?", max_tokens=2).stop_reason == "max_tokens"
    begun = client.messages.create(model=MODEL, max_tokens=40, extra_body=GREEDY, messages=[
        {"role": "user", "content": "What does numpy.linspace do?"}, {"role": "assistant", "content": "Return evenly"}])
    assert begun.content[0].text == LINSPACE.removeprefix("Return evenly"), begun


def test_what_claude_code_sends_beside():
    answer = ask(
        "What is the weather in Paris?",
        metadata={"user_id": "u"},
        tools=[TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}],
        extra_headers={"anthropic-beta": "claude-code-20250219"},
        extra_body={"context_management": {"edits": []}, "output_config": {"effort": "medium"}},
    )
    assert [block.name for block in answer.content if block.type == "tool_use"] == ["get_weather"], answer
    with_bearer = httpx.post(BASE + "/v1/messages?beta=true", headers={"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"},
                             json={"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}, timeout=60)
    assert with_bearer.status_code == 200 and with_bearer.headers["request-id"], with_bearer.text


def test_errors_are_those_of_the_vendor():
    for request, says in [
        (dict(max_tokens=0), "max_tokens"),
        (dict(system=7), "`system` is 7, expected a string or a list of blocks"),
        (dict(tools=[{"name": "x"}]), "`tools[0].input_schema` is missing"),
    ]:
        try:
            ask("Hi", **request)
            raise AssertionError(f"{request} was taken")
        except anthropic.BadRequestError as error:
            assert error.body["type"] == "error" and error.body["error"]["type"] == "invalid_request_error"
            assert says in error.body["error"]["message"], error


if __name__ == "__main__":
    run(sys.modules[__name__])
