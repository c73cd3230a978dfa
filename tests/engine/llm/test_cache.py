"""What arrived is kept, counted, and asked for once."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from expllm_jax.engine.llm.budget import Spent
from expllm_jax.engine.llm.cache import ReplyCache
from expllm_jax.engine.llm.calls import Calls
from expllm_jax.engine.llm.pictures import Picture
from expllm_jax.engine.llm.request import ChatRequest, Completion
from expllm_jax.engine.narration import BudgetSpent, NarratorFailed
from expllm_jax.errors import ExpllmError
from tests.engine.llm.endpoint import completion, in_turn, refusal, serving
from tests.engine.llm.faces import quick

REPLY = Completion("a face — with ünïcode", "stop", 30, 4, False, 0.25)
ESTIMATED = Completion(None, "content_filter", 10, 0, True, 0.0)


def question(user="what do you see?", **changes) -> ChatRequest:
    settings = {"model": "scripted", "system": "be brief", "settings": (("temperature", 0.0),), "max_tokens": 20}
    return ChatRequest(**(settings | {"user": user} | changes))


def test_a_reply_comes_back_from_the_disk(tmp_path):
    async def put():
        cache = ReplyCache(tmp_path / "new" / "replies.sqlite")
        assert await cache.get("a") is None
        await cache.put("a", "scripted", REPLY)
        await cache.put("b", "scripted", ESTIMATED)
        await cache.put("a", "scripted", ESTIMATED)  # the first stays
        cache.close()
        cache.close()

    async def get():
        cache = ReplyCache(tmp_path / "new" / "replies.sqlite")
        assert cache.spent() == Spent(2, 40, 4, 1, 0.25)
        found = [await cache.get(key) for key in "abc"]
        cache.close()
        return found

    asyncio.run(put())
    assert asyncio.run(get()) == [REPLY, ESTIMATED, None]


def test_a_file_that_is_something_else_is_left_alone(tmp_path):
    for name, make in {
        "text.sqlite": lambda path: path.write_text("not a database, but long enough to be looked at " * 99),
        "other.sqlite": lambda path: sqlite3.connect(path).execute("CREATE TABLE mine (x)").connection.close(),
        "later.sqlite": lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 2").connection.close(),
    }.items():
        make(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ExpllmError, match=name):
            ReplyCache(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExpllmError, match="file"):
        ReplyCache(tmp_path / "file" / "replies.sqlite")


def test_the_key_follows_from_all_that_the_model_is_told():
    picture = Picture(b"\xff\xd8\xff1", "image/jpeg")
    different = [
        question(),
        question("and now?"),
        question(model="another"),
        question(system="be long"),
        question(settings=(("temperature", 0.5),)),
        question(settings=(("temperature", 0.0), ("seed", 1))),
        question(draw=1),
        question(picture=picture),
        question(picture=Picture(b"\xff\xd8\xff2", "image/jpeg")),
    ]
    assert len({asked.key for asked in different}) == len(different)
    assert question(settings=(("a", 1), ("b", 2))).key == question(settings=(("b", 2), ("a", 1))).key


def use(config, path, work):
    """Runs `work(calls)` and closes."""

    async def used():
        calls = Calls(config, path)
        try:
            return await work(calls)
        finally:
            await calls.close()

    return asyncio.run(used())


def test_the_same_question_is_sent_once(tmp_path):
    async def several(calls):
        told = await asyncio.gather(*(calls.answer(question()) for _ in range(5)), calls.answer(question("else?")))
        return [reply.content for reply in told], calls.report()

    with serving(in_turn(completion("a face", hang=0.05))) as endpoint:
        config = quick(endpoint.url)
        contents, report = use(config, tmp_path / "replies.sqlite", several)
        assert contents == ["a face"] * 6 and len(endpoint.served) == 2
        assert report == {
            "questions": 6,
            "questions_from_cache": 4,
            "requests": 2,
            "requests_unanswered": 0,
            "spent": {"calls": 2, "tokens_in": 200, "tokens_out": 100, "calls_estimated": 0, "cost": 0.0},
        }
        contents, report = use(config, tmp_path / "replies.sqlite", several)
        assert contents == ["a face"] * 6 and len(endpoint.served) == 2
        assert (report["questions_from_cache"], report["requests"], report["spent"]["calls"]) == (6, 0, 2)


def test_a_failure_is_not_kept(tmp_path):
    async def once(calls):
        return (await calls.answer(question())).content

    with serving(in_turn(refusal(500), completion("a face"))) as endpoint:
        config = quick(endpoint.url, retries=0)
        with pytest.raises(NarratorFailed):
            use(config, tmp_path / "replies.sqlite", once)
        assert use(config, tmp_path / "replies.sqlite", once) == "a face"


def test_an_answer_on_its_way_is_kept_though_nobody_waits_for_it(tmp_path):
    async def gone(calls):
        waiting = asyncio.create_task(calls.answer(question()))
        while not endpoint.served:
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def once(calls):
        return (await calls.answer(question())).content

    with serving(in_turn(completion("a face", hang=0.1))) as endpoint:
        config = quick(endpoint.url)
        use(config, tmp_path / "replies.sqlite", gone)
        assert use(config, tmp_path / "replies.sqlite", once) == "a face"
    assert len(endpoint.served) == 1


# What a question may take by our estimate: 2 messages of 16, 3 + 6 tokens of text, 20 of answer.
MOST = 2 * 16 + 3 + 6 + 20


@pytest.mark.parametrize(
    "limit", [{"budget_tokens": 3 * 30 + MOST}, {"budget": (3 * 30 + MOST) / 1e6, "price_in": 1.0, "price_out": 1.0}]
)
def test_the_budget_stops_before_the_call_that_could_exceed_it(tmp_path, limit):
    async def one_by_one(calls):
        for number in range(10, 20):
            await calls.answer(question(f"what do you se{number}"))

    with serving(in_turn(completion("a face", usage=(20, 10)))) as endpoint:
        config = quick(endpoint.url, **limit)
        with pytest.raises(BudgetSpent, match="120 of 151|0.0001 of 0.000151"):
            use(config, tmp_path / "replies.sqlite", one_by_one)
        assert len(endpoint.served) == 4  # a fifth could have taken 4 * 30 + MOST
        with pytest.raises(BudgetSpent):  # what was spent is known after a restart; what is kept costs nothing
            use(config, tmp_path / "replies.sqlite", one_by_one)
        assert len(endpoint.served) == 4
        raised = {key: value * 10 for key, value in limit.items() if key.startswith("budget")}
        use(quick(endpoint.url, **(limit | raised)), tmp_path / "replies.sqlite", one_by_one)
        assert len(endpoint.served) == 10


def test_calls_under_way_hold_their_share_and_the_next_one_waits_for_it(tmp_path):
    """Two could exceed the budget together, but do not one after the other."""

    async def at_once(calls):
        return await asyncio.gather(*(calls.answer(question(f"what do you se{n}")) for n in range(10, 14)))

    with serving(in_turn(completion("a face", usage=(5, 5), hang=0.03))) as endpoint:
        replies = use(quick(endpoint.url, budget_tokens=MOST + 3 * 10), tmp_path / "replies.sqlite", at_once)
        assert len(replies) == 4
        assert endpoint.most_at_once == 1


def test_without_a_report_the_budget_counts_an_estimate_and_says_so(tmp_path):
    async def one_by_one(calls):
        for number in range(10, 20):
            await calls.answer(question(f"what do you se{number}"))

    with serving(in_turn(completion("a face", usage=None))) as endpoint:
        with pytest.raises(BudgetSpent, match=r"in \d calls \(\d of them estimated\)"):
            use(quick(endpoint.url, budget_tokens=4 * MOST), tmp_path / "replies.sqlite", one_by_one)
        assert 4 <= len(endpoint.served) < 10
