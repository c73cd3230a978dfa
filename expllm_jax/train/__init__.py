"""Training: the state, one pure step, the optimiser, and a loop that survives being killed.

`train(config, graphdef, params, source, run_dir)` is the whole of it; `make_train_step` is the step alone, and
`extract_features` runs a frozen vision tower once instead of every epoch.
"""

from expllm_jax.train.compiling import parsed_options, use_compile_cache
from expllm_jax.train.division import check_rows, row_shards, row_share
from expllm_jax.train.features import extract_features
from expllm_jax.train.flops import (
    DecodeWork,
    UpdateFlops,
    Work,
    decode_flops_and_bytes,
    full_work,
    recomputed_flops,
    update_flops,
    work_of,
)
from expllm_jax.train.loop import TrainResult, train
from expllm_jax.train.metrics import METRICS, TENSORBOARD, MetricsLog, read_metrics
from expllm_jax.train.non_finite import NON_FINITE
from expllm_jax.train.optimizer import Optimizer, OptimizerConfig, build_optimizer, decay_mask
from expllm_jax.train.progress import Progress, duration
from expllm_jax.train.row_costs import with_row_costs
from expllm_jax.train.same_run import check_same_keys
from expllm_jax.train.skipped import SKIPPED
from expllm_jax.train.state import TrainState, create_state, state_shardings
from expllm_jax.train.step import make_eval_step, make_train_step
from expllm_jax.train.train_config import FREE_FIELDS, TrainConfig
from expllm_jax.train.unit_loop import UNIT_FREE_FIELDS, UnitSet, UnitTrainConfig, train_units
from expllm_jax.train.validation import Validation
from expllm_jax.train.watchdog import STUCK_STATUS

__all__ = [
    "FREE_FIELDS",
    "METRICS",
    "NON_FINITE",
    "SKIPPED",
    "STUCK_STATUS",
    "TENSORBOARD",
    "DecodeWork",
    "MetricsLog",
    "Optimizer",
    "OptimizerConfig",
    "Progress",
    "TrainConfig",
    "TrainResult",
    "TrainState",
    "UpdateFlops",
    "Validation",
    "Work",
    "build_optimizer",
    "check_rows",
    "check_same_keys",
    "create_state",
    "decay_mask",
    "decode_flops_and_bytes",
    "duration",
    "extract_features",
    "full_work",
    "make_eval_step",
    "make_train_step",
    "parsed_options",
    "read_metrics",
    "row_shards",
    "row_share",
    "recomputed_flops",
    "state_shardings",
    "train",
    "update_flops",
    "use_compile_cache",
    "with_row_costs",
    "work_of",
    "UNIT_FREE_FIELDS",
    "UnitSet",
    "UnitTrainConfig",
    "train_units",
]
