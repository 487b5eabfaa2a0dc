"""Networks as C: equal to TensorFlow Lite Micro to the bit, clean under sanitizers, and a folder that builds by itself."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import lively

from nas.blocks import Block, Head, InvertedResidual, Stem
from nas.blocks.fused_mbconv import FusedMBConv
from nas.blocks.resnet import BasicBlock, Bottleneck, Classifier
from nas.deploy.c import arithmetic, build, emit
from nas.deploy.c.build import Flags, compiled, compiler, host_outputs, sizes_of
from nas.deploy.c.emit import quoted_c, write_sources
from nas.deploy.c.folder import export_c
from nas.deploy.c.lowering import program
from nas.deploy.c.program import filled, of_blocks, of_model
from nas.deploy.litert_graph import Graph, Op, Tensor
from nas.errors import BadInput, NasError
from nas.modules import Network

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
pytest.importorskip("ai_edge_quantizer", reason="the quantizer is not installed")
needs_cc = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs a C compiler and make")
needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("make")), reason="needs arm-none-eabi-gcc and make"
)

MOBILE = (
    Stem(in_ch=1, out_ch=10, size=20, act="hswish"),
    InvertedResidual(in_ch=10, mid=30, out_ch=10, size=10, kernel=5, se=6, act="hswish", residual=True),
    InvertedResidual(in_ch=10, mid=24, out_ch=12, size=10, stride=2, act="relu6", groups=2),
    Head(in_ch=12, hidden=20, features=12, out_ch=7, size=5, act="hswish"),
)
RESIDUAL = (
    Stem(in_ch=3, out_ch=8, size=17, stride=1),
    BasicBlock(in_ch=8, mid=9, out_ch=12, size=17, stride=2, downsample=True),
    Bottleneck(in_ch=12, mid=6, out_ch=12, size=9),
    FusedMBConv(in_ch=12, mid=20, out_ch=12, size=9, se=4, act="silu", residual=True),
    Classifier(in_ch=12, out_ch=5, size=9),
)
TENSORFLOW = (
    Stem(in_ch=3, out_ch=6, size=19, padding="tf", act="silu"),
    InvertedResidual(in_ch=6, mid=18, out_ch=6, size=10, stride=2, kernel=5, act="silu", padding="tf", se=3),
    InvertedResidual(in_ch=6, mid=20, out_ch=6, size=5, stride=2, kernel=7, act="relu", padding="tf"),
    Classifier(in_ch=6, out_ch=3, size=3),
)
NETWORKS = {"mobile": MOBILE, "residual": RESIDUAL, "tensorflow": TENSORFLOW}


def network_of(blocks: tuple[Block, ...]) -> Network:
    torch.manual_seed(0)
    return lively(Network(blocks))


def images_of(network: Network, count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *network.input_shape), dtype=np.float32)


@pytest.fixture(scope="module", params=NETWORKS)
def int8(request):
    """Blocks, and the int8 .tflite of a network of them."""
    from nas.deploy.litert_file import quantized
    from nas.deploy.to_litert import channels_last, litert_model

    network = network_of(NETWORKS[request.param])
    return network.describe(), quantized(litert_model(network, network.input_shape), channels_last(images_of(network)))


def micro(model: bytes, x: np.ndarray) -> np.ndarray:
    """TensorFlow Lite Micro's answers, by its reference kernels."""
    runtime = pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro is not installed").runtime
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 20)
    answers = []
    for image in x:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        answers.append(interpreter.get_output(0).ravel().copy())
    return np.array(answers)


@needs_cc
def test_every_output_is_tensorflow_lite_micros_and_sanitizers_find_nothing(int8, tmp_path):
    made = of_model(int8[1])
    write_sources(tmp_path, made)
    noise = np.random.default_rng(1).normal(scale=40, size=(60, *made.maps[made.input].shape))
    x = np.clip(noise + made.maps[made.input].zero, -128, 127).astype(np.int8)
    seen = host_outputs(tmp_path, x, Flags(sanitize=True))
    assert seen.std(axis=0).mean() > 5  # outputs that hardly move would agree with anything
    assert np.array_equal(seen, micro(int8[1], x))


def test_blocks_alone_give_the_same_kernels_on_the_same_maps(int8):
    blocks, model = int8
    trained, planned = of_model(model), of_blocks(blocks)
    assert trained.ops == planned.ops
    assert [m.shape for m in trained.maps] == [m.shape for m in planned.maps]
    assert all(op.constants is None for op in planned.ops)
    assert all(op.constants for op in filled(planned).ops)


@needs_cc
def test_a_core_without_long_products_rounds_the_same(tmp_path):
    """Both forms of nas_high over random and extreme operands."""
    (tmp_path / "nas_kernels.h").write_text(emit.text_of("nas_kernels.h"))
    (tmp_path / "try.c").write_text(
        "#define NAS_NO_LONG_MULTIPLY\n"
        '#include "nas_kernels.h"\n'
        "int main(void) {\n"
        "    static const int32_t ends[] = {INT32_MIN, INT32_MIN + 1, -65537, -65536, -1, 0, 1, 65535, 65536, INT32_MAX};\n"
        "    uint32_t x = 1;\n"
        "    for (int i = 0; i < 1000000; i++) {\n"
        "        x = x * 1664525u + 1013904223u;\n"
        "        int32_t a = i % 3 ? (int32_t)(x ^ (x << 16)) : ends[(x >> 8) % 10];\n"
        "        int32_t m = (int32_t)(i % 5 ? x >> 1 : UINT32_C(0x7fffffff) >> (i % 2));\n"
        "        if (nas_high(a, m) != (int32_t)(((int64_t)a * m + (INT64_C(1) << 30)) >> 31)) {\n"
        "            return 1;\n"
        "        }\n"
        "    }\n"
        "    return 0;\n"
        "}\n"
    )
    build.run([str(compiled([tmp_path / "try.c"], tmp_path / "try", Flags(sanitize=True)))], "the two forms differ")


CLASSES = ('"; system("x"); "', "two\nlines", "what??/", "naïve ☃", "*/ %s", "\\", "7\0 8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, and its folder."""
    network = network_of(MOBILE)
    preprocessing = {"mean": [0.3], "std": [0.25]}
    path = tmp_path_factory.mktemp("c") / "net"
    return network, export_c(network, path, images_of(network), classes=CLASSES, preprocessing=preprocessing)


@needs_cc
def test_the_folder_builds_by_itself_and_names_what_it_sees(written, tmp_path):
    network, path = written
    assert sorted(p.name for p in path.parent.iterdir()) == ["net"]
    here = shutil.copytree(path, tmp_path / "net")
    subprocess.run(["make", "-s", "OPT=-O1 -Werror -fsanitize=address,undefined"], cwd=here, check=True)
    pixels = np.random.default_rng(3).integers(0, 256, (8, *network.input_shape), np.uint8)
    with torch.no_grad():
        logits = network((torch.from_numpy(pixels).float() / 255 - 0.3) / 0.25).numpy()
    seen = set()
    for image, expected in zip(pixels, logits, strict=True):
        bytes_ = image.transpose(1, 2, 0).tobytes()
        said = subprocess.run([here / "classify"], input=bytes_, capture_output=True, check=True).stdout
        number, _, name = said.partition(b" ")
        assert name == CLASSES[int(number)].encode().split(b"\0")[0] + b"\n"
        assert expected[int(number)] > np.sort(expected)[-2] - 0.1 * np.ptp(expected)  # int8 may take the second best
        seen.add(int(number))
    short = subprocess.run([here / "classify"], input=b"abc", capture_output=True, check=False)
    assert (short.returncode, short.stderr) == (1, b"a picture has 400 bytes, got 3\n")


def made_for(core, here, *more):
    done = subprocess.run(["make", "-s", f"CORE={core}", *more], cwd=here, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@needs_arm
def test_make_builds_an_archive_that_needs_nothing(written, tmp_path):
    here = shutil.copytree(written[1], tmp_path / "net")
    assert made_for("cortex-m0plus", here, "OPT=-Os -Werror") == (0, "")
    needs = subprocess.run(["arm-none-eabi-nm", "-u", here / "libmodel.a"], capture_output=True, text=True, check=True)
    outside = {line.split()[1] for line in needs.stdout.splitlines() if " U " in line}
    allowed = ("nas_", "memcpy", "memset", "__aeabi_", "__gnu_thumb")  # the last two are the compiler's own arithmetic
    assert [name for name in outside if not name.startswith(allowed)] == []
    status, said = made_for("cortex-m4", here, "FLASH_BYTES=8K")
    assert status
    assert "region `FLASH' overflowed" in said


@needs_arm
@pytest.mark.skipif(not shutil.which("qemu-system-arm"), reason="needs qemu-system-arm")
def test_the_example_runs_on_a_board_as_on_this_machine(written, tmp_path):
    here = shutil.copytree(written[1], tmp_path / "net")
    assert made_for("cortex-m4", here, "OPT=-O2 -Werror", "FLASH_AT=0", "FLASH_BYTES=4M") == (0, "")
    subprocess.run(["make", "-s"], cwd=here, check=True)
    semihosting = ("-semihosting-config", "enable=on,target=native")
    board = (
        "qemu-system-arm",
        "-M",
        "mps2-an386",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "none",
        *semihosting,
    )
    for seed in range(2):
        picture = np.random.default_rng(seed).integers(0, 256, 400, np.uint8).tobytes()
        there = subprocess.run(
            [*board, "-kernel", here / "classify.elf"], input=picture, capture_output=True, timeout=250
        )
        assert (
            there.stdout == subprocess.run([here / "classify"], input=picture, capture_output=True, check=True).stdout
        )
        assert there.stdout.split()[0].isdigit()


@needs_arm
def test_sizes_are_the_programs(written, tmp_path):
    """Every constant is in flash, and the arena is all the memory."""
    model = tmp_path / "model.o"
    compiled([written[1] / "model.c"], model, Flags(core="cortex-m4"), link=False)
    sizes = sizes_of(model, "cortex-m4")
    weights = sum(p.numel() for p in written[0].parameters() if p.ndim > 1)
    assert weights < sizes.rodata < 2 * weights + 8000
    assert sizes.ram == sizes.bss == int((written[1] / "model.h").read_text().split("ARENA_BYTES ")[1].split()[0])


def test_class_names_are_only_text():
    assert quoted_c('a"\\??/\n%') == '"a\\042\\134\\077\\077\\057\\012\\045"'
    assert quoted_c("é1") == '"\\303\\2511"'  # three digits each: what follows is no part of it


# ---- what is refused -------------------------------------------------------------------------------------------


def refused(path, error, match, **change):
    network = change.pop("network", None) or network_of(MOBILE)
    with pytest.raises(error, match=match) as caught:
        export_c(network, path, images_of(network), **change)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert not list(path.parent.glob(".*"))


def test_without_a_compiler_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(tmp_path / "net", NasError, r"cc is not installed; it comes with the system's package gcc")
    with pytest.raises(NasError, match=r"arm-none-eabi-gcc is not installed; .* package gcc-arm-none-eabi"):
        compiler("cortex-m4")


@needs_cc
def test_code_that_computes_something_else_gets_no_name(tmp_path, monkeypatch):
    right = emit.text_of
    monkeypatch.setattr(
        emit, "text_of", lambda file: right(file).replace("value + p->out_zero, p->act_min", "value, p->act_min")
    )
    refused(tmp_path / "net", NasError, "was not written: .*(cosine|differ from LiteRT's)")


@needs_cc
def test_the_compilers_first_error_is_the_line(tmp_path):
    (tmp_path / "x.c").write_text("int unused(int a);\nint unused(int a) { short b = a; return b; }\n")
    with pytest.raises(NasError, match=r"the C compiler refuses the network's code: .*error.*conversion"):
        compiled([tmp_path / "x.c"], tmp_path / "x.o", link=False)


def test_what_the_library_has_no_kernel_for_is_named():
    maps = tuple(Tensor(shape=(1, s, s, 4)) for s in (8, 4))
    graph = Graph(tensors=maps, ops=(Op(kind="MAX_POOL_2D", inputs=(0,), output=1),), input=0, output=1)
    with pytest.raises(BadInput, match="no kernel for LiteRT's operator MAX_POOL_2D"):
        program(graph)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"classes": ["a"]}, "1 class names for a network with 7 outputs"),
        ({"name": "int main"}, "lower-case identifier"),
        ({"name": "kernels"}, "lower-case identifier"),
        ({"preprocessing": {"mean": [0.1] * 3, "std": [1.0] * 3}}, r"for 3 channel\(s\), the network takes 1"),
    ],
)
@needs_cc
def test_what_does_not_fit_is_refused(tmp_path, change, match):
    refused(tmp_path / "net", BadInput, match, **change)


def test_models_that_are_not_int8_or_no_models_are_refused(int8):
    from nas.deploy.to_litert import litert_model

    network = network_of(MOBILE)
    with pytest.raises(BadInput, match="takes int8 networks, this one's input or output is float32"):
        of_model(litert_model(network, network.input_shape))
    for damaged in (b"", b"TFL3", int8[1][: len(int8[1]) // 2], b"\0" * 100):
        with pytest.raises(NasError) as caught:
            of_model(damaged)
        assert "\n" not in str(caught.value)


def test_fixed_point_is_the_scale_to_31_bits():
    for scale in (0.9999999999, 0.5, 1e-3, 3.7, 2.0**-31, 1 / 3):
        multiplier, shift = arithmetic.fixed_point(scale)
        assert 2**30 <= multiplier < 2**31
        assert multiplier * 2.0 ** (-31 - shift) == pytest.approx(scale, rel=2**-31)
    assert arithmetic.fixed_point(0.0) == arithmetic.fixed_point(1e-12) == (0, 0)
