"""Zero-cost proxies: scores of untrained networks that are said to go with their accuracy once trained.

They are cheap next to a training, not next to a table. ``experiments/benchmarks/proxies.py`` says how well they rank
networks here, beside plain parameter and MAC counts, which are hard to beat.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data import ImageData
from nas.modules import Network
from nas.objectives.objective import Objective
from nas.space import Archs, SearchSpace
from nas.train import batches

Proxy = Callable[[nn.Module, Tensor, Tensor], float]


def proxy(
    score: Proxy, space: SearchSpace, data: ImageData, *, images: int = 64, seed: int = 0, name: str = ""
) -> Objective:
    """``score`` of freshly initialised networks on ``images`` training images, as an objective to be maximised."""

    sample = data.train.take(np.arange(min(images, len(data.train))))
    labels = torch.as_tensor(sample.labels.astype(np.int64))

    def evaluate(archs: Archs) -> NDArray[np.float64]:
        values = np.empty(len(archs))
        for i, blocks in enumerate(space.networks(archs)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = Network(blocks)
            x = next(batches(sample, data, network.input_shape[-1], images))
            values[i] = score(network, x, labels)
        return values

    called = name or score.__name__
    return Objective(
        name=called,
        fn=evaluate,
        maximize=True,
        cheap=False,
        identity=f"{called} {space.fingerprint} data {data.fingerprint} images {images} seed {seed}",
    )


def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Logarithm of the sum of |weight x gradient| of a linearised network on an input of ones (Tanaka et al. 2020).

    Weights by their absolute values, batch norm left out (Abdelfattah et al. 2021), in double precision.
    """
    parameters = [p for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear) for p in (m.weight,)]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_hook(lambda module, inputs, output: inputs[0]) for m in norms]
    modes = [m.training for m in network.modules()]
    try:
        network.double().eval()
        with torch.no_grad():
            for p in network.parameters():
                p.abs_()
        total = network(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(total, parameters)
        score = sum(float((p.detach() * g).abs().sum()) for p, g in zip(parameters, gradients, strict=True))
    finally:
        for handle in handles:
            handle.remove()
        network.float()
        network.load_state_dict(state)
        for module, mode in zip(network.modules(), modes, strict=True):
            module.training = mode
    return float(np.log(score)) if score > 0 else float("-inf")


def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Log-determinant of the kernel of activation codes: which units are on, image by image (Mellor et al. 2021).

    A unit is on when the input of its activation is positive, whatever the activation; in this project's networks that
    is the output of every batch norm but the linear projections'.
    """
    n = len(images)
    kernel = torch.zeros(n, n, dtype=torch.float64)

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal kernel
        code = (output.reshape(n, -1) > 0).double()
        kernel += code @ code.T + (1 - code) @ (1 - code).T

    handles = [
        module.register_forward_hook(look)
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and not name.endswith("project_norm")
    ]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    training = network.training
    try:
        with torch.no_grad():
            network.train()(images)
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
        network.load_state_dict(before)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Norm of the loss gradient over all weights of convolutions and linear layers."""
    return float(torch.stack([g.pow(2).sum() for _, g in _gradients(network, images, labels)]).sum().sqrt())


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum of |weight x gradient of the loss|: connection sensitivity (Lee et al. 2019)."""
    return float(torch.stack([(w * g).abs().sum() for w, g in _gradients(network, images, labels)]).sum())


def _gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights with their loss gradients; batch norm by the batch's own statistics. Leaves the network as it was."""
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    training = network.training
    try:
        loss = F.cross_entropy(network.train()(images), labels)
        gradients = torch.autograd.grad(loss, weights)
    finally:
        network.train(training)
        network.load_state_dict(before)
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True)]


PROXIES: tuple[Proxy, ...] = (synflow, naswot, grad_norm, snip)
