"""Everything that decides a run besides its space and data: ranges, defaults and help texts, stated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta

from nas.checks import Batch, Bytes, Count, CountOrNone, Positive, Seed, Share, Text, Threads, Workers, checked
from nas.deploy.memory import McuRuntime


@checked
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a run (``nas.run``) besides its space and data; the command line has a flag for each.

    Raises BadInput for a value out of its range.
    """

    runtime: Annotated[Text, "what networks are measured and timed on"] = "onnxruntime"
    threads: Annotated[Threads, "threads of that runtime"] = 1

    epochs: Annotated[Count, "epochs of supernet training"] = 50
    lr: Annotated[Positive | None, "peak learning rate of supernet training (default 0.1; 0.04 of a trained start)"] = (
        None
    )
    batch_size: Annotated[Batch, "images per step of supernet training"] = 128
    device: Annotated[Text, "torch device that trains, such as cpu or cuda"] = "cpu"
    workers: Annotated[
        Workers, "processes that share the training of the supernet, by Ray; on cuda with a GPU each"
    ] = 1

    budget: Annotated[Count, "networks evaluated by the search"] = 400
    searcher: Annotated[Text, "what proposes networks; guided needs the fewest evaluations"] = "guided"
    population: Annotated[
        Annotated[int, Meta(ge=4, le=100_000)] | None, "of a searcher that has one (default: its own)"
    ] = None
    precision: Annotated[Literal["fp32", "int8"], "the latency that is searched for"] = "int8"
    table: Annotated[Text | None, "latency table of the device to search for, instead of this machine's"] = None
    unvalidated_table: Annotated[bool, "accept a table whose error nobody has measured"] = False
    max_latency_ms: Annotated[Positive | None, "hard limit on the predicted latency in ms"] = None
    max_sram: Annotated[Bytes | None, "hard limit on the int8 network's peak SRAM, such as 256KB"] = None
    max_flash: Annotated[Bytes | None, "hard limit on the int8 network's size in flash, such as 1MB"] = None
    mcu_runtime: McuRuntime = "tflm"

    candidates: Annotated[Count, "networks of the front that are deployed"] = 10
    finetune_epochs: Annotated[Count, "epochs of fine-tuning per deployed network"] = 12
    prune: Annotated[Share, "share of channels removed in the pruned variant; 0: no such variant"] = 0.25
    qat_epochs: Annotated[CountOrNone, "epochs of quantization-aware training, where plain int8 loses too much"] = 8

    seed: Annotated[Seed, "of everything random"] = 0


SETTINGS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "run": ("seed",),
        "tables": ("runtime", "threads"),
        "supernet": ("epochs", "lr", "batch_size", "device", "workers"),
        "search": (
            "budget",
            "searcher",
            "population",
            "precision",
            "table",
            "unvalidated_table",
            "max_latency_ms",
            "max_sram",
            "max_flash",
            "mcu_runtime",
        ),
        "candidates": ("candidates", "finetune_epochs", "prune", "qat_epochs"),
    }
)
"""By stage (``run``: all of them): the settings that it is the first to use, which may change until it has begun."""
