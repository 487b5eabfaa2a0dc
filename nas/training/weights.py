"""Weights and checkpoints on disk: each belongs to everything that made it, and says what differs when that has changed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.errors import BadInput
from nas.files import first_line, write_bytes

Identity = Mapping[str, Any]
"""Everything that decides a training, JSON-serialisable: recipe, augmentation, strategy, seed, data ..."""

BEFORE: Identity = {"strategy": "Sandwich(randoms=2)", "precision": "fp32"}
"""What files of earlier versions do not say, and was always so."""


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, str | Identity]) -> None:
    """Write the model's state as safetensors, atomically. Raises BadInput when it cannot be written."""
    from safetensors.torch import save

    texts = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in metadata.items()}
    write_bytes(path, save({k: v.contiguous() for k, v in model.state_dict().items()}, metadata=texts))


def load_weights(path: Path, model: nn.Module, expected: Mapping[str, str | Identity]) -> None:
    """Load what ``save_weights`` wrote.

    Raises BadInput for a damaged file, other layers than ``model`` has, or other metadata than ``expected``.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for key, value in expected.items():
                if isinstance(value, str) and metadata.get(key) != value:
                    raise BadInput(f"{path} was made for {key} {metadata.get(key)}, this run has {key} {value}")
                if not isinstance(value, str):
                    check_identity(path, json.loads(metadata.get(key, "{}")), value)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model.load_state_dict(state)
    except BadInput:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        raise BadInput(f"{path} is not a readable weights file for this space: {first_line(error)}") from None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The file ``path`` of a training under way, and what decides that training. ``resume``: go on from it."""

    path: Path
    identity: Identity
    resume: bool = False

    def save(self, parts: Mapping[str, Any], rows: list[dict[str, float]]) -> None:
        """Write the state of a training after an epoch, atomically. Raises BadInput when it cannot be written.

        ``parts``: by name, whatever has a ``state_dict``.
        """
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"identity": json.dumps(self.identity), "rows": json.dumps(rows)}
        buffer = io.BytesIO()  # torch reports a full disk as an error of its own
        torch.save(state, buffer)
        write_bytes(self.path, buffer.getvalue())

    def load(self, parts: Mapping[str, Any], device: torch.device) -> list[dict[str, float]]:
        """What ``save`` wrote, into those parts; returns the finished epochs' rows, none without a file.

        Raises BadInput when the file is damaged, or was made by a training with another identity.
        """
        if not (self.resume and self.path.exists()):
            return []
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location=device)
            check_identity(self.path, json.loads(state["identity"]), self.identity)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            rows: list[dict[str, float]] = json.loads(state["rows"])
        except BadInput:
            raise
        except Exception as error:  # a damaged file fails in many ways inside torch and zipfile
            raise BadInput(
                f"{self.path} is not a readable checkpoint ({first_line(error)}); delete it to start this training again"
            ) from None
        return rows


def check_identity(path: Path, there: Identity, here: Identity) -> None:
    """Raises BadInput naming every setting in which the training of a file differs from this one."""
    here = json.loads(json.dumps(here))
    there = {**BEFORE, **there}
    differing = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k) and (k in here or k not in BEFORE)]
    if differing:
        told = "; ".join(f"{k}: there {there.get(k)}, here {here.get(k)}" for k in differing)
        raise BadInput(
            f"{path} belongs to a training with other settings ({told}); repeat those, or choose another run folder"
        )
