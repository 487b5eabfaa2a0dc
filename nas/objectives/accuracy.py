"""Accuracy of architectures with the supernet's shared weights: the expensive objective."""

from __future__ import annotations

from nas.checks import checked
from nas.data.images import ImageData
from nas.objectives.objective import Objective
from nas.space import Archs, Floats
from nas.supernet.evaluation import subnet_accuracies
from nas.supernet.supernet import Supernet
from nas.supernet.training import check_fit


@checked
def accuracy(supernet: Supernet, data: ImageData, *, identity: str = "") -> Objective:
    """Top-1 accuracy of subnets of ``supernet`` on the *validation* images, a fraction to be maximised.

    An expensive objective: for each architecture batch norm is recalibrated on training images.
    ``identity`` tells trainings apart in a ledger; the data's fingerprint is always part of it.
    """
    check_fit(supernet.space, data)

    def evaluate(archs: Archs) -> Floats:
        return subnet_accuracies(supernet, archs, data)

    return Objective(
        name="accuracy",
        fn=evaluate,
        unit="fraction",
        maximize=True,
        cheap=False,
        within=(0.0, 1.0),
        identity=f"supernet {supernet.space.fingerprint} data {data.fingerprint} {identity}".strip(),
    )
