"""Firmware that counts what networks cost: their C code, what counts, and a board, linked for a core.

``counting`` puts many programs into one firmware: they share one arena and one set of weights, because neither changes
what a kernel does. ``network`` is the exported code of one network, with its weights, which images go through.
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np

from nas.deploy.c import emit, emulator
from nas.deploy.c.build import Core, Flags, Sizes, compiled, compiler, run, sizes_of
from nas.deploy.c.plan import planned
from nas.deploy.c.program import Kind, Op, Program, filled, weights_shape
from nas.errors import BadInput, NasError
from nas.files import folder_of

SOURCES = Path(__file__).parent / "sources"
_FIRMWARE = SOURCES / "firmware"
_INCLUDES = (f"-I{SOURCES}", f"-I{_FIRMWARE}")
_FILL = """void nas_before(uint32_t index) {
  uint32_t state = 1;
  for (uint32_t i = 0; i < sizes[index]; i++) {
    state = state * 1664525u + 1013904223u;
    arena.bytes[i] = (int8_t)(state >> 24);
  }
}
"""


@dataclass(frozen=True, kw_only=True)
class Firmware:
    """``identity``: what it prints, to tell it from others. ``sizes``: of everything in it."""

    elf: Path
    identity: int
    sizes: Sizes


def counting(
    folder: Path,
    programs: Sequence[Program],
    flags: Flags,
    board: Path | None = None,
    *,
    parts: Sequence[Container[Kind]] = (get_args(Kind),),
) -> Firmware:
    """Firmware in which each of ``programs`` is a case; constants are drawn at random.

    ``parts``: of each program a case for each of these sets of kernels, with the others left out.
    ``board``: a folder with code of a board; None for the emulated one. Raises RuntimeError when it does not build, or
    does not fit; NasError without a compiler.
    """
    text = _cases([filled(program) for program in programs], parts)
    return _linked(folder, text, [], flags, board)


def network(folder: Path, program: Program, flags: Flags, board: Path | None = None) -> Firmware:
    """Firmware of one network, as it is exported: images go through it. Raises as ``counting`` does."""
    emit.write_sources(folder, program)
    into, out = program.maps[program.input], program.maps[program.output]
    lines = [
        *('#include "nas_firmware.h"', '#include "model.h"'),
        f"int8_t nas_output[{out.bytes}];",
        f"const uint32_t nas_image_bytes = {into.bytes}, nas_output_bytes = {out.bytes};",
        "static void through(const int8_t *image) { model_invoke(image, nas_output); }",
        "void (*const nas_run)(const int8_t *image) = through;",
        "const nas_case nas_cases[] = {model_run};",
        "const uint32_t nas_case_count = 1;",
        "void nas_before(uint32_t index) { (void)index; }\n",
    ]
    return _linked(folder, "\n".join(lines), [folder / "model.c"], flags, board)


def macs(program: Program) -> int:
    """Multiply-accumulates of its layers."""
    return sum(program.maps[op.output].pixels * math.prod(weights_shape(program, op) or (0,)) for op in program.ops)


def compiler_version(core: Core) -> str:
    """Of the compiler for ``core``. Raises NasError when it is not installed."""
    return run([compiler(core), "-dumpfullversion"], "the C compiler does not say its version").decode().strip()


def empty(folder: Path, flags: Flags, board: Path | None = None) -> Firmware:
    """What every firmware has, to take it off the sizes of one with a network."""
    return _linked(folder, _cases([], []), [], flags, board)


def linked(folder: Path, sources: Sequence[Path], flags: Flags, board: Path | None = None) -> Path:
    """``sources`` with the kernels, what counts, and a board. Raises as ``counting`` does."""
    compiler(flags.core)
    if board is None:
        machine, script = emulator.MACHINES[flags.core], _FIRMWARE / "mps2.ld"
        code, extra = [_FIRMWARE / "mps2.c"], [f"-D{name}={value}" for name, value in machine.defines.items()]
        extra += [f"-Wl,--defsym={name}={value}" for name, value in machine.symbols.items()]
    else:
        code, script = _board(board)
        extra = ["-Wno-error", f"-I{board}"]
    extra += [*_INCLUDES, f"-I{folder}", "-nostartfiles", "--specs=nosys.specs", "-T", str(script)]
    try:
        ours = sorted(Path(_compiled_once(flags).name).iterdir())
        return compiled([*ours, *code, *sources], folder / "firmware.elf", flags, extra=extra)
    except NasError as error:  # of this network: others may well build
        raise RuntimeError(str(error)) from None


@cache
def _compiled_once(flags: Flags) -> tempfile.TemporaryDirectory[str]:
    """Objects of what every firmware has: the kernels, and what counts. They go when Python ends."""
    folder = tempfile.TemporaryDirectory()
    for source in [_FIRMWARE / "count.c", *(SOURCES / file for file in emit.KERNELS if file.endswith(".c"))]:
        compiled([source], Path(folder.name) / f"{source.stem}.o", flags, extra=_INCLUDES, link=False)
    return folder


def _linked(folder: Path, text: str, sources: Sequence[Path], flags: Flags, board: Path | None) -> Firmware:
    identity = zlib.crc32(repr((text, flags, str(board))).encode())
    own = folder / "cases.c"
    own.write_text(f"{text}\nconst uint32_t nas_identity = {identity}u;\n")
    elf = linked(folder, [own, *sources], flags, board)
    return Firmware(elf=elf, identity=identity, sizes=sizes_of(elf, flags.core))


def _board(folder: Path) -> tuple[list[Path], Path]:
    """A board's code and its linker script."""
    files = sorted(folder_of(folder, "folder of the board's code").iterdir())
    code, scripts = [f for f in files if f.suffix in (".c", ".s", ".S")], [f for f in files if f.suffix == ".ld"]
    if not code or len(scripts) != 1:
        raise BadInput(
            f"{folder} has {len(code)} C files and {len(scripts)} linker scripts (.ld); a board needs C code and one script"
        )
    return code, scripts[0]


def _cases(programs: Sequence[Program], parts: Sequence[Container[Kind]]) -> str:
    plans = [planned(program) for program in programs]
    lines = [
        '#include <stddef.h>\n\n#include "nas_firmware.h"\n#include "nas_kernels.h"\n',
        f"static union {{ int8_t bytes[{max([1, *(p.arena for p in plans)])}]; uint32_t aligned; }} arena;",
        *_shared([(program, op) for program in programs for op in program.ops if weights_shape(program, op)]),
    ]
    names: list[str] = []
    sizes: list[str] = []
    for program, plan in zip(programs, plans, strict=True):
        for part in parts:
            own = [i for i, op in enumerate(program.ops) if op.kind in part]
            constants = "".join(_constants(program, program.ops[i], i) for i in own)
            calls = "".join(f"  {emit.call(program, plan, program.ops[i], i)};\n" for i in own)
            names.append(f"case{len(names)}")
            sizes.append(str(plan.arena))
            lines.append(f"static void {names[-1]}(void) {{\n{constants}{calls}}}\n")
    lines.append(f"const nas_case nas_cases[] = {{{', '.join(names) or '0'}}};")
    lines.append(f"const uint32_t nas_case_count = {len(names)};")
    lines.append(f"static const uint32_t sizes[] = {{{', '.join(sizes) or '0'}}};\n{_FILL}")
    lines.append("void (*const nas_run)(const int8_t *image) = 0;\nint8_t nas_output[1];")
    lines.append("const uint32_t nas_image_bytes = 0, nas_output_bytes = 0;")
    return "\n".join(lines)


def _shared(layers: Sequence[tuple[Program, Op]]) -> list[str]:
    """Weights and the rest, as many as the largest of ``layers`` has."""
    if not layers:
        return []
    rng = np.random.default_rng(0)
    channels = max(program.maps[op.output].shape[-1] for program, op in layers)
    weights = max(math.prod(weights_shape(program, op)) for program, op in layers)
    return [
        emit.array("int8_t", "weights", rng.integers(-127, 128, weights)),
        emit.array("int32_t", "bias", rng.integers(-1000, 1000, channels)),
        emit.array("int32_t", "multiplier", rng.integers(2**30, 2**31, channels)),
        *(emit.array("int8_t", f"shift_{s}", [s] * channels) for s in sorted({_shift(op) for _, op in layers})),
    ]


def _constants(program: Program, op: Op, i: int) -> str:
    if not weights_shape(program, op):
        return emit.constants(program, op, i)
    shared = {"weights": "weights", "bias": "bias", "multiplier": "multiplier", "shift": f"shift_{_shift(op)}"}
    return emit.struct("nas_conv_t", emit.conv_fields(program, op, i) | shared, i)


def _shift(op: Op) -> int:
    assert op.constants is not None
    return op.constants.shift[0]
