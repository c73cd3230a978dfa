"""A real language model behind a minimal endpoint: SmolLM2-135M, generating with `expllm_jax.infer`."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import pytest

from expllm_jax.engine.llm import LlmNarrator
from expllm_jax.engine.loop import EngineConfig, ExpCotLoop
from tests.engine.llm.endpoint import Sent, Served, completion, serving
from tests.engine.llm.faces import faces, quick

pytestmark = [pytest.mark.parity, pytest.mark.slow]

MOST_TOKENS = 64
ROOM = 768  # tokens that prompts are padded to, so that one shape is compiled


class SmolLM2:
    """Answers chats, text only. The vision tower of `ExpLLM` is a small placeholder that nothing reads."""

    def __init__(self, folder) -> None:
        import jax.numpy as jnp
        from tokenizers import Tokenizer

        from expllm_jax.assets import asset_path
        from expllm_jax.infer import Generator
        from expllm_jax.models import ExpLLMConfig, abstract
        from expllm_jax.weights import decoder_from_gguf, tokenizer_json_from_gguf
        from tests.models.sizes import VISION

        path = asset_path("smollm2")
        decoder, params = decoder_from_gguf(path)
        graphdef, shapes = abstract(ExpLLMConfig(vision=VISION, decoder=decoder, image_token=decoder.vocab))
        unused = {name: jnp.zeros(leaf.shape) for name, leaf in shapes.items() if not name.startswith("decoder/")}
        self._generate = Generator(graphdef, unused | {f"decoder/{name}": leaf for name, leaf in params.items()})
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json_from_gguf(path, folder / "tokenizer.json")))
        self._end = self._tokenizer.token_to_id("<|im_end|>")
        self._one_at_a_time = threading.Lock()

    def __call__(self, served: Served) -> Sent:
        from expllm_jax.infer import Prompts, SamplingConfig

        chat = "".join(f"<|im_start|>{said['role']}\n{said['content']}<|im_end|>\n" for said in served.body["messages"])
        tokens = self._tokenizer.encode(f"{chat}<|im_start|>assistant\n").ids
        settings = SamplingConfig(served.body["temperature"], seed=served.body.get("seed", 0))
        with self._one_at_a_time:
            made = self._generate(
                Prompts(*padded(tokens)), None, max_new_tokens=MOST_TOKENS, eos=self._end, pad=0, sampling=settings
            )
        answer = made.tokens[0, : made.lengths[0]].tolist()
        text = self._tokenizer.decode(answer, skip_special_tokens=True)
        return completion(text, finish="length" if made.truncated[0] else "stop", usage=(len(tokens), len(answer)))


def padded(tokens):
    """The one row, filled up to ROOM: (tokens, positions, segments), int32 [1, ROOM] each."""
    import numpy as np

    arrays = np.zeros((3, 1, ROOM), np.int32)
    arrays[:, 0, : len(tokens)] = tokens, range(len(tokens)), [1] * len(tokens)
    return arrays


def test_the_loop_ends_with_a_recorded_outcome(tmp_path):
    from expllm_jax.assets import is_cached

    if not is_cached("smollm2"):
        pytest.skip("the asset smollm2 is not in the cache; `expllm train small` fetches it")

    async def one(url):
        config = quick(url, model="smollm2-135m", max_tokens=MOST_TOKENS, timeout=60.0)
        narrator = LlmNarrator(config, tmp_path / "replies.sqlite")
        try:
            return await ExpCotLoop(narrator, EngineConfig(rounds=2)).run(faces(1)[0]), narrator.report()
        finally:
            await narrator.close()

    said: list[str] = []
    model = SmolLM2(tmp_path)

    def answer(served: Served) -> Sent:
        sent = model(served)
        said.append(json.loads(sent.body)["choices"][0]["message"]["content"])
        return sent

    with serving(answer) as endpoint:
        outcome, report = asyncio.run(one(endpoint.url))
    print(f"{outcome.status} in round {outcome.rounds}: {outcome.reason}", *said, sep="\n")
    # So small a model does not keep to the format: an honest rejection is what is expected of the loop.
    assert outcome.status in ("accepted", "rejected")
    assert (outcome.status == "accepted") == (outcome.annotation.cot is not None)
    assert len(outcome.history) == outcome.rounds - (outcome.status == "accepted")
    assert report["spent"]["calls"] == len(said) >= outcome.rounds and not report["spent"]["calls_estimated"]
    words = re.findall(r"[a-z]+", " ".join(said).lower())
    assert {"the", "face"} <= set(words)
