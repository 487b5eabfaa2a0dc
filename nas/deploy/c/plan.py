"""Where every map lies in the arena."""

from __future__ import annotations

from dataclasses import dataclass

from nas.deploy.c import kernels
from nas.deploy.c.program import Program


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``offsets``: of every map; ``scratch``: of the kernels' scratch; ``arena``: of everything, in bytes."""

    offsets: tuple[int, ...]
    scratch: int
    arena: int


def planned(program: Program) -> Plan:
    """One map behind another."""
    offsets, at = [], 0
    for a in program.maps:
        offsets.append(at)
        at += -(-a.bytes // kernels.ALIGNMENT) * kernels.ALIGNMENT
    need = max((kernels.scratch_bytes(program, op) for op in program.ops), default=0)
    return Plan(offsets=tuple(offsets), scratch=at, arena=at + need)
