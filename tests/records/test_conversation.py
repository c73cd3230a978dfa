"""The wording of conversations."""

from __future__ import annotations

import json

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records import ConversationTemplate, Round, rounds_of
from expllm_jax.records.conversation import TEMPLATE_FOLDER


def test_layout_is_the_released_one(template):
    prompt = template.prompt_text("label")
    words = template.tasks["label"]
    assert template.prefix_text() == template.system + "\nImage:"
    assert prompt == f"\nTASK: {words.description}\nUSER: {words.question}\nASSISTANT:"
    # Behind an end token the next round follows without a separator.
    assert template.prompt_text("label", after_image=False) == prompt[1:]
    assert template.answer_text("Fear") == " Fear"


def test_fingerprint_is_of_the_wording_not_of_the_file(template, tmp_path):
    fields = json.loads((TEMPLATE_FOLDER / "face_v1.json").read_text())
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(dict(reversed(fields.items())), indent=7))
    assert ConversationTemplate.load(copy).fingerprint == template.fingerprint
    fields["tasks"]["cot"]["question"] += "?"
    copy.write_text(json.dumps(fields))
    assert ConversationTemplate.load(copy).fingerprint != template.fingerprint


def test_json_round_trip(template):
    assert ConversationTemplate.from_json(json.loads(json.dumps(template.to_json()))) == template


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "line 1"),
        ("{}", "name"),
        ('{"name": "a", "system": "", "roles": {}, "tasks": {}}', "image"),
        (None, "face_v1"),
    ],
)
def test_bad_template_is_one_clear_error(tmp_path, content, named):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ExpllmError, match=named) as caught:
        ConversationTemplate.load(path)
    assert "mine.json" in str(caught.value)


def test_empty_sentence_is_named(template):
    fields = template.to_json()
    fields["tasks"]["cot"]["question"] = ""
    with pytest.raises(ExpllmError, match="tasks.cot.question"):
        ConversationTemplate.from_json(fields)


def test_rounds_follow_the_tasks_and_skip_what_is_missing():
    both = Annotation("a.png", expression="Fear", cot="text")
    assert rounds_of(both, ("cot", "label")) == (Round("cot", "text"), Round("label", "Fear"))
    assert rounds_of(Annotation("a.png", expression="Fear")) == (Round("label", "Fear"),)
    with pytest.raises(ExpllmError, match="a.png"):
        rounds_of(Annotation("a.png"))
    with pytest.raises(ExpllmError, match="unknown task 'labels'"):
        rounds_of(both, ("labels",))
    with pytest.raises(ExpllmError, match="empty"):
        Round("cot", " \n")
