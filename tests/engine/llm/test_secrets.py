"""The key is nowhere but in the request: not in files, errors, logs, or what objects show of themselves."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback

import pytest

from expllm_jax.engine.llm import LlmNarrator
from expllm_jax.engine.loop import ExpCotLoop
from expllm_jax.engine.narration import NarratorFailed
from expllm_jax.errors import ExpllmError
from tests.engine.llm.endpoint import Sent, completion, refusal, serving
from tests.engine.llm.faces import faces, quick, task, well

KEY, VARIABLE = "sk-very-secret-0123456789", "EXPLLM_TEST_KEY"


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)


def run(answer, folder, **settings):
    """(Outcome or error, endpoint, narrator) of one face."""

    async def one(url):
        narrator = LlmNarrator(quick(url, api_key_env=VARIABLE, **settings), folder / "replies.sqlite")
        try:
            return await ExpCotLoop(narrator).run(faces(1)[0]), narrator
        except ExpllmError as error:
            return error, narrator
        finally:
            await narrator.close()

    with serving(answer) as endpoint:
        ended, narrator = asyncio.run(one(endpoint.url))
    return ended, endpoint, narrator


def shown(ended) -> str:
    """All that a person or a log could see of how it ended."""
    if isinstance(ended, BaseException):
        return str(ended) + repr(ended) + "".join(traceback.format_exception(ended))
    return repr(ended) + str(ended.dead_letter())


def echo(served) -> Sent:
    """A model that repeats its request's headers."""
    return completion(str(dict(served.headers)))


@pytest.mark.parametrize(
    "answer",
    [
        well,
        echo,
        lambda _: refusal(401, f"Incorrect API key provided: {KEY}."),
        lambda _: refusal(500, f"cannot handle {KEY}"),
        lambda _: Sent(f"<html>{KEY}</html>".encode(), content_type="text/html"),
    ],
    ids=["well", "echo", "401", "500", "no JSON"],
)
def test_the_key_is_sent_and_shown_nowhere(tmp_path, secret, caplog, capsys, answer):
    caplog.set_level(logging.DEBUG)
    ended, endpoint, narrator = run(answer, tmp_path)
    assert {served.headers["authorization"] for served in endpoint.served} == {f"Bearer {KEY}"}
    told = shown(ended) + repr(narrator) + repr(narrator.provenance) + repr(narrator.report())
    told += caplog.text + "".join(capsys.readouterr())
    assert caplog.records  # the client does log
    assert KEY not in told
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_no_key_of_another_service_is_sent(tmp_path, monkeypatch):
    """Without --api-key-env none goes out, also where the official client would take one from the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def one(url):
        narrator = LlmNarrator(quick(url), tmp_path / "replies.sqlite")
        await narrator.describe(task(faces(1)[0]), ())
        await narrator.close()

    with serving(well) as endpoint:
        asyncio.run(one(endpoint.url))
    assert KEY not in str(endpoint.served[0].headers)


def test_a_key_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(ExpllmError, match="EXPLLM_TEST_KEY is not set"):
        LlmNarrator(quick("http://127.0.0.1:1/v1", api_key_env=VARIABLE), tmp_path / "replies.sqlite")


@pytest.mark.parametrize("key", ["sk-two\nlines", "sk-two words", "sk-ünïcode"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_quoted(tmp_path, monkeypatch, key):
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ExpllmError, match="EXPLLM_TEST_KEY holds is no key") as told:
        LlmNarrator(quick("http://127.0.0.1:1/v1", api_key_env=VARIABLE), tmp_path / "replies.sqlite")
    assert "sk-" not in repr(told.value)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ExpllmError, match=r"expllm_jax\[llm\]"):
        LlmNarrator(quick("http://127.0.0.1:1/v1"), tmp_path / "replies.sqlite")


def test_the_package_is_imported_by_nothing_but_a_narrator():
    code = "import sys, expllm_jax.engine.loop, expllm_jax.engine.llm, expllm_jax.cli.engine_llm_options"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'openai' not in sys.modules"], check=True)


def test_an_organisation_of_another_service_is_not_sent(tmp_path, monkeypatch):
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)

    async def one(url):
        narrator = LlmNarrator(quick(url, retries=0), tmp_path / "replies.sqlite")
        with pytest.raises(NarratorFailed):
            await narrator.describe(task(faces(1)[0]), ())
        await narrator.close()

    with serving(lambda _: refusal(500)) as endpoint:
        asyncio.run(one(endpoint.url))
    assert KEY not in str(endpoint.served[0].headers)
