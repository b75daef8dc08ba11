"""Train a small classifier with each fusion mode on the Wisconsin breast-cancer data.

The 30 measurements of an image of cell nuclei are three natural modalities of ten: the mean, the standard
error and the worst value of ten properties. Each modality has an encoder, a fusion layer joins the
embeddings, and a linear head tells benign from malignant. The published layer is trained next to the
generated one, from the same seeds and on the same splits and batches, one epoch of each in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from published import PublishedFusionLayer
from sparank_fusion import FusionLayer, list_modes

MODALITIES = {"mean": slice(0, 10), "error": slice(10, 20), "worst": slice(20, 30)}
CHOICES = (("mean", "error", "worst"), ("mean", "worst"))  # a mode gets the first choice that it takes
MEASUREMENTS, CLASSES = 10, 2
WIDTH = 96  # of the table, in characters
DIM, EPOCHS, BATCH, LEARNING_RATE = 32, 30, 64, 3e-3

Layer = Callable[..., Any]  # called with dim, number of modalities and mode


class Split(NamedTuple):
    """Standardised measurements (rows, 30) and class labels (rows)."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Classifier(nn.Module):
    """One encoder for each modality, a fusion layer and a linear head."""

    def __init__(self, layer: Layer, mode: str, names: Sequence[str]) -> None:
        super().__init__()
        self.columns = [MODALITIES[name] for name in names]
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(MEASUREMENTS, DIM), nn.ReLU()) for _ in names
        )
        self.fusion = layer(DIM, len(names), mode)
        self.head = nn.Linear(self.fusion.out_dim, CLASSES)

    def embed(self, measurements: Tensor) -> list[Tensor]:
        """The embedding (rows, dim) of each modality."""
        return [
            encoder(measurements[:, columns])
            for encoder, columns in zip(self.encoders, self.columns, strict=True)
        ]

    def forward(self, measurements: Tensor) -> Tensor:
        """Logits (rows, classes)."""
        logits: Tensor = self.head(self.fusion(self.embed(measurements)))
        return logits


class Training:
    """A classifier in training, with the seconds that each epoch took."""

    def __init__(self, layer: Layer, mode: str, names: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Classifier(layer, mode, names)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.shuffle = torch.Generator().manual_seed(seed)
        self.seconds: list[float] = []

    def epoch(self, measurements: Tensor, labels: Tensor) -> None:
        """One pass over the training rows in shuffled batches."""
        start = time.perf_counter()
        for rows in torch.randperm(len(labels), generator=self.shuffle).split(BATCH):
            self.optimiser.zero_grad()
            nn.functional.cross_entropy(self.model(measurements[rows]), labels[rows]).backward()
            self.optimiser.step()
        self.seconds.append(time.perf_counter() - start)


@dataclass
class Outcome:
    """What a mode reached, over all seeds."""

    mode: str
    names: tuple[str, ...]
    out_dim: int = 0
    parameters: int = 0
    accuracies: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    relative_times: list[float] = field(default_factory=list)
    logit_differences: list[float] = field(default_factory=list)
    label_differences: int = 0


def load_split(seed: int) -> Split:
    """A stratified split, standardised by the training rows alone."""
    measurements, labels = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        measurements, labels, test_size=0.3, stratify=labels, random_state=seed
    )
    scaler = StandardScaler().fit(train_x)

    def tensors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor(scaler.transform(x), dtype=torch.float32), torch.tensor(y)

    return Split(tensors(train_x, train_y), tensors(test_x, test_y))


def modalities_for(mode: str) -> tuple[str, ...]:
    """All three modalities, or mean and worst if the mode takes only two."""
    for names in CHOICES:
        try:
            FusionLayer(DIM, len(names), mode)
        except ValueError as error:
            refusal = error
        else:
            return names
    raise SystemExit(f"{mode} takes neither three modalities nor two: {refusal}")


def published_offers(mode: str, count: int) -> bool:
    """Whether the published layer knows the mode."""
    try:
        PublishedFusionLayer(DIM, count, mode)
    except ValueError:
        return False
    return True


def modality_means(weights: Tensor, count: int) -> Tensor | None:
    """Mean weight of each modality over all other axes; None where they are no weights of modalities.

    The modalities are the last axis of their extent: the leading axis of weights (M, B, dim), and the
    attended tokens of an attention matrix (B, M, M).
    """
    axes = [axis for axis, extent in enumerate(weights.shape) if extent == count]
    return weights.movedim(axes[-1], 0).flatten(1).mean(1) if axes else None


def train_seed(outcome: Outcome, seed: int, bar: tqdm[Any]) -> None:
    """Train on one split, the published layer alongside where it has the mode, and record the results."""
    split = load_split(seed)
    ours = Training(FusionLayer, outcome.mode, outcome.names, seed)
    runs = [ours]
    if published_offers(outcome.mode, len(outcome.names)):
        runs.append(Training(PublishedFusionLayer, outcome.mode, outcome.names, seed))
    for number in range(EPOCHS):
        for run in runs if number % 2 else reversed(runs):
            run.epoch(*split.train)
        bar.update()
    record(outcome, ours, split.test)
    for published in runs[1:]:
        compare(outcome, ours, published, split.test[0])


def record(outcome: Outcome, run: Training, test: tuple[Tensor, Tensor]) -> None:
    """Add the accuracy and the weights on the test rows, and the sizes of the fusion layer."""
    measurements, labels = test
    model = run.model.eval()
    with torch.no_grad():
        correct = model(measurements).argmax(1) == labels
        _, info = model.fusion(model.embed(measurements), return_gates=True)
    outcome.out_dim = model.fusion.out_dim
    outcome.parameters = sum(parameter.numel() for parameter in model.fusion.parameters())
    outcome.accuracies.append(float(correct.float().mean()))
    means = None if info["weights"] is None else modality_means(info["weights"], len(outcome.names))
    if means is not None:
        outcome.weights.append(means)


def compare(outcome: Outcome, ours: Training, published: Training, measurements: Tensor) -> None:
    """Add the times relative to the published layer, and how far the two classifiers are apart."""
    pairs = zip(ours.seconds, published.seconds, strict=True)
    outcome.relative_times += [mine / theirs for mine, theirs in pairs]
    with torch.no_grad():
        mine, theirs = ours.model.eval()(measurements), published.model.eval()(measurements)
    outcome.logit_differences.append(float((mine - theirs).abs().max()))
    outcome.label_differences += int((mine.argmax(1) != theirs.argmax(1)).sum())


def table_row(outcome: Outcome) -> list[str]:
    """The cells of a mode's row; '–' for what does not exist."""
    spread = statistics.stdev(outcome.accuracies)
    weights: dict[str, str] = {}
    if outcome.weights:
        means = torch.stack(outcome.weights).mean(0).tolist()
        weights = {name: f"{mean:.2f}" for name, mean in zip(outcome.names, means, strict=True)}
    times = outcome.relative_times
    return [
        outcome.mode + ("" if len(outcome.names) == len(MODALITIES) else "*"),
        str(outcome.out_dim),
        f"{outcome.parameters:,}",
        f"{100 * statistics.mean(outcome.accuracies):.1f} ± {100 * spread:.1f}",
        *(weights.get(name, "–") for name in MODALITIES),
        f"{statistics.median(times):.2f}" if times else "–",
    ]


def print_table(outcomes: Sequence[Outcome], seeds: int) -> None:
    """One row for each mode, and below it what holds for all of them."""
    title = "Wisconsin breast cancer: a classifier with each fusion mode"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("mode", no_wrap=True)
    weights = (f"weight\n{name}" for name in MODALITIES)
    for heading in ("out\ndim", "para-\nmeters", "test\naccuracy", *weights, "time\nratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(*table_row(outcome))
    # No name of a mode is cut short, on a narrow terminal either.
    console = Console(width=max(WIDTH, Console().width))
    console.print(table)
    console.print(f"Test accuracy in percent: mean ± standard deviation over {seeds} seeds.")
    console.print("Weights: means over test rows and dimensions.")
    console.print("Time ratio: training time over that with the published layer.")
    if any(len(outcome.names) < len(MODALITIES) for outcome in outcomes):
        console.print("* This mode does not take three modalities: it was given mean and worst.")
    compared = [outcome for outcome in outcomes if outcome.logit_differences]
    if compared:
        largest = max(max(outcome.logit_differences) for outcome in compared)
        labels = sum(outcome.label_differences for outcome in compared)
        console.print(
            f"The published layer, from the same seeds: {labels} test rows classified differently,\n"
            f"test logits apart by at most {largest:.1e}."
        )


def main() -> None:
    """Train all modes over all seeds, then print the table."""
    parser = argparse.ArgumentParser(description="Compare the fusion modes on breast-cancer data.")
    parser.add_argument("--seeds", type=int, default=5, help="splits and initial weights (at least 2)")
    seeds = max(2, parser.parse_args().seeds)
    torch.set_num_threads(1)  # the batches are too small to be worth sharing
    outcomes = [Outcome(mode, modalities_for(mode)) for mode in list_modes()]
    with tqdm(total=len(outcomes) * seeds * EPOCHS, unit="epoch") as bar:
        for outcome in outcomes:
            bar.set_description(outcome.mode)
            for seed in range(seeds):
                train_seed(outcome, seed, bar)
    print_table(outcomes, seeds)


if __name__ == "__main__":
    main()
