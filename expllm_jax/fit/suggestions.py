"""What to change where a run does not fit: every suggestion is compiled, and told with the memory that it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.checks import check
from expllm_jax.fit.request import Answer, FitRequest
from expllm_jax.fit.search import ROWS
from expllm_jax.fit.topology import larger

MOST = 6
"""Suggestions that are compiled; each takes seconds if it does not fit, and a minute or two if it does."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """One change, and what the compiler says of it."""

    change: str  # what to type, such as "--rows 8"
    answer: Answer

    def saves(self, before: Answer) -> int:
        """Bytes of a device less than before; below 0: more."""
        return before.largest.peak_bytes - self.answer.largest.peak_bytes


def suggestions(
    answer: Answer, compile_request: Callable[[FitRequest], Answer], most: int = MOST
) -> Iterator[Suggestion]:
    """Single changes to a request that does not fit, the least intrusive first; at most `most`, each compiled."""
    for count, (change, request) in enumerate(_possible(answer)):
        if count == most:
            return
        yield Suggestion(change, compile_request(request))


def _possible(answer: Answer) -> Iterator[tuple[str, FitRequest]]:
    """(what to type, the request changed so), of changes that pass the checks."""
    for change, request in _changes(answer):
        try:
            check(request)
        except ExpllmError:
            continue  # such as heads that do not divide over twice the devices
        yield change, request


def _changes(answer: Answer) -> Iterator[tuple[str, FitRequest]]:
    request, replace = answer.request, dataclasses.replace
    decoder = request.model.decoder
    if request.task == "train":
        if fewer := _fewer_rows(answer):
            yield f"--rows {fewer}", replace(request, rows=fewer)
        kept = {"none", "dots"} & {request.model.vision.remat, decoder.remat}
        if kept:
            yield _sets("full"), _with_remat(request, "full")
        if decoder.attention == "dense":
            yield "--set model.decoder.attention=platform", _with_decoder(request, attention="platform")
        if not request.model.chained:
            # Only rows without branches beside each other can go through the kernel that keeps no scores.
            chained = replace(request.model, chained=True)
            yield "--set records.layout=chained", replace(request, model=chained)
        if decoder.remat != "offload":
            yield "--set model.decoder.remat=offload", _with_decoder(_with_remat(request, "full"), remat="offload")
    elif request.batch // 2 >= request.shards:
        half = request.batch // 2 // request.shards * request.shards
        yield f"--batch {half}", replace(request, batch=half)
    data, fsdp, tensor = request.mesh
    slices = request.topology.slices
    if data > slices:
        yield (
            _mesh(slices, fsdp * data // slices, tensor),
            replace(request, mesh=(slices, fsdp * data // slices, tensor)),
        )
    if fsdp % 2 == 0:
        yield _mesh(data, fsdp // 2, tensor * 2), replace(request, mesh=(data, fsdp // 2, tensor * 2))
    if decoder.param_dtype == "float32" and answer.largest.categories.get("frozen weights", 0):
        both = "--set model.decoder.param_dtype=bfloat16 --set model.vision.param_dtype=bfloat16"
        smaller = _with_decoder(request, param_dtype="bfloat16")
        vision = replace(smaller.model.vision, param_dtype="bfloat16")
        yield both, replace(smaller, model=replace(smaller.model, vision=vision))
    if decoder.base == "full" and _only_adapters_train(request):
        yield "--set model.decoder.base=int8", _with_decoder(request, base="int8")
    if (more := larger(request.topology)) is not None:
        times = more.devices // request.topology.devices
        mesh = (data, fsdp * times, tensor) if request.task == "train" else (data, fsdp, tensor * times)
        yield f"--topology {more.name}", replace(request, topology=more, mesh=mesh)


def _fewer_rows(answer: Answer) -> int:
    """The rows that memory in proportion would leave room for, one step more careful; 0 if there are none."""
    request, program = answer.request, answer.largest
    growing = program.categories.get("activations and temporaries", 0) + program.categories.get("batch", 0)
    room = growing + program.headroom_bytes
    proportion = request.rows * room / growing if growing else 0
    return max((rows for rows in ROWS if rows <= proportion and rows < request.rows), default=0)


def _only_adapters_train(request: FitRequest) -> bool:
    """Whether no pattern reaches the decoder's own kernels, which are frozen where they are int8."""
    return all(
        pattern.startswith((".*/lora_", "projector/", "vision/", "decoder/.*/lora_")) for pattern in request.trainable
    )


def _with_decoder(request: FitRequest, **changes: str) -> FitRequest:
    decoder = dataclasses.replace(request.model.decoder, **changes)
    return dataclasses.replace(request, model=dataclasses.replace(request.model, decoder=decoder))


def _with_remat(request: FitRequest, policy: str) -> FitRequest:
    """Policies that keep nothing on the device are left as they are."""
    model = request.model
    parts = {
        name: dataclasses.replace(part, remat=policy) if part.remat in ("none", "dots") else part
        for name, part in (("vision", model.vision), ("decoder", model.decoder))
    }
    return dataclasses.replace(request, model=dataclasses.replace(model, **parts))


def _sets(policy: str) -> str:
    return f"--set model.decoder.remat={policy} --set model.vision.remat={policy}"


def _mesh(*sizes: int) -> str:
    return f"--mesh {','.join(map(str, sizes))}"
