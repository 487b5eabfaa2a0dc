"""A pretrained network, a few thousand photographs, a device: what the search adds to fine-tuning (CIFAR-10 JPEGs).

    python experiments/transfer.py [--seeds 0 1 2] [--folder runs/transfer]

From ImageNet's EfficientNet-Lite0 ``nas.around`` makes a space and a supernet, which is trained on the user's images;
a search finds the best networks within five limits on the int8 latency measured here; they are fine-tuned, quantized
and exported. The limits are the latencies of Lite0 itself at five resolutions below its own. In the same run, for the
same number of epochs: Lite0 fine-tuned at those resolutions, ten random members of the space that fit, and the searched
networks from scratch. Every accuracy in the result is that of the exported int8 file on the 10,000 test images, which nothing
before has seen; networks are chosen by 1,500 validation images, of which 2,000 training images have no part.

What is finished is kept: the same command goes on. ``benchmarks/transfer.py`` compares the results with its targets.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cifar
import numpy as np
import pandas as pd
import torch
from cifar import photographs
from torch import nn

import nas
from nas.compression.int8_network import Int8Network
from nas.compression.step import Context
from nas.files import write_text
from nas.supernet.training import calibrated
from nas.training.evaluate import accuracy, validation_accuracy

RUNTIME = nas.runtimes.OnnxRuntime(precision="int8")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything. ``source``: Lite0's own resolution; ``limits``: lower ones, whose latencies are the limits.

    ``lr`` was chosen among 0.01, 0.04 and 0.12 by Lite0 alone at 64 px, on validation images of a seed of its own (100).
    ``scratch``: limits at which the searched network is trained from scratch too. ``randoms``: members per limit;
    ``campaign``: networks timed to calibrate and to validate the latency table.
    """

    train: int = 2000
    val: int = 1500
    test: int = 10_000
    source: int = 96
    limits: tuple[int, ...] = (48, 56, 64, 72, 80)
    resolutions: tuple[int, ...] = (48, 56, 64, 72, 80, 88, 96)
    supernet_epochs: int = 6
    tune_epochs: int = 2
    lr: float = 0.04
    tune_lr: float = 0.02
    scratch_lr: float = 0.1
    scratch: tuple[int, ...] = (48, 80)
    batch_size: int = 64
    evaluations: int = 60
    randoms: int = 2
    campaign: tuple[int, int] = (60, 20)


class Study:
    """One seed: its images, its supernet, and the networks made on the way; ``folder`` keeps what is finished."""

    def __init__(self, folder: Path, seed: int, scale: Scale) -> None:
        self.scale, self.seed, self.folder = scale, seed, folder / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.source = pretrained(scale.source)
        self.data = photographs(seed, scale.train, scale.val, scale.test).normalised_as(self.source)
        # fewer channels everywhere would lose what the source has learned; other genes keep more of it
        self.space = nas.around(self.source, resolutions=scale.resolutions, widths=())
        networks = dict(zip(("calibrate", "validate"), scale.campaign, strict=True))
        table = nas.measure(self.space, RUNTIME, run_dir=folder, name="table_int8", resume=True, **networks)
        self.latency = nas.latency(self.space, table)
        self.limits = {px: float(self.latency(self.member(px)[None])[0]) for px in scale.limits}

    def member(self, px: int) -> nas.space.Archs:
        """Lite0 at ``px`` pixels, as a member of the space ``(genes,)``."""
        return self.space.whole[self.scale.resolutions.index(px)]

    def run(self) -> None:
        """Everything that is not there yet."""
        supernet = nas.train_supernet(
            self.space,
            self.data,
            recipe=nas.Recipe(epochs=self.scale.supernet_epochs, lr=self.scale.lr, batch_size=self.scale.batch_size),
            run_dir=self.folder,
            seed=self.seed,
        )
        goal = nas.accuracy(supernet, self.data)
        searcher = nas.Guided(self.space, [goal, self.latency], seed=self.seed)
        limits = np.array(list(self.limits.values()))
        found = nas.search(
            self.space,
            [goal, self.latency],
            searcher,
            budget=self.scale.evaluations,
            constraints=[self.latency <= limits.max()],
            first=np.vstack(
                [self.space.whole, nas.largest_within(self.space, nas.macs(self.space), self.latency, limits)]
            ),
            run_dir=self.folder / "search",
        )
        teacher = calibrated(supernet, supernet.largest, self.data)
        whole = self.scale.supernet_epochs + self.scale.tune_epochs
        self.keep(
            "largest", self.scale.source, lambda: self.tuned(calibrated(supernet, supernet.largest, self.data), None)
        )
        self.keep("lite0", self.scale.source, lambda: self.tuned(self.source, None, whole, self.scale.lr))
        for px, limit in self.limits.items():
            arch = found.best(goal, self.latency <= limit)
            self.keep("searched", px, lambda a=arch: self.tuned(calibrated(supernet, a, self.data), teacher))
            self.keep("lite0", px, lambda p=px: self.tuned(pretrained(p), None, whole, self.scale.lr))
            blocks = self.space.networks(arch[None])[0]
            if px in self.scale.scratch:
                new = fresh(blocks, self.seed)
                self.keep("scratch", px, lambda n=new: self.tuned(n, None, whole, self.scale.scratch_lr))
        for px, archs in self.random_members().items():
            for i, arch in enumerate(archs):
                self.keep(f"random{i}", px, lambda a=arch: self.tuned(calibrated(supernet, a, self.data), teacher))

    def random_members(self) -> dict[int, Sequence[nas.space.Archs]]:
        """For every limit some random members that fit it, but not the limit before."""
        rng, below, chosen = np.random.default_rng(self.seed), 0.0, {}
        many = self.space.sample(20_000, rng)
        ms = self.latency(many)
        for px, limit in self.limits.items():
            chosen[px] = many[(below < ms) & (ms <= limit)][: self.scale.randoms]
            below = limit
        return chosen

    def tuned(
        self, network: nn.Module, teacher: nn.Module | None, epochs: int | None = None, lr: float | None = None
    ) -> nn.Module:
        step = nas.FineTune(
            epochs=epochs or self.scale.tune_epochs, lr=lr or self.scale.tune_lr, batch_size=self.scale.batch_size
        )
        return step.apply(network, self.context(teacher))

    def context(self, teacher: nn.Module | None) -> Context:
        return Context(data=self.data, teacher=teacher, seed=self.seed, progress=False)

    def keep(self, method: str, px: int, make: Callable[[], nn.Module]) -> None:
        """Make a network once: ``<method>_<px>.onnx`` (int8) and what is known of it beside it."""
        path = self.folder / f"{method}_{px}.json"
        if path.exists():
            return
        network = make()
        int8 = nas.Quantize(qat_epochs=0).apply(network, self.context(None))
        assert isinstance(int8, Int8Network)
        int8.save(path.with_suffix(".onnx"))
        record = {
            "seed": self.seed,
            "method": method,
            "limit_px": px,
            "input_px": network.input_shape[-1],
            "mmacs": sum(b.macs for b in network.describe()) / 1e6,
            "val_fp32": validation_accuracy(network, self.data),
            "val_int8": validation_accuracy(int8, self.data),
            "test_int8": accuracy(int8, self.data.test, self.data),
            "input_shape": list(network.input_shape),
        }
        print(json.dumps(record), flush=True)
        write_text(path, json.dumps(record))


def pretrained(px: int) -> nas.Network:
    """EfficientNet-Lite0 with ImageNet's weights and a new classifier, for images of ``px`` pixels."""
    return nas.pretrained("efficientnet_lite0", classes=10, size=px)


def fresh(blocks: Sequence[nas.blocks.Block], seed: int) -> nas.Network:
    """The network of ``blocks`` with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nas.Network(blocks)


def studied(folder: Path, seed: int, scale: Scale) -> None:
    """Make all networks of a seed that are not there; of one that is finished nothing is looked at again."""
    finished = folder / f"seed{seed}" / "finished"
    if not finished.exists():
        Study(folder, seed, scale).run()
        finished.touch()


def timed(folder: Path, rounds: int = 30) -> pd.DataFrame:
    """All networks that the studies in ``folder`` have finished, timed in turns: medians of ``rounds`` visits to each."""
    records = [json.loads(path.read_text()) | {"path": path} for path in sorted(folder.glob("seed*/*.json"))]
    records = [r for r in records if "limit_px" in r]
    loaded = [RUNTIME.prepare(r["path"].with_suffix(".onnx"), tuple(r["input_shape"])) for r in records]
    visits = np.array([[np.median(RUNTIME.time(one, 10)) for one in loaded] for _ in range(rounds)])
    frame = pd.DataFrame(records).drop(columns=["path", "input_shape"])
    return frame.assign(measured_ms=np.median(visits, axis=0)).sort_values(["seed", "limit_px", "method"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only time what is there")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "runs" / "transfer")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    cifar.needed()
    torch.set_num_threads(1)
    for seed in args.seeds:
        studied(args.folder, seed, Scale())
    frame = timed(args.folder)
    write_text(args.folder / "networks.csv", frame.to_csv(index=False))
    write_text(args.folder / "scale.json", json.dumps(asdict(Scale())))
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
