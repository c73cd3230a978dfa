"""The wording of conversations."""

from __future__ import annotations

import json

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.records import TASKS, ConversationTemplate, Round, rounds_of
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


@pytest.mark.parametrize("name", ["face_v1", "released_form"])
def test_the_shipped_templates_word_every_task(name):
    shipped = ConversationTemplate.load(name)
    assert tuple(shipped.tasks) == TASKS
    assert len({shipped.prompt_text(task) for task in TASKS}) == len(TASKS)


def test_a_template_words_what_it_is_used_for(template):
    fields = template.to_json()
    fields["tasks"] = {"label": fields["tasks"]["label"]}
    narrow = ConversationTemplate.from_json(fields)
    assert narrow.prompt_text("label") == template.prompt_text("label")
    with pytest.raises(ExpllmError, match="'face_v1' has no words for the task 'bbox'"):
        narrow.prompt_text("bbox")
    for tasks, named in (({}, "nothing"), ({"gaze": fields["tasks"]["label"]}, "gaze"), ([], "missing")):
        with pytest.raises(ExpllmError, match=named):
            ConversationTemplate.from_json({**fields, "tasks": tasks})


def test_rounds_follow_the_tasks_and_skip_what_is_missing():
    both = Annotation("a.png", expression="Fear", cot="text")
    assert rounds_of(both, ("cot", "label")) == (Round("cot", "text"), Round("label", "Fear"))
    assert rounds_of(Annotation("a.png", expression="Fear")) == (Round("label", "Fear"),)
    with pytest.raises(ExpllmError, match="a.png"):
        rounds_of(Annotation("a.png"))
    with pytest.raises(ExpllmError, match="unknown task 'labels'"):
        rounds_of(both, ("labels",))
    located = Annotation("a.png", face_box=(0, 0, 5, 5))
    assert rounds_of(located, ("label", "bbox"), (10, 10)) == (Round("bbox", "0.0000, 0.0000, 0.5000, 0.5000"),)
    with pytest.raises(ExpllmError, match=r"a.png.*size of the picture"):
        rounds_of(located, ("bbox",))
    with pytest.raises(ExpllmError, match="empty"):
        Round("cot", " \n")
