"""Rows: what is given, what is learnt, who sees whom, and that inference starts exactly where training does."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.records import (
    PAD_COLOUR,
    EncodeConfig,
    RecordEncoder,
    Round,
    decode_answer,
    encode_prompt,
    encode_record,
    pad_row,
    read_answer,
    read_picture,
    train_sentencepiece,
)
from tests.records.examples import annotation, picture_bytes

ANSWERS = st.text(st.sampled_from(" \n*:(12)aehinp.,é😀"), min_size=1, max_size=30).filter(lambda text: text.strip())
ROUNDS = st.lists(st.builds(Round, st.sampled_from(["label", "cot"]), ANSWERS), min_size=1, max_size=4)
IMAGE = 5


def seen(row, i):
    """The indices that token i may look at: the model's mask rule, in words of its contract."""
    segments = row.segments
    return [j for j in range(i + 1) if segments[j] > 0 and (segments[j] == segments[i] or segments[j] == 1)]


def test_branched_row_by_hand(template, tokenizer):
    encode = tokenizer.encode
    rounds = [Round("label", "Fear"), Round("cot", "a\n\nb 12")]
    row = encode_record(rounds, template, tokenizer, IMAGE)
    prefix = encode(template.prefix_text(), first=True) + [tokenizer.image] * IMAGE
    tokens, positions, segments, weights = (
        list(prefix),
        list(range(len(prefix))),
        [1] * len(prefix),
        [0.0] * len(prefix),
    )
    for segment, share, round_ in ((2, 0.75, rounds[0]), (3, 0.25, rounds[1])):
        prompt = encode(template.prompt_text(round_.task))
        answer = encode(" " + round_.answer) + [tokenizer.eos]
        tokens += prompt + answer
        positions += range(len(prefix), len(prefix) + len(prompt + answer))
        segments += [segment] * len(prompt + answer)
        weights += [0.0] * len(prompt) + [share / len(answer)] * len(answer)
    assert row.tokens.tolist() == tokens
    assert row.positions.tolist() == positions
    assert row.segments.tolist() == segments
    np.testing.assert_allclose(row.loss_weights, weights, rtol=1e-6)
    assert [array.dtype for array in (row.tokens, row.positions, row.segments)] == [np.int32] * 3
    assert row.loss_weights.dtype == np.float32


@given(rounds=ROUNDS, layout=st.sampled_from(["branched", "chained"]))
@settings(max_examples=60, deadline=None)
def test_weights_and_supervised_text(template, tokenizer, rounds, layout):
    row = encode_record(rounds, template, tokenizer, IMAGE, layout)
    assert row.loss_weights.sum() == pytest.approx(1, abs=1e-5)
    assert row.loss_weights[0] == 0
    # Each run of supervised tokens is one answer and its end token, and nothing else.
    supervised = row.loss_weights > 0
    starts = np.flatnonzero(supervised & ~np.roll(supervised, 1))
    ends = np.flatnonzero(supervised & ~np.roll(supervised, -1))
    assert len(starts) == len(rounds)
    shares = {"label": 3.0, "cot": 1.0}
    total = sum(shares[round_.task] for round_ in rounds)
    for start, end, round_ in zip(starts, ends, rounds, strict=True):
        answer = row.tokens[start : end + 1]
        assert answer[-1] == tokenizer.eos
        assert decode_answer(answer, tokenizer) == round_.answer
        assert row.loss_weights[start : end + 1].sum() == pytest.approx(shares[round_.task] / total, rel=1e-5)
    assert (row.tokens == tokenizer.image).sum() == IMAGE


@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None)
def test_prompt_is_the_beginning_of_the_training_row(template, tokenizer, rounds):
    row = encode_record(rounds, template, tokenizer, IMAGE, "branched")
    for branch, round_ in enumerate(rounds, start=2):
        prompt = encode_prompt(round_.task, template, tokenizer, IMAGE)
        # What the branch's tokens can see, in order, is the row a single record would be …
        last = np.flatnonzero(row.segments == branch)[-1]
        visible = seen(row, last)
        single = encode_record([round_], template, tokenizer, IMAGE)
        assert row.tokens[visible].tolist() == single.tokens.tolist()
        assert row.positions[visible].tolist() == single.positions.tolist()
        # … and the prompt is that row up to the first supervised token.
        first = int(np.flatnonzero(single.loss_weights)[0])
        assert len(prompt) == first
        for name in ("tokens", "positions", "segments"):
            assert getattr(prompt, name).tolist() == getattr(single, name)[:first].tolist()
        assert not prompt.loss_weights.any()


@given(rounds=ROUNDS)
@settings(max_examples=60, deadline=None)
def test_chained_prompt_with_history(template, tokenizer, rounds):
    row = encode_record(rounds, template, tokenizer, IMAGE, "chained")
    assert row.positions.tolist() == list(range(len(row)))
    assert sorted(set(row.segments.tolist())) == [1, 2]
    supervised = row.loss_weights > 0
    starts = np.flatnonzero(supervised & ~np.roll(supervised, 1))
    for index, start in enumerate(starts):
        prompt = encode_prompt(rounds[index].task, template, tokenizer, IMAGE, history=rounds[:index])
        assert prompt.tokens.tolist() == row.tokens[:start].tolist()
        assert prompt.positions.tolist() == row.positions[:start].tolist()
        assert prompt.segments.tolist() == row.segments[:start].tolist()


def test_chained_rounds_follow_the_end_token_directly(template, own_tokenizer):
    row = encode_record([Round("cot", "x"), Round("label", "Fear")], template, own_tokenizer, IMAGE, "chained")
    after_end = row.tokens[np.flatnonzero(row.tokens == own_tokenizer.eos)[0] + 1 :]
    assert own_tokenizer.decode(after_end).startswith("TASK:")


def test_the_prompt_is_short_for_a_trained_tokenizer(template, own_tokenizer):
    """The laptop preset pays for every prompt token; the wording must stay within a few dozen."""
    assert max(len(encode_prompt(task, template, own_tokenizer, 64)) - 64 for task in ("label", "cot")) <= 60


def test_decode_answer_stops_at_the_first_end(own_tokenizer):
    ids = [*own_tokenizer.encode("  two spaces"), own_tokenizer.eos, *own_tokenizer.encode(" more")]
    assert decode_answer(ids, own_tokenizer) == " two spaces"
    assert decode_answer([], own_tokenizer) == ""


def test_pad_row(template, own_tokenizer):
    row = encode_record([Round("label", "Fear")], template, own_tokenizer, IMAGE)
    padded = pad_row(row, len(row) + 3, own_tokenizer.pad)
    assert padded.tokens[-3:].tolist() == [own_tokenizer.pad] * 3
    assert padded.segments[-3:].tolist() == [0] * 3
    assert padded.loss_weights.sum() == row.loss_weights.sum()
    assert pad_row(row, len(row), own_tokenizer.pad) == row
    with pytest.raises(ExpllmError, match="does not fit"):
        pad_row(row, len(row) - 1, own_tokenizer.pad)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "woven"}, "woven"),
        ({"image_tokens": 0}, "image_tokens"),
        ({"label_weight": -1.0}, "label_weight"),
        ({"label_weight": 0.0, "cot_weight": 0.0}, "cot_weight"),
        ({"tasks": ("label", "joke")}, "joke"),
        ({"tasks": ("label", "label")}, "twice"),
    ],
)
def test_config_says_what_is_wrong(changes, named):
    with pytest.raises(ExpllmError, match=named):
        EncodeConfig(**changes)


def test_a_round_of_weight_zero_is_given_but_not_learnt(template, own_tokenizer):
    rounds = [Round("label", "Fear"), Round("cot", "text")]
    row = encode_record(rounds, template, own_tokenizer, IMAGE, cot_weight=0.0)
    assert row.loss_weights[row.segments == 2].sum() == pytest.approx(1)
    assert row.loss_weights[row.segments == 3].sum() == 0
    with pytest.raises(ExpllmError, match="nothing to learn"):
        encode_record([], template, own_tokenizer, IMAGE)


def test_encoder_makes_records_and_their_prompts(encoder):
    record = encoder.record(annotation(1), picture_bytes(7))
    assert record.id == "faces/0001.png"
    assert (read_picture(record.picture) == 7).all()
    prompt = encoder.prompt("label")
    assert record.row.tokens[: len(prompt)].tolist() == prompt.tokens.tolist()
    only_cot = RecordEncoder(encoder.template, encoder.tokenizer, EncodeConfig(image_tokens=4, tasks=("cot",)))
    assert set(only_cot.row(annotation(1)).segments) == {1, 2}
    with pytest.raises(ExpllmError, match="faces/0001.png"):
        encoder.record(annotation(1), b"hello")


EVERY_TASK = ("bbox", "landmark", "attr", "age_gender_race", "headpose", "cot", "label")


def everything(width: int, height: int) -> Annotation:
    """A face with an answer to each of EVERY_TASK, in a picture of that size."""
    rng = np.random.default_rng(width)
    angles = {"yaw": 12.5, "pitch": -3.0, "roll": 4.25, "gender": "female", "race": "White", "age_group": "20-29"}
    return Annotation(
        "faces/all.png",
        expression="Fear",
        cot="The left brow rises, the right one does not.",
        attributes={**angles, **dict.fromkeys(CELEBA_40, 0.0)},
        landmarks=tuple(map(tuple, rng.uniform(0, 1, (68, 2)) * (width, height))),
        face_box=(width * 0.2, height * 0.3, width * 0.5, height * 0.4),
        provenance={"dataset": "made up", "label_file": "labels.csv", "line": "7"},
    )


def png(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def learnt(row, tokenizer) -> list[str]:
    """The texts that a row teaches, one a round."""
    supervised = row.loss_weights > 0
    starts = np.flatnonzero(supervised & ~np.roll(supervised, 1))
    ends = np.flatnonzero(supervised & ~np.roll(supervised, -1)) + 1
    return [decode_answer(row.tokens[start:end], tokenizer) for start, end in zip(starts, ends, strict=True)]


@pytest.fixture(params=[(50, 50), (41, 30), (30, 41)], ids=str)
def located(request, template, own_tokenizer):
    """A record with positions, its encoder, and the size of its picture."""
    encoder = RecordEncoder(template, own_tokenizer, EncodeConfig(image_tokens=4, tasks=EVERY_TASK))
    return encoder.record(everything(*request.param), png(*request.param)), encoder, request.param


def test_the_mirrored_row_states_the_mirrored_picture(located, own_tokenizer):
    record, encoder, size = located
    said = dict(zip(EVERY_TASK, learnt(record.row, own_tokenizer), strict=True))
    flipped = dict(zip(EVERY_TASK, learnt(record.mirrored, own_tokenizer), strict=True))
    assert [round_.answer for round_ in encoder.rounds(everything(*size), size)] == list(said.values())
    assert flipped["cot"] == "The right brow rises, the left one does not."
    for task in ("label", "attr", "age_gender_race"):
        assert flipped[task] == said[task]
    said, flipped = (
        {task: np.array(read_answer(task, answers[task])) for task in ("bbox", "landmark", "headpose")}
        for answers in (said, flipped)
    )
    # x becomes 1 - x in the square that the model sees, whatever padding is in it, to the last decimal.
    x, y, width, height = said["bbox"]
    np.testing.assert_allclose(flipped["bbox"], (1 - x - width, y, width, height), atol=0.00016)
    swapped = said["landmark"][[1, 0, 2, 4, 3]]
    np.testing.assert_allclose(flipped["landmark"], np.stack([1 - swapped[:, 0], swapped[:, 1]], 1), atol=0.00011)
    np.testing.assert_allclose(flipped["headpose"], said["headpose"] * (-1, 1, -1))


def test_records_say_whether_they_state_positions(encoder, located):
    assert located[0].located
    assert not encoder.record(annotation(1), picture_bytes(1)).located
    for task in ("bbox", "landmark", "headpose"):
        only = RecordEncoder(encoder.template, encoder.tokenizer, EncodeConfig(image_tokens=4, tasks=("label", task)))
        assert only.record(everything(50, 50), png(50, 50)).located
        assert not only.record(Annotation("a.png", expression="Fear"), png(50, 50)).located


def test_a_row_that_mirroring_does_not_change_is_stored_once(encoder):
    record = encoder.record(annotation(1), picture_bytes(1))
    assert record.mirrored is None
    sided = dataclasses.replace(annotation(1), cot="The left brow rises.")
    assert encoder.record(sided, picture_bytes(1)).mirrored is not None
    never = RecordEncoder(encoder.template, encoder.tokenizer, dataclasses.replace(encoder.config, mirror=False))
    assert never.record(sided, picture_bytes(1)).mirrored is None


def test_both_rows_have_the_same_order(encoder, template, own_tokenizer):
    config = EncodeConfig(image_tokens=4, tasks=EVERY_TASK, order="shuffled", layout="chained")
    shuffled = RecordEncoder(template, own_tokenizer, config)
    for draw in range(5):
        rounds = shuffled.rounds(everything(50, 40), (50, 40), draw=draw)
        flipped = shuffled.mirrored_rounds(everything(50, 40), (50, 40), draw=draw)
        assert [round_.task for round_ in flipped] == [round_.task for round_ in rounds]


def test_captions_are_mirrored_as_texts_are(template, own_tokenizer):
    encoder = RecordEncoder(template, own_tokenizer, EncodeConfig(image_tokens=4, tasks=("caption",)))
    record = encoder.record(Annotation("a.png", caption="A dog on the left of a man."), png(40, 40))
    assert learnt(record.row, own_tokenizer) == ["A dog on the left of a man."]
    assert learnt(record.mirrored, own_tokenizer) == ["A dog on the right of a man."]


@pytest.mark.skipif("EXPLLM_FIXTURES" not in os.environ, reason="EXPLLM_FIXTURES is not set")
def test_flipping_never_leaves_left_for_right_in_the_released_texts(template, tmp_path):
    """Through the whole encoder, and told by rule: side words change places one by one and all else stays."""
    file = Path(os.environ["EXPLLM_FIXTURES"], "rafdb_val_cot_half.json")
    texts = [entry["description"] for entry in json.loads(file.read_text())]
    tokenizer = train_sentencepiece(texts[:300], tmp_path / "tokenizer.model", 1024)
    encoder = RecordEncoder(template, tokenizer, EncodeConfig(image_tokens=1, tasks=("cot",)))
    side, other = re.compile(r"\b(left|right)(?=(?:wards?)?\b)", re.IGNORECASE), {"left": "right", "right": "left"}
    picture, sided = png(16, 16), 0
    for number, text in enumerate(texts):
        record = encoder.record(Annotation(f"{number}.png", cot=text), picture)
        (said,) = learnt(record.row, tokenizer)
        assert said == text
        words = [word.lower() for word in side.findall(text)]
        if not words:
            assert record.mirrored is None or learnt(record.mirrored, tokenizer) == [text]
            continue
        sided += 1
        (flipped,) = learnt(record.mirrored, tokenizer)
        assert [word.lower() for word in side.findall(flipped)] == [other[word] for word in words]
        assert side.split(flipped)[::2] == side.split(text)[::2]
    assert sided > 200


def test_other_tasks_weigh_one(template, own_tokenizer):
    rounds = [Round("label", "Fear"), Round("cot", "text"), Round("bbox", "0.1000, 0.2000, 0.3000, 0.4000")]
    row = encode_record(rounds, template, own_tokenizer, IMAGE)
    shares = [row.loss_weights[row.segments == segment].sum() for segment in (2, 3, 4)]
    np.testing.assert_allclose(shares, (0.6, 0.2, 0.2), rtol=1e-5)


def test_a_task_without_words_is_refused_before_any_record(template, own_tokenizer):
    narrow = dataclasses.replace(template, tasks={"label": template.tasks["label"]})
    with pytest.raises(ExpllmError, match="no words for the task 'cot'"):
        RecordEncoder(narrow, own_tokenizer, EncodeConfig())


def test_original_pictures_stay_byte_for_byte(encoder):
    content = png(41, 30)
    assert encoder.record(annotation(1), content).picture == content


@pytest.mark.parametrize("kind", ["square", "face"])
@pytest.mark.parametrize("picture_format", ["png", "jpeg"])
def test_pictures_are_stored_as_the_model_sees_them(template, own_tokenizer, kind, picture_format):
    margin = 0.25 if kind == "face" else 0.0
    config = EncodeConfig(
        image_tokens=4, tasks=EVERY_TASK, picture=kind, picture_size=48, picture_format=picture_format,
        crop_margin=margin,
    )  # fmt: skip
    face, content = everything(60, 40), png(60, 40)
    record = RecordEncoder(template, own_tokenizer, config).record(face, content)
    pixels = read_picture(record.picture)
    assert pixels.shape == (48, 48, 3)
    assert record.picture[:4] == {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff\xe0"}[picture_format]
    # What is kept of the picture: the box is (12, 12, 30, 16), its margin 7.5 and 4 pixels.
    left, top, right, bottom = (4, 8, 50, 32) if kind == "face" else (0, 0, 60, 40)
    part = Image.fromarray(read_picture(content)).crop((left, top, right, bottom))
    side, canvas = right - left, Image.new("RGB", (right - left, right - left), PAD_COLOUR)
    down = (side - part.height) // 2
    canvas.paste(part, (0, down))
    expected = np.asarray(canvas.resize((48, 48), Image.Resampling.BILINEAR))
    if picture_format == "png":
        np.testing.assert_array_equal(pixels, expected)
    else:
        assert np.abs(pixels.astype(float) - expected).mean() < 6  # noise is the worst that a JPEG can be given
    # The positions in the record are those of the stored picture, and the answers say the same.
    scale = 48 / side
    np.testing.assert_allclose(
        record.annotation.face_box, ((12 - left) * scale, (12 - top + down) * scale, 30 * scale, 16 * scale)
    )
    answers = dict(zip(EVERY_TASK, learnt(record.row, own_tokenizer), strict=True))
    np.testing.assert_allclose(
        read_answer("bbox", answers["bbox"]), np.array(record.annotation.face_box) / 48, atol=0.00006
    )
    points = (np.array(record.annotation.landmarks)[[30, 48, 54]] + 0.5) / 48
    np.testing.assert_allclose(read_answer("landmark", answers["landmark"])[2:], points, atol=0.00006)
    assert record.annotation.provenance == face.provenance


def test_a_picture_to_be_turned_keeps_no_positions(encoder):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(content, "PNG", exif=exif)
    with pytest.raises(ExpllmError, match=r"faces/0001\.png has to be turned"):
        encoder.record(annotation(1), content.getvalue())
    upright = dataclasses.replace(annotation(1), landmarks=(), face_box=())
    assert read_picture(encoder.record(upright, content.getvalue()).picture).shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"picture": "round"}, "round"),
        ({"picture": "square", "picture_size": 8}, "picture_size"),
        ({"picture": "square", "picture_format": "gif"}, "gif"),
        ({"picture": "face", "crop_margin": -0.1}, "crop_margin"),
        ({"picture": "square", "crop_margin": 0.1}, "no effect without a crop"),
        ({"picture_size": 112}, "no effect on original"),
        ({"picture_format": "jpeg"}, "no effect on original"),
        ({"picture": "square", "resize": "cubic"}, "cubic"),
    ],
)
def test_picture_settings_say_what_is_wrong(changes, named):
    with pytest.raises(ExpllmError, match=named):
        EncodeConfig(**changes)
