"""Dual forms: how exact the identities are, and how fast random features come near softmax.

python -m benchmarks.dual_forms                                # under a minute of one thread
python -m benchmarks.dual_forms --figure features.png          # with the errors as a picture
python -m benchmarks.dual_forms --digits --figure digits.png   # which digits does a small network attend to?
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.analysis import DualRecorder, RandomFeatures, feature_errors, softmax_dual, zero_shot_update
from iclkit.analysis.inside.linear_dual import LinearDual
from iclkit.analysis.inside.random_features import FeatureErrors, random_feature_attention
from iclkit.analysis.table import Table
from iclkit.energy import EnergyTransformer
from iclkit.networks import Attention, AttentionVariant, BlockConfig, Mask
from iclkit.networks.variants import fading
from iclkit.regression import InContextRegressor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS, DRAWS = (100, 1000, 10_000, 100_000), 20
SGD: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.01}
VARIANTS = {
    "regularised": AttentionVariant(regularised=0.3),
    "augmented": AttentionVariant(augmented=0.3),
    "negative samples": AttentionVariant(negative=0.3),
    "momentum": AttentionVariant(momentum=0.3),
}
TRAINING, EPOCHS, BATCH = 1437, 20, 32


def differ(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def identities() -> Iterator[tuple[str, float]]:
    """Each identity, and the largest number by which its two sides differ, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    optimizer, teacher = torch.optim.SGD(model.parameters(), lr=0.1, **SGD), draw(5, 3)
    with DualRecorder(model).attach(optimizer) as recorder:
        for _ in range(100):
            x = draw(8, 5)
            optimizer.zero_grad()
            (model(x) - (x @ teacher).sin()).square().mean().backward()
            optimizer.step()
    yield "MLP trained with momentum and decay: W_T", _worst(recorder)

    net = InContextRegressor(dim=3, width=16, layers=2, heads=2).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, **SGD)
    with DualRecorder(net).attach(optimizer) as recorder:
        for _ in range(100):
            x = draw(8, 6, 3)
            optimizer.zero_grad()
            (net(x, x.sum(-1))[..., 0] - x.sum(-1)).square().mean().backward()
            optimizer.step()
    yield f"{len(recorder.layers)} layers of a transformer: W_T", _worst(recorder)

    linear = Attention(BlockConfig(32, 4, weighting="linear")).double()
    x = draw(4, 20, 32)
    heads = zero_shot_update(linear, x[:, :-2], x[:, -2:])(linear.project(x)[0][:, :, -1:])
    expected = linear(x, Mask.lower(x))[0][:, -1:]
    yield "linear attention: W_ZSL + ΔW_ICL", differ(linear.out(heads.transpose(1, 2).flatten(2)), expected)

    q, k, v = _layer(generator)
    features = RandomFeatures.draw(1000, q.shape[-1], generator)
    dual = softmax_dual(q[..., -1, :], k, v, features)
    estimate = random_feature_attention(q[..., -1:, :], k, v, features)[..., 0, :]
    found = dual.predict(dual.step(dual.initial))
    yield "softmax: step on the dual, by random features", differ(found, estimate)

    values, running, sums = draw(4, 40, 8), draw(4, 8).zero_(), []
    for t in range(40):
        sums.append(running)
        running = 0.9 * (running + values[:, t])
    decay = fading(torch.ones(40, 40).triu(1).bool(), torch.arange(40), 0.9, torch.float64)
    yield "momentum attention: sum, running form", differ(torch.stack(sums, 1), decay @ values)

    points, candidates = draw(2, 12, 2), draw(2, 12, 3, 2)
    for name, variant in VARIANTS.items():
        energies = EnergyTransformer(2, 32, 3, 4, variant=variant, max_points=12).double()
        nn.init.normal_(energies.readout.weight)
        fast = energies.candidate_energies(points, candidates)
        slow = [
            energies.energies(torch.cat([points[:, :n], candidates[:, n, i, None]], 1))[:, -1]
            for n in range(12)
            for i in range(3)
        ]
        yield f"{name}: context encoded once", differ(fast.flatten(1), torch.stack(slow, 1))


def slopes() -> dict[str, FeatureErrors]:
    """Errors of random features, for short keys and for those of an untrained layer of the project.

    A product of features has the relative variance exp(|k + q|²) / m: the longer the keys, the more features
    it takes until errors fall as the root law says.
    """
    generator = torch.Generator().manual_seed(0)
    later = torch.ones(16, 16).triu(1).bool()
    q, k, v = (torch.randn(1, 16, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    found = {"short keys": feature_errors(0.35 * q, 0.35 * k, v, COUNTS, DRAWS, generator, later)}
    q, k, v = _layer(generator)
    return found | {"an untrained layer": feature_errors(q, k, v, COUNTS, DRAWS, generator, later)}


def digits(seed: int = 0) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Train a two-layer network on handwritten digits, and see which of them its predictions attend to.

    Returns:
        For each layer the shares of its positive attention by class [query, training]; rows of the table.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    x, y = torch.as_tensor(x)[order] / 16, torch.as_tensor(y)[order]
    x = x - x[:TRAINING].mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        first, last = nn.Linear(64, 64).double(), nn.Linear(64, 10).double()
    model = nn.Sequential(first, nn.Tanh(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    with DualRecorder(model, ["0", "2"]).attach(optimizer) as recorder:
        for _ in range(EPOCHS):
            for batch in torch.randperm(TRAINING, generator=generator).split(BATCH):
                recorder.label(batch)
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
    queries = x[TRAINING:]
    with torch.no_grad():
        hidden = first(queries).tanh()
        predicted = last(hidden).argmax(-1)
    right = float((predicted == y[TRAINING:]).double().mean())
    # The direction in a layer's output along which the winning logit grows.
    wins = F.one_hot(predicted, 10).double()
    directions = {"0": (1 - hidden.square()) * (wins @ last.weight.detach()), "2": wins}
    shares, rows = {}, [["test digits named rightly", f"{right:.1%}"]]
    for name, layer, given in (("first layer", "0", queries), ("last layer", "2", hidden)):
        dual = recorder.dual(layer)
        shares[name] = _by_class(dual, given, y[:TRAINING], predicted)
        most = torch.stack([_most(dual, q, u) for q, u in zip(given, directions[layer], strict=True)])
        same = float((y[:TRAINING][most] == predicted[:, None]).double().mean())
        rows.append([f"{name}: attention on the same digit", f"{float(shares[name].diagonal().mean()):.1%}"])
        rows.append([f"{name}: same digit among the ten that add most", f"{same:.1%}"])
    return shares, rows


def _by_class(dual: LinearDual, queries: Tensor, labels: Tensor, predicted: Tensor) -> Tensor:
    """The share of the positive attention that each class of training digits gets, by class of the query."""
    names, attention = dual.by_example(dual.attention(queries))
    positive = attention.clamp_min(0) @ F.one_hot(labels[names], 10).double()
    positive = positive / labels[names].bincount(minlength=10)  # as if all classes were equally frequent
    positive = positive / positive.sum(-1, keepdim=True)
    return torch.stack([positive[predicted == c].mean(0) for c in range(10)])


def _most(dual: LinearDual, query: Tensor, direction: Tensor, count: int = 10) -> Tensor:
    """The training digits that push most along a direction."""
    names, added = dual.by_example(dual.contributions(query, direction))
    return names[added.topk(count).indices]


def _interval(errors: FeatureErrors) -> str:
    low, high = errors.slope_interval()
    return f"{errors.slope:.2f} [{low:.2f}, {high:.2f}]"


def _worst(recorder: DualRecorder) -> float:
    """The largest difference between a layer's weights and its dual's, over all layers."""
    return max(differ(recorder.dual(name).weight, layer.weight) for name, layer in recorder.layers.items())


def _layer(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a softmax layer of the project at its start."""
    made = Attention(BlockConfig(32, 4)).double()
    x = F.layer_norm(torch.randn(1, 16, 32, generator=generator, dtype=torch.float64), [32])
    with torch.no_grad():
        return made.project(x)


def show_forms(console: Console) -> Figure:
    """Print the identities and the slopes; the slopes as a figure."""
    from iclkit.report.dual_figure import feature_error_figure

    rows = [[name, f"{error:.1e}"] for name, error in identities()]
    console.print(Table(["identity", "largest difference"], rows).rich("float64"))
    measured = slopes()
    rows = [[name, *(f"{mean:.3f}" for mean in one.mean), _interval(one)] for name, one in measured.items()]
    columns = ["m =", *(f"10^{len(str(count)) - 1}" for count in COUNTS), "slope in log m"]
    console.print(Table(columns, rows).rich("random features: error over size of softmax's output"))
    return feature_error_figure(measured)


def show_digits(console: Console) -> Figure:
    """Print how much of the attention lies in the class of the query; by class as a figure."""
    from iclkit.report.dual_figure import class_attention_figure

    shares, rows = digits()
    title = f"trained on {TRAINING} digits for {EPOCHS} epochs; by chance 10 %"
    console.print(Table(["quantity", "share"], rows).rich(title))
    panels = {name: share.numpy() for name, share in shares.items()}
    return class_attention_figure(panels, [str(c) for c in range(10)], "digit")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", action="store_true", help="the digits that a small network attends to")
    parser.add_argument("--figure", type=Path, help="write a PNG there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console, start = Console(), time.process_time()
    figure = (show_digits if given.digits else show_forms)(console)
    console.print(f"{time.process_time() - start:.0f} processor seconds")
    if given.figure:
        from iclkit.report.figures import png

        given.figure.write_bytes(png(figure))


if __name__ == "__main__":
    main()
