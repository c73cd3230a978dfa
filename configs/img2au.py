"""Img2AU: from a picture to 22 FACS and 24 FEAFA units, on frozen DINOv2-S features of rendered faces, in minutes."""

from expllm_jax.unit_experiment import UnitExperiment


def experiment() -> UnitExperiment:
    return UnitExperiment(
        name="img2au",
        about="a regressor of 22 FACS and 24 FEAFA units on frozen DINOv2-S/14 features of rendered faces, in minutes",
    )
