"""Training strategies of the supernet: which subnets a batch trains, and on what targets."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from nas.supernet.supernet import Supernet
from nas.training.loop import Step, resize


def sandwich(*, randoms: int = 2, label_smoothing: float = 0.1) -> Step:
    """The sandwich rule with in-place distillation (Yu and Huang, "Universally Slimmable Networks", ICCV 2019).

    Every batch trains the largest subnet on the labels; the smallest and ``randoms`` random ones on the largest's
    own predictions. Gradients add up over them.
    """

    def step(model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        assert isinstance(model, Supernet)
        model.activate(model.largest)
        logits = model(resize(images, model.input_shape[-1]))
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        loss.backward()
        soft = logits.detach().softmax(1)
        for arch in [model.smallest, *model.space.sample(randoms, rng)]:
            model.activate(arch)
            F.cross_entropy(model(resize(images, model.input_shape[-1])), soft).backward()
        return loss.detach()

    return step


def single_path(*, label_smoothing: float = 0.1) -> Step:
    """One random subnet per batch on the labels (Guo et al., "Single Path One-Shot NAS", ECCV 2020)."""

    def step(model: nn.Module, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        assert isinstance(model, Supernet)
        model.activate(model.space.sample(1, rng)[0])
        loss = F.cross_entropy(model(resize(images, model.input_shape[-1])), labels, label_smoothing=label_smoothing)
        loss.backward()
        return loss.detach()

    return step
