"""How much an int8 base changes a decoder: logits, loss, predictions, and the gradients of adapters beside it.

Two decoders: four layers of random numbers, and SmolLM2-135M-Instruct (whose weights are 4-bit numbers, dequantised,
before they are rounded to int8) on ten sentences. Errors are relative L2 norms unless the name says otherwise. Found
on a CPU in float32, with adapters of rank 8 on q and v:

                                random, 4 layers    SmolLM2-135M
    tokens                                   240             144
    mean |change of a logit|              0.0067            0.20
    error of the logits                    0.026           0.032
    KL divergence per token (nats)        3.5e-5          6.2e-3
    same most probable token               94.2%           94.4%
    error of the loss                     5.4e-5          1.2e-3
    error of the adapters' gradient        0.039            0.10
    bytes of the layers' kernels           0.253           0.251    of float32's

example: python launch/bench/int8_base.py --decoder smollm2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from expllm_jax.assets import asset_path
from expllm_jax.models import (
    Decoder,
    DecoderConfig,
    LoRAConfig,
    Params,
    abstract,
    attention_mask,
    merge,
    quantize_int8,
    select,
    split,
)
from expllm_jax.weights import decoder_from_gguf, tokenizer_json_from_gguf

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "She raised her eyebrows, opened her mouth and looked straight at the camera.",
    "Water boils at one hundred degrees Celsius at the level of the sea.",
    "A smile pulls the corners of the lips up and lifts the cheeks.",
    "When the train arrived, nobody was waiting on the platform any more.",
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b",
    "In 1969 two astronauts walked on the Moon while a third stayed in orbit.",
    "His jaw was tight and his brows were drawn together, which suggests anger.",
    "To make bread you need flour, water, salt, yeast and some patience.",
)
LORA = LoRAConfig(rank=8, alpha=16.0, dropout=0.0, targets=("q", "v"))


@dataclasses.dataclass(frozen=True)
class DecoderWithAdapters:
    """What `models.abstract` needs to describe a decoder that has adapters outside ExpLLM."""

    config: DecoderConfig

    def build(self, rngs: nnx.Rngs) -> Decoder:
        """The module with freshly drawn parameters."""
        return Decoder(self.config, rngs=rngs, lora=LORA)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\nexample")[0],
        epilog="example: " + __doc__.split("example: ")[1].strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--decoder", choices=("random", "smollm2"), nargs="+", default=["random", "smollm2"])
    options = parser.parse_args()
    for name in options.decoder:
        config, params, rows = _random() if name == "random" else _smollm2()
        print(json.dumps({"decoder": name, **compare(config, params, rows)}), flush=True)


def _random() -> tuple[DecoderConfig, Params, list[list[int]]]:
    config = DecoderConfig(
        vocab=512, width=256, depth=4, heads=8, kv_heads=4, head_dim=32, mlp_width=704, init_std=0.0, max_length=64
    )
    params = split(config.build(nnx.Rngs(0)))[1]
    return config, params, np.random.default_rng(0).integers(0, config.vocab, (10, 24)).tolist()


def _smollm2() -> tuple[DecoderConfig, Params, list[list[int]]]:
    config, params = decoder_from_gguf(asset_path("smollm2"))
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Tokenizer.from_file(
            str(tokenizer_json_from_gguf(asset_path("smollm2"), Path(scratch, "tokenizer.json")))
        )
    return config, params, [tokenizer.encode(sentence).ids for sentence in SENTENCES]


def compare(config: DecoderConfig, params: Params, rows: list[list[int]]) -> dict[str, float | int]:
    """What int8 changes for these rows of token ids; adapters have random A and B, or A would have no gradient."""
    rng = np.random.default_rng(1)
    adapters = {
        path: rng.normal(0, 0.02, leaf.shape).astype(np.float32)
        for path, leaf in abstract(DecoderWithAdapters(config))[1].items()
        if "/lora_" in path
    }
    length = max(map(len, rows))
    tokens_BT = np.array([row + [0] * (length - len(row)) for row in rows])
    real_BT = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    full_logits, full_loss, full_gradient = measure(config, {**params, **adapters}, tokens_BT, real_BT)
    logits, loss, gradient = measure(*quantize_int8({**params, **adapters}, config), tokens_BT, real_BT)
    log_p, log_q = (jax.nn.log_softmax(x) for x in (full_logits, logits))
    divergence = np.sum(np.exp(log_p) * (log_p - log_q), -1)
    return {
        "tokens": len(logits),
        "logits_mean_absolute": _rounded(np.abs(logits - full_logits).mean()),
        "logits_error": _error(logits, full_logits),
        "kl_per_token": _rounded(divergence.mean()),
        "top1_agreement": _rounded((logits.argmax(-1) == full_logits.argmax(-1)).mean()),
        "loss_full": _rounded(full_loss),
        "loss_int8": _rounded(loss),
        "loss_error": _rounded(abs(loss - full_loss) / full_loss),
        "lora_gradient_error": _error(gradient, full_gradient),
        "kernel_bytes_full": sum(v.nbytes for path, v in params.items() if "blocks/" in path and "kernel" in path),
        "kernel_bytes_int8": sum(
            v.nbytes for path, v in quantize_int8(params, config)[1].items() if "blocks/" in path and "kernel" in path
        ),
    }


def measure(
    config: DecoderConfig, params: Params, tokens_BT: np.ndarray, real_BT: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """(logits (tokens, V) of every real token, mean loss of the next token, gradient of all adapters in one vector)."""
    graphdef = abstract(DecoderWithAdapters(config))[0]
    trainable, frozen = select({path: jnp.asarray(leaf) for path, leaf in params.items()}, [r".*/lora_[ab]"])

    def loss(trainable: Params, frozen: Params) -> tuple[jax.Array, jax.Array]:
        model = merge(graphdef, {**trainable, **frozen})
        positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)
        h_BTD, _ = model(model.embed(tokens_BT), positions_BT, attention_mask(jnp.asarray(real_BT)))
        logits_BTV = model.logits(h_BTD)
        log_p_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
        nll_BT = -jnp.take_along_axis(log_p_BTV, tokens_BT[:, 1:, None], 2)[..., 0]
        return jnp.sum(jnp.where(real_BT[:, 1:] > 0, nll_BT, 0.0)) / real_BT[:, 1:].sum(), logits_BTV

    (value, logits_BTV), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable, frozen)
    flat = np.concatenate([np.ravel(gradient[path]) for path in sorted(gradient)])
    return np.asarray(logits_BTV)[real_BT > 0], float(value), flat


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return _rounded(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    main()
