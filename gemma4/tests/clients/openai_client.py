"""openai-python against the server: chat completions, completions, responses."""

import json
import math
import sys

import openai

from common import ARGSORT, BASE, KEY, LINSPACE, PERSON, THOUGHT, WEATHER, run

client = openai.OpenAI(base_url=BASE + "/v1", api_key=KEY, max_retries=0, timeout=60)
MODEL = client.models.list().data[0].id
TOOLS = [{"type": "function", "function": WEATHER}]


def ask(text, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], temperature=0, **more)


def test_models_have_a_context():
    model = client.models.list().data[0]
    assert model.context_length > 1000, model
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_plain_answer():
    answer = ask("What does numpy.linspace do?")
    assert answer.choices[0].message.content == LINSPACE, answer
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens == 20 and usage.completion_tokens == 13 and usage.total_tokens == 33, usage
    again = ask("What does numpy.linspace do?").usage
    assert again.prompt_tokens_details.cached_tokens >= 16, again
    assert again.reuse["reason"], again


def test_a_streamed_answer():
    chunks = list(ask("What does numpy.linspace do?", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == LINSPACE, text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 13
    assert len({c.id for c in chunks}) == 1


def test_prefill_progress_is_reported_on_request():
    chunks = list(ask("What does numpy.cumsum do?", stream=True, extra_body={"return_progress": True, "cache_prompt": False}))
    progress = [c.prompt_progress for c in chunks if getattr(c, "prompt_progress", None)]
    assert progress and progress[-1]["processed"] <= progress[-1]["total"], progress


def test_a_tool_round_trip():
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls", first
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}
    assert choice.message.content is None
    messages.append(choice.message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "21 degrees"})
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS, temperature=0)
    assert second.choices[0].message.content == "It is 21 degrees in Paris.", second
    # On a second turn of a tool all but the new tokens come from the cache.
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 2, second.usage


def test_a_streamed_tool_call_has_one_id():
    chunks = list(ask("What is the weather in Paris?", tools=TOOLS, stream=True))
    deltas = [d for c in chunks if c.choices for d in (c.choices[0].delta.tool_calls or [])]
    assert {d.index for d in deltas} == {0}
    assert [d.id for d in deltas if d.id] and len({d.id for d in deltas if d.id}) == 1
    assert "".join(d.function.arguments or "" for d in deltas) == '{"city":"Paris"}', deltas
    assert "".join(d.function.name or "" for d in deltas) == "get_weather"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"


def test_tool_choice_is_obeyed():
    forced = ask("What does numpy.linspace do?", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    (call,) = forced.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and set(json.loads(call.function.arguments)) == {"city"}
    required = ask("Hello!", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert len(required.choices[0].message.tool_calls) == 1
    none = ask("What is the weather in Paris?", tools=TOOLS, tool_choice="none", max_tokens=40)
    assert not none.choices[0].message.tool_calls
    try:
        ask("Hello!", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nothing"}})
        raise AssertionError("a tool that is not there was taken")
    except openai.BadRequestError as error:
        assert "nothing" in str(error)


def test_arguments_follow_their_schema():
    tool = {"name": "paint", "description": "Paints.", "parameters": PERSON}
    forced = ask("Paint it.", tools=[{"type": "function", "function": tool}], tool_choice="required", parallel_tool_calls=False)
    arguments = json.loads(forced.choices[0].message.tool_calls[0].function.arguments)
    assert arguments["color"] in ("red", "green") and 1 <= arguments["count"] <= 9, arguments


def test_reasoning_is_apart():
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = ask("What does numpy.argsort do?", extra_body=thinking)
    message = answer.choices[0].message
    assert message.content == ARGSORT and message.reasoning_content.startswith(THOUGHT), message
    assert answer.usage.completion_tokens_details.reasoning_tokens > 5
    chunks = list(ask("What does numpy.argsort do?", extra_body=thinking, stream=True))
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    reasoning = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
    assert reasoning == message.reasoning_content
    off = ask("What does numpy.argsort do?", reasoning_effort="none").choices[0].message
    assert off.content == ARGSORT and not getattr(off, "reasoning_content", None)


def test_a_budget_ends_thoughts():
    answer = ask("What does numpy.argsort do?", extra_body={"thinking_budget": 4})
    details = answer.usage.completion_tokens_details
    assert details.reasoning_tokens <= 8 and answer.choices[0].message.content, answer


def test_json_follows_its_schema():
    format = {"type": "json_schema", "json_schema": {"name": "it", "schema": PERSON, "strict": True}}
    answer = ask("Which color?", response_format=format)
    found = json.loads(answer.choices[0].message.content)
    assert found["color"] in ("red", "green") and 1 <= found["count"] <= 9, found
    thinking = ask("Which color?", response_format=format, extra_body={"thinking_budget": 12})
    assert json.loads(thinking.choices[0].message.content)["color"] in ("red", "green")
    chunks = ask("Which color?", response_format=format, stream=True)
    assert json.loads("".join(c.choices[0].delta.content or "" for c in chunks if c.choices)) == found


def test_json_objects():
    answer = ask("Say something.", response_format={"type": "json_object"}, max_tokens=64)
    choice = answer.choices[0]
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_logprobs():
    answer = ask("What does numpy.linspace do?", logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert "".join(t.token for t in content) == LINSPACE, content
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.top_logprobs[0].token == token.token, "greedy takes the most likely"
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-6)
        assert bytes(token.bytes).decode() == token.token
    chunks = ask("What does numpy.linspace do?", logprobs=True, stream=True)
    streamed = [t.token for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == [t.token for t in content]


def test_stop_strings_are_no_part_of_the_answer():
    answer = ask("What does numpy.linspace do?", stop=[" numbers", "nothing"])
    assert answer.choices[0].message.content == "Return evenly spaced" and answer.choices[0].finish_reason == "stop"
    chunks = ask("What does numpy.linspace do?", stop=" numbers over", stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Return evenly spaced"


def test_limits_choices_seeds_and_biases():
    cut = ask("What does numpy.linspace do?", max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    sample = dict(model=MODEL, messages=[{"role": "user", "content": "What does it do?"}], temperature=1.5, n=3, max_tokens=8)
    one = [c.message.content for c in client.chat.completions.create(seed=7, **sample).choices]
    two = [c.message.content for c in client.chat.completions.create(seed=7, **sample).choices]
    assert one == two and len(set(one)) > 1, (one, two)
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(seed=7, stream=True, **sample):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == one
    first = ask("What does numpy.linspace do?", logprobs=True).choices[0].logprobs.content[0].token
    token = client.post("/../tokenize", body={"content": first}, cast_to=dict)["tokens"][0]
    biased = ask("What does numpy.linspace do?", logit_bias={str(token): -100}, frequency_penalty=0.1, presence_penalty=0.1)
    assert not biased.choices[0].message.content.startswith(first)


def test_system_prompts_and_parts():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "What does "}, {"type": "text", "text": "numpy.linspace do?"}]},
    ]
    answer = client.chat.completions.create(model="any name", messages=messages, temperature=0, user="me", store=False, metadata={})
    assert answer.choices[0].message.content


def test_errors_are_those_of_the_vendor():
    for request, error, says in [
        (dict(messages=[]), openai.BadRequestError, "messages"),
        (dict(messages="hi"), openai.BadRequestError, "`messages` is \"hi\", expected a list"),
        (dict(messages=[{"role": "user", "content": "x"}], temperature="warm"), openai.BadRequestError, "temperature"),
        (dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), openai.BadRequestError, "text only"),
        (dict(messages=[{"role": "user", "content": "x " * 20000}]), openai.BadRequestError, "context"),
    ]:
        try:
            client.chat.completions.create(model=MODEL, **request)
            raise AssertionError(f"{request} was taken")
        except error as found:
            assert says in str(found) and found.body["type"] == "invalid_request_error", found


def test_completions():
    prompt = "class Config:\n    def __init__(self, path):\n        "
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=5, temperature=0, logprobs=2)
    choice = answer.choices[0]
    assert choice.finish_reason == "length" and answer.usage.completion_tokens == 5
    assert "".join(choice.logprobs.tokens) == choice.text and len(choice.logprobs.top_logprobs[0]) == 2
    chunks = list(client.completions.create(model=MODEL, prompt=prompt, max_tokens=5, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == choice.text
    both = client.completions.create(model=MODEL, prompt=[prompt, prompt], max_tokens=5, temperature=0, echo=True)
    assert [c.text for c in both.choices] == [prompt + choice.text] * 2


def test_responses():
    answer = client.responses.create(model=MODEL, input="What does numpy.linspace do?", temperature=0)
    assert answer.output_text == LINSPACE and answer.status == "completed", answer
    assert answer.usage.input_tokens_details.cached_tokens >= 0
    assert client.responses.retrieve(answer.id).output_text == LINSPACE
    more = client.responses.create(model=MODEL, previous_response_id=answer.id, input="What does numpy.argsort do?", temperature=0)
    assert more.output_text and more.usage.input_tokens > answer.usage.total_tokens, more.usage
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
        raise AssertionError("a deleted response is there")
    except openai.NotFoundError:
        pass


def test_responses_stream_events_in_order():
    with client.responses.stream(model=MODEL, input="What does numpy.argsort do?", temperature=0, reasoning={"effort": "medium"}) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed", kinds
    assert kinds.count("response.output_item.added") == 2 == kinds.count("response.output_item.done")
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")] == sorted({e.sequence_number for e in events if hasattr(e, "sequence_number")})
    assert final.output_text == ARGSORT
    reasoning = final.output[0]
    assert reasoning.type == "reasoning" and reasoning.content[0].text.startswith(THOUGHT)


def test_responses_call_tools():
    tools = [{"type": "function", "strict": False, **WEATHER}, {"type": "web_search"}]
    items = [{"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Paris?"}]}]
    # What Codex sends beside.
    more = dict(tools=tools, parallel_tool_calls=True, store=False, include=["reasoning.encrypted_content"],
                prompt_cache_key="k", service_tier="auto", temperature=0, reasoning={"effort": "none", "summary": "auto"},
                text={"format": {"type": "text"}, "verbosity": "low"}, stream=True)
    events = list(client.responses.create(model=MODEL, input=items, **more))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [json.loads(e.arguments) for e in done] == [{"city": "Paris"}]
    (call,) = events[-1].response.output
    assert call.type == "function_call" and call.name == "get_weather"
    items += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}]
    events = list(client.responses.create(model=MODEL, input=items, **more))
    assert events[-1].response.output_text == "It is 21 degrees in Paris.", events[-1]


def test_responses_follow_a_schema():
    format = {"type": "json_schema", "name": "it", "schema": PERSON, "strict": True}
    answer = client.responses.create(model=MODEL, input="Which color?", text={"format": format}, temperature=0)
    assert json.loads(answer.output_text)["color"] in ("red", "green")
    cut = client.responses.create(model=MODEL, input="What does numpy.linspace do?", max_output_tokens=2, temperature=0)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


if __name__ == "__main__":
    run(sys.modules[__name__])
