"""Zero-cost proxies: scores of untrained networks that are said to go with their accuracy once trained.

They are cheap next to a training, not next to a table. ``experiments/benchmarks/proxies.py`` says how well they rank
networks here, beside plain parameter and MAC counts, which are hard to beat.

Every score is a plain function ``(network, images (n, c, h, w), labels (n,)) -> float``, larger is better. It works on a
copy: the network stays as it was. Activations are seen wherever torch's functions are called, so any network will do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nas.blocks import ACTIVATIONS
from nas.checks import Seed, checked
from nas.data.images import ImageData
from nas.data.inputs import batches
from nas.errors import BadInput
from nas.modules import ACTIVATION_FUNCTIONS, Network
from nas.objectives.networks import of_networks
from nas.objectives.objective import Objective
from nas.space import SearchSpace

Proxy = Callable[[nn.Module, Tensor, Tensor], float]

_ACTIVATIONS = tuple(ACTIVATION_FUNCTIONS[name] for name, a in ACTIVATIONS.items() if not a.gate)


@checked
def proxy(
    score: Proxy | str,
    space: SearchSpace,
    data: ImageData,
    *,
    images: Annotated[int, Meta(ge=2, le=1_000_000)] = 64,
    seed: Seed = 0,
    name: str = "",
) -> Objective:
    """``score`` of freshly initialised networks on ``images`` random training images, as an objective to be maximised.

    ``score``: one of this file's functions, or its name, or a function of your own. ``seed`` decides the initial weights
    and the images; every network sees the images at its own resolution. Raises BadInput for an unknown name.
    """
    if isinstance(score, str):
        known = {p.__name__: p for p in PROXIES}
        if score not in known:
            raise BadInput(f"there is no proxy {score!r}; the proxies are {', '.join(known)}")
        score = known[score]
    function = score
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:images]
    sample = data.train.take(np.sort(chosen))
    labels = torch.from_numpy(sample.labels)

    def scored(network: nn.Module) -> float:
        assert isinstance(network, Network)
        return function(network, next(batches(sample, data, network.input_shape[-1], len(sample))), labels)

    called = name or getattr(function, "__name__", "proxy")
    identity = f"{called} data {data.fingerprint} images {images}"
    return of_networks(scored, space, name=called, maximize=True, seed=seed, identity=identity)


def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of weight x gradient over a linearised network's weights (Tanaka et al. 2020).

    All parameters by their absolute values, an input of ones of the size of one of ``images (n, c, h, w)``, batch norm
    left out (Abdelfattah et al. 2021), activations too: with nothing negative a ReLU is the identity, and so are the
    others here (a clipped one would stop all gradients). In double precision: the sum grows exponentially with depth.
    -inf for a network without a path.
    """
    network = copy.deepcopy(network).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: inputs[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    with _Activations(lambda x, function: x):
        total = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    score = torch.stack([(w * g).sum() for w, g in _gradients(total, network)]).sum()
    return float(score.log())


def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Log-determinant of the kernel of activation codes: which units are on, image by image (Mellor et al. 2021).

    The kernel ``(n, n)`` counts, for each pair of ``images (n, c, h, w)``, the units on which both agree.
    A unit is on when the input of its activation is positive, whatever the activation. Batch norm by the batch's own
    statistics. -inf when two images have the same codes.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def look(x: Tensor, activation: Callable[..., Tensor]) -> Tensor:
        on = (x.flatten(1) > 0).double()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)
        return activation(x)

    with torch.no_grad(), _Activations(look):
        copy.deepcopy(network).train()(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over layers of the norm of the loss gradient with respect to their weights (Abdelfattah et al. 2021).

    The loss: cross-entropy of ``images (n, c, h, w)`` and ``labels (n,)``, batch norm by the batch's own statistics.
    """
    return float(torch.stack([g.norm() for _, g in _loss_gradients(network, images, labels)]).sum())


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum of |weight x gradient of the loss|: connection sensitivity (Lee et al. 2019).

    The loss is that of ``grad_norm``, on ``images (n, c, h, w)`` and ``labels (n,)``.
    """
    return float(torch.stack([(w * g).abs().sum() for w, g in _loss_gradients(network, images, labels)]).sum())


PROXIES: tuple[Proxy, ...] = (synflow, naswot, grad_norm, snip)


def _loss_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights and gradients of the cross-entropy; batch norm by the batch's own statistics."""
    network = copy.deepcopy(network).train()
    return _gradients(F.cross_entropy(network(images), labels), network)


def _gradients(total: Tensor, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The weights of convolutions and linear layers, and the gradient of ``total`` with respect to each."""
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return [(w.detach(), g) for w, g in zip(weights, torch.autograd.grad(total, weights), strict=True)]


class _Activations(TorchFunctionMode):
    """Within this context ``instead(x, activation)`` is called where a network calls an activation."""

    def __init__(self, instead: Callable[[Tensor, Callable[..., Tensor]], Tensor]) -> None:
        super().__init__()
        self._instead = instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ACTIVATIONS:
            return self._instead(args[0], func)
        return func(*args, **(kwargs or {}))
