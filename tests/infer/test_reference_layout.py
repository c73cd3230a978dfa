"""The layout "reference" through the model: its image token has no embedding, and its rows are plain causal ones."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.infer import (
    ModelFiles,
    PictureConfig,
    PredictConfig,
    Predictor,
    answering,
    read_model_files,
    write_model_files,
)
from expllm_jax.infer.generate import Prompts, generate
from expllm_jax.infer.requests import begun_row
from expllm_jax.models import merge
from expllm_jax.records import (
    ConversationTemplate,
    EncodeConfig,
    RecordEncoder,
    Round,
    encode_record,
    open_tokenizer,
    rounds_of,
    training_texts,
)
from tests.models.sizes import DECODER, WHOLE, changed, random_params
from tests.records.examples import annotation, train_llama_style

ROUNDS = (Round("label", "Fear"), Round("cot", "The brow is raised.\n\nIt fits."))
CONFIG = EncodeConfig(image_tokens=4, layout="reference")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> ModelFiles:
    template = ConversationTemplate.load("released_form")
    path = tmp_path_factory.mktemp("reference") / "tokenizer.model"
    train_llama_style(training_texts([rounds_of(annotation(index)) for index in range(30)], template), path)
    tokenizer = open_tokenizer(path, CONFIG)
    decoder = changed(DECODER, vocab=tokenizer.vocab_size, max_length=512)
    model = changed(WHOLE, decoder=decoder, image_token=tokenizer.vocab_size)
    return ModelFiles(model, RecordEncoder(template, tokenizer, CONFIG), PictureConfig(16))


@pytest.fixture(scope="module")
def params(files):
    return random_params(files.config)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(2, 16, WHOLE.vision_width)).astype(np.float32)


def test_generation_goes_on_as_the_training_row_would(files, params, features) -> None:
    encoder, (graphdef, params) = files.encoder, params
    row = encode_record(ROUNDS, encoder.template, encoder.tokenizer, 4, "reference")
    prompts = [encoder.prompt("label"), encoder.prompt("cot", history=ROUNDS[:1])]

    def predicted(params, tokens, positions, segments, features):
        model = merge(graphdef, params)
        h_BTE = model(tokens, positions, segments, features)
        return model.logits(h_BTE).argmax(-1)

    batched = (np.stack([array, array]) for array in (row.tokens, row.positions, row.segments))
    expected = np.asarray(jax.jit(predicted)(params, *batched, features[:, None]))
    made = generate(
        graphdef, params, Prompts.of(prompts, encoder.tokenizer.pad), features, max_new_tokens=1,
        eos=encoder.tokenizer.eos, pad=encoder.tokenizer.pad,
    )  # fmt: skip
    assert made.tokens[:, 0].tolist() == [expected[number, len(prompt) - 1] for number, prompt in enumerate(prompts)]


def test_the_text_is_asked_for_after_the_label(files, params, features, tmp_path, monkeypatch) -> None:
    write_model_files(tmp_path, files)
    reopened = read_model_files(tmp_path)
    assert reopened.encoder.tokenizer.image == files.config.image_token == files.encoder.tokenizer.vocab_size
    predictor = Predictor(reopened, params[1], PredictConfig(batch=2, label_tokens=3, cot_tokens=3, retries=0))
    asked = {"label": [], "cot": []}

    def remembered(encoder, request):
        row, begun = begun_row(encoder, request)
        asked[request.task].append(row.tokens.tolist())
        return row, begun

    monkeypatch.setattr(answering, "begun_row", remembered)
    answers = predictor.answer_features(features, ["a", "b"])
    assert asked["label"] == [reopened.encoder.prompt("label").tokens.tolist()] * 2
    for found, prompt in zip(answers, asked["cot"], strict=True):
        history = [Round("label", found.label_text)] if found.label_text else []
        assert prompt == reopened.encoder.prompt("cot", history=history).tokens.tolist()
    assert all(found.label_text == found.label_text.strip() for found in answers)


def test_the_image_token_has_to_agree(files) -> None:
    with pytest.raises(ExpllmError, match="image token"):
        dataclasses.replace(files, config=changed(files.config, image_token=0))
