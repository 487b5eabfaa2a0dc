"""Ethos-U through vela: the same as vela on its own, refusals in one line, tables that say they are simulated."""

from __future__ import annotations

import csv
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import randomise

from nas.blocks import DepthwiseSeparable, Head, InvertedResidual, Stem
from nas.deploy import litert_file
from nas.deploy.to_litert import channels_last, converted, litert_model
from nas.errors import BadInput, MissingPackage
from nas.measuring.campaign import measure
from nas.modules import Network, build
from nas.runtimes import EthosU, ethos_u as module
from nas.runtimes.litert import timing_tflite

pytest.importorskip("ethosu.vela", reason="vela is not installed")
pytest.importorskip("ai_edge_quantizer", reason="the quantizer is not installed")

BLOCKS = (
    Stem(in_ch=3, out_ch=16, size=16, act="hswish"),
    DepthwiseSeparable(in_ch=16, out_ch=16, size=8, act="relu6", residual=True),
    InvertedResidual(in_ch=16, out_ch=24, size=8, mid=64, kernel=5, stride=2, se=16, act="hswish"),
    InvertedResidual(in_ch=24, out_ch=24, size=4, mid=72, act="relu", residual=True),
    Head(in_ch=24, out_ch=10, size=4, hidden=48, act="relu"),
)


@pytest.fixture(scope="module")
def compiled():
    """Each of BLOCKS, and last the network of all, on the default accelerator."""
    modules = [*map(build, BLOCKS), Network(BLOCKS)]
    return EthosU().prepare_all(modules, [*(b.in_shape for b in BLOCKS), BLOCKS[0].in_shape])


def test_the_figures_are_those_of_vela_on_its_own(compiled, tmp_path):
    (tmp_path / "net.tflite").write_bytes(timing_tflite(Network(BLOCKS), BLOCKS[0].in_shape, precision="int8"))
    command = [
        *(Path(sys.executable).with_name("vela"), "net.tflite", "--accelerator-config", "ethos-u55-128"),
        *("--config", "Arm/vela.ini", "--system-config", "Ethos_U55_High_End_Embedded", "--memory-mode", "Shared_Sram"),
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (summary,) = (tmp_path / "output").glob("*summary*.csv")
    (row,) = csv.DictReader(summary.read_text().splitlines())
    network = compiled[-1]
    assert network.cycles == float(row["cycles_total"])
    assert network.ms == pytest.approx(1e3 * float(row["inference_time"]))
    assert network.sram == pytest.approx(1024 * float(row["sram_memory_used"]))
    assert network.flash == pytest.approx(1024 * float(row["off_chip_flash_memory_used"]))


def test_a_network_costs_what_its_blocks_cost_and_none_beats_the_hardware(compiled):
    *blocks, network = compiled
    assert network.cycles == pytest.approx(sum(b.cycles for b in blocks), rel=0.15)
    assert network.sram >= 0.9 * max(b.sram for b in blocks)
    assert network.flash > max(b.flash for b in blocks)
    for block, one in zip(BLOCKS, blocks, strict=True):
        assert one.cycles >= block.macs / 128  # multiply-accumulates per cycle


def test_many_at_once_are_what_each_is_alone(compiled):
    alone = EthosU().prepare(build(BLOCKS[2]), BLOCKS[2].in_shape)
    assert alone == compiled[2]
    assert (EthosU().time(alone, 5) == alone.ms).all()


def test_larger_accelerators_are_faster_and_others_have_other_clocks():
    block = InvertedResidual(in_ch=64, out_ch=64, size=16, mid=192, residual=True)
    model = timing_tflite(build(block), block.in_shape, precision="int8")
    by_size = [EthosU(f"ethos-u55-{macs}").compile(model) for macs in (32, 128, 256)]
    assert by_size[0].cycles > by_size[1].cycles > by_size[2].cycles
    deep = EthosU("ethos-u55-128", "Ethos_U55_Deep_Embedded").compile(model)
    assert deep.clock_hz == 200e6
    assert by_size[1].clock_hz == 500e6
    assert EthosU("ethos-u85-256").compile(model).cycles > 0
    dram = EthosU("ethos-u65-256", "Ethos_U65_Client_Server", "Dedicated_Sram_384KB").compile(model)
    assert dram.dram > 0


def test_written_blocks_compile_to_the_cycles_of_converted_ones():
    pytest.importorskip("litert_torch", reason="the converter is not installed")
    block = BLOCKS[2]  # padding, hard-swish, squeeze-excite
    network = randomise(build(block))
    x = channels_last(np.random.default_rng(0).standard_normal((2, *block.in_shape), dtype=np.float32))
    ours, theirs = (
        EthosU().compile(litert_file.quantized(write(network, block.in_shape), x))
        for write in (litert_model, converted)
    )
    assert (ours.cycles, ours.sram) == (theirs.cycles, theirs.sram)
    assert ours.flash == pytest.approx(theirs.flash, rel=0.02)


def test_a_campaign_makes_a_simulated_table(tiny, tmp_path, capfd):
    table = measure(tiny, EthosU("ethos-u55-64"), run_dir=tmp_path, calibrate=8, validate=6)
    assert table.kind == "simulated"
    assert table.device.chip == "ethos-u55-64, Ethos_U55_High_End_Embedded, Shared_Sram"
    assert table.device.version == importlib.metadata.version("ethos-u-vela")
    assert (table.rows["p10_ms"] == table.rows["p90_ms"]).all()
    assert table.validation.mape < 0.1
    assert table.notes["reference_drift"] == 0
    assert capfd.readouterr() == ("", "")


def test_identities_differ_where_figures_do():
    default, named = EthosU("ethos-u55-128"), EthosU("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram")
    assert default.device == named.device
    other = EthosU("ethos-u55-128", memory_mode="Sram_Only")
    assert other.device.key != default.device.key
    assert other.device.chip == "ethos-u55-128, Ethos_U55_High_End_Embedded, Sram_Only"


def test_unknown_configurations_list_the_known_ones(tmp_path):
    with pytest.raises(
        BadInput, match=r"no accelerator 'ethos-u75-128'; vela knows ethos-u55-32, .*ethos-u85-2048"
    ) as e:
        EthosU("ethos-u75-128")
    assert "\n" not in str(e.value)
    with pytest.raises(BadInput, match=r"has no System_Config 'Mine'; it has Ethos_U55_Deep_Embedded, "):
        EthosU(system_config="Mine")
    with pytest.raises(BadInput, match=r"has no Memory_Mode 'Mine'; it has Sram_Only, "):
        EthosU(memory_mode="Mine")
    with pytest.raises(BadInput, match="cannot read the configuration file"):
        EthosU(vela_config=str(tmp_path / "absent.ini"))
    (tmp_path / "bad.ini").write_text("clock = fast\n")
    with pytest.raises(BadInput, match="is not a configuration file of vela"):
        EthosU(vela_config=str(tmp_path / "bad.ini"))


def test_what_vela_cannot_compile_is_an_error_of_that_network_alone(tmp_path, monkeypatch):
    block = BLOCKS[1]
    (tmp_path / "fp32.tflite").write_bytes(timing_tflite(build(block), block.in_shape))
    (tmp_path / "int8.tflite").write_bytes(timing_tflite(build(block), block.in_shape, precision="int8"))
    with pytest.raises(RuntimeError, match="operators cannot run on the NPU"):
        EthosU().prepare(tmp_path / "fp32.tflite", block.in_shape)
    (tmp_path / "broken.tflite").write_bytes(b"\x18\0\0\0TFL3" + b"\xff" * 64)
    with pytest.raises(RuntimeError, match="vela failed"):
        EthosU().prepare(tmp_path / "broken.tflite", block.in_shape)
    with pytest.raises(BadInput, match="cannot read"):
        EthosU().prepare(tmp_path / "absent.tflite", block.in_shape)
    with pytest.raises(RuntimeError, match="summary is not as expected"):
        module._compiled("network,cycles\na,1\n", "CPU operators = 0")
    with pytest.raises(RuntimeError, match="is its version supported"):
        module._compiled("", "nothing")
    with monkeypatch.context() as patched:
        patched.setattr(module, "_TIMEOUT_S", 0.01)
        with pytest.raises(RuntimeError, match="did not finish within"):
            EthosU().prepare(tmp_path / "int8.tflite", block.in_shape)


def test_without_vela_the_extra_is_named(monkeypatch):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(module.importlib.metadata, "version", absent)
    with pytest.raises(MissingPackage, match="ethos-u"):
        _ = EthosU().device
