"""What a compression step is, and what it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from nas.blocks import Block
from nas.checks import Seed, checked
from nas.data.images import ImageData
from nas.errors import BadInput
from nas.modules import Network
from nas.training.augment import Augmentation


@checked
@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step may use besides the network.

    ``data``: train with ``data.train``, compare on ``data.val``, never look at ``data.test``. ``teacher``: for
    distillation (None: labels only). ``augment``: None is what suits the images. ``device``: where to train. ``on_epoch`` and ``progress``: for
    ``nas.training.loop.fit``.
    """

    data: ImageData
    teacher: nn.Module | None = None
    augment: Augmentation | None = None
    seed: Seed = 0
    device: str = "cpu"
    on_epoch: Callable[[dict[str, float]], object] | None = None
    progress: bool | None = None


class Step(Protocol):
    """A compression step: a frozen dataclass of its own settings, with a name and ``apply``.

    To add one, put a file with one such class into ``nas/compression/steps``. The file's name is the step's name
    ("fine_tune.py" is "fine-tune"), in ``nas.compression.names()``, ``step_of`` and on the command line; ranges of
    settings are annotations, checked by ``nas.checks.checked``. A step of your own needs no file: any object with these
    two goes into ``nas.compress``.

        @checked
        @dataclass(frozen=True, kw_only=True)
        class Shrink:
            factor: Annotated[float, Meta(gt=0, le=1)] = 0.5
            name: str = "shrink"

            def apply(self, network: nn.Module, context: Context) -> nn.Module:
                shrunk = copy.deepcopy(network)
                ...
                return shrunk
    """

    @property
    def name(self) -> str:
        """How the pipeline calls it; different for each step of one pipeline."""

    def apply(self, network: nn.Module, context: Context) -> nn.Module:
        """The changed network: a ``nas.Network``, or a ``Deployed`` one, after which no further step is possible.

        ``network`` stays as it is. What the change costs and gains is not the step's to say: the pipeline measures.
        """


class Deployed(Protocol):
    """A network that is no longer torch layers, such as an int8 file: what the pipeline asks of it.

    It is an ``nn.Module`` whose forward takes ``(n, *input_shape)`` float32 and returns logits ``(n, classes)``.
    """

    input_shape: tuple[int, int, int]

    @property
    def precision(self) -> str:
        """Which table predicts and which runtime times it, such as "int8"."""

    @property
    def how(self) -> str:
        """How the precision was reached: "ptq" (after training) or "qat" (quantization-aware training)."""

    @property
    def note(self) -> str:
        """For readers; "" for none."""

    @property
    def size_bytes(self) -> int: ...

    def describe(self) -> tuple[Block, ...]:
        """The blocks that the network is made of."""

    def save(self, path: Path) -> Path:
        """Write the file that a runtime of this precision loads."""


def float_network(network: nn.Module, step: str) -> Network:
    """``network``, when it is still made of layers. Raises BadInput otherwise."""
    if not isinstance(network, Network):
        raise BadInput(f"{step} takes a float network of blocks, got {type(network).__name__}; quantize last")
    return network
