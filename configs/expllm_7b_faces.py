"""Face tasks: boxes, landmarks, attributes, age, gender, race and head pose, before expressions are learnt.

The released code has the lists of this stage (`alltask_stage.txt`) and no script for it: one epoch with the settings of
the later stages is our reading. `--set records.order=box --set 'mixture=…'` with records of boxes alone is its face
detection stage.
"""

import dataclasses

from expllm_jax.config import Experiment, load_experiment


def experiment() -> Experiment:
    rafdb = load_experiment("expllm_7b_rafdb")
    return dataclasses.replace(
        rafdb,
        name="expllm_7b_faces",
        about="face tasks for the 7B model: box, landmarks, attributes, age, gender, race, head pose; one epoch",
        mixture=tuple(f"records/{name}:train" for name in ("utkface", "fairface", "300w_lp", "celeba")),
        records=dataclasses.replace(
            rafdb.records,
            tasks=("bbox", "attr", "landmark", "age_gender_race", "headpose"),
            order="shuffled",
        ),
        train=dataclasses.replace(rafdb.train, epochs=1),
    )
