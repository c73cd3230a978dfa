"""Answers from a trained model.

`Predictor.open(run_dir).answer(pictures)` is the whole of it; `PredictConfig` says in which order label and reasoning
are asked for (`ORDERS`), how often, and whether answers are held to their form. `Predictor.generate` and
`label_likelihoods` answer single requests. From the inside out: `token_loop` is the loop over tokens, `reading` what is
read before it, `row_pool` and `picture_store` keep both busy, `conversations` says what is asked about a face, and
`answering` brings many conversations to their end. `generate` is the loop alone, for any prompts; `ModelFiles` and its
functions say what a run folder and an export hold.
"""

from expllm_jax.infer.conversations import Answer, PredictConfig
from expllm_jax.infer.face_boxes import FaceBox, annotated_face_boxes
from expllm_jax.infer.generate import Generated, Generator, Prompts, Stop, generate
from expllm_jax.infer.orders import ORDERS, Order
from expllm_jax.infer.predict import Predictor
from expllm_jax.infer.requests import Reply, Request, Weighing
from expllm_jax.infer.run_files import (
    MODEL,
    ModelFiles,
    PictureConfig,
    export_run,
    read_model_files,
    read_run_params,
    write_model_files,
)
from expllm_jax.infer.sampling import GREEDY, SamplingConfig

__all__ = [
    "Stop",
    "Generator",
    "GREEDY",
    "MODEL",
    "ORDERS",
    "Answer",
    "FaceBox",
    "annotated_face_boxes",
    "Generated",
    "ModelFiles",
    "Order",
    "PictureConfig",
    "PredictConfig",
    "Predictor",
    "Prompts",
    "Reply",
    "Request",
    "SamplingConfig",
    "Weighing",
    "export_run",
    "generate",
    "read_model_files",
    "read_run_params",
    "write_model_files",
]
