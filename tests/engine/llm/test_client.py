"""One call against an endpoint that does all that endpoints do."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from email.utils import formatdate

import pytest

from expllm_jax.engine.llm.client import ChatClient
from expllm_jax.engine.llm.request import ChatRequest, Completion
from expllm_jax.engine.llm.retries import Pace, backoff, retry_after
from expllm_jax.engine.narration import NarratorFailed, UnusableReply
from expllm_jax.errors import ExpllmError
from tests.engine.llm.endpoint import Sent, completion, in_turn, refusal, serving
from tests.engine.llm.faces import quick

QUESTION = ChatRequest("scripted", "be brief", "what do you see?", (("max_tokens", 20), ("temperature", 0.0)), 20)


def ask(config, question=QUESTION) -> tuple[Completion, ChatClient]:
    async def asked() -> tuple[Completion, ChatClient]:
        client = ChatClient(config)
        try:
            return await client.complete(question), client
        finally:
            await client.close()

    return asyncio.run(asked())


def test_what_is_asked_and_answered():
    with serving(in_turn(completion("a face", usage=(30, 4)))) as endpoint:
        reply, client = ask(quick(endpoint.url, price_in=1.0, price_out=10.0))
    assert reply == Completion("a face", "stop", 30, 4, False, (30 + 40) / 1e6)
    (served,) = endpoint.served
    assert served.path == "/v1/chat/completions"
    assert served.body == {
        "model": "scripted",
        "max_tokens": 20,
        "temperature": 0.0,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what do you see?"}],
    }
    assert (client.traffic.sent, client.traffic.unanswered) == (1, 0)


GOOD = completion("a face")
PASSING = {
    "429": refusal(429),
    "429 with Retry-After": refusal(429, Retry_After="0.01"),
    "500": refusal(500),
    "503 with Retry-After": refusal(503, Retry_After="0"),
    "408": refusal(408),
    "a body cut short": Sent(GOOD.body, cut=60),
    "no JSON": Sent(b"<html>gateway</html>", content_type="text/html"),
    "half a JSON": Sent(GOOD.body[:60]),
    "a list": Sent(b"[]"),
    "no choices": Sent(b'{"error": {"message": "overloaded"}}'),
    "empty choices": Sent(b'{"choices": []}'),
    "no message": Sent(b'{"choices": [{"finish_reason": "stop"}]}'),
    "a message that is null": Sent(b'{"choices": [{"message": null}]}'),
    "content of another type": completion({"text": "a face"}),
    "half a character": Sent(GOOD.body.replace(b"a face", b"\\ud800")),
    "no UTF-8": Sent(GOOD.body.replace(b"a face", b"\xff")),
    "nothing": Sent(b""),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_tried_again(kind):
    with serving(in_turn(PASSING[kind], GOOD)) as endpoint:
        reply, client = ask(quick(endpoint.url))
    assert reply.content == "a face"
    assert (len(endpoint.served), client.traffic.sent, client.traffic.unanswered) == (2, 2, 1)


@pytest.mark.parametrize("kind", PASSING)
def test_what_does_not_pass_fails_after_all_tries(kind):
    with serving(in_turn(PASSING[kind])) as endpoint, pytest.raises(NarratorFailed, match="no answer in 3 tries"):
        ask(quick(endpoint.url))
    assert len(endpoint.served) == 3


@pytest.mark.parametrize("slow", [completion("late", hang=0.6), Sent(GOOD.body, drip=0.05)], ids=["hangs", "drips"])
def test_a_server_that_takes_too_long_is_given_up_and_asked_again(slow):
    with serving(in_turn(slow, slow, GOOD)) as endpoint:
        with pytest.raises(NarratorFailed, match=r"no whole answer within 0\.1 s"):
            ask(quick(endpoint.url, timeout=0.1, retries=0))
        reply, client = ask(quick(endpoint.url, timeout=0.5))
    assert (reply.content, client.traffic.unanswered, len(endpoint.served)) == ("a face", 1, 3)


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(NarratorFailed, match="no answer in 3 tries.*the connection failed"):
            ask(quick(url))


def test_the_run_stops_when_nothing_answers_any_more():
    """Otherwise every face would wait through all its retries, for days."""

    async def asked(url):
        client = ChatClient(quick(url, retries=0, give_up_after=3))
        ended = []
        for _ in range(4):
            try:
                ended.append((await client.complete(QUESTION)).content)
            except (NarratorFailed, ExpllmError) as error:
                ended.append(type(error))
        await client.close()
        return ended

    down = refusal(503)
    with serving(in_turn(down)) as endpoint:
        assert asyncio.run(asked(endpoint.url)) == [NarratorFailed, NarratorFailed, ExpllmError, ExpllmError]
    with serving(in_turn(down, down, GOOD, down)) as endpoint:
        assert asyncio.run(asked(endpoint.url)) == [NarratorFailed, NarratorFailed, "a face", NarratorFailed]


@pytest.mark.parametrize(
    ("sent", "remedy"),
    [
        (refusal(400, "unknown parameter"), "mend the settings"),
        (refusal(401, "bad key"), "--api-key-env"),
        (refusal(403), "--api-key-env"),
        (refusal(404, "no such model"), "ends in /v1"),
        (refusal(422), "mend the settings"),
        (refusal(429, "pay first", "insufficient_quota"), "mend the settings"),
    ],
    ids=lambda value: value.status if isinstance(value, Sent) else "",
)
def test_what_every_call_would_meet_stops_at_once(sent, remedy):
    with (
        serving(in_turn(sent)) as endpoint,
        pytest.raises(ExpllmError, match=f"refuses the call.*{sent.status}") as told,
    ):
        ask(quick(endpoint.url))
    assert remedy in told.value.remedy
    assert len(endpoint.served) == 1


@pytest.mark.parametrize("code", ["content_filter", "context_length_exceeded"])
def test_what_only_this_question_meets_is_an_unusable_reply(code):
    with serving(in_turn(refusal(400, "not that", code))) as endpoint, pytest.raises(UnusableReply, match="not that"):
        ask(quick(endpoint.url))
    assert len(endpoint.served) == 1


def test_a_question_that_is_too_large_fails_alone():
    with serving(in_turn(refusal(413))) as endpoint, pytest.raises(NarratorFailed, match="too large"):
        ask(quick(endpoint.url))
    assert len(endpoint.served) == 1


def test_retry_after_holds_back_all_calls():
    came = []

    def answer(_):
        came.append(time.monotonic())
        return refusal(429, Retry_After="0.3") if len(came) == 1 else GOOD

    async def two(url):
        client = ChatClient(quick(url))
        first = asyncio.create_task(client.complete(QUESTION))
        while not client.traffic.unanswered:
            await asyncio.sleep(0.005)
        await asyncio.gather(first, client.complete(QUESTION))
        await client.close()

    with serving(answer) as endpoint:
        asyncio.run(two(endpoint.url))
    assert len(came) == 3 and min(came[1:]) - came[0] >= 0.3


def test_who_asks_for_too_long_a_pause_counts_as_down():
    with serving(in_turn(refusal(429, Retry_After="3600"))) as endpoint:
        with pytest.raises(NarratorFailed, match="in 1 try"):
            ask(quick(endpoint.url, longest_retry_after=60.0))


def test_no_more_calls_at_once_than_allowed():
    async def many(url):
        client = ChatClient(quick(url, concurrency=3))
        await asyncio.gather(*(client.complete(QUESTION) for _ in range(12)))
        await client.close()

    with serving(in_turn(completion("a face", hang=0.03))) as endpoint:
        asyncio.run(many(endpoint.url))
    assert (len(endpoint.served), endpoint.most_at_once) == (12, 3)


def test_a_server_that_reports_no_usage_is_estimated():
    with serving(in_turn(completion("four words are here", usage=None))) as endpoint:
        reply, _ = ask(quick(endpoint.url))
    assert reply.estimated
    assert reply.tokens_in >= 6 and reply.tokens_out >= 4


def test_stopping_ends_calls_that_wait_for_another_try():
    async def stopped(url):
        client = ChatClient(quick(url))
        call = asyncio.create_task(client.complete(QUESTION))
        while not client.traffic.unanswered:
            await asyncio.sleep(0.005)
        held_back = asyncio.create_task(client.complete(QUESTION))
        await asyncio.sleep(0.01)
        client.stop()
        with pytest.raises(NarratorFailed, match="stopped before another try"):
            await call
        with pytest.raises(NarratorFailed, match="stopped before the question was sent"):
            await held_back
        await client.close()

    with serving(in_turn(refusal(500, Retry_After="200"))) as endpoint:
        asyncio.run(stopped(endpoint.url))
    assert len(endpoint.served) == 1


def test_backoff_doubles_up_to_its_limit_and_is_drawn():
    rng = random.Random(0)
    for tries, most in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 30.0), (5000, 30.0)):
        drawn = [backoff(tries, 1.0, 30.0, rng) for _ in range(200)]
        assert most / 2 <= min(drawn) < 0.6 * most and 0.9 * most < max(drawn) <= most


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_may_be_a_date():
    assert 50 < retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) <= 60


def test_the_pace_spaces_calls():
    async def paced():
        pace, clock = Pace(1200, asyncio.Event()), asyncio.get_running_loop().time
        begun = clock()
        await asyncio.gather(*(pace.turn() for _ in range(5)))
        return clock() - begun

    assert asyncio.run(paced()) >= 4 * 0.05 - 0.001
