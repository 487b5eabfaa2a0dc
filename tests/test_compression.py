"""Compression: every step does what it says, to the training images only; the pipeline measures, and steps are files."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import lively, other_pictures
from torch import nn
from torch.nn.utils import parametrize

import nas
from nas import compression
from nas.compression.int8_network import Int8Network
from nas.compression.simulation import simulated_int8
from nas.compression.step import Context
from nas.compression.steps import quantize
from nas.compression.steps.fine_tune import FineTune
from nas.compression.steps.prune import Prune
from nas.compression.steps.quantize import Quantize
from nas.data.inputs import batches
from nas.deploy.to_onnx import weight_limit
from nas.errors import BadInput, NasError
from nas.modules import Network
from nas.supernet.training import calibrated
from nas.training import network as network_training
from nas.training.evaluate import validation_accuracy
from nas.training.network import learn
from nas.training.recipe import Recipe


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def network(tiny) -> Network:
    """Untrained, but with outputs that depend on the image."""
    supernet = nas.Supernet(tiny)
    return lively(supernet.extract(supernet.largest))


@pytest.fixture
def context(few_digits) -> Context:
    return Context(data=few_digits)


# ---- pruning ---------------------------------------------------------------------------------------------------


def wide_block(network: Network) -> nn.Module:
    return max((m for m in network if hasattr(m, "expand")), key=lambda m: m.expand.out_channels)


def test_the_weakest_channels_go(network, context):
    block = wide_block(network)
    weak = torch.arange(block.expand.out_channels) % 3 == 0
    with torch.no_grad():
        for layer in (block.expand, block.depthwise):
            layer.weight[weak] *= 1e-3
        block.project.weight[:, weak] *= 1e-3
        if hasattr(block, "squeeze"):
            block.squeeze.weight[:, weak] *= 1e-3
            block.excite.weight[weak] *= 1e-3
        for norm in (block.expand_norm, block.depthwise_norm):
            norm.weight[weak] *= 1e-3
    position = list(network).index(block)
    pruned = Prune(ratio=0.3, round_to=1).apply(network, context)[position]
    left = pruned.depthwise.weight.flatten(1).norm(dim=1)
    assert len(left) < block.depthwise.out_channels
    # of the weak third, at most the part that the ratio leaves
    assert (left < 0.05 * left.median()).sum() <= max(0, int(weak.sum()) - (len(weak) - len(left)))


@pytest.mark.parametrize(("strong", "weak"), [((2.0, 1), (1.0, 3)), ((1.0, 5), (2.0, 1))])
def test_the_weakest_channels_are_so_by_their_sum_of_squares(network, context, strong, weak):
    """(value, how many of it): neither the sum of absolutes nor that of cubes orders both pairs so."""
    block = wide_block(network)
    with torch.no_grad():
        for layer in (block.expand, block.depthwise, block.project):
            layer.weight.fill_(0.01)
        for norm in (block.expand_norm, block.depthwise_norm):
            norm.weight.fill_(1.0)
        for channel, (value, times) in enumerate([weak, strong] * (block.depthwise.out_channels // 2)):
            block.expand.weight[channel].view(-1)[:times] = value
            block.depthwise.weight[channel] *= 1 if (value, times) == strong else -1  # only a mark
    pruned = Prune(ratio=0.5, round_to=1).apply(network, context)[list(network).index(block)]
    assert (pruned.depthwise.weight > 0).all()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_ratio_is_of_every_layer(network, context, ratio):
    pruned = Prune(ratio=ratio, round_to=1).apply(network, context)
    for before, after in zip(network.describe()[1:-1], pruned.describe()[1:-1], strict=True):
        assert after.mid == pytest.approx(before.mid * (1 - ratio), abs=1)
        assert after.out_ch == pytest.approx(before.out_ch * (1 - ratio), abs=1)


def test_channel_counts_stay_multiples(network, context):
    pruned = Prune(ratio=0.3, round_to=8).apply(network, context).describe()[1:-1]
    assert {count % 8 for b in pruned for count in (b.mid, b.out_ch)} == {0}
    assert any(count % 16 for b in pruned for count in (b.mid, b.out_ch))


# ---- fine-tuning -----------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """What ``fit`` is called with inside steps."""
    calls, fit = [], network_training.fit

    def watch(model, data, recipe, step, **settings):
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

        def watched_step(model, *batch):
            loss = step(model, *batch)
            norms = {m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
            calls[-1].update(norms_train=norms, simulated=all(map(parametrize.is_parametrized, layers)))
            return loss

        calls.append({"data": data, "recipe": recipe, **settings})
        return fit(model, data, recipe, watched_step, **settings)

    monkeypatch.setattr(network_training, "fit", watch)
    return calls


def test_fine_tuning_trains_a_copy(network, few_digits, watched):
    before, rows = weights(network), []
    context = Context(data=few_digits, seed=7, on_epoch=rows.append, progress=False)
    tuned = FineTune(epochs=2, lr=0.03, batch_size=50).apply(network, context)
    assert same(before, weights(network))
    assert not same(before, weights(tuned))
    assert not tuned.training
    (call,) = watched
    assert call["recipe"] == Recipe(epochs=2, lr=0.03, batch_size=50)
    assert (call["data"], call["seed"], call["augment"]) == (few_digits, 7, nas.Augment.suited_to(few_digits))
    assert (call["norms_train"], call["simulated"]) == ({True}, False)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert same(weights(tuned), weights(FineTune(epochs=2, lr=0.03, batch_size=50).apply(network, context)))
    assert same(before, weights(FineTune(epochs=0).apply(network, context)))


def test_the_teacher_is_followed_as_far_as_asked(tiny, few_digits, network):
    supernet = nas.Supernet(tiny, seed=3)
    teacher = lively(supernet.extract(supernet.largest), seed=3)
    x = torch.cat(list(batches(few_digits.val, few_digits, network.input_shape[-1])))
    wanted = teacher(x).softmax(1).detach()

    def distance(distill, teacher):
        context = Context(data=few_digits, teacher=teacher)
        tuned = FineTune(epochs=5, lr=0.05, distill=distill).apply(network, context)
        return float((tuned(x).softmax(1) - wanted).detach().abs().mean())

    before = weights(teacher)
    alone, ignored, followed = distance(1.0, None), distance(0.0, teacher), distance(1.0, teacher)
    assert followed < 0.8 * ignored
    assert ignored == alone
    assert same(before, weights(teacher))


def test_steps_train_on_the_device_of_the_network(network, few_digits, watched):
    nas.compress(network, [FineTune(epochs=1)], few_digits)
    assert str(watched[0]["device"]) == "cpu"
    with pytest.raises(BadInput, match="got 'foo'"):
        FineTune(epochs=1).apply(network, Context(data=few_digits, device="foo"))


# ---- quantization ----------------------------------------------------------------------------------------------


def constants(model: bytes):
    """(values, scale, operator) of every weight that an operator dequantizes."""
    graph = onnx.load_from_string(model).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    readers = {name: node.op_type for node in graph.node for name in node.input}
    return [
        (values[n.input[0]], values[n.input[1]], readers[n.output[0]])
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in values and values[n.input[0]].ndim > 1
    ]


def test_weights_are_int8_per_channel(network, context):
    int8 = Quantize(qat_epochs=0).apply(network, context)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    seen = [(v, s) for v, s, reader in constants(int8.model) if reader == "Conv"]
    assert len(seen) == len(layers)
    depthwise = sorted(m.weight.shape for m in layers if m.groups > 1)
    for values, scale in seen:
        assert values.dtype == np.int8
        assert scale.shape == (len(values),)
        # every channel uses the whole range: one scale for all would not
        most = weight_limit(depthwise=values.shape in depthwise)
        assert (np.abs(values.astype(int)).reshape(len(values), -1).max(1) == most).all()


def test_activations_cover_every_calibration_image(network, few_digits):
    def input_scale(images, calibration):
        data = dataclasses.replace(few_digits, train=dataclasses.replace(few_digits.train, images=images))
        model = Quantize(qat_epochs=0, calibration=calibration).apply(network, Context(data=data)).model
        graph = onnx.load_from_string(model).graph
        scale = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "input")
        x = torch.cat(list(batches(data.train, data, network.input_shape[-1])))
        return float(scale[first.input[1]]), float(x.max() - x.min()) / 255

    for row in (0, 100, 255):  # the only bright image may be any of them
        images = few_digits.train.images // 4
        images[row, 0, 3, 3] = 255
        seen, expected = input_scale(images, 256)
        assert seen == pytest.approx(expected, rel=0.02), row
    seen, expected = input_scale(images, 8)
    assert seen < 0.9 * expected


def test_quantization_looks_at_training_images_only(network, few_digits):
    def model(data):
        return Quantize(qat_epochs=1, max_loss=-1).apply(network, Context(data=data)).model

    assert model(few_digits) == model(other_pictures(few_digits, "test"))
    once = Quantize(qat_epochs=0)
    plain = once.apply(network, Context(data=few_digits)).model
    assert plain == once.apply(network, Context(data=other_pictures(few_digits, "val", "test"))).model
    assert plain != once.apply(network, Context(data=other_pictures(few_digits, "train"))).model


@pytest.mark.parametrize(
    ("ptq", "qat", "kept"), [(0.5, 0.6, "qat"), (0.6, 0.5, "ptq"), (0.6, 0.6, "ptq"), (0.897, 0.95, "qat"), (0.898, 0.95, "ptq")]
)  # fmt: skip
def test_the_better_of_two_is_kept_and_the_second_only_tried_when_needed(
    network, few_digits, watched, monkeypatch, ptq, qat, kept
):
    reached = iter((0.9, ptq, qat))
    monkeypatch.setattr(quantize, "validation_accuracy", lambda network, data: next(reached))
    int8 = Quantize(qat_epochs=1, max_loss=0.0025).apply(network, Context(data=few_digits))
    assert int8.how == kept
    assert int8.note == (f"ptq reached {ptq:.4f}" if kept == "qat" else "")
    assert len(watched) == (ptq < 0.8975)
    for call in watched:
        assert (call["simulated"], call["norms_train"]) == (True, {False})
        assert call["recipe"] == Recipe(epochs=1, lr=0.005, batch_size=64, freeze="norms", precision="fp32")
    assert not any(parametrize.is_parametrized(m) for m in int8.network.modules())
    assert same(weights(int8.network), weights(network)) == (kept == "ptq")


def test_a_network_that_breaks_without_training_is_trained(network, context, monkeypatch):
    calls, onnx_int8 = [], quantize.onnx_int8

    def fails_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise NasError("broken")
        return onnx_int8(*args)

    monkeypatch.setattr(quantize, "onnx_int8", fails_first)
    int8 = Quantize(qat_epochs=1).apply(network, context)
    assert (int8.how, int8.note) == ("qat", "ptq failed")
    calls.clear()
    with pytest.raises(NasError, match="broken"):
        Quantize(qat_epochs=0).apply(network, context)


def test_quantization_aware_training_takes_its_settings_and_follows_the_teacher(tiny, few_digits, network, watched):
    supernet = nas.Supernet(tiny, seed=3)
    teacher = lively(supernet.extract(supernet.largest), seed=3)

    def model(distill):
        step = Quantize(max_loss=-1, qat_epochs=1, qat_lr=0.01, distill=distill)
        losses = []
        step.apply(network, Context(data=few_digits, teacher=teacher, on_epoch=losses.append))
        return losses[0]["loss"]

    alone, followed = model(0.0), model(1.0)
    assert alone != followed
    assert [call["recipe"].lr for call in watched] == [0.01, 0.01]


def test_simulated_activations_have_256_levels_between_their_extremes(network, few_digits):
    sample = next(batches(few_digits.train, few_digits, network.input_shape[-1]))
    seen = []
    network[0].conv.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    with simulated_int8(network, sample):
        handle = network[0].conv.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
        network(sample)
        handle.remove()
    rounded = seen[-1]
    step = (sample.max() - sample.min()) / 255
    assert (rounded - sample).abs().max() <= 0.51 * step
    assert 2 < len(rounded.unique()) <= 256
    levels = (rounded - rounded.min()) / step
    torch.testing.assert_close(levels, levels.round(), atol=2e-2, rtol=0)


def test_simulated_ranges_hold_zero_and_move_slowly_while_it_trains():
    def ends(*batches):
        """The smallest and the largest activation that the last batch leaves."""
        with simulated_int8(layer, torch.tensor(batches[0])):
            seen = []
            handle = layer.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
            for x in batches[1:]:
                layer(torch.tensor(x))
            handle.remove()
        return seen[-1].amin().item(), seen[-1].amax().item()

    layer = nn.Linear(2, 2)
    for low, high in ((0.2, 0.9), (-0.9, -0.2), (-0.3, 0.6)):  # zero is one of the levels, wherever the values lie
        first = [[low, high]]
        least, most = min(low, 0.0), max(high, 0.0)
        with_zero = ends(first, [[0.0, 0.0]])
        assert with_zero == (0.0, 0.0)
        # a twentieth of the way to what a training batch holds; all else is cut off
        wide = [[least - 1, most + 1]]
        step = (most - least + 0.1) / 255
        assert ends(first, wide) == pytest.approx((least - 0.05, most + 0.05), abs=1.1 * step)
        with torch.no_grad():  # an evaluation moves nothing
            assert ends(first, wide) == pytest.approx((least, most), abs=1.1 * step)


def test_simulated_weights_of_a_channel_without_any_stay_zero():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0] = 0.0
    with simulated_int8(layer, torch.ones(1, 2)):
        assert layer.weight[0].tolist() == [0.0, 0.0]
        torch.testing.assert_close(layer.weight[1], layer.weight.detach()[1])
        assert layer.weight[1].abs().sum() > 0
        layer(torch.ones(1, 2)).sum().backward()
        assert layer.parametrizations.weight.original.grad[0].abs().sum() > 0  # and may still learn


# ---- the pipeline ----------------------------------------------------------------------------------------------


class Stopwatch:
    """A runtime that writes down what it is given; ``ms`` is what it says everything takes."""

    def __init__(self, precision, ms):
        self.device = SimpleNamespace(precision=precision)
        self.ms, self.given = ms, []

    def prepare(self, network, input_shape):
        self.given.append(network.read_bytes() if isinstance(network, Path) else network)
        return input_shape

    def time(self, prepared, repeats):
        return np.linspace(0, 2 * self.ms, repeats)


def test_each_precision_is_timed_by_its_runtime_as_what_is_deployed(network, few_digits):
    runtimes, told, rows = [Stopwatch("fp32", 2.0), Stopwatch("int8", 1.0)], [], []
    steps = [FineTune(epochs=1), Quantize(qat_epochs=0)]
    small = nas.compress(network, steps, few_digits, runtime=runtimes, on_step=told.append, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [1]
    assert [r.measured_ms for r in small.records] == pytest.approx([2.0, 2.0, 1.0])
    assert runtimes[0].given == [network, small.stages["fine-tune"]]
    assert runtimes[1].given == [small.network.model]
    assert told == [dataclasses.asdict(r) for r in small.records]
    first, _, last = small.records
    assert (first.precision, first.quantization) == ("fp32", "")
    assert (last.precision, last.quantization, last.note) == ("int8", "ptq", "")
    assert (first.size_bytes, last.size_bytes) == (
        4 * sum(b.weights for b in network.describe()),
        len(small.network.model),
    )
    assert first.accuracy == validation_accuracy(network, few_digits)
    assert (last.macs, last.params) == (first.macs, first.params)
    assert len(repr(small)) < 2000
    assert nas.compress(network, steps, few_digits).records[-1].measured_ms is None


def test_a_step_of_ones_own_needs_name_and_apply(network, few_digits):
    class Negate:
        name = "negate"

        def apply(self, network, context):
            negated = copy.deepcopy(network)
            with torch.no_grad():
                negated[-1].classify.weight.neg_()
                negated[-1].classify.bias.neg_()
            return negated

    x = torch.randn(4, *network.input_shape)
    small = nas.compress(network, [Negate()], few_digits)
    torch.testing.assert_close(small.network(x), -network(x))
    for wrong in (Prune, "prune", SimpleNamespace(name="x"), SimpleNamespace(name=3, apply=print)):
        with pytest.raises(BadInput, match="step"):
            nas.compress(network, [wrong], few_digits)
    with pytest.raises(BadInput, match="follows quantize, which leaves no layers; quantize last"):
        nas.compress(network, [Quantize(qat_epochs=0), Prune()], few_digits)
    int8 = Quantize(qat_epochs=0).apply(network, Context(data=few_digits))
    for step in (Prune(), Quantize()):
        with pytest.raises(BadInput, match="takes a float network of blocks, got Int8Network"):
            step.apply(int8, Context(data=few_digits))


@pytest.mark.parametrize("name", compression.names())
def test_every_step_is_found_by_its_file_and_leaves_its_input(name, network, few_digits):
    made = compression.named(name)
    step = compression.step_of(name)
    assert isinstance(step, made)
    assert step.name == name
    assert dataclasses.is_dataclass(step)
    fast = {k: 1 for k in ("epochs", "qat_epochs") if hasattr(step, k)}
    before = weights(network)
    x = torch.randn(2, *network.input_shape)
    changed = dataclasses.replace(step, **fast).apply(network, Context(data=few_digits))
    assert same(before, weights(network))
    assert changed(x).shape == (2, 10)


def test_steps_are_written_as_texts():
    assert compression.names() == ("fine-tune", "prune", "quantize")
    assert compression.step_of("prune:ratio=0.5, round_to=8") == Prune(ratio=0.5, round_to=8)
    assert compression.step_of("fine-tune:epochs=3,name=recover") == FineTune(epochs=3, name="recover")
    for text, message in (
        ("shrink", "there is no compression step 'shrink'; there are fine-tune, prune, quantize"),
        ("prune:size=3", "prune has no setting 'size'; it has ratio, round_to, name"),
        ("prune:ratio=2", "prune's ratio is a number above 0 to below 1"),
        ("prune:ratio", "prune's ratio is"),
        ("", "there is no compression step ''"),
    ):
        with pytest.raises(BadInput, match=message):
            compression.step_of(text)


@pytest.mark.parametrize(
    ("step", "setting"),
    [
        (Prune, {"ratio": 0.0}), (Prune, {"ratio": 1.0}), (Prune, {"ratio": float("nan")}), (Prune, {"round_to": 0}),
        (FineTune, {"epochs": -1}), (FineTune, {"lr": 0}), (FineTune, {"batch_size": 0}), (FineTune, {"distill": 1.1}),
        (Quantize, {"calibration": 0}), (Quantize, {"max_loss": float("nan")}), (Quantize, {"max_loss": 1.5}), (Quantize, {"max_loss": -1.5}), (Quantize, {"qat_epochs": -1}),
        (Quantize, {"qat_lr": float("inf")}), (Quantize, {"distill": -0.1}),
    ],
)  # fmt: skip
def test_steps_state_their_ranges(step, setting):
    with pytest.raises(BadInput, match=f"^{next(iter(setting))} is"):
        step(**setting)


def test_pruning_removes_channels_and_leaves_a_network_of_blocks(tiny, few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    before = weights(network)
    context = Context(data=few_digits)
    pruned = Prune(ratio=0.5, round_to=8).apply(network, context)
    assert sum(b.macs for b in pruned.describe()) < 0.6 * sum(b.macs for b in network.describe())
    assert all(b.out_ch % 8 == 0 for b in pruned.describe()[:-1])
    assert pruned.describe()[-1].out_ch == 10
    assert same(before, weights(network))
    rebuilt = Network(pruned.describe())
    rebuilt.load_state_dict(pruned.state_dict())
    x = torch.randn(2, *network.input_shape)
    torch.testing.assert_close(rebuilt.eval()(x), pruned(x))
    with pytest.raises(BadInput, match="ratio is a number above 0 to below 1, got"):
        Prune(ratio=1.5)


def test_compression_records_every_step(tiny, few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    teacher = calibrated(trained, trained.largest, few_digits)
    steps = [
        FineTune(epochs=2),
        Prune(ratio=0.4, round_to=8),
        FineTune(epochs=6, lr=0.05, name="recover"),
        Quantize(qat_epochs=2),
    ]
    runtimes = [nas.runtimes.OnnxRuntime(precision=p) for p in ("fp32", "int8")]
    small = nas.compress(network, steps, few_digits, runtime=runtimes, teacher=teacher)
    frame = small.to_pandas()
    assert frame["step"].tolist() == ["extract", "fine-tune", "prune", "recover", "quantize"]
    assert frame["precision"].tolist() == ["fp32"] * 4 + ["int8"]
    assert (frame["measured_ms"] > 0).all()
    assert frame["macs"][2] < frame["macs"][1]
    assert frame["accuracy"][3] > frame["accuracy"][2] - 0.02
    assert isinstance(small.network, Int8Network)
    assert frame["accuracy"][4] == validation_accuracy(small.network, few_digits)
    assert frame["accuracy"][4] > frame["accuracy"][3] - 0.05
    with pytest.raises(BadInput, match="quantize last"):
        nas.compress(network, [Quantize(qat_epochs=0), Prune()], few_digits)
    with pytest.raises(BadInput, match="same name"):
        nas.compress(network, [Prune(), Prune()], few_digits)


def test_simulated_int8_rounds_and_is_taken_off_again(few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    sample = next(batches(few_digits.train, few_digits, network.input_shape[-1]))
    plain, before = network(sample), weights(network)
    with simulated_int8(network, sample):
        rounded = network(sample)
        for layer, most in ((network[1].expand, weight_limit()), (network[1].depthwise, 127)):
            weight = layer.weight
            steps = weight / (weight.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / most)
            torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert 0 < (rounded - plain).abs().mean() < 0.2 * plain.abs().mean()
    assert same(before, weights(network))
    torch.testing.assert_close(network(sample), plain)


def test_quantization_aware_training_follows_when_too_much_is_lost(few_digits, trained):
    network = calibrated(trained, trained.largest, few_digits)
    context = Context(data=few_digits)
    never = Quantize(max_loss=1.0).apply(network, context)
    assert never.how == "ptq"
    # an impossible demand: fine-tuning must be tried, and the better of both kept
    always = Quantize(max_loss=-1.0, qat_epochs=3).apply(network, context)
    assert validation_accuracy(always, few_digits) >= validation_accuracy(never, few_digits)


# ---- recipes of steps --------------------------------------------------------------------------------------------


def test_steps_take_a_recipe_and_nothing_is_overruled(network, few_digits, watched):
    recipe = Recipe(epochs=1, lr=0.003, batch_size=128, ema=0.9, body_lr=0.1, freeze=1)
    FineTune(recipe=recipe).apply(network, Context(data=few_digits, augment=quiet))
    Quantize(max_loss=-1, qat=dataclasses.replace(recipe, freeze=0)).apply(network, Context(data=few_digits))
    assert watched[0]["recipe"] == recipe
    assert watched[0]["augment"] is quiet
    assert watched[1]["recipe"] == dataclasses.replace(recipe, freeze="norms")
    FineTune(epochs=1, recipe=recipe)
    for made, settings, message in (
        (FineTune, {"epochs": 2, "recipe": recipe}, "epochs is 2 but recipe.epochs is 1; give one of them"),
        (FineTune, {"epochs": 20, "recipe": recipe}, "epochs is 20 but"),  # also where it is what would be taken anyway
        (FineTune, {"lr": 0.02, "recipe": recipe}, "lr is 0.02 but recipe.lr is 0.003"),
        (FineTune, {"batch_size": 1, "recipe": recipe}, "batch_size is 1 but"),
        (Quantize, {"qat_epochs": 0, "qat": Recipe(epochs=1)}, "epochs is 0 but recipe.epochs is 1"),
        (Quantize, {"qat_lr": 1.0, "qat": Recipe(epochs=1)}, "lr is 1.0 but"),
        (Quantize, {"qat": recipe}, "freezes batch norm and no blocks, got freeze=1"),
    ):
        with pytest.raises(BadInput, match=message):
            made(**settings)


def quiet(images, generator):
    return images


def test_early_stopping_of_quantization_aware_training_looks_at_validation_images_without_a_trace(network, few_digits):
    recipe = Recipe(epochs=3, lr=0.005, batch_size=128, patience=3)

    def trained(recipe):
        model, data = copy.deepcopy(network), few_digits
        sample = next(batches(data.train, data, network.input_shape[-1]))
        with simulated_int8(model, sample):
            rows = learn(model, data, dataclasses.replace(recipe, freeze="norms"))
        return rows

    with_patience, without = trained(recipe), trained(dataclasses.replace(recipe, patience=0))
    assert with_patience["loss"].tolist() == without["loss"].tolist()
    assert "accuracy" in with_patience


def test_everything_after_the_search_trains_where_the_run_was_told_to(network, few_digits, watched):
    """``cpu:0`` is a name of the CPU that no default has."""
    steps = [FineTune(epochs=1), Prune(), FineTune(epochs=1, name="recover"), Quantize(max_loss=-1, qat_epochs=1)]
    small = nas.compress(network, steps, few_digits, device="cpu:0", teacher=network)
    assert [str(call["device"]) for call in watched] == ["cpu:0"] * 3
    assert small.stages["extract"] is not network
    with pytest.raises(BadInput, match="device is"):
        nas.compress(network, [FineTune(epochs=1)], few_digits, device="meta")
