"""`expllm weights export` on a trained run; the other verbs have tests/test_weights_commands.py."""

from __future__ import annotations

import json

from safetensors import safe_open

from tests.cli.commands import assert_refused, expllm, unchanged


def test_exported_weights_open_as_safetensors(run, tmp_path):
    folder = tmp_path / "weights"
    assert expllm("weights", "export", "--run", run, "--to", folder).status == 0
    shapes = {}
    for part in ("vision", "projector", "decoder"):
        with safe_open(folder / part / "model.safetensors", framework="numpy") as tensors:
            shapes[part] = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    assert shapes["vision"]["embeddings.cls_token"] == [1, 1, 384]
    assert shapes["vision"]["embeddings.position_embeddings"] == [1, 1 + 16 * 16, 384]  # fitted to the run's pictures
    vocabulary = json.loads((folder / "decoder" / "config.json").read_text())["vocab_size"]
    assert shapes["decoder"]["model.embed_tokens.weight"] == [vocabulary, 64]
    assert shapes["projector"]["layers.0.weight"] == [64, 6144]
    with unchanged(folder):
        assert_refused(expllm("weights", "export", "--run", run, "--to", folder), folder)


def test_exported_weights_may_keep_the_table_and_be_in_numbered_files(run, tmp_path):
    folder = tmp_path / "weights"
    options = ("--image-size", "stored", "--shard-gb", "0.04", "--json")
    found = json.loads(expllm("weights", "export", "--run", run, "--to", folder, *options).out)
    assert found == {"weights": str(folder)} | {part: str(folder / part) for part in ("vision", "projector", "decoder")}
    assert json.loads((folder / "vision" / "config.json").read_text())["image_size"] == 518
    assert len(list((folder / "vision").glob("model-0000?-of-00003.safetensors"))) == 3
    assert all(path.stat().st_size < 0.05e9 for path in folder.rglob("*.safetensors"))
    with unchanged(tmp_path):
        outcome = expllm("weights", "export", "--run", run, "--to", tmp_path / "new", "--adapters", "peft")
        assert_refused(outcome, "no adapters to write")
        outcome = expllm("weights", "export", "--run", run, "--to", tmp_path / "new", "--image-size", "225")
        assert_refused(outcome, "225 x 225")
