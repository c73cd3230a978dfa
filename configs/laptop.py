"""A small ExpLLM that learns on two laptop cores in minutes: frozen DINOv2-S features, a four-layer decoder
from scratch.
"""

from expllm_jax.config import EvaluationConfig, Experiment, TokenizerConfig
from expllm_jax.engine import NarratorConfig
from expllm_jax.models import DecoderConfig, ExpLLMConfig, ProjectorConfig, vit_s14
from expllm_jax.records import EncodeConfig
from expllm_jax.sources.rendered import RenderedConfig
from expllm_jax.train import OptimizerConfig, TrainConfig


def experiment() -> Experiment:
    return Experiment(
        name="laptop",
        about="frozen DINOv2-S/14 features and a 4-layer decoder from scratch, on rendered faces, in minutes",
        data=RenderedConfig(train_identities=600, train_regimes=("mild", "hard"), test_identities=84),
        narrator=NarratorConfig(style="brief"),
        tokenizer=TokenizerConfig(kind="sentencepiece", pieces=1024, cross_words=True, split_digits=False),
        records=EncodeConfig(image_tokens=64, label_weight=1.0, cot_weight=2.0),
        cache_features=True,
        model=ExpLLMConfig(
            # Block 6 of 12: on these faces its tokens tell units and expressions better than the last block's, at
            # half the cost (README, "Choices of the laptop preset").
            vision=vit_s14(unroll=0),
            vision_layers=(5,),
            projector=ProjectorConfig(pool=2),
            decoder=DecoderConfig(
                vocab=1024,
                width=256,
                depth=4,
                heads=4,
                kv_heads=4,
                head_dim=64,
                mlp_width=704,
                max_length=512,
                init_std=0.0,
                unroll=0,
            ),
        ),
        train=TrainConfig(
            steps=850,
            batch=16,
            trainable=("projector/.*", "decoder/.*"),
            optimizer=OptimizerConfig(lr=1.5e-3, betas=(0.9, 0.98), warmup_ratio=0.05),
            checkpoint_every=200,
        ),
        evaluation=EvaluationConfig(max_cot_tokens=160),
    )
