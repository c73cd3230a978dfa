"""Answers as text for people, and as plain values for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from expllm_jax.fit.bound import bound_of
from expllm_jax.fit.request import GIB, Answer, FitRequest
from expllm_jax.fit.search import ROWS, Found
from expllm_jax.fit.suggestions import Suggestion

_MIB = 2**20


def as_text(answer: Answer, found: Found | None = None, suggested: Sequence[Suggestion] = ()) -> str:
    """Several lines."""
    lines = [_asked(answer.request), "", _verdict(answer)]
    for program in answer.programs:
        title = "GiB a device" if len(answer.programs) == 1 else f"{program.program}, GiB a device"
        lines += ["", f"{title:<28} {program.peak_bytes / GIB:8.2f}"]
        lines += [f"  {name:<26} {bytes_ / GIB:8.2f}" for name, bytes_ in program.categories.items()]
        seconds, code = f"{program.compile_seconds:.0f} s", f"{program.program_bytes / _MIB:.0f} MiB"
        lines.append(f"compiled in {seconds}, {code} of machine code" if program.fits else f"refused after {seconds}")
    if found is not None:
        lines += ["", *_search_lines(answer, found)]
    if answer.fits:
        lines += ["", *_bound_lines(answer)]
    if suggested:
        lines += ["", "what would change it (one at a time, compiled):"]
        width = max(len(one.change) for one in suggested)
        for one in suggested:
            gib, less = one.answer.largest.peak_bytes / GIB, one.saves(answer) / GIB
            verdict = "fits" if one.answer.fits else "does not fit"
            lines.append(f"  {one.change:<{width}}  {gib:8.2f} GiB ({-less:+.2f}), {verdict}")
    return "\n".join(lines)


def as_json(answer: Answer, found: Found | None = None, suggested: Sequence[Suggestion] = ()) -> dict[str, Any]:
    """What `expllm fit --json` prints: numbers of one device, but for those that say chip."""
    request, program = answer.request, answer.largest
    rows = found.rows if found is not None else request.rows if answer.fits else 0
    values: dict[str, Any] = {
        "task": request.task,
        "topology": request.topology.name,
        "slices": request.topology.slices,
        "chips": request.topology.chips,
        "devices": request.topology.devices,
        "mesh": dict(zip(("data", "fsdp", "tensor"), request.mesh, strict=True)),
        "fits": answer.fits,
    }
    if request.task == "train":
        values |= {
            "rows_per_chip": rows_per_chip(request, rows),
            "rows_per_device": rows,
            "records_per_chip": rows_per_chip(request, rows) * request.pictures,
            "row_length": request.row_length,
            "pictures": request.pictures,
            "supervised": request.supervised,
        }
    else:
        values |= {"batch": request.batch, "prompt_tokens": request.prompt_tokens, "new_tokens": request.new_tokens}
    values |= {
        "peak_gib": round(program.peak_bytes / GIB, 3),
        "limit_gib": round(program.limit_bytes / GIB, 3),
        "headroom_gib": round(program.headroom_bytes / GIB, 3),
        "compile_s": round(answer.compile_seconds, 1),
        "program_mib": round(program.program_bytes / _MIB, 1),
        "programs": {
            one.program: {
                "fits": one.fits,
                "peak_gib": round(one.peak_bytes / GIB, 3),
                "collectives": [dataclasses.asdict(part) for part in one.traffic],
                "categories_gib": {name: round(bytes_ / GIB, 3) for name, bytes_ in one.categories.items()},
            }
            for one in answer.programs
        },
    }
    if answer.fits:
        bound = bound_of(answer)
        values |= {
            "flops": bound.flops,
            "recomputed_flops": bound.recomputed,
            "bound_s": {key: value for key, value in bound.estimate._asdict().items() if key != "assumptions"},
            "bound_by": bound.estimate.bound_by,
            "assumptions": list(bound.estimate.assumptions),
        }
    if found is not None:
        values["tried"] = [
            {"rows": rows, "fits": one.fits, "peak_gib": round(one.largest.peak_bytes / GIB, 3)}
            for rows, one in found.answers.items()
        ]
    if not answer.fits:
        values["suggestions"] = [
            {"change": one.change, "fits": one.answer.fits, "peak_gib": round(one.answer.largest.peak_bytes / GIB, 3)}
            for one in suggested
        ]
    return values


def rows_per_chip(request: FitRequest, rows: int) -> float:
    """Rows of an update over all chips; the chips of a tensor group share theirs, the halves of a chip add up."""
    each = rows * request.shards / request.topology.chips
    return int(each) if each == int(each) else each


def _asked(request: FitRequest) -> str:
    data, fsdp, tensor = request.mesh
    where = f"{request.topology}, mesh data={data} fsdp={fsdp} tensor={tensor}"
    if request.task == "decode":
        return (
            f"{where}\nanswers to {request.batch} prompts of {request.prompt_tokens:,} tokens with a picture each, "
            f"{request.new_tokens:,} new tokens at most"
        )
    parts = f" in {request.accumulate} parts" if request.accumulate > 1 else ""
    rows = request.rows * request.accumulate * request.shards
    return (
        f"{where}\nan update of {rows:,} rows{parts}, {request.rows} a device: {request.row_length:,} tokens, at most "
        f"{request.pictures} picture{'s' * (request.pictures > 1)} and {request.supervised:,} supervised tokens a row"
    )


def _verdict(answer: Answer) -> str:
    program = answer.largest
    used = f"{program.peak_bytes / GIB:.2f} of {program.limit_bytes / GIB:.2f} GiB"
    if answer.fits:
        return f"fits: {used}, {program.headroom_bytes / GIB:.2f} GiB left"
    return f"does not fit: {program.program} takes {used}, {-program.headroom_bytes / GIB:.2f} GiB too much"


def _bound_lines(answer: Answer) -> list[str]:
    bound, turn = bound_of(answer), "an update" if answer.request.task == "train" else "a token of every prompt"
    again = f", {bound.recomputed:.3g} computed again" if bound.recomputed else ""
    lines = [f"{'exchanged by a device':<28} {'ICI, GiB':>10} {'DCN, GiB':>10} {'times':>8}"]
    for program in answer.programs:
        for one in program.traffic:
            ici, dcn = (one.bytes / GIB if one.network == network else 0.0 for network in ("ici", "dcn"))
            lines.append(f"  {f'{program.program}: {one.kind}':<26} {ici:>10.3f} {dcn:>10.3f} {one.count:>8.0f}")
    times = bound.estimate
    parts = {"compute": times.compute_s, "memory": times.memory_s, "ICI": times.ici_s, "DCN": times.dcn_s}
    each = ", ".join(f"{name} {seconds * 1e3:,.1f}" for name, seconds in parts.items())
    return [
        *lines,
        "",
        f"{turn}: {bound.flops:.3g} operations{again}",
        f"it takes at least {times.step_s * 1e3:,.1f} ms ({each}), assuming:",
        *(f"  - {assumption}" for assumption in times.assumptions),
    ]


def _search_lines(answer: Answer, found: Found) -> list[str]:
    if not found.rows:
        return ["not a single row a device fits"]
    request = found.best.request
    each = rows_per_chip(request, found.rows)
    lines = [
        f"largest rows a chip   {each:g}, of 1, 2, 3, 4, 6, 8, … (in steps)",
        f"records a chip        {each * request.pictures:g} at most",
    ]
    larger = [rows for rows in ROWS if rows > found.rows]
    if larger:
        refused = found.answers[larger[0]].largest
        lines.append(f"{larger[0]} rows a device would take {refused.peak_bytes / GIB:.2f} GiB")
    return lines
