"""Between our parameter paths and other tools' files: names, shapes and layouts, nothing else.

Every format is a table `foreign name -> (our path, transform)`; whatever does not fit is listed, all of it, in one
error, before a number is read. Then tensors are read one at a time, straight to where they belong.
"""

from expllm_jax.weights.decoder_configs import decoder_config_from_hf, decoder_hf_config
from expllm_jax.weights.dinov2 import dinov2_from_onnx
from expllm_jax.weights.exported import read_safetensors
from expllm_jax.weights.exporting import ADAPTER_FORMS, AdapterForm, export_safetensors
from expllm_jax.weights.foreign import PARAM_DTYPES, PARTS, ForeignWeights
from expllm_jax.weights.gguf_llama import decoder_from_gguf, tokenizer_json_from_gguf
from expllm_jax.weights.loading import Loaded, Misfits, ParamReader, load_params
from expllm_jax.weights.opening import open_foreign
from expllm_jax.weights.peft import export_adapter, import_adapter
from expllm_jax.weights.safetensors_files import open_safetensors
from expllm_jax.weights.tensor_files import ArraysInMemory, TensorFile
from expllm_jax.weights.tower_configs import tower_config_from_hf, tower_hf_config
from expllm_jax.weights.towers import tower_fillers, tower_table, tower_tensors
from expllm_jax.weights.writing import SHARD_BYTES

__all__ = [
    "open_safetensors",
    "open_foreign",
    "load_params",
    "TensorFile",
    "ParamReader",
    "Misfits",
    "Loaded",
    "ForeignWeights",
    "ArraysInMemory",
    "PARTS",
    "PARAM_DTYPES",
    "ADAPTER_FORMS",
    "SHARD_BYTES",
    "AdapterForm",
    "decoder_config_from_hf",
    "decoder_from_gguf",
    "decoder_hf_config",
    "dinov2_from_onnx",
    "export_adapter",
    "export_safetensors",
    "import_adapter",
    "read_safetensors",
    "tokenizer_json_from_gguf",
    "tower_config_from_hf",
    "tower_fillers",
    "tower_hf_config",
    "tower_table",
    "tower_tensors",
]
