"""The paper's model on AffectNet by the released recipe (`scripts/train_affectnet_kaggle.sh`): 30 epochs, from
DINOv2 and Vicuna with a fresh projector, both questions of a reasoning record in random order; see `expllm_7b_rafdb`.
"""

import dataclasses

from expllm_jax.config import Experiment, load_experiment


def experiment() -> Experiment:
    rafdb = load_experiment("expllm_7b_rafdb")
    return dataclasses.replace(
        rafdb,
        name="expllm_7b_affectnet",
        about="the paper's 7B model on AffectNet: LoRA r=8 on q and v of both towers, label 3 : reasoning 1, 30 epochs",
        mixture=("records/affectnet_labels:train*3", "records/affectnet_cot:train"),
        records=dataclasses.replace(rafdb.records, order="box_first"),
        train=dataclasses.replace(rafdb.train, epochs=30),
    )
