"""The C source of a network: ``model.h`` and ``model.c`` beside the kernels.

Weights are ``static const`` (flash), every map lies in one static arena, and between kernels there is ``NAS_STEP(i)``,
which is nothing unless it is defined before, as a profiler does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.checks import shown
from nas.deploy.c.plan import Plan, planned
from nas.deploy.c.program import Map, Op, Program
from nas.errors import BadInput

KERNELS = ("nas_kernels.h", "kernels.c", "kernels_dsp.h", "kernels_dsp.c", "kernels_dsp_depthwise.c")
"""Sources that every network needs beside its own."""
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+=.,:;()<>@#")
_WIDE = 110  # characters of a line of numbers


def write_sources(
    folder: Path,
    program: Program,
    *,
    plan: Plan | None = None,
    name: str = "model",
    classes: Sequence[str] = (),
    pixels: NDArray[np.int8] | None = None,
) -> Plan:
    """Write ``<name>.h``, ``<name>.c`` and the kernels into ``folder``; returns where the maps lie.

    ``pixels (channels, 256)``: what the network takes for each value of an image's byte. Raises BadInput for a ``name``
    that is no C identifier.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) or re.match(r"nas_|kernels|std|string", name):
        raise BadInput(f"a network's name in C is a lower-case identifier and no file's in C, got {shown(name)}")
    plan = plan or planned(program)
    (folder / f"{name}.h").write_text(header(program, plan, name, classes, pixels))
    (folder / f"{name}.c").write_text(source(program, plan, name, classes, pixels))
    for file in KERNELS:
        (folder / file).write_text(text_of(file))
    return plan


def text_of(file: str) -> str:
    """One of the C sources that ship."""
    return (resources.files("nas.deploy.c") / "sources" / file).read_text(encoding="utf-8")


def header(
    program: Program, plan: Plan, name: str, classes: Sequence[str] = (), pixels: NDArray[np.int8] | None = None
) -> str:
    """``model.h``; arguments as ``write_sources`` has them, ``pixels (channels, 256)`` too."""
    into, out, big = program.maps[program.input], program.maps[program.output], name.upper()
    lines = [
        f"#ifndef {big}_H\n#define {big}_H\n\n#include <stdint.h>\n",
        '#ifdef __cplusplus\nextern "C" {\n#endif\n',
        "/* Real numbers are scale * (byte - zero). The input is [row][column][channel]. */",
        *_described(f"{big}_INPUT", into),
        *_described(f"{big}_OUTPUT", out),
        f"#define {big}_ARENA_BYTES {plan.arena}\n",
        "/* Without copies: write the input, run, read the output; both are lost in the next run. */",
        f"int8_t *{name}_input(void);\nvoid {name}_run(void);\nconst int8_t *{name}_output(void);\n",
        f"/* With copies: in has {big}_INPUT_BYTES bytes, out {big}_OUTPUT_BYTES. */",
        f"void {name}_invoke(const int8_t *in, int8_t *out);\n",
    ]
    if len(classes):
        lines.append(f"#define {big}_CLASSES {len(classes)}\nextern const char *const {name}_classes[{big}_CLASSES];\n")
    if pixels is not None:
        lines.append("/* What the network takes for a byte (0 to 255) of each of an image's channels. */")
        lines.append(f"#define {big}_PIXELS 1")
        lines.append(f"extern const int8_t {name}_pixels[{len(pixels)}][256];\n")
    return "\n".join([*lines, "#ifdef __cplusplus\n}\n#endif\n\n#endif\n"])


def source(
    program: Program, plan: Plan, name: str, classes: Sequence[str] = (), pixels: NDArray[np.int8] | None = None
) -> str:
    """``model.c``; arguments as ``write_sources`` has them, ``pixels (channels, 256)`` too."""
    into, out = (f"arena.bytes + {plan.offsets[m]}" for m in (program.input, program.output))
    parts = [f'#include "{name}.h"\n\n#include <string.h>\n\n#include "nas_kernels.h"\n']
    parts.append("#ifndef NAS_STEP\n#define NAS_STEP(i)\n#endif\n")
    parts.append(f"static union {{\n    int8_t bytes[{plan.arena}];\n    uint32_t aligned;\n}} arena;\n")
    calls = []
    for i, op in enumerate(program.ops):
        parts.append(constants(program, op, i))
        calls.append(f"    NAS_STEP({i});\n    {call(program, plan, op, i)};\n")
    parts.append(f"int8_t *{name}_input(void)\n{{\n    return {into};\n}}\n")
    parts.append(f"const int8_t *{name}_output(void)\n{{\n    return {out};\n}}\n")
    parts.append(f"void {name}_run(void)\n{{\n{''.join(calls)}    NAS_STEP({len(program.ops)});\n}}\n")
    parts.append(
        f"void {name}_invoke(const int8_t *in, int8_t *out)\n{{\n"
        f"    memcpy({into}, in, {program.maps[program.input].bytes});\n    {name}_run();\n"
        f"    memcpy(out, {out}, {program.maps[program.output].bytes});\n}}\n"
    )
    if len(classes):
        quoted = ",\n    ".join(quoted_c(c) for c in classes)
        parts.append(f"const char *const {name}_classes[{len(classes)}] = {{\n    {quoted},\n}};\n")
    if pixels is not None:
        rows = ",\n".join(f"{{\n{_numbers(row)}}}" for row in pixels.tolist())
        parts.append(f"const int8_t {name}_pixels[{len(pixels)}][256] = {{{rows}}};\n")
    return "\n".join(parts)


def quoted_c(text: str) -> str:
    """``text`` as a C string literal in UTF-8: whatever a compiler could take for something else is an octal escape."""
    encoded = text.encode(errors="backslashreplace")
    return '"' + "".join(chr(b) if b in _PLAIN else f"\\{b:03o}" for b in encoded) + '"'


def _described(name: str, seen: Map) -> list[str]:
    sizes = zip(("HEIGHT", "WIDTH", "CHANNELS"), seen.shape, strict=True)
    shape = [f"#define {name}_{side} {n}" for side, n in sizes if seen.pixels > 1 or side == "CHANNELS"]
    return [
        *shape,
        f"#define {name}_BYTES {seen.bytes}",
        f"#define {name}_SCALE {np.float32(seen.scale):.9e}f",
        f"#define {name}_ZERO ({seen.zero})",
    ]


def constants(program: Program, op: Op, i: int) -> str:
    """Arrays and the struct of one op."""
    c = op.constants
    assert c is not None, "a program of blocks alone has no constants; nas.deploy.c.program.filled gives it some"
    if op.kind == "lookup":
        return array("int8_t", f"table{i}", c.table)
    if op.kind in ("conv1x1", "conv", "depthwise", "fully_connected"):
        arrays = [
            array("int8_t", f"weights{i}", np.ravel(c.weights)),
            array("int32_t", f"bias{i}", c.bias),
            array("int32_t", f"multiplier{i}", c.multiplier),
            array("int8_t", f"shift{i}", c.shift),
        ]
        return "".join(arrays) + struct("nas_conv_t", conv_fields(program, op, i), i)
    return struct(*plain_fields(program, op), i)


def conv_fields(program: Program, op: Op, i: int) -> dict[str, object]:
    """The struct of a convolution or fully connected layer whose arrays are called ``weights<i>`` and so on."""
    into, out = program.maps[op.inputs[0]], program.maps[op.output]
    assert op.constants is not None
    sides = ("h", "w", "ch")
    fields: dict[str, object] = {f"in_{s}": n for s, n in zip(sides, into.shape, strict=True)}
    fields |= {f"out_{s}": n for s, n in zip(sides, out.shape, strict=True)}
    fields |= {"groups": op.groups, "kernel_h": op.kernel[0], "kernel_w": op.kernel[1], "stride": op.stride}
    fields |= {"pad_top": op.padding[0], "pad_left": op.padding[2], "in_zero": into.zero, "out_zero": out.zero}
    fields |= {"act_min": op.constants.act[0], "act_max": op.constants.act[1]}
    return fields | {name: f"{name}{i}" for name in ("weights", "bias", "multiplier", "shift")}


def plain_fields(program: Program, op: Op) -> tuple[str, dict[str, object]]:
    """The struct of an op without weights."""
    x, y, out = program.maps[op.inputs[0]], program.maps[op.inputs[-1]], program.maps[op.output]
    c = op.constants
    assert c is not None
    act = {"act_min": c.act[0], "act_max": c.act[1]}
    fields: dict[str, object]
    match op.kind:
        case "mean":
            fields = {"pixels": x.pixels, "ch": x.shape[2], "in_zero": x.zero, "out_zero": out.zero}
            return "nas_mean_t", fields | {"multiplier": c.multiplier[0], "shift": c.shift[0]}
        case "add":
            fields = {"count": x.bytes, "zero": _braced(x.zero, y.zero), "out_zero": out.zero, **act}
            fields |= {"shift": _braced(*c.shift[:2]), "multiplier": _braced(*c.multiplier[:2])}
            return "nas_add_t", fields | {"out_shift": c.shift[2], "out_multiplier": c.multiplier[2]}
        case "mul":
            fields = {"pixels": x.pixels, "ch": x.shape[2], "gate_pixels": y.pixels}
            fields |= {"zero": x.zero, "gate_zero": y.zero, "out_zero": out.zero, **act}
            return "nas_mul_t", fields | {"multiplier": c.multiplier[0], "shift": c.shift[0]}
        case "pad":
            sides = dict(zip(("top", "bottom", "left", "right"), op.padding, strict=True))
            fields = dict(zip(("in_h", "in_w", "ch"), x.shape, strict=True))
            return "nas_pad_t", fields | sides | {"zero": x.zero}
        case _:
            return "nas_shuffle_t", {"pixels": x.pixels, "groups": op.groups, "per": x.shape[2] // op.groups}


def call(program: Program, plan: Plan, op: Op, i: int) -> str:
    """The call of the kernel of ``op``, the ``i``-th in ``program``."""
    maps = [f"arena.bytes + {plan.offsets[m]}" for m in (*op.inputs, op.output)]
    if op.kind == "lookup":
        return f"nas_lookup(table{i}, {program.maps[op.output].bytes}, {', '.join(maps)})"
    if op.kind in ("conv1x1", "conv", "depthwise", "fully_connected"):
        maps.append(f"arena.bytes + {plan.scratch[i]}" if plan.scratch[i] >= 0 else "NULL")
    return f"nas_{op.kind}(&op{i}, {', '.join(maps)})"


def struct(kind: str, fields: dict[str, object], i: int) -> str:
    """The constant ``op<i>``, a struct of that kind."""
    inside = "".join(f"    .{name} = {value},\n" for name, value in fields.items())
    return f"static const {kind} op{i} = {{\n{inside}}};\n"


def array(kind: str, name: str, values: Iterable[int]) -> str:
    numbers = np.asarray(values).ravel().tolist()
    return f"static const {kind} {name}[{len(numbers)}] = {{\n{_numbers(numbers)}}};\n"


def _numbers(values: Sequence[int]) -> str:
    lines, line = [], "   "
    for value in values:
        if len(line) > _WIDE:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return "\n".join([*lines, line]) + "\n"


def _braced(*values: int) -> str:
    return "{" + ", ".join(map(str, values)) + "}"
