"""Batch-norm recalibration: statistics of one subnet, measured on training images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nas.errors import BadInput
from nas.training.norms import norms_of, pooled

RECALIBRATION_IMAGES = 512
"""Training images that batch-norm recalibration of a subnet looks at."""


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all batch-norm running statistics of ``network`` by those of ``batches`` of inputs ``(n, c, h, w)``.

    The variance is pooled: the mean of the batches' variances plus the variance of their means, each batch weighted
    by its number of images, so that it equals the variance over all images. Leaves the train/eval mode as it was.
    Raises BadInput without images.
    """
    norms = norms_of(network)
    if not norms:
        return
    modes, momenta = [m.training for m in network.modules()], [n.momentum for n in norms]
    network.eval()
    means: list[list[Tensor]] = [[] for _ in norms]
    variances: list[list[Tensor]] = [[] for _ in norms]
    counts: list[int] = []
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # the running statistics become those of the batch
        for batch in batches:
            network(batch)
            counts.append(len(batch))
            for norm, mean, variance in zip(norms, means, variances, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                mean.append(norm.running_mean.clone())
                variance.append(norm.running_var.clone())
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in zip(network.modules(), modes, strict=True):
            module.training = mode
    if not sum(counts):
        raise BadInput("batch-norm statistics are those of images, and there are no images")
    weight = torch.tensor(counts, dtype=torch.float32, device=means[0][0].device)[:, None] / sum(counts)
    for norm, mean, variance in zip(norms, means, variances, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        of_all = pooled(weight, torch.stack(mean), torch.stack(variance))
        norm.running_mean.copy_(of_all[0])
        norm.running_var.copy_(of_all[1])
