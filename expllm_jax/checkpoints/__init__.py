"""Saving and restoring with Orbax: training runs that resume bit for bit, and parameters that other tools can open.

`Checkpointer` keeps the last few `{state, data, meta}` of a run; `save_frozen` writes what does not train once;
`export_inference` writes the finished model as one Orbax checkpoint. Every failure is one `ExpllmError`.
"""

from expllm_jax.checkpoints.checkpointer import CHECKPOINTS, Checkpointer
from expllm_jax.checkpoints.fingerprint import params_fingerprint
from expllm_jax.checkpoints.params_files import (
    FROZEN,
    export_inference,
    inference_meta,
    load_frozen,
    load_inference,
    load_params,
    save_frozen,
)
from expllm_jax.checkpoints.preemption import Preempted, Preemption

__all__ = [
    "CHECKPOINTS",
    "FROZEN",
    "Checkpointer",
    "Preempted",
    "Preemption",
    "export_inference",
    "inference_meta",
    "load_frozen",
    "load_inference",
    "load_params",
    "params_fingerprint",
    "save_frozen",
]
