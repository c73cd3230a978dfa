"""The paper's model on RAF-DB by the released recipe: DINOv2-L, two-layer projector, Vicuna-7B-v1.5, 20 epochs.

Every number is that of the released script (`scripts/train_rafdb.sh`), and Hugging Face's default where it is silent:
effective batch 128, AdamW at 5e-4 with cosine to 0 and 3 % warm-up, weight decay 0.05, adapters of rank 8 on q and v of
both towers, label records three times and reasoning records once an epoch, "description, then label" in the latter.
What is known to differ: it begins from a face multi-task checkpoint without a recipe (`expllm_7b_faces` is ours,
whose export can be weights.model); 12,271 x 4 records give 7,669 updates, where it dropped each epoch's last and made
7,660; mirrored pictures get mirrored texts; the wording of the questions is ours (`template`).

Build the records with this experiment (`expllm data build expllm_7b_rafdb …`) where `records/…` below will lie, put the
weights where `weights/…` says, or override these keys.
"""

from expllm_jax.config import Experiment, TokenizerConfig, WeightsConfig
from expllm_jax.models import ProjectorConfig, expllm_7b, vicuna_7b, vit_l14
from expllm_jax.records import EncodeConfig, PackingConfig
from expllm_jax.train import OptimizerConfig, TrainConfig


def experiment() -> Experiment:
    return Experiment(
        name="expllm_7b_rafdb",
        about="the paper's 7B model on RAF-DB: LoRA r=8 on q and v of both towers, label 3 : reasoning 1, 20 epochs",
        mixture=("records/rafdb_labels:train*3", "records/rafdb_cot:train"),
        tokenizer=TokenizerConfig(kind="weights/vicuna-7b-v1.5/tokenizer.model"),
        weights=WeightsConfig(vision="weights/dinov2-large", decoder="weights/vicuna-7b-v1.5"),
        records=EncodeConfig(layout="reference", order="all", resize="reference"),
        model=expllm_7b(
            # Frozen Vicuna in bfloat16, tower, projector and adapters stored in float32, all computed in bfloat16.
            vision=vit_l14(resize="scale_0.1", dtype="bfloat16", remat="full"),
            projector=ProjectorConfig(dtype="bfloat16"),
            decoder=vicuna_7b(max_length=2048, dtype="bfloat16", param_dtype="bfloat16", remat="full"),
        ),
        train=TrainConfig(
            epochs=20,
            batch=128,
            seed=42,
            packing=PackingConfig(on=True, longest=2048),
            augment="auto",
            optimizer=OptimizerConfig(lr=5e-4, weight_decay=0.05, warmup_ratio=0.03),
            threads=8,
            log_every=10,
            checkpoint_every=200,
        ),
    )
