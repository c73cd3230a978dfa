"""Answers from a trained model.

`Predictor.open(run_dir).answer(pictures)` is the whole of it. `generate` is the token loop alone; `ModelFiles` and its
functions say what a run folder and an export hold.
"""

from expllm_jax.infer.face_boxes import FaceBox, annotated_face_boxes
from expllm_jax.infer.generate import GREEDY, Generated, Generator, Prompts, SamplingConfig, Stop, generate
from expllm_jax.infer.predict import Answer, PredictConfig, Predictor
from expllm_jax.infer.run_files import (
    MODEL,
    ModelFiles,
    PictureConfig,
    export_run,
    read_model_files,
    read_run_params,
    write_model_files,
)

__all__ = [
    "Stop",
    "Generator",
    "GREEDY",
    "MODEL",
    "Answer",
    "FaceBox",
    "annotated_face_boxes",
    "Generated",
    "ModelFiles",
    "PictureConfig",
    "PredictConfig",
    "Predictor",
    "Prompts",
    "SamplingConfig",
    "export_run",
    "generate",
    "read_model_files",
    "read_run_params",
    "write_model_files",
]
