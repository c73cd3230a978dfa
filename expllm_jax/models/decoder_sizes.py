"""Published decoders of the LLaMA family, as configurations: what `DecoderConfig` has to say to be each of them.

Every function takes changes to its configuration, such as `mistral_7b(max_length=2048, dtype="bfloat16")`. Parameter
counts are those of the published weights.
"""

from __future__ import annotations

import dataclasses

from expllm_jax.errors import ExpllmError
from expllm_jax.models.decoder import DecoderConfig


def smollm2_135m(**changes: object) -> DecoderConfig:
    """SmolLM2-135M: 134,515,008 parameters, output head tied to the embedding."""
    config = DecoderConfig(
        vocab=49152,
        width=576,
        depth=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp_width=1536,
        rope_theta=100000.0,
        tied=True,
        max_length=8192,
    )
    return dataclasses.replace(config, **changes)


def smollm2_360m(**changes: object) -> DecoderConfig:
    """SmolLM2-360M: 361,821,120 parameters, output head tied to the embedding."""
    config = smollm2_135m(width=960, depth=32, heads=15, kv_heads=5, mlp_width=2560)
    return dataclasses.replace(config, **changes)


def smollm2_1_7b(**changes: object) -> DecoderConfig:
    """SmolLM2-1.7B: 1,711,376,384 parameters, output head tied to the embedding."""
    config = smollm2_135m(width=2048, depth=24, heads=32, kv_heads=32, mlp_width=8192, rope_theta=130000.0)
    return dataclasses.replace(config, **changes)


def vicuna_7b(**changes: object) -> DecoderConfig:
    """Vicuna-7B-v1.5 (LLaMA-2-7B), the paper's decoder: 6,738,415,616 parameters."""
    config = DecoderConfig(
        vocab=32000, width=4096, depth=32, heads=32, kv_heads=32, head_dim=128, mlp_width=11008, max_length=4096
    )
    return dataclasses.replace(config, **changes)


def vicuna_13b(**changes: object) -> DecoderConfig:
    """Vicuna-13B-v1.5 (LLaMA-2-13B): 13,015,864,320 parameters."""
    config = vicuna_7b(width=5120, depth=40, heads=40, kv_heads=40, mlp_width=13824)
    return dataclasses.replace(config, **changes)


def llama3_8b(**changes: object) -> DecoderConfig:
    """LLaMA-3-8B: 8,030,261,248 parameters, 8,192 positions."""
    config = DecoderConfig(
        vocab=128256,
        width=4096,
        depth=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_width=14336,
        rope_theta=500000.0,
        max_length=8192,
    )
    return dataclasses.replace(config, **changes)


def llama31_8b(**changes: object) -> DecoderConfig:
    """LLaMA-3.1-8B: 8,030,261,248 parameters; LLaMA-3-8B stretched to 131,072 positions."""
    config = llama3_8b(rope_scaling="llama3:8,1,4,8192", max_length=131072)
    return dataclasses.replace(config, **changes)


def llama32_1b(**changes: object) -> DecoderConfig:
    """LLaMA-3.2-1B: 1,235,814,400 parameters, output head tied to the embedding."""
    config = llama3_8b(
        width=2048,
        depth=16,
        head_dim=64,
        mlp_width=8192,
        tied=True,
        rope_scaling="llama3:32,1,4,8192",
        max_length=131072,
    )
    return dataclasses.replace(config, **changes)


def mistral_7b(version: str = "0.3", **changes: object) -> DecoderConfig:
    """Mistral-7B.

    Args:
      version: "0.3" (7,248,023,552 parameters, vocabulary of 32,768), "0.2" (7,241,732,096 parameters) or "0.1" (as
        0.2, with a sliding window of 4,096 tokens, and so for rows of at most as many).
      changes: to the configuration.

    Raises:
      ExpllmError: another version, or changes that make no decoder.
    """
    versions: dict[str, dict[str, object]] = {
        "0.1": {"sliding_window": 4096, "max_length": 4096},
        "0.2": {"rope_theta": 1000000.0},
        "0.3": {"rope_theta": 1000000.0, "vocab": 32768},
    }
    if version not in versions:
        raise ExpllmError(f"there is no Mistral-7B version {version!r}", f"choose from {', '.join(versions)}")
    config = DecoderConfig(
        vocab=32000, width=4096, depth=32, heads=32, kv_heads=8, head_dim=128, mlp_width=14336, max_length=32768
    )
    return dataclasses.replace(config, **versions[version] | changes)


def qwen25_0_5b(**changes: object) -> DecoderConfig:
    """Qwen2.5-0.5B: 494,032,768 parameters, biases on q, k and v, output head tied to the embedding."""
    config = DecoderConfig(
        vocab=151936,
        width=896,
        depth=24,
        heads=14,
        kv_heads=2,
        head_dim=64,
        mlp_width=4864,
        rope_theta=1000000.0,
        norm_eps=1e-6,
        tied=True,
        qkv_bias=True,
        max_length=32768,
    )
    return dataclasses.replace(config, **changes)


def qwen25_7b(**changes: object) -> DecoderConfig:
    """Qwen2.5-7B: 7,615,616,512 parameters, biases on q, k and v; `rope_scaling="yarn:4,32768"` reads longer rows."""
    config = qwen25_0_5b(
        vocab=152064, width=3584, depth=28, heads=28, kv_heads=4, head_dim=128, mlp_width=18944, tied=False
    )
    return dataclasses.replace(config, **changes)
