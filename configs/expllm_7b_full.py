"""Full fine-tuning: every parameter of decoder and projector, in float32 with its moments, the tower frozen.

The paper has no such run; the learning rate and batch are LLaVA's for its second stage (Liu et al., "Visual Instruction
Tuning", 2023), whose shape this is.
"""

import dataclasses

from expllm_jax.config import Experiment, load_experiment
from expllm_jax.models import LoRAConfig
from expllm_jax.train import OptimizerConfig


def experiment() -> Experiment:
    rafdb = load_experiment("expllm_7b_rafdb")
    model = rafdb.model
    return dataclasses.replace(
        rafdb,
        name="expllm_7b_full",
        about="full fine-tuning of the 7B model on RAF-DB: all of decoder and projector trains, the tower is frozen",
        model=dataclasses.replace(
            model,
            vision=dataclasses.replace(model.vision, param_dtype="bfloat16"),
            decoder=dataclasses.replace(model.decoder, param_dtype="float32"),
            vision_lora=LoRAConfig(),
            decoder_lora=LoRAConfig(),
        ),
        train=dataclasses.replace(
            rafdb.train,
            epochs=3,
            trainable=("projector/.*", "decoder/.*"),
            optimizer=OptimizerConfig(lr=2e-5, weight_decay=0.0, warmup_ratio=0.03),
        ),
    )
