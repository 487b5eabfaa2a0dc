"""How the genes of a stage and of its blocks are called, in every space of staged networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.space import Choice, Value


def stage_gene(stage: int, what: str) -> str:
    """The gene of a stage, numbered from 1: its "depth", "act", "se" or "kind"."""
    return f"s{stage}.{what}"


def block_gene(stage: int, block: int, what: str = "") -> str:
    """The gene of a block in a stage: its "kernel" or "expand". Without ``what`` the block's slot."""
    return f"s{stage}b{block}" + (f".{what}" if what else "")


def stage_config(stage: int, blocks: Sequence[tuple[int, float]], **genes: Value) -> dict[str, Value]:
    """The part of a configuration (``SearchSpace.encode``) about one stage of ``blocks``: (kernel, expand) each.

    ``genes``: the stage's others, such as ``act`` and ``se``.
    """
    config: dict[str, Value] = {stage_gene(stage, "depth"): len(blocks)}
    config |= {stage_gene(stage, gene): value for gene, value in genes.items()}
    for b, (kernel, expand) in enumerate(blocks, 1):
        config |= {block_gene(stage, b, "kernel"): kernel, block_gene(stage, b, "expand"): expand}
    return config


def block_choices(stage: int, depths: tuple[int, ...], genes: Mapping[str, tuple[Value, ...]]) -> list[Choice]:
    """``genes`` of every block of a stage; those of blocks beyond the stage's depth have no effect."""
    blocks = range(1, max(depths) + 1)
    return [choice for b in blocks for choice in choices_of_block(stage, b, depths, genes)]


def choices_of_block(
    stage: int, block: int, depths: tuple[int, ...], genes: Mapping[str, tuple[Value, ...]]
) -> list[Choice]:
    """``genes`` of one block of a stage, numbered from 1; without effect where the stage has fewer blocks."""
    deep_enough = tuple(d for d in depths if d >= block)
    condition = None if deep_enough == depths else (stage_gene(stage, "depth"), deep_enough)
    return [Choice(block_gene(stage, block, gene), values, condition) for gene, values in genes.items()]
