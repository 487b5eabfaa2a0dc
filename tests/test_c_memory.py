"""The C library's memory: plans tried byte by byte, whole spaces against single plans, predictions against linked firmware."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import search_spaces
from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.deploy.arena import MemoryModel
from nas.deploy.c import build, firmware, kernels
from nas.deploy.c.memory import LibraryMemory
from nas.deploy.c.plan import buffers_of, need, planned
from nas.deploy.c.program import filled, of_blocks
from nas.deploy.memory import memory_of
from nas.engine.loop import search
from nas.errors import BadInput, Infeasible
from nas.objectives import flash_size, peak_sram
from nas.searchers.nsga2 import NSGA2
from search_spaces import FBNet, Mcu, MobileNetV3

SPACES = ("mcu.small", "mobilenet_v3.cifar", "efficientnet.digits", "fbnet.cifar100")
OVERLAPPING = (
    Stem(in_ch=3, out_ch=8, size=12, stride=1),
    InvertedResidual(in_ch=8, out_ch=8, size=12, mid=48, kernel=5, residual=True),
    InvertedResidual(in_ch=8, out_ch=24, size=12, mid=32, kernel=7, stride=2, se=8),
    DepthwiseSeparable(in_ch=24, out_ch=5, size=6, act="hswish"),
    Head(in_ch=5, hidden=30, out_ch=7, size=6),
)


def steps(program, op):
    """Of every step of a kernel as nas_kernels.h describes it: input bytes (input, first, behind), and output bytes."""
    inputs = [program.maps[a] for a in op.inputs]
    (height, width, channels), (rows, columns, out) = inputs[0].shape, program.maps[op.output].shape
    pixel, row = channels, width * channels
    everything = [(k, 0, m.bytes) for k, m in enumerate(inputs)]
    if op.kind == "conv1x1":
        for p in range(0, rows * columns, 4):
            seen = [divmod(q, columns) for q in range(p, min(p + 4, rows * columns))]
            at = [(y * width + x) * op.stride * pixel for y, x in seen]
            yield [(0, q, q + pixel) for q in at], (p * out, (p + len(seen)) * out)
    elif op.kind in ("conv", "depthwise", "pad"):
        once = max(24 // columns, 1) if op.kind == "depthwise" else 1
        for y in range(0, rows, once):
            end = min(y + once, rows)
            first = max(y * op.stride - op.padding[0], 0)
            behind = min((end - 1) * op.stride - op.padding[0] + op.kernel[0], height)
            read = [(0, first * row, behind * row)] if first < behind else []
            yield read, (y * columns * out, end * columns * out)
    elif op.kind == "shuffle":
        for p in range(0, inputs[0].bytes, pixel):
            yield [(0, p, p + pixel)], (p, p + pixel)
    elif op.kind in ("add", "lookup", "mul"):
        for i in range(0, inputs[0].bytes, 4):
            part = (i, min(i + 4, inputs[0].bytes))
            yield [(0, *part), *([(1, *part)] if op.kind == "add" else everything[1:])], part
    elif op.kind == "mean":
        for c in range(0, channels, 4):
            end = min(c + 4, channels)
            yield [(0, p * pixel + c, p * pixel + end) for p in range(height * width)], (c, end)
    else:
        yield everything, (0, program.maps[op.output].bytes)


def untouched(program, plan):
    """Whether every byte that a kernel reads is still what was computed, whatever was written in the meantime."""
    memory = np.full(plan.arena, -1)  # what lies there: a map and its byte

    def write(a, first, behind):
        memory[plan.offsets[a] + first : plan.offsets[a] + behind] = (a << 32) + np.arange(first, behind)

    def holds(a, first, behind):
        there = memory[plan.offsets[a] + first : plan.offsets[a] + behind]
        return np.array_equal(there, (a << 32) + np.arange(first, behind))

    write(program.input, 0, program.maps[program.input].bytes)
    for op, scratch in zip(program.ops, plan.scratch, strict=True):
        whole = op.kind in ("add", "lookup", "mul", "mean")  # these read all of a step before they write it
        for read, written in steps(program, op):
            if whole and not all(holds(op.inputs[k], *part) for k, *part in read):
                return False
            if scratch >= 0:
                memory[scratch : scratch + kernels.scratch_bytes(program, op)] = -2
            write(op.output, *written)
            if not whole and not all(holds(op.inputs[k], *part) for k, *part in read):
                return False
        if not holds(op.output, 0, program.maps[op.output].bytes):
            return False
    return True


def programs():
    """Of networks with every kind of kernel; the smallest of a few, since each byte is looked at."""
    yield of_blocks(OVERLAPPING)
    for name in ("mcu.small", "efficientnet.digits", "fbnet.cifar100"):
        space = search_spaces.named(name)
        networks = space.networks(space.sample(10, np.random.default_rng(4)))
        yield of_blocks(min(networks, key=lambda blocks: sum(b.macs for b in blocks)))


def test_nothing_is_overwritten_that_is_read_again():
    for program in programs():
        plan = planned(program)
        assert untouched(program, plan)
        assert all(at % kernels.ALIGNMENT == 0 for at in (*plan.offsets, plan.arena))
        assert all(
            (at >= 0) == (kernels.scratch_bytes(program, op) > 0)
            for op, at in zip(program.ops, plan.scratch, strict=True)
        )
        assert plan.arena >= need(buffers_of(program))


def test_a_plan_that_goes_a_word_too_far_is_seen():
    """The check above is one: any map that lies over its input, and higher up by a word, spoils something."""
    program = of_blocks(OVERLAPPING)
    plan, tried = planned(program), 0
    for op in program.ops:
        x, lead = op.inputs[0], kernels.lead(program, op)
        if op.kind in ("conv1x1", "depthwise") and plan.offsets[op.output] + lead == plan.offsets[x]:
            offsets = list(plan.offsets)
            offsets[op.output] += 4
            moved = dataclasses.replace(plan, offsets=tuple(offsets), arena=plan.arena + 4)
            assert not untouched(program, moved)
            tried += 1
    assert tried


@pytest.mark.parametrize("name", SPACES)
def test_what_is_predicted_for_a_space_is_what_is_planned_for_each_network(name):
    space = search_spaces.named(name)
    archs = space.sample(6, np.random.default_rng(1))
    ids, networks = space.block_ids(archs), space.networks(archs)
    distinct = list(dict.fromkeys(b for blocks in networks for b in blocks))
    rows = np.zeros((len(networks), ids.shape[1]), dtype=np.int64)
    for row, blocks in zip(rows, networks, strict=True):  # empty slots in between
        row[np.sort(np.random.default_rng(2).permutation(len(row))[: len(blocks)])] = [
            1 + distinct.index(b) for b in blocks
        ]
    model = LibraryMemory(distinct)
    arenas = [planned(of_blocks(blocks)).arena for blocks in networks]
    assert model.activations(rows).tolist() == arenas
    assert (model.activations(rows) >= [max(model.alive[row[row > 0] - 1]) for row in rows]).all()
    assert np.array_equal(model.activations(rows[[3]]), arenas[3:4])
    assert model.arena(rows[:0]).shape == model.stored(rows[:0]).shape == (0,)


def test_the_arena_is_far_below_tensorflow_lite_micros():
    """Which keeps every map apart: 40% here, and little more than the neediest operator."""
    for make in (Mcu.small, MobileNetV3.digits):
        space = make()
        networks = space.networks(space.sample(20, np.random.default_rng(0)))
        arenas = np.array([planned(of_blocks(blocks)).arena for blocks in networks])
        theirs = [MemoryModel(blocks) for blocks in networks]
        ids = [np.arange(1, len(blocks) + 1)[None] for blocks in networks]
        assert (arenas < [model.activations(own)[0] for model, own in zip(theirs, ids, strict=True)]).all()
        assert (arenas / [model.arena(own)[0] for model, own in zip(theirs, ids, strict=True)]).mean() < 0.5
        assert (arenas / [need(buffers_of(of_blocks(blocks))) for blocks in networks]).mean() < 1.02


def test_maps_of_one_inverted_residual_by_hand():
    """24 x 24 pixels, 8 to 16 to 8 channels: the expanded map over its input, depthwise two rows below it."""
    block = InvertedResidual(in_ch=8, out_ch=8, size=24, mid=16)
    program = of_blocks([block])
    wide, row = 24 * 24 * 16, 24 * 16
    expanding, depthwise, projecting = (kernels.scratch_bytes(program, op) for op in program.ops)
    lower = 4 * 8  # the output lies so far below the depthwise map
    least = max(wide + 4 * 8 + expanding, wide + 2 * row + depthwise, wide + 4 * 8 + projecting)
    assert need(buffers_of(program)) == least
    assert planned(program).arena <= least + lower
    kept = of_blocks([dataclasses.replace(block, residual=True)])  # its input is needed to the end
    assert planned(kept).arena - (wide // 2 + wide + 2 * row + depthwise) in (0, lower)


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="arm-none-eabi-gcc is not installed")
def test_predictions_are_what_is_linked(tmp_path):
    for i, blocks in enumerate((OVERLAPPING, MobileNetV3.digits().networks(np.zeros((1, 16), dtype=np.uint8))[0])):
        (tmp_path / str(i)).mkdir()
        sizes = firmware.network(tmp_path / str(i), filled(of_blocks(blocks)), build.Flags(core="cortex-m4")).sizes
        ids = np.arange(1, len(blocks) + 1)[None]
        model = memory_of(blocks, "c")
        assert model.arena(ids)[0] == pytest.approx(sizes.ram, rel=0.02)
        assert model.stored(ids)[0] == pytest.approx(sizes.flash, rel=0.02)


def test_as_objectives_and_limits_of_a_search(tiny):
    genes = np.array(np.meshgrid(*(range(n) for n in tiny.sizes))).reshape(tiny.genes, -1).T.astype(np.uint8)
    everything = np.unique(tiny.canonical(genes), axis=0)
    for make in (peak_sram, flash_size):
        ours, theirs = make(tiny, "c"), make(tiny)
        values, ends = ours(everything), ours.extremes
        assert ours.identity != theirs.identity
        assert ends.minimum == ours(ends.argmin[None])[0] == pytest.approx(values.min(), rel=0.01)
        assert ends.maximum == ours(ends.argmax[None])[0] == pytest.approx(values.max(), rel=0.1)
        with pytest.raises(Infeasible, match=f"no architecture meets {ours.name} <= 100 bytes"):
            (ours <= 100).check_reachable()
    sram, flash = peak_sram(tiny, "c"), flash_size(tiny, "c")
    limit = float(np.median(sram(everything)))
    found = search(tiny, [sram, flash], NSGA2(tiny), constraints=[sram <= limit], budget=60, seed=0)
    assert (sram(found.front.archs) <= limit).all()
    assert len(found.front.archs)


def test_what_runs_the_network_is_one_of_two():
    with pytest.raises(BadInput, match="runtime"):
        peak_sram(FBNet.cifar100(), "tensorrt")


def test_more_weights_need_more_flash_and_every_kernel_is_linked_once():
    stem = Stem(in_ch=3, out_ch=8, size=8)
    block = DepthwiseSeparable(in_ch=8, out_ch=8, size=4)
    model = memory_of([stem, block, dataclasses.replace(block, kernel=5)], "c")
    one, two, larger = model.stored(np.array([[1, 2, 0], [1, 2, 2], [1, 2, 3]]))
    assert two - one == model.flash[1] < one - model.stored(np.array([[1, 0, 0]]))[0]
    assert larger - two == 8 * (5 * 5 - 3 * 3)
