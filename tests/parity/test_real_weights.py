"""Real weights: DINOv2-S against ONNX Runtime on photographs, SmolLM2-135M against transformers on text."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from expllm_jax.assets import asset_path, is_cached
from expllm_jax.infer import Prompts, generate
from expllm_jax.models import ExpLLMConfig, abstract, merge, vit_s14
from expllm_jax.records import EncodedRow, normalise, read_picture, square
from expllm_jax.weights import decoder_from_gguf, dinov2_from_onnx, tokenizer_json_from_gguf
from tests.golden.make_dinov2_s import PATCH_TOKENS, pictures
from tests.models.sizes import VISION
from tests.parity.agreement import agree

pytestmark = [pytest.mark.parity, pytest.mark.slow]

NEW_TOKENS, BATCHES = 64, 2
TIE = 1e-5  # two logits closer than this may change places
# The model was tuned on the chat format; plain text makes prompts of other lengths.
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = (
    "The",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "She smiled, and the corners of her eyes",
    "In 1969, the first people to walk on the Moon",
    "A list of the planets of the solar system, from the Sun outwards:\n1.",
    "The facial action coding system describes every movement of the face as",
    "It was a bright cold day in the north, and the old fisherman had not left his house for a week, because",
    "Dear Sir or Madam,\n\nI am writing to you about the bicycle that I bought in your shop last month. Its",
    CHAT.format("Hello!"),
    CHAT.format("What is the capital of France?"),
    CHAT.format("Name three colours."),
    CHAT.format("Why is the sky blue? Answer in one paragraph."),
    CHAT.format("What does a raised inner eyebrow say about how a person feels?"),
    CHAT.format("Write a poem of four lines about the sea."),
    CHAT.format("Explain to a child of six how bees make honey, and why they need it in winter."),
    CHAT.format("Translate to French: The weather is nice today, and we are going to the market."),
    CHAT.format("How many legs do three spiders and two dogs have together? Think step by step."),
    CHAT.format("Summarise: The train was late, so Anna missed her flight, stayed a night in Oslo, and liked it."),
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory, torch_models):
    """(configuration, parameters, the prompts' tokens, transformers' model)."""
    if not is_cached("smollm2"):
        pytest.skip("the asset smollm2 is not in the cache; `expllm train small` fetches it")
    path = asset_path("smollm2")
    config, params = decoder_from_gguf(path)
    tokenizer = Tokenizer.from_file(
        str(tokenizer_json_from_gguf(path, tmp_path_factory.mktemp("smollm2") / "tokenizer.json"))
    )
    prompts = [tokenizer.encode(text).ids for text in PROMPTS]
    return (
        config,
        {name: jnp.asarray(leaf) for name, leaf in params.items()},
        prompts,
        torch_models.decoder(params, config),
    )


def photographs() -> np.ndarray:
    """Four normalised photographs of four people, or without them two drawn pictures, (P, 224, 224, 3)."""
    if not is_cached("orl-faces"):
        return pictures()
    folder = Path(asset_path("orl-faces"))
    faces = [read_picture((folder / f"s{person}" / "1.pgm").read_bytes()) for person in (1, 11, 21, 31)]
    return normalise(np.stack([square(face, 224) for face in faces]), "imagenet")


def test_dinov2_features():
    """The patch tokens behind the final norm; to 5e-5, absolute. The export resizes by size, as transformers does."""
    import onnx
    import onnxruntime

    if not is_cached("dinov2-s"):
        pytest.skip("the asset dinov2-s is not in the cache; `expllm train small` fetches it")
    x = photographs()
    exported = onnx.load(asset_path("dinov2-s"))
    del exported.graph.output[:]
    exported.graph.output.append(onnx.helper.make_tensor_value_info(PATCH_TOKENS, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input_image": np.moveaxis(x, -1, 1)})[0][:, 1:]
    graphdef, _ = abstract(vit_s14(resize="size"))
    found = np.asarray(jax.jit(lambda p, x: merge(graphdef, p)(x))(dinov2_from_onnx(asset_path("dinov2-s")), x))
    error = np.abs(found - expected)
    print(f"{len(x)} pictures: largest error {error.max():.1e} of values up to {np.abs(expected).max():.1f}")
    assert error.max() <= 5e-5


def test_smollm2_logits(smollm2):
    """Of every position of the longest prompt."""
    import torch

    config, params, prompts, theirs = smollm2
    tokens = np.array(max(prompts, key=len))[None]
    graphdef, _ = abstract(config)

    @jax.jit
    def logits(params):
        model = merge(graphdef, params)
        T = tokens.shape[1]
        h, _ = model(model.embed(tokens), np.arange(T)[None], np.tril(np.ones((1, T, T), bool)))
        return model.logits(h)

    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits
    agree(f"logits of {tokens.size} tokens", logits(params), expected, within=1e-4)


def test_smollm2_greedy_text(smollm2):
    """64 tokens after each of 20 prompts, with padded rows on both sides, by our cached loop and by transformers'.

    A row may leave the other only where transformers' two best logits are closer than TIE; it is not compared
    any further then. The rows hold no picture, so the tower and the features are placeholders that nothing reads.
    """
    import torch

    config, params, prompts, theirs = smollm2
    whole = ExpLLMConfig(vision=VISION, decoder=config, image_token=config.vocab)
    graphdef, shapes = abstract(whole)
    unused = {path: jnp.zeros(leaf.shape) for path, leaf in shapes.items() if not path.startswith("decoder/")}
    weights = unused | {f"decoder/{path}": leaf for path, leaf in params.items()}
    # All at once, and then cut, so that the batches are of one shape and compiled once.
    padded = Prompts.of([text_row(ids) for ids in prompts], pad_token=0)
    ours = []
    for part in range(BATCHES):
        batch = Prompts(*(array[part::BATCHES] for array in padded))
        made = generate(graphdef, weights, batch, None, max_new_tokens=NEW_TOKENS, eos=-1, pad=0)
        ours.append(made.tokens)

    ties, compared = 0, 0
    for part in range(BATCHES):
        rows = prompts[part::BATCHES]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        theirs.generation_config.eos_token_id = None  # 64 tokens each, also behind an end token
        with torch.no_grad():
            made = theirs.generate(
                ids, attention_mask=seen, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0,
                return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
        expected = made.sequences[:, longest:].numpy()
        assert expected.shape == ours[part].shape == (len(rows), NEW_TOKENS)
        for row in range(len(rows)):
            differing = np.flatnonzero(ours[part][row] != expected[row])
            compared += differing[0] if differing.size else NEW_TOKENS
            if differing.size:
                best, second = torch.topk(made.logits[differing[0]][row], 2).values.tolist()
                ties += 1
                assert best - second < TIE, (
                    f"prompt {row * BATCHES + part}: token {differing[0]} is {ours[part][row, differing[0]]}, and "
                    f"{expected[row, differing[0]]} in transformers, whose best logits are {best - second:.1e} apart"
                )
    print(f"{len(prompts)} prompts, {compared} tokens identical; {ties} rows left each other at a tie")


def text_row(ids: list[int]) -> EncodedRow:
    """A row of text alone, all of it prefix."""
    count = len(ids)
    return EncodedRow(
        np.array(ids, np.int32), np.arange(count, dtype=np.int32), np.ones(count, np.int32), np.zeros(count, np.float32)
    )
