"""Published sizes of vision towers. Every function takes changes of single fields, as `dataclasses.replace` does.

The numbers of parameters are those of the class of the same name in `transformers`, less what patch tokens do not
depend on: DINOv2's mask token, CLIP's last norm (2 D, applied to the CLS token only) and SigLIP's pooling head.
"""

from __future__ import annotations

import dataclasses

from expllm_jax.models.vit import SWIGLU, ViTConfig


def vit_s14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-S/14: 22,056,192 parameters."""
    return dataclasses.replace(ViTConfig(width=384, depth=12, heads=6), **changes)


def vit_b14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-B/14: 86,579,712 parameters."""
    return dataclasses.replace(ViTConfig(width=768, depth=12, heads=12), **changes)


def vit_l14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-L/14, the paper's tower: 304,367,616 parameters."""
    return dataclasses.replace(ViTConfig(width=1024, depth=24, heads=16), **changes)


def vit_g14(**changes: object) -> ViTConfig:
    """DINOv2 ViT-g/14, with a SwiGLU feed-forward of hidden width 4096: 1,136,479,232 parameters."""
    return dataclasses.replace(ViTConfig(width=1536, depth=40, heads=24, feed_forward=SWIGLU), **changes)


def clip_l14(**changes: object) -> ViTConfig:
    """OpenAI's CLIP ViT-L/14 for 224 pixels: 303,177,728 parameters.

    `native_grid=24` makes it the one for 336 pixels: 303,505,408 parameters. LLaVA reads either at `layers=(-2,)`.
    """
    config = ViTConfig(
        width=1024,
        depth=24,
        heads=16,
        native_grid=16,
        layer_norm_eps=1e-5,
        family="clip",
        feed_forward="quick_gelu",
        layer_scale=False,
    )
    return dataclasses.replace(config, **changes)


def siglip_so400m14(**changes: object) -> ViTConfig:
    """SigLIP so400m/14, published for 384 pixels: 412,987,248 parameters.

    Its 27 x 27 patches of 14 pixels cover 378 of the 384. The published convolution leaves out the last 6 rows and
    columns; here the caller does, because pictures whose sides do not divide are refused.
    """
    config = ViTConfig(
        width=1152,
        depth=27,
        heads=16,
        mlp_ratio=4304 / 1152,
        native_grid=27,
        family="siglip",
        feed_forward="gelu_tanh",
        layer_scale=False,
    )
    return dataclasses.replace(config, **changes)


def siglip_b16(**changes: object) -> ViTConfig:
    """SigLIP base/16 for 224 pixels: 85,797,120 parameters."""
    config = ViTConfig(
        width=768,
        depth=12,
        heads=12,
        patch=16,
        native_grid=14,
        family="siglip",
        feed_forward="gelu_tanh",
        layer_scale=False,
    )
    return dataclasses.replace(config, **changes)
