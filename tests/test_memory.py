"""Memory on a microcontroller: predictions for whole spaces against TensorFlow Lite Micro itself and against files."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nas.blocks import DepthwiseSeparable, InvertedResidual, Stem
from nas.blocks.resnet import Classifier
from nas.deploy.arena import FILE, MemoryModel, recorded_arena
from nas.engine.loop import search
from nas.errors import Infeasible, NasError
from nas.modules import Network
from nas.objectives import flash, flash_size, peak_memory, peak_sram
from nas.objectives.memory import _frugal
from nas.searchers.nsga2 import NSGA2
from search_spaces import EfficientNet, FBNet, MobileNetV2, MobileNetV3

SPACES = (MobileNetV2.digits, MobileNetV3.digits, MobileNetV3.cifar, EfficientNet.digits, FBNet.cifar100)


def int8(blocks) -> bytes:
    from nas.runtimes.litert import timing_tflite

    pytest.importorskip("ai_edge_quantizer", reason="the quantizer is not installed")
    return timing_tflite(Network(blocks), blocks[0].in_shape, precision="int8")


def memory_of(blocks):
    """(arena, file) of one int8 network, in bytes, from a model of its own blocks alone."""
    distinct = list(dict.fromkeys(blocks))
    model, ids = MemoryModel(distinct), np.array([[distinct.index(b) + 1 for b in blocks]])
    return model.arena(ids)[0], FILE + model.flash[ids - 1].sum()


@pytest.mark.parametrize("make", SPACES, ids=lambda make: make().name)
def test_predictions_are_what_tensorflow_lite_micro_needs(make):
    """Networks drawn with a seed that no constant was fitted with."""
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro is not installed")
    space = make()
    archs = space.sample(3, np.random.default_rng(2026))
    ids = space.block_ids(archs)
    model = MemoryModel(space.blocks)
    arena, file = peak_sram(space)(archs), flash_size(space)(archs)
    for i, blocks in enumerate(space.networks(archs)):
        written = int8(blocks)
        activations, records = recorded_arena(written)
        assert model.activations(ids)[i] == activations  # to the byte
        assert model.records(ids)[i] == pytest.approx(records, abs=100)
        assert arena[i] == pytest.approx(activations + records, rel=0.01)
        assert file[i] == pytest.approx(len(written), rel=0.02)
        assert memory_of(blocks) == (arena[i], file[i])


def test_the_interpreter_runs_in_the_predicted_arena_and_not_in_much_less():
    runtime = pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro is not installed").runtime
    from nas.deploy.litert_file import silent

    space = MobileNetV3.digits()
    for blocks in space.networks(space.sample(3, np.random.default_rng(7))):
        written, (arena, _) = int8(blocks), memory_of(blocks)

        def runs(size, model=written):
            with silent():
                try:
                    runtime.Interpreter.from_bytes(model, arena_size=int(size)).invoke()
                except RuntimeError:
                    return False
            return True

        assert runs(1.02 * arena + 1024)
        assert not runs(0.98 * arena)


def _greedy(buffers):
    """The planner written plainly, one network at a time. ``buffers``: (size, first, last), the order of equal sizes."""
    placed = []
    for size, first, last in sorted(reversed(buffers), key=lambda b: -b[0]):
        at = 0
        for start, end in sorted((o, o + s) for o, s, f, e in placed if f <= last and e >= first):
            if start - at >= size:
                break
            at = max(at, end)
        placed.append((at, size, first, last))
    return max(at + size for at, size, _, _ in placed)


def test_the_planner_in_arrays_is_the_planner_written_plainly():
    from nas.deploy.litert_graph import lowered

    for make in SPACES:
        space = make()
        archs = space.sample(40, np.random.default_rng(1))
        expected = []
        for blocks in space.networks(archs):
            graph = lowered(blocks)
            life = {graph.input: [0, 0]}
            scratch = []
            for i, op in enumerate(graph.ops):
                for tensor in op.inputs:
                    if tensor in life:
                        life[tensor][1] = i
                life[op.output] = [i, i]
                if op.kind == "MEAN":
                    scratch += [(4 * graph.tensors[op.output].elements, i, i), (16, i, i), (16, i, i)]
            sizes = [(graph.tensors[t].elements, *alive) for t, alive in life.items()]
            expected.append(_greedy([(-(-s // 16) * 16, f, e) for s, f, e in [*sizes, *scratch]]))
        assert MemoryModel(space.blocks).activations(space.block_ids(archs)).tolist() == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # 147 bytes in and 80 out, each rounded up to 16
        (Stem(in_ch=3, out_ch=5, size=7), 160 + 80),
        # pooling: input, output, a 32-bit sum per output, two arrays of indices
        (Classifier(in_ch=16, out_ch=10, size=1), 16 + 16 + 64 + 16 + 16),
        (DepthwiseSeparable(in_ch=24, out_ch=24, size=1, se=8, residual=True), 224),
        (DepthwiseSeparable(in_ch=9, out_ch=7, size=3, se=5), 208),
    ],
    ids=lambda value: getattr(value, "key", value),
)
def test_alignment_and_scratch_of_pooling_count_where_they_decide(block, expected):
    assert MemoryModel([block]).activations(np.array([[1]])).tolist() == [expected]
    if importlib.util.find_spec("tflite_micro"):
        assert recorded_arena(int8((block,)))[0] == expected


def test_what_tensorflow_lite_micro_cannot_load_is_said(capfd):
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro is not installed")
    with pytest.raises(NasError, match="cannot load the model"):
        recorded_arena(b"\x18\0\0\0TFL3" + bytes(64))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("loads", [True, False])
def test_what_is_said_afterwards_is_heard_again(loads, monkeypatch, capfd):
    class Interpreter:
        @classmethod
        def from_bytes(cls, model, arena_size):
            os.write(2, b"" if loads else b"no such operator")
            return cls() if loads else cls.raises()

        def print_allocations(self):
            os.write(2, b"Arena allocation head 640 bytes\nArena allocation tail 1216 bytes\n")

        @staticmethod
        def raises():
            raise RuntimeError

    runtime = SimpleNamespace(Interpreter=Interpreter)
    monkeypatch.setitem(sys.modules, "tflite_micro", SimpleNamespace(runtime=runtime))
    if loads:
        assert recorded_arena(b"model") == (640, 1216)
    else:
        with pytest.raises(NasError, match="cannot load the model"):
            recorded_arena(b"model")
    os.write(2, b"afterwards")
    assert capfd.readouterr() == ("", "afterwards")


def test_more_weights_need_more_flash_and_only_larger_maps_more_sram():
    small = (Stem(in_ch=3, out_ch=16, size=32), InvertedResidual(in_ch=16, out_ch=16, size=16, mid=32))
    wide = (small[0], InvertedResidual(in_ch=16, out_ch=16, size=16, mid=96))
    large = (Stem(in_ch=3, out_ch=16, size=64), InvertedResidual(in_ch=16, out_ch=16, size=32, mid=32))
    arena, file = zip(*(memory_of(blocks) for blocks in (small, wide, large)), strict=True)
    assert file[0] < file[1]
    assert file[0] == file[2]
    assert arena[0] < arena[1] < arena[2]
    assert arena[0] >= 2 * 32 * 16 * 16  # expanded, before and after the depthwise convolution


def test_as_objectives_of_a_search():
    space = MobileNetV3.digits()
    sram, size = peak_sram(space), flash_size(space)
    archs = space.sample(2000, np.random.default_rng(0))
    assert (sram(archs) >= peak_memory(space)(archs)).mean() > 0.99  # which knows neither scratch nor records
    assert (size(archs) > flash(space)(archs)).all()
    found = search(space, [size, sram], constraints=[sram <= 24 * 1024], searcher=NSGA2(space), budget=600, seed=0)
    assert len(found.front.archs)
    assert (sram(found.front.archs) <= 24 * 1024).all()
    for limit in (size <= 1024, sram <= 1024):
        with pytest.raises(Infeasible, match=f"no architecture meets {limit.objective.name} <= 1024 bytes"):
            search(space, [size], constraints=[limit], budget=10, seed=0)
    assert sram.identity != peak_sram(MobileNetV2.digits()).identity


def test_the_extremes_are_those_of_an_enumeration(tiny):
    genes = np.array(np.meshgrid(*(range(n) for n in tiny.sizes))).reshape(tiny.genes, -1).T.astype(np.uint8)
    everything = np.unique(tiny.canonical(genes), axis=0)
    sram = peak_sram(tiny)
    values, ends = sram(everything), sram.extremes
    assert ends.minimum == values.min() == sram(ends.argmin[None])[0]
    assert ends.maximum == pytest.approx(values.max(), rel=0.01)
    for make in SPACES:
        space = make()
        sram = peak_sram(space)
        sample = sram(space.sample(1000, np.random.default_rng(0)))
        assert sram.extremes.minimum <= sample.min() + 100  # bytes: literals
        assert sram.extremes.maximum >= 0.95 * sample.max()
        model = MemoryModel(space.blocks)
        assert sram.extremes.minimum >= space.extremes(model.alive, combine=np.maximum).minimum


def test_the_frugal_architecture_is_that_of_an_enumeration(tiny):
    """Blocks with made-up needs, of which those that have little alive keep many records, so that bounds matter."""
    genes = np.array(np.meshgrid(*(range(n) for n in tiny.sizes))).reshape(tiny.genes, -1).T.astype(np.uint8)
    blocks = [[tiny.blocks.index(b) for b in network] for network in tiny.networks(genes)]
    rng = np.random.default_rng(0)
    for levels in (3, 4, 5, 7, 12) * 8:
        alive = rng.integers(0, levels, len(tiny.blocks)) * 8
        kept = rng.integers(0, 30, len(alive)) + rng.integers(0, 2) * (alive.max() - alive)
        needs = [alive[ids].max() + kept[ids].sum() for ids in blocks]
        found = _frugal(tiny, SimpleNamespace(alive=alive, kept=kept))
        assert needs[(genes == found).all(axis=1).argmax()] == min(needs)


def test_most_bounds_are_never_tried():
    """Where the best of 350 is among the least, a few show that none of the others can be better."""
    space, tried = MobileNetV3.cifar(), []
    model = MemoryModel(space.blocks)
    assert len(np.unique(model.alive)) > 300

    def extremes(*args, **settings):
        tried.append(1)
        return space.extremes(*args, **settings)

    _frugal(SimpleNamespace(extremes=extremes), model)
    assert len(tried) < 10  # 58 without the bound


def test_thousands_of_architectures_per_second():
    space = MobileNetV3.digits()
    sram, archs = peak_sram(space), space.sample(2000, np.random.default_rng(0))
    started = time.process_time()  # of this process only, whatever else the machine does
    sram(archs)
    assert time.process_time() - started < 4  # 0.15 s
    assert sram(archs[:0]).shape == (0,)


def test_neither_litert_nor_torch_is_needed():
    code = (
        "import sys; sys.modules['ai_edge_litert'] = sys.modules['ai_edge_quantizer'] = sys.modules['tflite_micro'] = None\n"
        "import numpy as np\n"
        "from nas.objectives import peak_sram\n"
        "from search_spaces import MobileNetV2\n"
        "space = MobileNetV2.digits()\n"
        "assert peak_sram(space)(space.sample(8, np.random.default_rng(0))).min() > 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
