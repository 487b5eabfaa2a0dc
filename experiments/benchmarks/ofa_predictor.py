"""Once-for-all's published accuracy predictor, read from a file that the user names (it does not come with this project)."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.objectives.objective import Objective
from nas.space import Archs, SearchSpace
from search_spaces.stages import block_gene

_KERNELS, _EXPANSIONS, _RESOLUTIONS = (3, 5, 7), (3, 4, 6), tuple(range(112, 225, 16))
_STAGES, _BLOCKS, _WIDTH = 5, 4, 1.2
_FEATURES = _STAGES * _BLOCKS * (len(_KERNELS) + len(_EXPANSIONS)) + len(_RESOLUTIONS)
_CHUNK = 2048  # activations of a chunk stay in the cache


def ofa_predictor(space: SearchSpace, path: str | os.PathLike[str]) -> Objective:
    """ImageNet top-1 of ``OnceForAll.mobilenet_v3()``'s subnets as a fraction, on once-for-all's own validation images.

    ``path``: an .npz with the weights of its network, 128 one-hot features and three hidden layers (arrays 0_weight,
    0_bias, 2_weight, ... 6_bias). Raises BadInput for another file, or a space with other genes.
    """
    layers, digest = _read(Path(path))
    columns = _columns(space)
    genes = np.arange(space.genes)

    def predict(archs: Archs) -> NDArray[np.float64]:
        archs = space.check(archs)
        out = np.empty(len(archs))
        for start in range(0, len(archs), _CHUNK):
            chunk = archs[start : start + _CHUNK]
            lit = np.where(space.active(chunk), columns[genes, chunk], _FEATURES)
            values = np.zeros((len(chunk), _FEATURES + 1), np.float32)
            np.put_along_axis(values, lit, 1.0, axis=1)
            for i, (weight, bias) in enumerate(layers):
                values = values @ weight
                values += bias
                if i < len(layers) - 1:
                    np.maximum(values, 0, out=values)
            out[start : start + _CHUNK] = values[:, 0]
        return out

    identity = f"predictor {digest} {space.fingerprint}"
    return Objective(name="accuracy", fn=predict, unit="fraction", maximize=True, identity=identity)


def _read(path: Path) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], str]:
    """Each layer's weight ``(inputs, outputs)`` and bias ``(outputs,)``; the file's digest.

    The first layer gets one more input, with zero weights: that of genes without a feature.
    """
    try:
        raw = path.read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            layers = [
                (file[f"{i}_weight"].T.astype(np.float32), file[f"{i}_bias"].astype(np.float32)) for i in (0, 2, 4, 6)
            ]
    except OSError as error:
        raise BadInput(f"cannot read the accuracy predictor {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise BadInput(f"{path} is not once-for-all's accuracy predictor: an .npz with 0_weight, 0_bias, ...") from None
    inputs = _FEATURES
    for weight, bias in layers:
        if weight.shape != (inputs, bias.size):
            raise BadInput(
                f"{path} is not once-for-all's accuracy predictor: weights {weight.shape[::-1]} on {inputs} inputs"
            )
        inputs = bias.size
    weight, bias = layers[0]
    layers[0] = np.vstack([weight, np.zeros_like(weight[:1])]), bias
    return layers, hashlib.sha256(raw).hexdigest()[:16]


def _columns(space: SearchSpace) -> NDArray[np.int64]:
    """The feature that each value of each gene lights, ``(genes, values)``; genes without a feature light the last."""
    blocks = list(itertools.product(range(1, _STAGES + 1), range(1, _BLOCKS + 1)))
    known: dict[str, tuple[tuple[int, ...], int]] = {"resolution": (_RESOLUTIONS, 6 * len(blocks))}
    for position, (stage, block) in enumerate(blocks):
        known[block_gene(stage, block, "kernel")] = _KERNELS, 3 * position
        known[block_gene(stage, block, "expand")] = _EXPANSIONS, 3 * (len(blocks) + position)
    columns = np.full((space.genes, int(space.sizes.max())), _FEATURES)
    for gene, choice in enumerate(space.choices):
        values, start = known.get(choice.name, ((), 0))
        for i, value in enumerate(choice.values if values else ()):
            if value not in values:
                raise BadInput(
                    f"{choice.name} = {value} of {space.name} is unknown to the predictor; it knows {values}"
                )
            columns[gene, i] = start + values.index(value)
    widths = [choice.values for choice in space.choices if choice.name == "width"]
    if (columns < _FEATURES).sum() < 3 * 2 * len(blocks) or widths != [(_WIDTH,)]:
        raise BadInput(f"{space.name} is not the space of the predictor, OnceForAll.mobilenet_v3() of width {_WIDTH}")
    return columns
