"""What counts as an answer to what was asked, and what does not."""

from __future__ import annotations

import pytest

from expllm_jax.cot import write_parts
from expllm_jax.engine.llm.replies import read_description, read_inference, read_parts, read_verdict, text_of
from expllm_jax.engine.llm.request import Completion
from expllm_jax.engine.narration import Inference, UnusableReply, Verdict
from expllm_jax.faces import BASIC_7

TEXT = write_parts("Strong cheek raise.", "It fits happiness.", "The face shows happiness.")


def said(content: str | None, finish: str = "stop") -> Completion:
    return Completion(content, finish, 1, 1, False, 0.0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  a face\n", "a face"),
        ("```\na face\n```", "a face"),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("<think>is it a face?</think>\n\na face", "a face"),
        ("is it a face?</think>a face", "a face"),
        ("a face ```with``` a fence", "a face ```with``` a fence"),
    ],
)
def test_what_stands_around_an_answer_is_taken_off(content, text):
    assert text_of(said(content)) == text


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (said("a fa", "length"), "cut off"),
        (said("a fa", "content_filter"), "filter"),
        (said(None), "empty"),
        (said(" \n"), "empty"),
        (said("```\n\n```"), "empty"),
        (said("<think>hm</think>"), "empty"),
    ],
)
def test_what_is_no_answer_at_all(reply, reason):
    with pytest.raises(UnusableReply, match=reason):
        text_of(reply)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Sadness", Inference("Sadness")),
        (" sadness.\n", Inference("Sadness")),
        ("**Sadness**", Inference("Sadness")),
        ('{"expression": "Fear", "reason": " wide eyes "}', Inference("Fear", "wide eyes")),
        ('```json\n{"expression": "fear"}\n```', Inference("Fear")),
    ],
)
def test_an_inference_names_one_label(content, expected):
    assert read_inference(said(content), BASIC_7) == expected


@pytest.mark.parametrize(
    "content",
    [
        "It is Sadness",
        "Sadness or Fear",
        "sad",
        "Contempt",
        "I cannot tell.",
        '{"expression": "Contempt"}',
        '{"expression": ["Fear"]}',
        '{"expression": "Fear or Anger"}',
        '{"expression": "Fear", "expression": "Anger"}',
        '{"expression": "Fear", "reason": 7}',
        '{"label": "Fear"}',
        '{"expression": "Fear"',
        '{"expression": "Fear"} I hope that this helps.',
        '["Fear"]',
    ],
)
def test_anything_else_is_no_inference(content):
    with pytest.raises(UnusableReply, match="name exactly one|JSON object"):
        read_inference(said(content), BASIC_7)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"agrees": true, "reason": "they fit"}', Verdict(True, "they fit")),
        ('{"agrees": "No", "reason": "the brows are at rest"}', Verdict(False, "the brows are at rest")),
        ("Yes: they fit.", Verdict(True, "they fit.")),
        ("no, the brows\nare at rest", Verdict(False, "the brows\nare at rest")),
    ],
)
def test_a_verdict_is_yes_or_no_with_a_reason(content, expected):
    assert read_verdict(said(content)) == expected


@pytest.mark.parametrize(
    "content",
    [
        "yes", "No.", "Nothing speaks against it", "perhaps: they fit", '{"agrees": true}',
        '{"agrees": 1, "reason": "they fit"}', '{"agrees": "maybe", "reason": "x"}', '{"reason": "they fit"}',
        '{"agrees": true, "reason": " "}', '{"agrees": true, "agrees": false, "reason": "x"}', "{agrees}",
    ],
)  # fmt: skip
def test_anything_else_is_no_verdict(content):
    with pytest.raises(UnusableReply, match="yes or no|JSON object"):
        read_verdict(said(content))


def test_a_text_has_its_three_parts():
    assert read_parts(said(f"```\n{TEXT}\n```")) == TEXT
    with pytest.raises(UnusableReply, match="three parts: 1 paragraphs"):
        read_parts(said("A happy face."))


def test_a_description_names_no_expression():
    seen = "The lids are in a neutral position, the cheeks raised."
    assert read_description(said(seen), BASIC_7) == seen
    with pytest.raises(UnusableReply, match="names Happiness"):
        read_description(said("The cheeks are raised: a happy face."), BASIC_7)
