"""Between our parameter paths and other tools' files: names, shapes and layouts, nothing else.

Every format is a table `foreign name -> (our path, transform)`; whatever does not fit is listed, all of it, in one
error, before a number is read. Then tensors are read one at a time, straight to where they belong.
"""

from expllm_jax.weights.dinov2 import dinov2_from_onnx
from expllm_jax.weights.foreign import PARAM_DTYPES, PARTS, ForeignWeights
from expllm_jax.weights.gguf_llama import decoder_from_gguf, tokenizer_json_from_gguf
from expllm_jax.weights.hugging_face import export_safetensors, read_safetensors
from expllm_jax.weights.loading import Loaded, Misfits, ParamReader, load_params
from expllm_jax.weights.opening import open_foreign
from expllm_jax.weights.safetensors_files import open_safetensors
from expllm_jax.weights.tensor_files import ArraysInMemory, TensorFile

__all__ = [
    "PARAM_DTYPES",
    "PARTS",
    "ArraysInMemory",
    "ForeignWeights",
    "Loaded",
    "Misfits",
    "ParamReader",
    "TensorFile",
    "decoder_from_gguf",
    "dinov2_from_onnx",
    "export_safetensors",
    "load_params",
    "open_foreign",
    "open_safetensors",
    "read_safetensors",
    "tokenizer_json_from_gguf",
]
