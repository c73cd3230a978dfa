"""How many floating-point operations an update, or a generated token, needs: what utilisation is measured against.

Counted are the products of matrices alone, 2 operations per multiply-add: linear layers with their adapters, attention
(scores, and weights times values), the output head at the supervised tokens. Per product there are up to three passes:

- forward;
- backward by activations, only where a gradient has to pass, that is, where something before the product trains;
- backward by weights, only where the weights train. Of attention, both operands are activations.

Not counted are rematerialisation (what a policy computes again is the hardware's work, not the model's; see
`recomputed_flops`), the head's scores that are made again where the head trains, everything elementwise (norms,
activations, softmax, rotary positions, dropout), embedding look-ups, the fitting of the position table, augmentation
and the optimiser. Padding tokens, empty picture slots and keys that a token may not see count only where `Work` says
that they do.

Checked against XLA's own count in tests/train/test_flops.py.
Source: Chowdhery et al., "PaLM" (2022), appendix B, for utilisation by model operations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expllm_jax.errors import ExpllmError
from expllm_jax.models import SEGMENTS, DecoderConfig, ExpLLMConfig, LoRAConfig, abstract
from expllm_jax.models.vit import SWIGLU
from expllm_jax.records import PADDED_RECORD


class Work(NamedTuple):
    """What an update, or one process's share of it, has to compute."""

    rows: float  # rows of tokens
    tokens: float  # tokens that the decoder's layers run over
    keys: float  # sum over these tokens of how many keys each looks at
    pictures: float  # pictures that the tower and the projector run over
    supervised: float  # tokens that the head scores


class UpdateFlops(NamedTuple):
    """Operations of one update, forward and backward."""

    tower: float  # the vision tower, its attention included
    projector: float
    decoder: float  # linear layers of the decoder's blocks
    attention: float  # of the decoder
    head: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


class DecodeWork(NamedTuple):
    """What one generation step, a token for every row, computes and reads."""

    flops: float
    weight_bytes: float  # every weight of the decoder and its head, once
    cache_bytes: float  # keys and values of all slots read, those of the new tokens written


def work_of(batch: Mapping[str, np.ndarray]) -> Work:
    """What a batch of `records.batches` asks for, padding left out.

    Args:
      batch: host arrays of one process, `segments` int [B, T], `loss_weights` [B, T] and `record` [B] or [B, M] among
        them.

    Raises:
      ExpllmError: one of these is missing.
    """
    if missing := sorted({"segments", "loss_weights", "record"} - set(batch)):
        raise ExpllmError(f"the batch has no {', '.join(missing)}", "give a batch as records.batches makes it")
    segments_BT = np.ascontiguousarray(batch["segments"])
    B, T = segments_BT.shape
    # Runs of equal segments are few, so that what follows them is cheap.
    change_BT = np.ones((B, T), bool)
    np.not_equal(segments_BT[:, 1:], segments_BT[:, :-1], out=change_BT[:, 1:])
    starts = np.flatnonzero(change_BT)
    lengths = np.diff(starts, append=B * T)
    run_segment, run_row = segments_BT.reshape(-1)[starts].astype(np.int64), starts // T
    used = run_segment > 0
    # A token sees those up to itself in its own segment, and in a branch all of its record's prefix, which comes first.
    per_row = -(-(int(run_segment.max(initial=0)) + 1) // SEGMENTS) * SEGMENTS + 1
    own = run_row[used] * per_row + run_segment[used]
    count = np.bincount(own, weights=lengths[used], minlength=B * per_row).reshape(B, per_row)[:, 1:]
    count_BKS = count.reshape(B, -1, SEGMENTS)  # per row, record of the row, and segment of the record: prefix first
    prefix_BK, branches_BK = count_BKS[..., 0], count_BKS[..., 1:].sum(-1)
    keys = float((count_BKS * (count_BKS + 1)).sum() / 2 + (prefix_BK * branches_BK).sum())
    return Work(
        rows=float(B),
        tokens=float(count.sum()),
        keys=keys,
        pictures=float(np.count_nonzero(batch["record"] != PADDED_RECORD)),
        supervised=float(np.count_nonzero(batch["loss_weights"] > 0)),
    )


def full_work(rows: int, row_length: int, pictures: int, supervised: int, *, masked: bool = False) -> Work:
    """What the hardware computes for rows of static shape, whatever is padding in them.

    Args:
      rows: of the update.
      row_length: tokens of a row.
      pictures: slots of a row.
      supervised: places of a row that the head scores.
      masked: scores of later tokens are computed, too, and masked, as attention without a kernel of its own does. The
        kernels for TPUs and GPUs leave them out.
    """
    keys = row_length if masked else (row_length + 1) / 2
    return Work(
        float(rows), float(rows * row_length), rows * row_length * keys, float(rows * pictures),
        float(rows * supervised),
    )  # fmt: skip


def update_flops(
    config: ExpLLMConfig, trainable: Collection[str], work: Work, picture_size: int, *, encoded: bool = False
) -> UpdateFlops:
    """Operations that an update needs; see the module's text for what counts.

    Args:
      config: of the model.
      trainable: paths of the parameters that train. A gradient is passed no further down than to the first of them.
      work: of the update.
      picture_size: pixels a side.
      encoded: the tower's features are read from a file, so that it does not run.

    Raises:
      ExpllmError: the pictures do not divide into patches.
    """
    parts = _parts(config, frozenset(trainable), picture_size, encoded)
    return UpdateFlops(
        tower=2 * work.pictures * parts.tower.total,
        projector=2 * work.pictures * parts.projector.total,
        decoder=2 * work.tokens * parts.decoder.total,
        attention=2 * work.keys * parts.attention.total,
        head=2 * work.supervised * parts.head.total,
    )


def recomputed_flops(
    config: ExpLLMConfig, trainable: Collection[str], work: Work, picture_size: int, *, encoded: bool = False
) -> float:
    """Operations that rematerialisation adds to those of `update_flops`.

    Policies other than "none" and "dots", which keep every product, compute the forward pass of a block again where a
    gradient passes it; all of it but the last product, whose result no derivative asks for.
    """
    parts = _parts(config, frozenset(trainable), picture_size, encoded)
    again = 0.0
    if config.vision.remat not in _KEEPING_PRODUCTS:
        again += work.pictures * parts.tower.again
    if config.decoder.remat not in _KEEPING_PRODUCTS:
        again += work.tokens * parts.decoder.again + work.keys * parts.attention.again
    return 2 * again


def decode_flops_and_bytes(config: ExpLLMConfig, rows: int, slots: int) -> DecodeWork:
    """One generation step of the decoder on an accelerator: a token for each of `rows`, with a cache of `slots` each.

    All slots are read and multiplied, used or not. Weights are as large as the configuration stores them; of an
    embedding that is not the head as well, only the new tokens' rows are read, which are not counted.
    """
    decoder = config.decoder
    layers, attention, _ = _decoder_blocks(decoder, config.decoder_lora, frozenset(), live=False)
    per_row = layers.forward + attention.forward * slots + decoder.width * decoder.vocab
    weights = sum(
        leaf.size * leaf.dtype.itemsize
        for path, leaf in abstract(config)[1].items()
        if path.startswith("decoder/") and (decoder.tied or path != "decoder/embedding")
    )
    slot = decoder.depth * 2 * decoder.kv_heads * decoder.head_dim * jnp.dtype(decoder.dtype).itemsize
    return DecodeWork(2 * rows * per_row, float(weights), float(rows * (slots + 1) * slot))


_KEEPING_PRODUCTS = ("none", "dots")  # rematerialisation policies that compute no product again


class _Products(NamedTuple):
    """Multiply-adds per unit of work: a token, a key or a picture."""

    forward: float = 0.0
    backward: float = 0.0
    again: float = 0.0  # of the forward ones, those that full rematerialisation repeats

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def plus(self, other: _Products, factor: float = 1.0) -> _Products:
        """These and `factor` times the others."""
        return _Products(*(mine + factor * its for mine, its in zip(self, other, strict=True)))


class _Parts(NamedTuple):
    """Of the whole model: per picture, per picture, per token, per key and per supervised token."""

    tower: _Products
    projector: _Products
    decoder: _Products
    attention: _Products
    head: _Products


class _Flow:
    """Follows values through layers. Of each value it is known whether it is *live*: a gradient has to reach it."""

    def __init__(self, prefix: str, trainable: Collection[str], lora: LoRAConfig) -> None:
        self._prefix, self._trainable, self._lora = prefix, trainable, lora
        self.linears, self.attentions = _Products(), _Products()

    def trains(self, *leaves: str) -> bool:
        """Whether any of these leaves trains; a model that has no such leaf does not train it."""
        return any(f"{self._prefix}{leaf}" in self._trainable for leaf in leaves)

    def linear(self, name: str, inputs: int, outputs: int, live: bool, *, last: bool = False) -> bool:
        """Counts a `Linear` per token; says whether its result is live. `last`: nothing needs the result again."""
        products = [(inputs * outputs, live, self.trains(f"{name}/kernel"))]
        if adapter := self._lora.on(name.split("/")[-1]):
            a, b = self.trains(f"{name}/lora_a"), self.trains(f"{name}/lora_b")
            products += [(inputs * adapter.rank, live, a), (adapter.rank * outputs, live or a, b)]
        for size, by_activations, by_weights in products:
            self.linears = self.linears.plus(_Products(size, size * (by_activations + by_weights), 0 if last else size))
        return live or self.trains(*(f"{name}/{leaf}" for leaf in ("kernel", "bias", "lora_a", "lora_b")))

    def attention(self, width: int, q: bool, k: bool, v: bool) -> bool:
        """Counts scores and weights times values per key, `width` being that of all heads together."""
        scores = q or k
        self.attentions = self.attentions.plus(_Products(2 * width, width * (q + k + scores + v), 2 * width))
        return scores or v


Block = Callable[[_Flow, bool], bool]  # counts one block, given whether its input is live; says whether its result is


def _stack(
    block: Block, prefix: str, trainable: Collection[str], lora: LoRAConfig, *, depth: int, live: bool
) -> tuple[_Products, _Products, bool]:
    """(linear layers, attention, whether the result is live) of `depth` equal blocks, whose parameters are stacked."""
    linears, attentions = _Products(), _Products()
    # What is live behind the first block is live behind the others, too: there are no more than two kinds.
    for times in (1, depth - 1):
        flow = _Flow(prefix, trainable, lora)
        after = block(flow, live)
        # A block through which no gradient passes is not computed again.
        linears = linears.plus(flow.linears if after else flow.linears._replace(again=0), times)
        attentions = attentions.plus(flow.attentions if after else flow.attentions._replace(again=0), times)
        live = after
    return linears, attentions, live


def _decoder_blocks(
    config: DecoderConfig, lora: LoRAConfig, trainable: Collection[str], *, live: bool
) -> tuple[_Products, _Products, bool]:
    D, F = config.width, config.mlp_width
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def block(flow: _Flow, live: bool) -> bool:
        normed = live or flow.trains("norm1/scale")
        q = flow.linear("attn/q", D, queries, normed)
        k = flow.linear("attn/k", D, keys, normed)
        v = flow.linear("attn/v", D, keys, normed)
        attended = flow.linear("attn/o", queries, D, flow.attention(queries, q, k, v))
        normed = live or attended or flow.trains("norm2/scale")
        gate, up = flow.linear("mlp/gate", D, F, normed), flow.linear("mlp/up", D, F, normed)
        return flow.linear("mlp/down", F, D, gate or up, last=True) or live or attended

    return _stack(block, "decoder/blocks/", trainable, lora, depth=config.depth, live=live)


def _tower(config: ExpLLMConfig, trainable: Collection[str], picture_size: int) -> tuple[_Products, bool]:
    """(of one picture, whether the features are live)."""
    vision, D, F = config.vision, config.vision.width, config.vision.mlp_width
    down, across = vision.grid(picture_size, picture_size)
    patches, tokens = down * across, down * across + vision.extra_tokens
    start = _Flow("vision/", trainable, LoRAConfig())
    live = start.linear("patch_embed", 3 * vision.patch**2, D, False)
    live |= start.trains("cls_token", "position_embedding", "register_tokens", "pre_norm/scale", "pre_norm/bias")

    def block(flow: _Flow, live: bool) -> bool:
        normed = live or flow.trains("norm1/scale", "norm1/bias")
        q, k, v = (flow.linear(f"attn/{name}", D, D, normed) for name in "qkv")
        attended = flow.linear("attn/o", D, D, flow.attention(D, q, k, v)) or flow.trains("scale1")
        normed = live or attended or flow.trains("norm2/scale", "norm2/bias")
        if vision.feed_forward == SWIGLU:
            gate, up = flow.linear("mlp/gate", D, F, normed), flow.linear("mlp/up", D, F, normed)
            fed = flow.linear("mlp/down", F, D, gate or up, last=not flow.trains("scale2"))
        else:
            fed = flow.linear("mlp/fc2", F, D, flow.linear("mlp/fc1", D, F, normed), last=not flow.trains("scale2"))
        return fed or live or attended or flow.trains("scale2")

    depth = max(layer % vision.depth for layer in config.vision_layers or (-1,)) + 1
    linears, attentions, live = _stack(block, "vision/blocks/", trainable, config.vision_lora, depth=depth, live=live)
    total = _Products().plus(start.linears._replace(again=0), patches).plus(linears, tokens)
    return total.plus(attentions, tokens**2), live or start.trains("norm/scale", "norm/bias")


def _parts(config: ExpLLMConfig, trainable: frozenset[str], picture_size: int, encoded: bool) -> _Parts:
    tower, live = (_Products(), False) if encoded else _tower(config, trainable, picture_size)
    width, decoder = config.decoder.width, config.decoder
    projector = _Flow("projector/", trainable, LoRAConfig())
    inputs = config.vision_width * config.projector.pool**2
    for number in range(config.projector.depth):
        live = projector.linear(f"layers/{number}", inputs if number == 0 else width, width, live)
    live |= "decoder/embedding" in trainable
    linears, attentions, live = _decoder_blocks(decoder, config.decoder_lora, trainable, live=live)
    end = _Flow("decoder/", trainable, LoRAConfig())
    live |= end.trains("norm/scale")
    end.linear("embedding" if decoder.tied else "lm_head", width, decoder.vocab, live)
    head = end.linears
    if decoder.tied and end.trains("embedding"):
        head = head._replace(backward=head.backward + head.forward)
    tokens = config.image_tokens(picture_size, picture_size)
    return _Parts(tower, _Products().plus(projector.linears, tokens), linears, attentions, head)
