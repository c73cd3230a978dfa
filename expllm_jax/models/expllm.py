"""ExpLLM: a vision tower, a projector and a decoder that reads the projected picture in the place of its image tokens.

Shape letters: B rows, T tokens, M images per row, N vision tokens per image, D vision width (of all chosen layers), E
decoder width, S keys.
Source: Lan et al., "ExpLLM: Towards Chain of Thought for Facial Expression Recognition" (arXiv 2409.02828).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from expllm_jax.errors import ExpllmError
from expllm_jax.models.decoder import Decoder, DecoderConfig
from expllm_jax.models.decoder_sizes import vicuna_7b
from expllm_jax.models.layers.cross_entropy import TokenLosses
from expllm_jax.models.lora import LoRAConfig, merge_lora
from expllm_jax.models.params import Params
from expllm_jax.models.projector import Projector, ProjectorConfig
from expllm_jax.models.quantize import dequantize_int8
from expllm_jax.models.vit import SWIGLU, ViT, ViTConfig
from expllm_jax.models.vit_sizes import vit_l14
from expllm_jax.parallel import reshaped, taken

# What trains in the paper: adapters in both towers, and the whole projector.
PAPER_TRAINABLE = (r".*/lora_[ab]", r"projector/.*")

SEGMENTS = 64
"""Segment numbers that each record of a row has for itself; `records.packing` counts with the same."""


@dataclasses.dataclass(frozen=True)
class ExpLLMConfig:
    """The whole model."""

    vision: ViTConfig
    decoder: DecoderConfig
    vision_layers: tuple[int, ...] = ()  # blocks whose outputs are concatenated; (): the last one only, as in the paper
    projector: ProjectorConfig = ProjectorConfig()
    vision_lora: LoRAConfig = LoRAConfig()
    decoder_lora: LoRAConfig = LoRAConfig()
    chained: bool = False  # rows have no branches beside each other (layouts "chained", "reference"): a faster kernel
    image_token: int = 0  # id of the placeholder that image features replace; may lie outside the vocabulary

    def __post_init__(self) -> None:
        object.__setattr__(self, "vision_layers", tuple(self.vision_layers))
        if self.image_token < 0:
            raise ExpllmError(f"image_token is {self.image_token}", "give the tokenizer's id of the image placeholder")
        gated = ("gate", "up", "down")
        tower = (*"qkvo", *(gated if self.vision.feed_forward == SWIGLU else ("fc1", "fc2")))
        for key, lora, layers in (
            ("vision_lora", self.vision_lora, tower),
            ("decoder_lora", self.decoder_lora, (*"qkvo", *gated)),
        ):
            if lora.rank and not set(lora.targets) <= set(layers):
                wrong = ", ".join(target for target in lora.targets if target not in layers)
                raise ExpllmError(
                    f"{key}.targets names {wrong}, which that part does not have", f"choose from {', '.join(layers)}"
                )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExpLLMConfig:
        """The configuration that `dataclasses.asdict` took apart, perhaps by way of JSON.

        Raises KeyError or TypeError for a field that is missing or unknown, and ExpllmError for a value that is none.
        """
        groups = {
            "vision": ViTConfig,
            "decoder": DecoderConfig,
            "projector": ProjectorConfig,
            "vision_lora": LoRAConfig,
            "decoder_lora": LoRAConfig,
        }
        return cls(**{**values, **{name: make(**values[name]) for name, make in groups.items()}})

    @property
    def vision_width(self) -> int:
        """Width of the features that `encode` returns."""
        return self.vision.width * max(1, len(self.vision_layers))

    def image_tokens(self, height: int, width: int) -> int:
        """Placeholder tokens that a picture of `height` x `width` pixels takes in a row."""
        down, across = self.vision.grid(height, width)
        return self.projector.tokens(down * across)

    def build(self, rngs: nnx.Rngs) -> ExpLLM:
        """The module with freshly drawn parameters."""
        return ExpLLM(self, rngs=rngs)


def mesh_splits(config: ExpLLMConfig) -> dict[str, tuple[str, int]]:
    """What of the model has to divide by an axis of the mesh: key of the configuration -> (axis, size).

    Key/value heads and the vocabulary are not among them: where they do not divide, every device holds them all.
    """
    vision, decoder = config.vision, config.decoder
    return {
        "model.decoder.heads": ("tensor", decoder.heads),
        "model.decoder.mlp_width": ("tensor", decoder.mlp_width),
        "model.decoder.width": ("fsdp", decoder.width),
        "model.vision.heads": ("tensor", vision.heads),
        "model.vision.mlp_width": ("tensor", vision.mlp_width),
        "model.vision.width": ("fsdp", vision.width),
        "model.decoder.width (of the projector)": ("tensor", decoder.width),
    }


def attention_mask(segments_BS: jax.Array, *, start: jax.Array | int = 0, queries: int | None = None) -> jax.Array:
    """Who may look at whom in a row of records, each with a prefix and independent branches.

    Record k of a row (from 0) has the segments k x SEGMENTS + 1, its prefix, and k x SEGMENTS + 2, 3, …, its branches.
    Token i may look at token j if and only if j <= i in the row, and j is not padding (segment 0), and j is in i's own
    segment or in the prefix of i's record. With positions that restart in every record, and after the prefix in every
    branch, a row computes exactly what one row per branch would.

    Args:
      segments_BS: segment of every token of the row or, when decoding, of every cache slot (slots still to be written
        already carry the segment they will have; `j <= i` hides them until then).
      start: row index of the first query.
      queries: how many queries; None: the whole row.

    Returns:
      mask_BTS bool, T = queries.
    """
    S = segments_BS.shape[1]
    T = S if queries is None else queries
    own_BT = segments_BS if queries is None else lax.dynamic_slice_in_dim(segments_BS, start, T, 1)
    rows_T = start + jnp.arange(T)
    before_TS = jnp.arange(S) <= rows_T[:, None]
    key_B1S, query_BT1 = segments_BS[:, None, :], own_BT[:, :, None]
    # Padding looks at the first record's prefix, so that its states are finite.
    prefix_BT1 = jnp.maximum(query_BT1 - 1, 0) // SEGMENTS * SEGMENTS + 1
    return before_TS & (key_B1S > 0) & ((key_B1S == query_BT1) | (key_B1S == prefix_BT1))


def check_image_tokens(
    config: ExpLLMConfig,
    tokens_BT: np.ndarray,
    images: int | np.ndarray,
    vision_tokens: int,
    name: Callable[[int], str],
) -> None:
    """Raises ExpllmError, naming the row, unless every row has as many image tokens as its pictures fill.

    Ids cannot be counted while compiling, where too many placeholders would give NaN and too few leave features out.

    Args:
      config: of the model.
      tokens_BT: ids, on the host.
      images: pictures of every row, a number or int [B]; 0 for none.
      vision_tokens: N, features of one picture before the projector pools them.
      name: row number -> what to call it; asked only for the first that is wrong.
    """
    images_B = np.broadcast_to(images, len(tokens_BT))
    each = config.projector.tokens(vision_tokens) if images_B.any() else 0
    found_B = np.sum(np.asarray(tokens_BT) == config.image_token, 1)
    if len(wrong := np.flatnonzero(found_B != images_B * each)):
        row = int(wrong[0])
        more = f" (and {len(wrong) - 1} more rows like it)" if len(wrong) > 1 else ""
        raise ExpllmError(
            f"{name(row)} has {found_B[row]} image tokens (id {config.image_token}), but its {images_B[row]} "
            f"picture(s) fill {images_B[row] * each}{more}",
            f"write {each} image tokens per picture into the row",
        )


class ExpLLM(nnx.Module):
    """`encode` pictures, `embed` a row around them, run the decoder over it, and read `logits`."""

    def __init__(self, config: ExpLLMConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = ViT(config.vision, rngs=rngs, lora=config.vision_lora)
        self.projector = Projector(config.vision_width, config.decoder.width, config.projector, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs, lora=config.decoder_lora)

    def encode(self, pixels_BHWC: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Normalised float32 pictures -> tower features (B, N, D), before pooling and projector: what may be cached."""
        return self.vision(pixels_BHWC, layers=self.config.vision_layers or None, dropout_key=dropout_key)

    def embed(self, tokens_BT: jax.Array, features_BMND: jax.Array | None) -> jax.Array:
        """Decoder input (B, T, E): token embeddings, with projected image features in the place of image tokens.

        The k-th image token of a row receives the k-th projected feature of the row's images, in order. More image
        tokens than features give NaN (ids cannot be counted while compiling; `check_image_tokens` does it before).
        """
        if features_BMND is None:
            return self.decoder.embed(tokens_BT)
        B, M, N, D = features_BMND.shape
        projected_XNE = self.projector(reshaped(features_BMND, (B * M, N, D), "features_BND"))
        each, width = projected_XNE.shape[1:]
        projected_BKE = reshaped(projected_XNE, (B, M * each, width), "residual_BTD")
        is_image_BT = tokens_BT == self.config.image_token
        words_BTE = self.decoder.embed(jnp.where(is_image_BT, 0, tokens_BT))
        order_BT = jnp.maximum(jnp.cumsum(is_image_BT, 1) - 1, 0)
        images_BTE = taken(projected_BKE, order_BT)
        return jnp.where(is_image_BT[..., None], images_BTE.astype(words_BTE.dtype), words_BTE)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array,
        features_BMND: jax.Array | None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Final-normed states (B, T, E) of whole rows; `logits` of state t scores token t + 1 of the same branch."""
        x_BTE = self.embed(tokens_BT, features_BMND)
        # The prefix comes first, so that in a chain "before it in its own record" says it all.
        records_BT = (segments_BT + SEGMENTS - 1) // SEGMENTS if self.config.chained else None
        mask_BTS = attention_mask(segments_BT)
        return self.decoder(x_BTE, positions_BT, mask_BTS, records_BT=records_BT, dropout_key=dropout_key)[0]

    def token_losses(self, h_BSE: jax.Array, targets_BS: jax.Array) -> TokenLosses:
        """What `logits` would cost at these targets, without making them all; see `Decoder.token_losses`."""
        return self.decoder.token_losses(h_BSE, targets_BS)

    def logits(self, h_BTE: jax.Array) -> jax.Array:
        """(..., E) -> (..., V) float32."""
        return self.decoder.logits(h_BTE)


def merged(config: ExpLLMConfig, params: Params) -> tuple[ExpLLMConfig, Params]:
    """The same function without adapters: configuration of rank 0, and parameters with every adapter folded in.

    Adapters beside int8 kernels make the decoder a full one again (four times the memory in float32).
    """
    if config.decoder.base == "int8" and config.decoder_lora.rank:
        decoder, params = dequantize_int8(params, config.decoder, "decoder/")
        config = dataclasses.replace(config, decoder=decoder)
    params = merge_lora(params, config.vision_lora, "vision/")
    params = merge_lora(params, config.decoder_lora, "decoder/")
    return dataclasses.replace(config, vision_lora=LoRAConfig(), decoder_lora=LoRAConfig()), params


def expllm_7b(**changes: object) -> ExpLLMConfig:
    """The paper's model: DINOv2-L, a two-layer projector, Vicuna-7B; rank 8 adapters on q and v of both towers."""
    lora = LoRAConfig(rank=8, alpha=16.0, dropout=0.05, targets=("q", "v"))
    config = ExpLLMConfig(
        vision=vit_l14(resize="scale_0.1"),
        decoder=vicuna_7b(),
        vision_lora=lora,
        decoder_lora=lora,
        image_token=32000,  # <im_patch>, added behind a vocabulary of 32,000 whose embedding is not resized
    )
    return dataclasses.replace(config, **changes)
