"""Projector alignment: the first stage, on pictures with captions; only the projector trains.

The paper's own numbers for this stage are not known; these are LLaVA's for its first (Liu et al., "Visual Instruction
Tuning", 2023): one epoch, batch 256, 1e-3. Its export is `weights.model` of the next stage.
"""

import dataclasses

from expllm_jax.config import Experiment, load_experiment
from expllm_jax.models import LoRAConfig
from expllm_jax.records import EncodeConfig
from expllm_jax.train import OptimizerConfig


def experiment() -> Experiment:
    rafdb = load_experiment("expllm_7b_rafdb")
    model = rafdb.model
    return dataclasses.replace(
        rafdb,
        name="expllm_7b_align",
        about="projector alignment of the 7B model on captions: the projector trains, both towers are frozen",
        mixture=("records/captions:train",),
        records=EncodeConfig(layout="reference", tasks=("caption",), mirror=False),
        model=dataclasses.replace(
            model,
            vision=dataclasses.replace(model.vision, param_dtype="bfloat16"),
            vision_lora=LoRAConfig(),
            decoder_lora=LoRAConfig(),
        ),
        train=dataclasses.replace(
            rafdb.train,
            epochs=1,
            batch=256,
            augment="off",
            trainable=("projector/.*",),
            optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.0, warmup_ratio=0.03),
        ),
    )
