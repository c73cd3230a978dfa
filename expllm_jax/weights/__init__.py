"""Between our parameter paths and other tools' files: names, shapes and layouts, nothing else.

Every format is a table `foreign name -> (our path, transform)`; whatever does not fit is listed, all of it, in one
error.
"""

from expllm_jax.weights.dinov2 import dinov2_from_onnx
from expllm_jax.weights.exporting import ADAPTER_FORMS, AdapterForm, export_safetensors
from expllm_jax.weights.gguf_llama import decoder_from_gguf, tokenizer_json_from_gguf
from expllm_jax.weights.hugging_face import read_safetensors
from expllm_jax.weights.peft import export_adapter, import_adapter
from expllm_jax.weights.writing import SHARD_BYTES

__all__ = [
    "ADAPTER_FORMS",
    "SHARD_BYTES",
    "AdapterForm",
    "decoder_from_gguf",
    "dinov2_from_onnx",
    "export_adapter",
    "export_safetensors",
    "import_adapter",
    "read_safetensors",
    "tokenizer_json_from_gguf",
]
