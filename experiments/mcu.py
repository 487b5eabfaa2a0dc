"""From limits of a microcontroller to a network in C: a search, and MobileNetV2 scaled into the same limits (CIFAR-10).

    python experiments/mcu.py [--seeds 0 1 2] [--folder runs/mcu]

Limits on SRAM and flash are those of the C library (arena and firmware, linked library with weights), one on MACs
stands for latency. Per seed: ``mcu.small`` is searched within them by a score of untrained networks (naswot); the
best are trained for an epoch, and the best of these, on validation images, is trained to the end. MobileNetV2 in all widths
and resolutions of the space that fit is chosen in the same way, and trained on the same images, as long, by the same
recipe. Both are then quantized (after an epoch of quantization-aware training, where that is better) and written as C;
``test_c`` is the accuracy of the C code's own outputs on this machine, and some images go through emulated firmware.

What is finished is kept: the same command goes on. ``benchmarks/mcu_search.py`` compares the results with its targets.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cifar
import numpy as np
import torch
from cifar import photographs

import nas
import search_spaces
from nas import deploy
from nas.compression.step import Context
from nas.data.inputs import batches
from nas.deploy.c import firmware
from nas.deploy.c.build import host_outputs
from nas.deploy.c.program import of_model
from nas.deploy.litert_file import quantized, to_integers
from nas.deploy.parity import calibration_of
from nas.deploy.to_litert import channels_last, litert_model
from nas.files import write_text
from nas.objectives.proxies import proxy
from nas.runtimes.cortex_m import CortexM
from nas.space import Archs
from nas.training.evaluate import accuracy, validation_accuracy

SPACE = "mcu.small"
KB = 1024


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything. ``scored``: networks that the score is asked about. ``tried``: trained for an epoch.

    ``emulated``: test images that go through the firmware; the others go through the same C code on this machine.
    """

    train: int = 4000
    val: int = 1000
    test: int = 5000
    sram: int = 128 * KB
    flash: int = 512 * KB
    macs: float = 3e6
    scored: int = 96
    tried: int = 3
    epochs: int = 6
    qat_epochs: int = 1
    emulated: int = 200
    batch_size: int = 64
    lr: float = 0.1


class Study:
    """One seed: its images and the networks made on the way; ``folder`` keeps what is finished."""

    def __init__(self, folder: Path, seed: int, scale: Scale) -> None:
        self.scale, self.seed, self.folder = scale, seed, folder / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = photographs(seed, scale.train, scale.val, scale.test)
        self.space = search_spaces.named(SPACE)
        self.costs = (nas.peak_sram(self.space, "c"), nas.flash_size(self.space, "c"), nas.macs(self.space))
        bounds = (scale.sram, scale.flash, scale.macs)
        self.limits = [cost <= bound for cost, bound in zip(self.costs, bounds, strict=True)]

    def run(self) -> None:
        """Everything that is not there yet."""
        for method, candidates in (("searched", self.searched()), ("mobilenet_v2", self.baselines())):
            self.keep(method, partial(self.trained, method, candidates))
            self.keep(f"{method}_board", partial(self.on_board, method))

    def keep(self, name: str, make: Callable[[], dict[str, object]]) -> None:
        """``<name>.json``, made once."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            record = json.dumps(make())
            print(record, flush=True)
            write_text(path, record)

    def searched(self) -> dict[str, Archs]:
        """The networks within the limits that score best, by a name."""
        score = proxy("naswot", self.space, self.data, images=64, seed=self.seed)
        searcher = nas.NSGA2(self.space, seed=self.seed, population=32)
        found = nas.search(
            self.space,
            [score],
            searcher,
            budget=self.scale.scored,
            constraints=self.limits,
            run_dir=self.folder / "search",
        )
        good = found[np.flatnonzero(found.good)]
        order = np.argsort(-good.column(score))[: self.scale.tried]
        return {f"searched{i}": good.archs[row] for i, row in enumerate(order)}

    def baselines(self) -> dict[str, Archs]:
        """The members of the space, MobileNetV2 in several widths and resolutions, that fit."""
        fits = {name: arch for name, arch in self.space.members.items() if self.fits(arch)}
        largest = sorted(fits, key=lambda name: -float(nas.macs(self.space)(fits[name][None])[0]))
        return {name: fits[name] for name in largest[: self.scale.tried]}

    def fits(self, arch: Archs) -> bool:
        return all(limit.violation(limit.objective(arch[None]))[0] == 0 for limit in self.limits)

    def trained(self, method: str, candidates: Mapping[str, Archs]) -> dict[str, object]:
        """The best of ``candidates`` after an epoch, trained to the end; what is known of it."""
        several = len(candidates) > 1
        after = {name: self.short(name, arch) if several else 0.0 for name, arch in candidates.items()}
        best = max(after, key=lambda name: after[name])
        network = self.fit(candidates[best], self.scale.epochs, method)
        record = {
            "seed": self.seed,
            "method": method,
            "network": best,
            "arch": candidates[best].tolist(),
            "tried": after,
            "val_fp32": validation_accuracy(network, self.data),
            "test_fp32": accuracy(network, self.data.test, self.data),
        }
        return record | {cost.name: float(cost(candidates[best][None])[0]) for cost in self.costs}

    def on_board(self, method: str) -> dict[str, object]:
        """The trained network in int8, as a folder of C and as firmware on an emulated Cortex-M4; what is known of that."""
        record = json.loads((self.folder / f"{method}.json").read_text())
        network = self.fit(np.array(record["arch"], dtype=np.uint8), self.scale.epochs, method)
        context = Context(data=self.data, seed=self.seed, progress=False)
        int8 = nas.Quantize(qat_epochs=self.scale.qat_epochs, max_loss=-1.0).apply(network, context)
        folder = deploy.named("c").export(int8.network, self.folder / f"{method}_c", self.data)
        images = calibration_of(int8.network, self.data)
        program = of_model(quantized(litert_model(int8.network, int8.input_shape), channels_last(images)))
        into, out = program.maps[program.input], program.maps[program.output]
        details = {"dtype": np.int8, "quantization": (into.scale, into.zero)}
        x = np.concatenate([channels_last(b.numpy()) for b in batches(self.data.test, self.data, into.shape[0])])
        pixels, labels = to_integers(x, details), self.data.test.labels
        outputs = host_outputs(folder, pixels)
        core = CortexM(core="cortex-m4")
        some = np.random.default_rng(0).permutation(len(pixels))[: self.scale.emulated]
        ran = core.run(program, pixels[some])
        with tempfile.TemporaryDirectory() as temporary:
            sizes = firmware.network(Path(temporary), program, core.flags).sizes
        return {
            "seed": self.seed,
            "method": method,
            "how": int8.how,
            "val_int8": validation_accuracy(int8, self.data),
            "test_c": float((outputs.argmax(1) == labels).mean()),
            "emulated": len(some),
            "emulated_accuracy": float((ran.outputs.argmax(1) == labels[some]).mean()),
            "emulated_equal": bool((ran.outputs.reshape(len(some), out.bytes) == outputs[some]).all()),
            "instructions": int(np.median(ran.counts)),
            "ram": sizes.ram,
            "flash": sizes.flash,
            "fits": sizes.ram <= self.scale.sram and sizes.flash <= self.scale.flash,
        }

    def short(self, name: str, arch: Archs) -> float:
        """Validation accuracy after one epoch."""
        path = self.folder / f"short_{name}.json"
        if not path.exists():
            network = self.fit(arch, 1, f"short_{name}")
            write_text(path, json.dumps(validation_accuracy(network, self.data)))
        return float(json.loads(path.read_text()))

    def fit(self, arch: Archs, epochs: int, name: str) -> nas.Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = nas.Network(self.space.networks(arch[None])[0])
        recipe = nas.Recipe(epochs=epochs, lr=self.scale.lr, batch_size=self.scale.batch_size)
        folder = self.folder / f"train_{name}"
        return nas.train_network(network, self.data, recipe, run_dir=folder, seed=self.seed, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "runs" / "mcu")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    cifar.needed()
    torch.set_num_threads(1)
    for seed in args.seeds:
        Study(args.folder, seed, Scale()).run()


if __name__ == "__main__":
    main()
