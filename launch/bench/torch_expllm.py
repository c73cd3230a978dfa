"""The same model on the stack most people would take: PyTorch, transformers and PEFT, as a peer for benchmarks.

    python launch/bench/torch_expllm.py train    --preset small --batch 4 --text-len 192 --steps 8 --warmup 2
    python launch/bench/torch_expllm.py generate --preset small --batch 4 --new-tokens 64
    python launch/bench/torch_expllm.py data     --images FOLDER --batch 32 --workers 2

DINOv2 tower, two-layer GELU projector, LLaMA decoder; LoRA of rank 8 on q and v of both towers, everything else but the
projector frozen. Weights and inputs are random: only time is measured. The last line of standard output is one JSON
object with the medians and every single time. It runs in an environment of its own (launch/lock/parity.txt and peft)
and imports nothing of expllm_jax; the parity tests train the same class on given weights.

Attention is `scaled_dot_product_attention`, execution is eager (`--compile`: torch.compile), and the update is the
recipe's: AdamW, weight decay on matrices only, gradients clipped to norm 1. On a GPU everything is bfloat16.

`data` feeds no model: it is a lazy data set of picture files behind torch's DataLoader. Every picture is decoded,
padded to a square, resized, augmented by Pillow as the recipe says, and comes with its text as ids.

Shape letters: B pictures, H W pixels, N image tokens, T text tokens, E decoder width, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

PICTURE_SIZE = 224  # pixels a side
LEARNING_RATE, WEIGHT_DECAY, CLIP = 5e-4, 0.05, 1.0
NOT_SUPERVISED = -100  # the label that torch's cross-entropy leaves out
PAD_COLOUR = (123, 117, 104)
MEAN, DEVIATION = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
TEXT = "Key Observations: the lip corners are pulled up moderately. " * 12

# name -> (shape of the tower, shape of the decoder)
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
        {
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
    ),
    "small": (  # DINOv2 ViT-S/14 and SmolLM2-135M
        {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "7b": (  # DINOv2 ViT-L/14 and LLaMA-2-7B
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
    ),
}


class TorchExpLLM(nn.Module):
    """Tower, projector and decoder with fresh weights; adapters and projector train, the rest is frozen.

    Args:
      vision: shape of the tower.
      text: shape of the decoder.
      rank, alpha, dropout: of the adapters on q and v of every layer of both.
      attention: transformers' name of the attention implementation.
    """

    def __init__(
        self,
        vision: Dinov2Config,
        text: LlamaConfig,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.05,
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        self.vision = Dinov2Model._from_config(vision, attn_implementation=attention)
        self.llm = LlamaForCausalLM._from_config(text, attn_implementation=attention)
        self.requires_grad_(False)
        for tower in (self.vision, self.llm):
            adapters = peft.LoraConfig(
                r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["q_proj", "v_proj"]
            )
            peft.inject_adapter_in_model(adapters, tower)
        self.projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )

    @classmethod
    def of_preset(cls, name: str) -> TorchExpLLM:
        """The model of `PRESETS[name]`."""
        vision, text = PRESETS[name]
        return cls(
            Dinov2Config(image_size=518, patch_size=14, mlp_ratio=4, **vision),
            LlamaConfig(max_position_embeddings=4096, **text),
        )

    def project(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalised pictures -> what the decoder reads of them, (B, N, E)."""
        return self.projector(self.vision(pixels_BCHW).last_hidden_state[:, 1:])

    def embed(self, pixels_BCHW: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
        """Decoder input (B, N + T, E): the picture, then the text."""
        return torch.cat([self.project(pixels_BCHW), self.llm.get_input_embeddings()(ids_BT)], 1)

    def forward(
        self, pixels_BCHW: torch.Tensor, ids_BT: torch.Tensor, labels_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss: mean over supervised tokens of the negative log-likelihood of each, given all before it.

        `labels_BT` is `ids_BT` with NOT_SUPERVISED where there is no loss; None: all text tokens are supervised.
        """
        x_BTE = self.embed(pixels_BCHW, ids_BT)
        labels_BT = ids_BT if labels_BT is None else labels_BT
        of_picture = labels_BT.new_full((len(ids_BT), x_BTE.shape[1] - ids_BT.shape[1]), NOT_SUPERVISED)
        return self.llm(inputs_embeds=x_BTE, labels=torch.cat([of_picture, labels_BT], 1)).loss

    def trainable(self) -> list[nn.Parameter]:
        """Adapters and projector."""
        return [weight for weight in self.parameters() if weight.requires_grad]


def make_optimizer(
    model: TorchExpLLM, lr: float = LEARNING_RATE, weight_decay: float = WEIGHT_DECAY
) -> torch.optim.AdamW:
    """AdamW that, as Hugging Face's Trainer sets it up, does not pull on biases."""
    decayed = [weight for weight in model.trainable() if weight.ndim > 1]
    free = [weight for weight in model.trainable() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def train_step(
    model: TorchExpLLM,
    optimizer: torch.optim.Optimizer,
    pixels_BCHW: torch.Tensor,
    ids_BT: torch.Tensor,
    labels_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """One update; returns the loss before it, still on the device."""
    loss = model(pixels_BCHW, ids_BT, labels_BT)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.trainable(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def measure_train(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time per update, data already on the device."""
    model = _model(options, device).train()
    if options.compile:
        model.compile()
    optimizer = make_optimizer(model)
    pixels, ids = _inputs(options, model, device)
    losses = []
    times = _timed(lambda: losses.append(train_step(model, optimizer, pixels, ids)), options, device)
    step = statistics.median(times[options.warmup :])
    tokens = options.text_len + (PICTURE_SIZE // model.vision.config.patch_size) ** 2
    return {
        "trainable": sum(weight.numel() for weight in model.trainable()),
        "step_s": step,
        "samples_per_s": options.batch / step,
        "tokens_per_s": options.batch * tokens / step,
        "loss": float(losses[-1]),
        **_raw(times, options),
    }


@torch.inference_mode()
def measure_generate(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time per call from pictures and prompts to `new_tokens` greedy tokens a row, with transformers' own loop."""
    model = _model(options, device).eval()
    pixels, ids = _inputs(options, model, device)

    def call() -> None:
        x_BTE = model.embed(pixels, ids)
        model.llm.generate(
            inputs_embeds=x_BTE,
            attention_mask=torch.ones(x_BTE.shape[:2], dtype=torch.long, device=device),
            do_sample=False,
            max_new_tokens=options.new_tokens,
            min_new_tokens=options.new_tokens,
            pad_token_id=0,
        )

    times = _timed(call, options, device)
    median = statistics.median(times[options.warmup :])
    return {
        "new_tokens": options.new_tokens,
        "call_s": median,
        "new_tokens_per_s": options.batch * options.new_tokens / median,
        "samples_per_s": options.batch / median,
        **_raw(times, options),
    }


@torch.inference_mode()
def measure_evaluate(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time of asking one question about each of many pictures, in batches that run until their longest answer ends.

    `lengths` are the answers' tokens, one per picture, in the order of the batches; adapters are folded in first.
    """
    model = _model(options, device).eval()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    pixels, ids = _inputs(options, model, device)

    def all_pictures() -> None:
        for start in range(0, len(options.lengths), options.batch):
            lengths = options.lengths[start : start + options.batch]
            x_BTE = model.embed(pixels[: len(lengths)], ids[: len(lengths)])
            model.llm.generate(
                inputs_embeds=x_BTE,
                attention_mask=torch.ones(x_BTE.shape[:2], dtype=torch.long, device=device),
                do_sample=False,
                max_new_tokens=max(lengths),
                min_new_tokens=max(lengths),
                pad_token_id=0,
            )

    times = _timed(all_pictures, options, device)
    median = statistics.median(times[options.warmup :])
    return {"pictures_per_s": len(options.lengths) / median, **_raw(times, options)}


class Faces(Dataset):
    """Picture files, endlessly often, as (float32 [3, 224, 224], int64 [T]): augmented pixels and a text's ids."""

    def __init__(self, files: list[Path], length: int) -> None:
        self._files, self._length = files, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(self._files[index % len(self._files)]).convert("RGB")
        image = ImageOps.pad(image, (PICTURE_SIZE, PICTURE_SIZE), color=PAD_COLOUR)
        return augment(image), torch.tensor([hash(word) % 32000 for word in TEXT.split()])


def augment(image: Image.Image) -> torch.Tensor:
    """The recipe's six operations, with Python's random numbers: float32 [3, 224, 224]."""
    size, uniform = PICTURE_SIZE, random.uniform
    if uniform(0, 1) < 0.5:
        image = ImageOps.mirror(image)
    if uniform(0, 1) < 0.5:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(uniform(0.75, 1.25))
        hue, saturation, value = image.convert("HSV").split()
        shift = int(uniform(-0.1, 0.1) * 255)
        hue = hue.point(lambda level: (level + shift) % 256)
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    elif uniform(0, 1) < 0.2:
        image = ImageOps.grayscale(image).convert("RGB")
    if uniform(0, 1) < 0.5:
        image = image.rotate(uniform(-5, 5))
        if uniform(0, 1) < 0.5:
            side = int(size * uniform(0.8, 1) ** 0.5)
            x, y = random.randint(0, size - side), random.randint(0, size - side)
            image = image.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)
        else:
            x, y = random.randint(0, 24), random.randint(0, 24)
            image = ImageOps.expand(image, 12).crop((x, y, x + size, y + size))
    if uniform(0, 1) < 0.5:
        image = image.rotate(uniform(-15, 15), translate=(uniform(-22, 22), uniform(-22, 22)))
        image = image.filter(ImageFilter.GaussianBlur(uniform(0.1, 2)))
    pixels = (np.asarray(image, np.float32) / 255 - MEAN) / DEVIATION
    if uniform(0, 1) < 0.5:
        side = int(size * uniform(0.05, 0.12) ** 0.5)
        top, left = random.randint(0, size - side), random.randint(0, size - side)
        pixels[top : top + side, left : left + side] = 0
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)


def measure_data(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Records per second out of the loader, from its second batch on; on the host, whatever the device."""
    files = sorted(path for ending in ("jpg", "jpeg", "png") for path in options.images.glob(f"**/*.{ending}"))
    if not files:
        raise SystemExit(f"error: there are no pictures under {options.images}")
    length = max(options.steps * options.batch, len(files))
    loader = iter(DataLoader(Faces(files, length), batch_size=options.batch, num_workers=options.workers))
    next(loader)
    began, records = time.perf_counter(), 0
    for pixels, _ in loader:
        records += len(pixels)
    return {"workers": options.workers, "records_per_s": records / (time.perf_counter() - began)}


def _model(options: argparse.Namespace, device: torch.device) -> TorchExpLLM:
    model = TorchExpLLM.of_preset(options.preset).to(device)
    return model.to(torch.bfloat16) if device.type == "cuda" else model


def _inputs(options: argparse.Namespace, model: TorchExpLLM, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures and token ids."""
    dtype = next(model.parameters()).dtype
    pixels = torch.randn(options.batch, 3, PICTURE_SIZE, PICTURE_SIZE, device=device).to(dtype)
    return pixels, torch.randint(3, model.llm.config.vocab_size, (options.batch, options.text_len), device=device)


def _timed(call: Callable[[], object], options: argparse.Namespace, device: torch.device) -> list[float]:
    """Seconds of every call, those of the warm-up first."""
    times = []
    for _ in range(options.warmup + options.steps):
        _synchronize(device)
        began = time.perf_counter()
        call()
        _synchronize(device)
        times.append(time.perf_counter() - began)
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _raw(times: list[float], options: argparse.Namespace) -> dict[str, list[float]]:
    """Every single time, in the order they were taken."""
    return {"times_s": times[options.warmup :], "warmup_times_s": times[: options.warmup]}


def _at_least(smallest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is too few: give {smallest} or more")
        return int(text)

    return number


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python launch/bench/torch_expllm.py train --preset tiny --steps 3",
    )
    parser.add_argument("what", choices=["train", "generate", "evaluate", "data"])
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument("--batch", type=_at_least(1), default=4)
    parser.add_argument(
        "--text-len", type=_at_least(2), default=192, help="text tokens of a row (generate: of a prompt)"
    )
    parser.add_argument("--new-tokens", type=_at_least(1), default=64, help="generate: tokens a row")
    parser.add_argument(
        "--lengths", type=lambda text: [int(length) for length in text.split(",")], help="evaluate: tokens per answer"
    )
    parser.add_argument(
        "--steps", type=_at_least(1), default=5, help="calls that count; data: batches, but every picture once"
    )
    parser.add_argument("--warmup", type=_at_least(0), default=2, help="calls before those")
    parser.add_argument("--threads", type=_at_least(0), default=0, help="CPU threads; 0: torch's own choice")
    parser.add_argument("--images", type=Path, help="data: a folder of pictures, searched to the bottom")
    parser.add_argument("--workers", type=_at_least(0), default=2, help="data: processes that load; 0: none")
    parser.add_argument("--compile", action="store_true", help="train: with torch.compile instead of eager")
    options = parser.parse_args()
    if options.compile and options.what != "train":
        parser.error("--compile is for train")
    if (options.what == "data") != (options.images is not None):
        parser.error("data needs --images, and nothing else takes it")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (options.what == "evaluate") != (options.lengths is not None):
        parser.error("evaluate needs --lengths, and nothing else takes it")
    measure = {
        "train": measure_train,
        "generate": measure_generate,
        "evaluate": measure_evaluate,
        "data": measure_data,
    }[options.what]
    facts = {
        "peer": "torch",
        "what": options.what,
        "preset": options.preset,
        "batch": options.batch,
        "text_len": options.text_len,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "compiled": options.compile,
        "versions": {package.__name__: package.__version__ for package in (torch, transformers, peft)},
    }
    print(json.dumps(facts | measure(options, device)))


if __name__ == "__main__":
    main()
