"""DINOv2-S and SmolLM2-135M with their real weights, adapted as in the paper: LoRA r=8 on q and v of both,
whole projector.
"""

from expllm_jax.config import EvaluationConfig, Experiment, TokenizerConfig, WeightsConfig
from expllm_jax.engine import NarratorConfig
from expllm_jax.models import ExpLLMConfig, LoRAConfig, smollm2_135m, vit_s14
from expllm_jax.records import EncodeConfig
from expllm_jax.sources.rendered import RenderedConfig
from expllm_jax.train import OptimizerConfig, TrainConfig


def experiment() -> Experiment:
    lora = LoRAConfig(rank=8, alpha=16.0, dropout=0.05, targets=("q", "v"))
    return Experiment(
        name="small",
        about="real DINOv2-S/14 and SmolLM2-135M, 256 image tokens, LoRA r=8 on q and v of both towers",
        data=RenderedConfig(train_identities=40, train_regimes=("mild", "hard"), test_identities=2),
        narrator=NarratorConfig(style="brief"),
        tokenizer=TokenizerConfig(kind="smollm2"),
        weights=WeightsConfig(vision="dinov2-s", decoder="smollm2"),
        records=EncodeConfig(image_tokens=256),
        model=ExpLLMConfig(
            vision=vit_s14(remat="dots"),
            decoder=smollm2_135m(max_length=2048, remat="dots"),
            vision_lora=lora,
            decoder_lora=lora,
        ),
        train=TrainConfig(steps=50, batch=4, optimizer=OptimizerConfig(lr=5e-4), checkpoint_every=25),
        evaluation=EvaluationConfig(batch=7, max_cot_tokens=240),
    )
