"""Reading collectives out of optimised programs. Snippets are cut out of what libtpu 0.0.42 wrote, and shortened."""

from __future__ import annotations

import pytest

from expllm_jax.errors import ExpllmError
from expllm_jax.fit.collectives import Collective, collectives

MIB = 2**20
HEAD = "HloModule jit_step, is_scheduled=true, num_partitions={}\n\n"


def program(body: str, *others: str, devices: int = 8) -> str:
    """A program whose entry holds `body`, with other computations before it."""
    parts = [HEAD.format(devices), *others, "ENTRY %main (p: bf16[512,4096]) -> bf16[] {\n", body, "}\n"]
    return "".join(parts)


def lines(*instructions: str) -> str:
    return "".join(f"  {instruction}\n" for instruction in instructions)


SHARD = "%shard = bf16[512,4096]{1,0:T(8,128)(2,1)} parameter(0)"
SHARD_BYTES = 512 * 4096 * 2
MESH = "replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}"


def one(*instructions: str, devices: int = 8, per_slice: int = 8) -> Collective:
    (found,) = collectives(program(lines(*instructions), devices=devices), per_slice)
    return found


@pytest.mark.parametrize(
    ("instruction", "kind", "bytes_", "result"),
    [
        ("bf16[4096,4096]{1,0} all-gather(%shard), channel_id=1, " + MESH + ", dimensions={0}", "all-gather",
         7 * SHARD_BYTES, 8 * SHARD_BYTES),
        ("bf16[64,4096]{1,0} reduce-scatter(%shard), channel_id=1, " + MESH + ", to_apply=%add", "reduce-scatter",
         7 / 8 * SHARD_BYTES, SHARD_BYTES / 8),
        ("bf16[512,4096]{1,0} all-reduce(%shard), channel_id=1, " + MESH + ", to_apply=%add", "all-reduce",
         2 * 7 / 8 * SHARD_BYTES, SHARD_BYTES),
        ("bf16[512,4096]{1,0} all-to-all(%shard), channel_id=1, " + MESH + ", dimensions={0}", "all-to-all",
         7 / 8 * SHARD_BYTES, SHARD_BYTES),
        ("bf16[512,4096]{1,0} collective-permute(%shard), source_target_pairs={{0,7},{1,0},{7,6}}",
         "collective-permute", SHARD_BYTES, SHARD_BYTES),
    ],
)  # fmt: skip
def test_bytes_that_a_device_receives(instruction, kind, bytes_, result):
    add = "%add (a: bf16[], b: bf16[]) -> bf16[] {\n  ROOT %sum = bf16[]{:T(256)} parameter(0)\n}\n"
    metadata = ', metadata={op_name="jit(step)/dot_general" stack_frame_id=1}'
    (found,) = collectives(program(lines(SHARD, f"ROOT %x = {instruction}{metadata}"), add), 8)
    assert found == (kind, bytes_, 1.0, "ici", result, "jit(step)/dot_general")


@pytest.mark.parametrize(
    ("groups", "devices", "factor"),
    [
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 8, 3),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8, 7),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", 8, 3),
        ("mesh['axis_0'=2,'axis_1'=2], device_ids=(0,2,1,3) {'axis_1'}", 4, 1),
        ("[2,4]<=[8]", 8, 3),
        ("[4,2]<=[2,4]T(1,0)", 8, 1),
        ("{{0,1},{2,3},{4,5},{6,7}}", 8, 1),
        ("{}", 4, 3),
    ],
)
def test_groups_in_every_form(groups, devices, factor):
    gather = (
        f"ROOT %x = bf16[4096,4096]{{1,0}} all-gather(%shard), channel_id=1, replica_groups={groups}, dimensions={{0}}"
    )
    assert one(SHARD, gather, devices=devices).bytes_per_device == factor * SHARD_BYTES


@pytest.mark.parametrize(
    ("groups", "network"),
    [
        ("[4,2]<=[8]", "ici"),
        ("[4,2]<=[2,4]T(1,0)", "dcn"),
        ("{{0,4},{1,5},{2,6},{3,7}}", "dcn"),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", "ici"),
        ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", "dcn"),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=(0,4,1,5,2,6,3,7) {'axis_0'}", "ici"),
    ],
)
def test_which_network_a_group_needs(groups, network):
    reduce = f"ROOT %x = bf16[512,4096]{{1,0}} all-reduce(%shard), channel_id=1, replica_groups={groups}, to_apply=%add"
    assert one(SHARD, reduce, per_slice=4).network == network


def test_a_group_that_spans_slices_first_sums_within_them():
    reduce = "ROOT %x = bf16[512,4096]{1,0} all-reduce(%shard), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add"
    near, far = collectives(program(lines(SHARD, reduce)), 4)
    assert (near.network, near.bytes_per_device) == ("ici", 2 * 3 / 4 * SHARD_BYTES)
    assert (far.network, far.bytes_per_device) == ("dcn", 2 * 1 / 2 * SHARD_BYTES / 4)


def test_permutes_between_slices():
    permute = "ROOT %x = bf16[512,4096]{1,0} collective-permute(%shard), source_target_pairs={{0,4},{4,0}}"
    assert one(SHARD, permute, per_slice=4).network == "dcn"


def test_start_and_done_are_one_transfer_and_a_tuple_is_a_sum():
    found = collectives(
        program(
            lines(
                SHARD,
                "%start = (bf16[512,4096]{1,0}, bf16[512,4096]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) "
                "collective-permute-start(%shard), channel_id=208, source_target_pairs={{0,7},{1,0}}",
                "%done = bf16[512,4096]{1,0} collective-permute-done(%start)",
                "ROOT %both = (bf16[512,4096]{1,0}, bf16[512,4096]{1,0}) all-reduce(%shard, %done), channel_id=9, "
                + MESH
                + ", to_apply=%add",
            )
        ),
        8,
    )
    assert [(one.kind, one.bytes_per_device) for one in found] == [
        ("collective-permute", SHARD_BYTES),
        ("all-reduce", 2 * 7 / 8 * 2 * SHARD_BYTES),
    ]


GATHER = f"bf16[4096,4096]{{1,0}} all-gather(%p0), channel_id=213, {MESH}, dimensions={{0}}"
STARTED = (
    "%fused.1 (p0: bf16[512,4096]) -> (bf16[512,4096], bf16[4096,4096]) {\n"
    "  %p0 = bf16[512,4096]{1,0} parameter(0)\n"
    f"  %all-gather.1 = {GATHER}\n"
    "  ROOT %c.1 = (bf16[512,4096]{1,0}, bf16[4096,4096]{1,0}) custom-call(%all-gather.1), "
    'custom_call_target="AsyncCollectiveStart"\n}\n',
    "%async_collective_fusion.2 (p0: bf16[512,4096]) -> bf16[4096,4096] {\n"
    f"  %p0 = bf16[512,4096]{{1,0}} parameter(0)\n  ROOT %all-gather.2 = {GATHER}\n}}\n",
    "%fused.3 (p0: bf16[512,4096]) -> bf16[4096,4096] {\n"
    f"  %p0 = bf16[512,4096]{{1,0}} parameter(0)\n  %all-gather.3 = {GATHER}\n"
    '  ROOT %c.3 = bf16[4096,4096]{1,0} custom-call(%p0, %all-gather.3), custom_call_target="AsyncCollectiveDone"\n}\n',
)


def test_a_transfer_in_three_fusions_is_counted_once():
    body = lines(
        SHARD,
        "%a = (bf16[512,4096]{1,0}, bf16[4096,4096]{1,0}) fusion(%shard), kind=kCustom, calls=%fused.1",
        "%b = bf16[4096,4096]{1,0} fusion(%shard), kind=kOutput, calls=%async_collective_fusion.2",
        "ROOT %c = bf16[4096,4096]{1,0} fusion(%shard), kind=kCustom, calls=%fused.3",
    )
    (found,) = collectives(program(body, *STARTED), 8)
    assert (found.kind, found.total_bytes) == ("all-gather", 7 * SHARD_BYTES)


def test_a_reduce_scatter_in_disguise():
    scatter = (
        "%all-reduce-scatter.4 (p0: bf16[512,4096]) -> bf16[64,4096] {\n  %p0 = bf16[512,4096]{1,0} parameter(0)\n"
        f"  %all-reduce.36 = bf16[512,4096]{{1,0}} all-reduce(%p0), channel_id=3, {MESH}, to_apply=%add\n"
        "  ROOT %slice = bf16[64,4096]{1,0} dynamic-slice(%all-reduce.36)\n}\n"
    )
    body = lines(SHARD, "ROOT %f = bf16[64,4096]{1,0} fusion(%shard), kind=kCustom, calls=%all-reduce-scatter.4")
    (found,) = collectives(program(body, scatter), 8)
    assert (found.kind, found.total_bytes) == ("reduce-scatter", 7 / 8 * SHARD_BYTES)


def loop(end: str = "4", direction: str = "LT", step: str = "%one", attributes: str = "") -> str:
    condition = (
        "%cond (s: (u32[], bf16[512,4096])) -> pred[] {\n  %s = (u32[], bf16[512,4096]{1,0}) parameter(0)\n"
        f"  %end = u32[]{{:T(128)}} constant({end})\n  %i = u32[]{{:T(128)}} get-tuple-element(%s), index=0\n"
        f"  ROOT %lt = pred[]{{:T(512)}} compare(%i, %end), direction={direction}\n}}\n"
    )
    body = (
        "%body (s: (u32[], bf16[512,4096])) -> (u32[], bf16[512,4096]) {\n"
        "  %s = (u32[], bf16[512,4096]{1,0}) parameter(0)\n  %one = u32[] constant(1)\n"
        "  %i = u32[] get-tuple-element(%s), index=0\n  %x = bf16[512,4096]{1,0} get-tuple-element(%s), index=1\n"
        "  %copied = u32[]{:S(6)} copy(%i)\n"
        f"  %next = u32[] add(%copied, {step})\n"
        "  %y = bf16[512,4096]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}\n"
        "  ROOT %t = (u32[], bf16[512,4096]{1,0}) tuple(%next, /*index=1*/%y)\n}\n"
    )
    entry = lines(
        SHARD, "%zero = u32[] constant(0)", "%first = u32[] copy(%zero)",
        "%state = (u32[], bf16[512,4096]{1,0}) tuple(%first, %shard)",
        f"ROOT %w = (u32[], bf16[512,4096]{{1,0}}) while(%state), condition=%cond, body=%body{attributes}",
    )  # fmt: skip
    return program(entry, condition, body)


def test_a_loop_multiplies():
    (found,) = collectives(loop("32"), 8)
    assert (found.count, found.total_bytes) == (32, 32 * SHARD_BYTES)


def test_the_compiler_may_say_how_often_a_loop_runs():
    known = ', backend_config={"known_trip_count":{"n":"5"}}'
    assert collectives(loop(direction="NE", attributes=known), 8)[0].count == 5


def test_a_loop_whose_end_depends_on_data_has_to_be_told():
    text = loop(step="%i")
    with pytest.raises(ExpllmError, match="the loop w runs is not known"):
        collectives(text, 8)
    assert collectives(text, 8, unknown_trips=256)[0].count == 256


def test_lines_within_attributes_are_no_instructions():
    note = 'ROOT %k = bf16[] custom-call(%shard), custom_call_target="tpu_custom_call", frontend_attributes={kernel={\n'
    text = program(lines(SHARD) + f'  {note}"xprof_metadata":"{{}}"\n}}}}, metadata={{}}\n')
    assert collectives(text, 8) == []


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (f"bf16[512,4096]{{1,0}} ragged-all-to-all(%shard), {MESH}", "ragged-all-to-all x is not understood"),
        (
            "bf16[512,4096]{1,0} all-reduce(%shard), replica_groups=mesh['a':2=8] {'a'}",
            "groups of x are not understood",
        ),
        (
            "bf16[512,4096]{1,0} all-reduce(%shard), replica_groups=mesh['a'=8], device_ids=(0,0,1) {'a'}",
            "groups of x are not understood",
        ),
        ("bf16[512,4096]{1,0} all-reduce(%shard), replica_groups={{0,1},{2}}", "groups of x are not understood"),
        ("bf16[512,4096]{1,0} all-reduce(%odd), replica_groups={}", "type f7 is not known"),
        ("bf16[512,4096]{1,0} collective-permute(%shard), source_target_pairs=all", "partners of x are not understood"),
    ],
)
def test_what_is_not_understood_is_an_error(instruction, message):
    odd = "%odd = f7[512]{0} parameter(1)"
    with pytest.raises(ExpllmError, match=message):
        collectives(program(lines(SHARD, odd, f"ROOT %x = {instruction}")), 8)


def test_of_branches_the_one_that_exchanges_most_counts():
    branches = (
        "%much (p0: bf16[512,4096]) -> bf16[4096,4096] {\n  %p0 = bf16[512,4096]{1,0} parameter(0)\n"
        f"  ROOT %g = {GATHER}\n}}\n\n%none (p1: bf16[512,4096]) -> bf16[4096,4096] {{\n"
        "  %p1 = bf16[512,4096]{1,0} parameter(0)\n  ROOT %z = bf16[4096,4096]{1,0} broadcast(%p1)\n}\n"
    )
    for first, second in (("much", "none"), ("none", "much"), ("much", "much")):
        call = f"conditional(%shard), true_computation=%{first}, false_computation=%{second}"
        found = collectives(program(lines(SHARD, f"ROOT %c = bf16[4096,4096]{{1,0}} {call}"), branches), 8)
        alone = collectives(program(lines(SHARD, f"ROOT %c = {GATHER.replace('%p0', '%shard')}")), 8)
        assert [part[:-1] for part in found] == [part[:-1] for part in alone] != []  # all but where it comes from


def test_sums_between_slices_go_through_the_hosts():
    attributes = (
        'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    done = 'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
    body = lines(
        SHARD,
        "%token = token[] after-all()",
        f"%send = (bf16[512,4096], u32[], token[]) send(%shard, %token), channel_id=2, {attributes}",
        f"%recv = (bf16[512,4096], u32[], token[]) recv(%token), channel_id=1, {attributes}",
        f"%sent = token[] send-done(%send), channel_id=2, {done}",
        f"ROOT %received = (bf16[512,4096], token[]) recv-done(%recv), channel_id=1, {done}",
    )
    (found,) = collectives(program(body, devices=4), 4)  # the program is that of one slice
    assert found[:5] == ("all-reduce", SHARD_BYTES, 1.0, "dcn", SHARD_BYTES)  # 2 x half of it, for two slices
    (found,) = collectives(program(body.replace("{1,2}x", "{1:4}x"), devices=4), 4)
    assert found.bytes_per_device == 2 * 3 / 4 * SHARD_BYTES
    # A gather that was started as channel 213 is none of the hosts' channels.
    same_number = body.replace("channel_id=2,", "channel_id=213,").replace(
        "ROOT ",
        "%a = (bf16[512,4096]{1,0}, bf16[4096,4096]{1,0}) fusion(%shard), kind=kCustom, calls=%fused.1\n  ROOT ",
    )
    found = collectives(program(same_number, *STARTED, devices=8), 8)
    assert sorted(one.kind for one in found) == ["all-gather", "all-reduce"]
    with pytest.raises(ExpllmError, match="send"):
        collectives(program(body.replace("ALL_REDUCE", "ONE_TO_ONE")), 4)
