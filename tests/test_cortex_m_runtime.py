"""The Cortex-M runtime: counts of blocks and networks, outputs equal to the host's, boards at a serial port, refusals."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import threading

import numpy as np
import pytest

from nas.blocks import Head, InvertedResidual, Stem
from nas.deploy.c import build, emit, emulator, firmware, mlperf_tiny
from nas.deploy.c.program import filled, of_blocks
from nas.errors import BadInput, NasError
from nas.measuring.campaign import measure
from nas.measuring.counted import counted_board_table, held_out
from nas.modules import Network, build as module_of
from nas.runtimes import CortexM, made
from nas.space import Choice, SearchSpace, Slot
from nas.tables.fit.boards import board_table, find

pytestmark = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="needs arm-none-eabi-gcc and qemu-system-arm",
)

BLOCKS = (
    Stem(in_ch=3, out_ch=8, size=16, act="relu6"),
    InvertedResidual(in_ch=8, out_ch=8, size=8, mid=24, kernel=5, act="relu6", residual=True),
    InvertedResidual(in_ch=8, out_ch=12, size=8, mid=16, stride=2, se=4, act="hswish"),
    Head(in_ch=12, out_ch=10, size=4, hidden=16),
)


@pytest.fixture(scope="module")
def counted():
    """Each of BLOCKS, and last the network of all, on the M4."""
    modules = [*map(module_of, BLOCKS), Network(BLOCKS)]
    return CortexM().prepare_all(modules, [*(b.in_shape for b in BLOCKS), BLOCKS[0].in_shape])


def test_blocks_add_up_to_their_network_and_one_instruction_is_a_cycle(counted):
    *blocks, whole = (c.cycles[0] for c in counted)
    assert sum(blocks) == pytest.approx(whole, rel=1e-3)
    assert blocks[1] > blocks[2] > 1000
    assert CortexM().time(counted[-1], 3).tolist() == [whole / 100_000] * 3


def test_an_exported_network_answers_as_on_the_host_and_costs_what_its_blocks_say(counted, tmp_path):
    program = filled(of_blocks(BLOCKS), 1)
    images = np.random.default_rng(0).integers(-128, 128, (3, 16, 16, 3)).astype(np.int8)
    ran = CortexM().run(program, images)
    plan = emit.write_sources(tmp_path, program)
    assert (ran.outputs == build.host_outputs(tmp_path, images)).all()
    assert len({row.tobytes() for row in ran.outputs}) == 3
    assert ran.counts == pytest.approx([counted[-1].cycles[0]] * 3, rel=5e-3)
    assert plan.arena <= ran.ram <= plan.arena + 64
    weights = sum(op.constants.weights.size for op in program.ops if len(op.constants.weights))
    assert weights < ran.flash < weights + 20_000
    with pytest.raises(BadInput, match=r"takes int8 images of \(16, 16, 3\)"):
        CortexM().run(program, images[:, :8])


def test_kernels_counted_apart_add_up(counted):
    (program,) = (of_blocks(BLOCKS),)
    layers = ("conv", "conv1x1", "depthwise", "fully_connected")
    parts = CortexM().count([program], [layers, ("mean", "add", "mul", "lookup", "pad")])
    assert sum(part.cycles[0] for part in parts) == pytest.approx(counted[-1].cycles[0], rel=1e-3)
    assert parts[0].cycles[0] > parts[1].cycles[0]


def test_dsp_instructions_are_used_where_there_are_any(counted):
    program = of_blocks(BLOCKS)
    cycles = {core: CortexM(core=core).count([program])[0].cycles[0] for core in ("cortex-m0plus", "cortex-m33")}
    assert cycles["cortex-m0plus"] > 2 * counted[-1].cycles[0]
    assert cycles["cortex-m33"] == pytest.approx(counted[-1].cycles[0], rel=0.05)


def test_reference_networks_have_the_published_macs():
    macs = {name: firmware.macs(program) for name, program in mlperf_tiny.programs().items()}
    assert macs == {"ic": 12_501_632, "kws": 2_656_768, "vww": 7_489_664, "ad": 264_192}


def test_a_campaign_makes_a_simulated_table(tmp_path):
    space = SearchSpace(
        "few",
        [Choice("kernel", (1, 3, 5)), Choice("width", (4, 8, 12, 16))],
        [
            Slot("stem", ("kernel", "width"), lambda k, w: Stem(in_ch=1, out_ch=w, size=8, kernel=k)),
            Slot("head", ("width",), lambda w: Head(in_ch=w, out_ch=3, size=4, hidden=8)),
        ],
    )
    runtime = made("cortex-m", core="cortex-m7")
    table = measure(space, runtime, run_dir=tmp_path, calibrate=8, validate=2, progress=False)
    assert table.kind == "simulated"
    assert (table.device.name, table.device.runtime) == ("cortex-m7", "nas-c")
    assert "QEMU" in table.device.chip
    assert "1 instruction per cycle at 100 MHz" in table.device.chip
    assert (table.rows["p10_ms"] == table.rows["p90_ms"]).all()


BOARD_C = """
#define nas_board_done emulated_done
#include "mps2.c"
#undef nas_board_done
void nas_board_done(void) {}  /* a board prints again and again */
"""


@pytest.fixture
def board(tmp_path):
    """A board at a pseudo-terminal. Once it is flashed the emulated M4 starts, whose serial port it is."""
    ours, port = os.openpty()
    machine, code, target = emulator.MACHINES["cortex-m4"], tmp_path / "nucleo", tmp_path / "flashed.elf"
    code.mkdir()
    (code / "board.c").write_text("".join(f"#define {k} {v}\n" for k, v in machine.defines.items()) + BOARD_C)
    symbols = "".join(f"{k} = {v};\n" for k, v in machine.symbols.items())
    (code / "board.ld").write_text(f"{symbols}INCLUDE {firmware.SOURCES / 'firmware' / 'mps2.ld'}\n")
    over = threading.Event()

    def runs() -> None:
        while not target.exists():
            if over.wait(0.02):
                return
        qemu = ["qemu-system-arm", "-M", machine.qemu, "-icount", "shift=7", "-display", "none", "-monitor", "none"]
        with subprocess.Popen(
            [*qemu, "-serial", "stdio", "-kernel", target], stdin=subprocess.DEVNULL, stdout=ours
        ) as run:
            over.wait()
            run.kill()

    thread = threading.Thread(target=runs)
    thread.start()
    yield CortexM(serial=os.ttyname(port), board_code=code, flash=f"cp {{elf}} {target}")
    over.set()
    thread.join()
    os.close(ours)
    os.close(port)


def test_a_board_at_a_serial_port_is_measured(board, counted):
    assert board.kind == "measured"
    assert (board.device.name, board.device.chip) == ("nucleo", "cortex-m4")
    (prepared,) = board.count([of_blocks(BLOCKS)])
    assert (prepared.hz, len(prepared.cycles)) == (25_000_000, 3)
    # this one's clock ticks 3.2 times per instruction
    assert np.array(prepared.cycles) / 3.2 == pytest.approx(counted[-1].cycles[0], rel=1e-3)
    assert board.time(prepared, 4).shape == (4,)


def test_what_a_board_takes_is_said_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="a board takes all three"):
        CortexM(serial="/dev/ttyACM0")
    with pytest.raises(BadInput, match=r"a command with \{elf\} in it"):
        CortexM(serial="/dev/ttyACM0", board_code=tmp_path, flash="st-flash")
    (tmp_path / "board.c").write_text(BOARD_C)
    with pytest.raises(BadInput, match=r"1 C files and 0 linker scripts"):
        CortexM(serial="/dev/ttyACM0", board_code=tmp_path, flash="true {elf}").count([of_blocks(BLOCKS)])


def test_flashing_that_fails_is_one_line(board):
    with pytest.raises(BadInput, match="cannot be flashed: "):
        dataclasses.replace(board, flash="cp {elf} /nowhere/x").count([of_blocks(BLOCKS)])


@pytest.mark.parametrize("tool", ["arm-none-eabi-gcc", "qemu-system-arm"])
def test_a_missing_tool_is_one_line(tool, monkeypatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *more, **named: None if name == tool else which(name))
    with pytest.raises(NasError, match=f"{tool} is not installed") as caught:
        CortexM().device  # noqa: B018
    assert "apt install" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_too_large_for_the_machine_fails_alone(tmp_path):
    large = Stem(in_ch=64, out_ch=64, size=300)
    with pytest.raises(RuntimeError, match="overflowed by") as caught:
        CortexM().count([of_blocks([large])])
    assert not isinstance(caught.value, NasError)


def test_a_left_out_network_is_predicted_from_the_others_alone():
    board = find("NUCLEO-L4R5ZI/Bosch HALE")
    instructions = dict(zip(board.networks, board.measured * 1e5, strict=True))
    exact = held_out(board, instructions)
    assert exact.counted == pytest.approx(board.measured)  # as many instructions as time: nothing to be wrong about
    last = list(instructions)[-1]
    off = held_out(board, instructions | {last: 2 * instructions[last]})
    assert off.counted[-1] == pytest.approx(2 * board.measured[-1])
    assert off.counted[:-1] == pytest.approx(board.measured[:-1] * 0.5 ** (1 / 3))
    assert off.both == pytest.approx((off.counted + board.never_seen) / 2)


def test_a_board_table_follows_the_instructions_of_blocks_and_says_its_error(counted):
    space = SearchSpace(
        "one",
        [Choice("act", ("relu6",))],
        [
            Slot("stem", ("act",), lambda act: BLOCKS[0]),
            *(Slot(f"s{i}", (), lambda i=i: BLOCKS[i]) for i in range(1, len(BLOCKS))),
        ],
    )
    table = counted_board_table("NUCLEO-L4R5ZI/Bosch HALE", space)
    by_macs = board_table("NUCLEO-L4R5ZI/Bosch HALE", space)
    assert (table.kind, table.device) == ("fitted", by_macs.device)
    own = 2 * table.rows["latency_ms"].to_numpy() - by_macs.rows["latency_ms"].to_numpy()
    instructions = np.array([c.cycles[0] for c in counted[:-1]])
    assert own / instructions * 120e3 == pytest.approx(table.notes["cycles_per_instruction"], rel=2e-3)
    assert 1 < table.notes["cycles_per_instruction"] < 2  # of a Cortex-M4 with flash that makes it wait
    assert table.validation.networks == 4
    assert table.validation.mape == table.notes["left_out_error"]["both"] < 0.1
