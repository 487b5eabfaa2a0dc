"""One training in several processes: each makes its share of every batch, and all do the step that one would do.

Batch norm normalises by the statistics of the whole batch, gradients add up to the whole batch's, and every process
takes the same step of the optimizer. So their number decides how long a training takes, and not what comes out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from nas.errors import BadInput
from nas.training.norms import norms_of, pooled
from nas.training.recipe import Recipe

T = TypeVar("T")


class Team:
    """The processes of torch.distributed's default group, which is there already; this is one of them."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    @property
    def share(self) -> dict[str, int]:
        """Whose share of the batches is made here, as ``Batches`` takes it."""
        return {"worker": self.rank, "workers": self.size}

    @contextmanager
    def norms(self, model: nn.Module) -> Iterator[None]:
        """Inside, batch norms of ``model`` in training mode use the statistics of the whole batch."""
        norms = norms_of(model)
        for norm in norms:
            norm.forward = functools.partial(_normalised, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in norms:
                del norm.forward  # the class' own is seen again

    def add_up(self, model: nn.Module, loss: float, share: float) -> float:
        """Make the gradients of ``model`` those of the whole batch, of which ``share`` is here; returns its loss."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        # a parameter may be without a gradient in this step: then it is in all processes, which chose the same subnets
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_full((1,), loss)]) * share
        distributed.all_reduce(flat)
        for gradient, summed in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        return float(flat[-1])

    def once(self, function: Callable[..., T]) -> Callable[..., T]:
        """``function``, called in the first process only; all get what it returned, or raise what it raised."""

        def called(*args: Any) -> T:
            answer: list[Any] = [None]
            if self.rank == 0:
                try:
                    answer = [(function(*args), None)]
                except Exception as error:
                    answer = [(None, error)]
            distributed.broadcast_object_list(answer)
            returned, raised = answer[0]
            if raised is not None:
                raise raised
            return returned

        return called


def check_shares(recipe: Recipe, images: int, workers: int) -> None:
    """Raises BadInput when batches cannot be shared out: the last one of an epoch needs an image for each worker."""
    last = images % recipe.batch_size or recipe.batch_size
    if last < workers:
        raise BadInput(
            f"the last batch of an epoch has {last} of {images} images for {workers} workers; choose another batch_size"
        )
    if recipe.accumulate > 1 and workers > 1:
        raise BadInput("accumulate and workers both divide batches; with workers, leave accumulate at 1")


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``x (n, c, h, w)`` normalised as ``norm`` does, or its first ``c`` channels, over all processes' ``x``."""
    if not norm.training:
        return type(norm).forward(norm, x)
    n = x.shape[1]
    y, mean, var, pixels = _WholeBatchNorm.apply(x, norm.weight[:n], norm.bias[:n], norm.eps)
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        momentum = norm.momentum or 0.0
        norm.running_mean[:n].lerp_(mean, momentum)
        norm.running_var[:n].lerp_(var * (pixels / (pixels - 1).clamp(min=1)), momentum)
        if n == norm.num_features and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    return y


class _WholeBatchNorm(torch.autograd.Function):
    """Batch norm with the statistics of all processes' images (Ioffe and Szegedy, 2015), and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = torch.stack([*torch.batch_norm_update_stats(x, None, None, 0.0)]).double()
        own = torch.cat([own.flatten(), own.new_tensor([x.numel() // x.shape[1]])])
        everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, own)
        told = torch.stack(everyone)
        share = told[:, -1:] / told[:, -1].sum()
        means, variances = told[:, :-1].view(len(told), 2, -1).unbind(1)
        mean, var = (pool.to(weight.dtype) for pool in pooled(share, means, variances))
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.share, ctx.pixels = share[distributed.get_rank()].item(), told[:, -1].sum().item()
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, told[:, -1].sum()

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        z = (x - mean.view(shape)) * scale.view(shape)
        d_bias, d_weight = dy.sum((0, 2, 3)), (dy * z).sum((0, 2, 3))
        # a process' loss is the mean over its own images, the whole batch's the mean of those by their shares
        summed = torch.stack([d_bias, d_weight]) * ctx.share
        distributed.all_reduce(summed)
        of_mean, of_scale = (summed / (ctx.share * ctx.pixels)).to(dy.dtype)
        dx = (dy - of_mean.view(shape) - z * of_scale.view(shape)) * (weight * scale).view(shape)
        return dx.to(x.dtype), d_weight, d_bias, None
