"""From a trained run folder, and from its export, to answers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expllm_jax.cot import write_parts
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import Annotation, write_annotations
from expllm_jax.infer import (
    ModelFiles,
    PictureConfig,
    PredictConfig,
    Predictor,
    Reply,
    annotated_face_boxes,
    export_run,
    read_model_files,
    read_run_params,
    write_model_files,
)
from expllm_jax.infer.conversations import parsed_reply
from expllm_jax.models import DecoderConfig, ExpLLMConfig, LoRAConfig, abstract
from expllm_jax.records import (
    BatchConfig,
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    batches,
    open_records,
    rounds_of,
    train_sentencepiece,
    training_texts,
    write_records,
)
from expllm_jax.train import OptimizerConfig, TrainConfig, extract_features, train
from tests.train.tiny import tiny_config, tiny_model

TRUTH = {
    "Happiness": ("AU12", "lip corner puller"),
    "Anger": ("AU4", "brow lowerer"),
    "Surprise": ("AU27", "mouth stretch"),
}
SETTINGS = PredictConfig(batch=4, cot_tokens=80)


def text_of(expression: str) -> str:
    code, name = TRUTH[expression]
    return write_parts(f"A strong {name} ({code}).", "It fits.", f"The face shows {expression.lower()}.")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that knows three pictures by heart: (run folder, picture files, records)."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    annotations = []
    for expression in TRUTH:
        pixels = rng.integers(0, 256, (28, 28, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{expression}.png")
        annotations.append(
            Annotation(f"{expression}.png", expression, {}, text_of(expression), expression, "train", {}, (), (), {})
        )
    template = ConversationTemplate.load("face_v1")
    texts = list(training_texts([rounds_of(annotation) for annotation in annotations] * 5, template))
    tokenizer = train_sentencepiece(texts, folder / "tokenizer.model", 700, cross_words=True)
    encoder = RecordEncoder(template, tokenizer, EncodeConfig(image_tokens=4))
    records = [encoder.record(annotation, folder / annotation.picture) for annotation in annotations]
    write_records(folder / "records", {"train": records}, encoder)
    source = open_records(folder / "records", "train", keep_rows=True)

    lora = LoRAConfig(rank=2, dropout=0.0)
    config = ExpLLMConfig(
        vision=tiny_config().vision,
        decoder=DecoderConfig(
            vocab=tokenizer.vocab_size, width=32, depth=2, heads=4, kv_heads=2, head_dim=8, mlp_width=64
        ),
        decoder_lora=lora,
        image_token=tokenizer.image,
    )
    graphdef, params = tiny_model(config)
    run_dir = folder / "run"
    write_model_files(run_dir, ModelFiles(config, encoder, PictureConfig(28)))
    train(
        TrainConfig(steps=120, batch=3, trainable=(r"projector/.*", r"decoder/.*"), optimizer=OptimizerConfig(lr=5e-3),
                    checkpoint_every=100, log_every=50),
        graphdef, params, source, run_dir, picture_size=28, stream=io.StringIO(),
    )  # fmt: skip
    return run_dir, [folder / f"{expression}.png" for expression in TRUTH], source


def check(answers) -> None:
    for number, answer in enumerate(answers):
        expression, (code, _) = list(TRUTH.items())[number % 3]
        assert answer.label == expression
        assert Path(answer.picture).stem == expression
        assert answer.cot_text == text_of(expression)
        assert answer.unparsable is None and answer.parsed.expression == expression
        assert dict(answer.stated_units) == {code: "strong"}


def test_a_run_answers_about_picture_files(trained) -> None:
    run_dir, pictures, _ = trained
    done: list[int] = []
    answers = Predictor.open(run_dir, SETTINGS).answer((pictures * 3)[:7], report=done.append)
    check(answers)
    assert done == list(range(1, 8)) and len(answers) == 7


def test_cached_features_give_the_same_answers(trained, tmp_path: Path) -> None:
    run_dir, _, source = trained
    predictor = Predictor.open(run_dir, SETTINGS)
    features = extract_features(
        predictor.encode, source, tmp_path / "f.npy", fingerprint="x", batch=2, picture_size=28, stream=io.StringIO()
    )
    check(predictor.answer_features(features, [source[index].id for index in range(3)]))
    with pytest.raises(ExpllmError, match="3 features but 1 names"):
        predictor.answer_features(features, ["one"])


def test_an_export_moves_and_answers(trained, tmp_path: Path) -> None:
    run_dir, pictures, _ = trained
    export_run(run_dir, tmp_path / "export")
    moved = shutil.move(tmp_path / "export", tmp_path / "elsewhere")
    check(Predictor.open(moved, SETTINGS).answer(pictures))
    config = read_model_files(moved).config
    assert config.decoder_lora.rank == 0 and set(read_run_params(moved, config)[0]) == set(abstract(config)[1])
    with pytest.raises(ExpllmError, match="exists already"):
        export_run(run_dir, moved)
    export_run(run_dir, moved, step=100, overwrite=True)
    assert read_run_params(run_dir, read_model_files(run_dir).config, 100)[1] == 100


@pytest.mark.parametrize("resize", ["antialiased", "reference"])
@pytest.mark.parametrize("picture_format", ["png", "jpeg"])
def test_a_model_of_face_crops_sees_in_use_what_it_saw_in_training(
    trained, tmp_path: Path, monkeypatch, resize: str, picture_format: str
) -> None:
    files = read_model_files(trained[0])
    config = dataclasses.replace(
        files.encoder.config, picture="face", crop_margin=0.25, picture_size=40, resize=resize,
        picture_format=picture_format,
    )  # fmt: skip
    encoder = dataclasses.replace(files.encoder, config=config)
    boxes, rng = [(20.0, 11.5, 40.0, 30.0), (0.0, 0.0, 33.0, 50.0)], np.random.default_rng(1)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    annotations = [Annotation(path.name, "Anger", face_box=box) for path, box in zip(paths, boxes, strict=True)]
    records = [encoder.record(face, path) for face, path in zip(annotations, paths, strict=True)]
    write_records(tmp_path / "records", {"train": records}, encoder)
    source = open_records(tmp_path / "records", "train")
    settings = BatchConfig(2, shuffle=False, picture_size=28, threads=0, read_ahead=0)
    with contextlib.closing(batches(source, settings)) as reading:
        learnt_from = next(reading)["pixels"]

    write_model_files(tmp_path / "run", dataclasses.replace(files, encoder=encoder))
    predictor = Predictor(read_model_files(tmp_path / "run"), tiny_model(files.config)[1], SETTINGS)
    seen = []
    monkeypatch.setattr(predictor, "encode", seen.append)

    def looked_at(names, features_of, **_):
        features_of(range(len(names)))
        return list(names)

    monkeypatch.setattr(predictor, "_answer_all", looked_at)
    write_annotations(tmp_path / "annotations.jsonl", annotations)
    found = annotated_face_boxes(paths, tmp_path / "annotations.jsonl")
    assert predictor.answer(paths, face_boxes=found) == [str(path) for path in paths]
    assert predictor.answer_stored([record.picture for record in records], ["a", "b"]) == ["a", "b"]
    predictor.answer(paths, cropped=True)
    np.testing.assert_array_equal(seen[0], learnt_from)
    np.testing.assert_array_equal(seen[1], learnt_from)
    assert (seen[2] != learnt_from).any()
    with pytest.raises(ExpllmError, match=r"not known where the face is in .*a\.png.*") as refusal:
        predictor.answer(paths)
    assert "--annotations" in refusal.value.remedy and "--crop" in refusal.value.remedy
    with pytest.raises(ExpllmError, match="2 pictures but 1 face boxes"):
        predictor.answer(paths, face_boxes=boxes[:1])


def test_face_boxes_are_found_by_the_path_of_the_picture(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "faces").mkdir()
    one = Annotation("faces/a.png", face_box=(1, 2, 3, 4))
    file = tmp_path / "annotations.jsonl"
    write_annotations(file, [one, Annotation("faces/b.png"), *[Annotation("c.png", face_box=(1, 2, 3, 4))] * 2])
    monkeypatch.chdir(tmp_path / "faces")
    assert annotated_face_boxes(["a.png", tmp_path / "faces" / "a.png"], file) == [(1, 2, 3, 4)] * 2
    for picture, count in (("b.png", "no"), ("../c.png", "2"), ("d.png", "no")):
        with pytest.raises(ExpllmError, match=f"annotations.jsonl has {count} face boxes for {picture}"):
            annotated_face_boxes(["a.png", picture], file)


def test_model_files_from_before_pictures_were_cut_still_open(trained, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "old")
    described = json.loads((tmp_path / "old" / "model.json").read_text())
    for key in ("picture", "crop_margin", "picture_size", "resize", "picture_format"):
        del described["encoding"][key]
    (tmp_path / "old" / "model.json").write_text(json.dumps(described))
    assert read_model_files(tmp_path / "old").encoder.config == read_model_files(trained[0]).encoder.config


def test_a_model_that_has_not_learnt_gives_reasons_instead_of_answers(trained) -> None:
    run_dir, pictures, _ = trained
    files = read_model_files(run_dir)
    answers = Predictor(files, tiny_model(files.config, seed=5)[1], SETTINGS).answer(pictures[:1])
    assert answers[0].label is None and answers[0].parsed is None
    assert answers[0].unparsable and answers[0].cot_failure


def test_what_is_cut_off_is_no_answer_even_if_it_would_parse() -> None:
    assert parsed_reply(str.upper, Reply("anger", False, (), 0)) == ("ANGER", None)
    assert parsed_reply(str.upper, Reply("anger", True, (), 0)) == (None, "cut off before its end")


def test_model_files_come_back_as_they_were(trained, tmp_path: Path) -> None:
    files = read_model_files(trained[0])
    changed = dataclasses.replace(files, pictures=PictureConfig(28, "imagenet"), labels=("Anger", "Fear"))
    write_model_files(tmp_path, changed)
    again = read_model_files(tmp_path)
    assert (again.config, again.pictures, again.labels) == (changed.config, changed.pictures, changed.labels)
    assert again.encoder.config == files.encoder.config
    assert again.encoder.tokenizer.fingerprint == files.encoder.tokenizer.fingerprint


def test_a_run_that_is_missing_or_mixed_up_is_one_error(trained, tmp_path: Path) -> None:
    run_dir, _, _ = trained
    with pytest.raises(ExpllmError, match="does not exist"):
        Predictor.open(tmp_path / "missing")
    with pytest.raises(ExpllmError, match="holds no model.json"):
        Predictor.open(tmp_path)
    files = read_model_files(run_dir)
    write_model_files(tmp_path / "new", files)
    with pytest.raises(ExpllmError, match="holds no checkpoints"):
        Predictor.open(tmp_path / "new")
    shutil.copytree(run_dir, tmp_path / "mixed")
    described = json.loads((run_dir / "model.json").read_text())
    described["model"]["decoder"]["width"] = 64
    (tmp_path / "mixed" / "model.json").write_text(json.dumps(described))
    with pytest.raises(ExpllmError, match="do not fit its model.json.*decoder/embedding"):
        Predictor.open(tmp_path / "mixed")
    described["model"]["decoder"]["colour"] = "red"
    (tmp_path / "mixed" / "model.json").write_text(json.dumps(described))
    with pytest.raises(ExpllmError, match="model.json is damaged.*colour"):
        Predictor.open(tmp_path / "mixed")


def test_a_model_and_records_that_do_not_fit_are_refused(trained) -> None:
    files = read_model_files(trained[0])
    with pytest.raises(ExpllmError, match="16 image tokens.*room for 4"):
        dataclasses.replace(files, pictures=PictureConfig(56))
    with pytest.raises(ExpllmError, match="image token is 9"):
        dataclasses.replace(files, config=dataclasses.replace(files.config, image_token=9))
