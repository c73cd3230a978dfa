"""The questions: their files, what they are filled with, and what goes along with them."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from string import Template

import pytest

from expllm_jax.cot import Finding
from expllm_jax.engine.llm import LlmConfig, LlmNarrator
from expllm_jax.engine.llm.pictures import read_picture
from expllm_jax.engine.llm.prompt_files import FIELDS, load_prompts
from expllm_jax.engine.llm.unit_list import unit_list
from expllm_jax.engine.memory import Attempt
from expllm_jax.engine.narration import NarratorFailed
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import FEAFA_24
from tests.engine.llm.endpoint import serving
from tests.engine.llm.faces import faces, quick, task, well

SADNESS = task(faces(2)[1])


def test_every_prompt_takes_what_it_is_filled_with():
    texts = load_prompts("v1").texts
    assert {name: set(Template(text).get_identifiers()) for name, text in texts.items()} == FIELDS


def test_another_wording_is_another_hash():
    prompts = load_prompts("v1")
    changed = dataclasses.replace(prompts, texts=prompts.texts | {"infer": prompts.texts["infer"] + "!"})
    assert changed.digest != prompts.digest == load_prompts("v1").digest


def test_an_unknown_version_is_named():
    with pytest.raises(ExpllmError, match="'v9'.*v1"):
        load_prompts("v9")


def test_what_is_filled_in_may_hold_dollars():
    assert "costs $units" in load_prompts("v1").fill("infer", description="costs $units", allowed="Fear")


def test_the_list_of_units():
    assert unit_list(SADNESS).splitlines() == [
        "- inner brow raise (AU1): strong, 0.81",
        "- brow lowering (AU4): significant, 0.51",
        "- nostril dilation (AU38): slight, 0.10",
        "- lip corner depression (AU15): strong, 0.81",
        "- chin raise (AU17): significant, 0.51",
    ]
    assert unit_list(SADNESS, with_associations=True).splitlines()[2:4] == [
        "- nostril dilation (AU38): slight, 0.10; tied to no expression in particular",
        "- lip corner depression (AU15): strong, 0.81; tied to Sadness, Disgust",
    ]
    sided = task(faces(1)[0], vocabulary=FEAFA_24, units={"FEAFA13": 0.3, "FEAFA5": 0.1, "FEAFA9": 0.09})
    assert unit_list(sided).splitlines() == [
        "- left brow lowering: slight, 0.10",
        "- right lip corner pull: moderate, 0.30",
    ]
    assert unit_list(task(faces(1)[0], units={"AU12": 0.09})) == "- none: the whole face is at rest"


def asked(tmp_path, work, **settings):
    """What the endpoint was asked by `work(narrator)`."""

    async def worked(url):
        narrator = LlmNarrator(quick(url, **settings), tmp_path / "replies.sqlite")
        try:
            await work(narrator)
        finally:
            await narrator.close()

    with serving(well) as endpoint:
        asyncio.run(worked(endpoint.url))
    return endpoint.served


def test_the_label_is_told_to_no_one_who_could_give_it_back(tmp_path):
    async def both(narrator):
        description = await narrator.describe(SADNESS, ())
        await narrator.infer(SADNESS, description)

    describe, infer = asked(tmp_path, both)
    assert "sad" not in describe.said.lower()
    assert "Neutral, Happiness, Sadness" in infer.user and "0.81" not in infer.user
    assert SADNESS.name not in describe.said + infer.said


def test_memory_and_findings_are_told(tmp_path):
    attempt = Attempt("Raised brows.", "Surprise", True, "the label is Sadness", "Look at the mouth.")
    finding = Finding("wrong-side", 0, 4, "the left brow is at rest")

    async def again(narrator):
        await narrator.describe(SADNESS, (attempt,))
        await narrator.reflect(SADNESS, (attempt,), dataclasses.replace(attempt, feedback="", findings=(finding,)))
        await narrator.refine(SADNESS, "Raised brows.", "Sadness", (finding,))

    describe, reflect, refine = asked(tmp_path, again)
    assert "Description 1: Raised brows.\nWhat was wrong with it: Look at the mouth." in describe.user
    for told in (
        "the label is Sadness\nthe left brow is at rest",
        "labelled with: Sadness",
        "from the description: Surp",
    ):
        assert told in reflect.user
    assert "had these faults" in refine.user and "- the left brow is at rest" in refine.user
    assert "A face is labelled Sadness." in refine.user and "Happiness, Surprise" in refine.user


def test_what_is_written_is_drawn_by_the_seed_and_judgements_are_not(tmp_path):
    async def all_steps(narrator):
        other = dataclasses.replace(SADNESS, seed=SADNESS.seed + 1)
        for face in (SADNESS, other):
            description = await narrator.describe(face, ())
            await narrator.infer(face, description)
            await narrator.confirm(face, description, "Sadness")

    served = asked(tmp_path, all_steps, temperature=0.9, length_key="max_completion_tokens", max_tokens=99)
    settings = [{key: ask.body.get(key) for key in ("temperature", "max_completion_tokens")} for ask in served]
    assert [ask.step for ask in served] == ["describe", "infer", "confirm", "describe"]  # the judgements were kept
    assert settings[0] == {"temperature": 0.9, "max_completion_tokens": 99}
    assert settings[1] == settings[2] == {"temperature": 0.0, "max_completion_tokens": 99}
    assert served[3].body["seed"] == served[0].body["seed"] + 1 and "seed" not in served[1].body
    (tmp_path / "replies.sqlite").unlink()
    none = asked(tmp_path, all_steps, temperature=None)
    assert not {"temperature", "seed"} & none[0].body.keys()


JPEG = b"\xff\xd8\xff\xe0 a picture"


def test_the_picture_goes_along_in_picture_mode_only(tmp_path):
    (tmp_path / "face.jpg").write_bytes(JPEG)
    face = dataclasses.replace(SADNESS, picture=tmp_path / "face.jpg")

    async def steps(narrator):
        description = await narrator.describe(face, ())
        await narrator.infer(face, description)

    describe, infer = asked(tmp_path, steps, picture_mode="picture")
    url = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    assert describe.body["messages"][1]["content"][0] == {"type": "image_url", "image_url": {"url": url}}
    assert "The picture of the face is attached." in describe.user
    assert "base64" not in infer.said
    (tmp_path / "replies.sqlite").unlink()
    describe, _ = asked(tmp_path, steps)
    assert "base64" not in describe.said and "attached" not in describe.user


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (JPEG, "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
    ],
)
def test_a_picture_is_known_by_its_first_bytes(tmp_path, content, media_type):
    (tmp_path / "face").write_bytes(content)
    picture = read_picture(tmp_path / "face", len(content))
    assert (picture.content, picture.media_type) == (content, media_type)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (JPEG + b".", "more than the 14 that may be sent"),
        (b"P5 2 2 255 ...", "neither"),
        (b"", "neither"),
        (None, "read"),
    ],
)
def test_a_picture_that_cannot_be_sent_fails_its_face_alone(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "face").write_bytes(content)
    with pytest.raises(NarratorFailed, match=reason):
        read_picture(tmp_path / "face", 14)


def test_picture_mode_without_pictures_is_a_mistake(tmp_path):
    with pytest.raises(ExpllmError, match="face1.png.*picture"):
        asked(tmp_path, lambda narrator: narrator.describe(SADNESS, ()), picture_mode="picture")


def test_the_fingerprint_follows_from_what_decides_the_texts(tmp_path):
    def fingerprint(**changes):
        return LlmNarrator(quick("http://127.0.0.1:1/v1", **changes), tmp_path / "replies.sqlite").fingerprint

    first = fingerprint()
    assert first == fingerprint(timeout=1.0, concurrency=1, budget_tokens=9, base_url="http://elsewhere/v1")
    others = [{"model": "b"}, {"temperature": 0.1}, {"max_tokens": 9}, {"picture_mode": "picture"}]
    assert len({first, *(fingerprint(**change) for change in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "is no address"),
        ({"base_url": "http://"}, "is no address"),
        ({"base_url": "http://host:port/v1"}, "is no address"),
        ({"base_url": "http://me:secret@host/v1"}, "holds a user, a password or a query"),
        ({"base_url": "http://host/v1?key=secret"}, "holds a user, a password or a query"),
        ({"model": ""}, "no model"),
        ({"picture_mode": "both"}, "picture_mode is 'both'"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"budget": 1.0}, "no price"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes, message):
    with pytest.raises(ExpllmError, match=message) as told:
        LlmConfig(**({"base_url": "http://localhost:8000/v1", "model": "a"} | changes))
    assert "secret" not in str(told.value)
