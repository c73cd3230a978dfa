"""The whole path in seconds, for the tests of the command: real weights and real renders, but nothing is learnt.

Three people to learn from, one to be tested on, the first block of the tower only, and a one-layer decoder.
"""

from expllm_jax.config import EvaluationConfig, Experiment, TokenizerConfig
from expllm_jax.engine import NarratorConfig
from expllm_jax.models import DecoderConfig, ExpLLMConfig, ProjectorConfig, vit_s14
from expllm_jax.records import EncodeConfig
from expllm_jax.sources.rendered import RenderedConfig
from expllm_jax.train import OptimizerConfig, TrainConfig


def experiment() -> Experiment:
    return Experiment(
        name="tiny",
        about="every stage in seconds, to see that it runs: 3 people, 40 updates, answers that mean nothing",
        data=RenderedConfig(
            train_identities=3, train_regimes=("mild",), test_identities=1, test_regimes=("clean", "mild")
        ),
        narrator=NarratorConfig(style="brief"),
        tokenizer=TokenizerConfig(kind="sentencepiece", pieces=512),
        records=EncodeConfig(image_tokens=16),
        cache_features=True,
        model=ExpLLMConfig(
            vision=vit_s14(unroll=0),
            vision_layers=(0,),
            projector=ProjectorConfig(pool=4),
            decoder=DecoderConfig(
                vocab=512, width=64, depth=1, heads=2, kv_heads=1, head_dim=32, mlp_width=128, max_length=512
            ),
        ),
        train=TrainConfig(
            steps=40,
            batch=4,
            trainable=("projector/.*", "decoder/.*"),
            optimizer=OptimizerConfig(lr=1e-3),
            checkpoint_every=6,
        ),
        evaluation=EvaluationConfig(
            splits=("clean", "mild"), batch=1, max_label_tokens=4, max_cot_tokens=16, gallery=4
        ),
    )
