"""Speed of generated torch code for modes that nobody tuned, against a plain translation of the same math.

The modes are those of tests/unusual_specs.py. The plain layer (tests/plain_torch.py) stacks the features once, and runs
one operation for each of the math's and one einsum for each sum of products; both have the same parameters, and their
outputs are compared before any timing (tests/test_plain_torch.py compares gradients too, in float64). Cases run and are
timed as in layer.py.

Ratios are times of the plain layer over times of the generated one (above 1: the generated layer is faster).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import NamedTuple

import torch
from layer import FULL, INFERENCE, OURS, QUICK, THREADS, TRAINING, Effort, duration, in_fresh_process, step_call, time_rounds
from plain_torch import PlainLayer, parameters_of
from unusual_specs import UNUSUAL, unusual_spec

from sparank_gen.ir.check import check_spec
from sparank_gen.spec.load import parse_spec
from sparank_gen.trial.cases import Case as Sizes
from test_random_programs import compiled

DIM, MODALITIES = 128, 3
PLAIN = "plain"
COLUMNS = tuple(itertools.product((64, 1024, 8192), (INFERENCE, TRAINING)))


class Case(NamedTuple):
    """What is timed; training is forward and backward, with gradients of inputs and parameters."""

    mode: str
    batch: int
    step: str


def measure(case: Case, effort: Effort) -> tuple[float, float]:
    """The median ratio of a case within rounds, and the median seconds of the generated layer."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    mode = check_spec(parse_spec(unusual_spec(case.mode), f"{case.mode}.yaml"))
    layer = compiled(mode)[0](DIM, MODALITIES, backend="torch")
    training = case.step == TRAINING
    sizes = Sizes(DIM, MODALITIES, ())
    parameters = {name: x.detach().requires_grad_(training) for name, x in parameters_of(layer, mode, sizes).items()}
    plain = PlainLayer(mode, sizes, parameters)
    features = [torch.randn(case.batch, DIM, requires_grad=training) for _ in range(MODALITIES)]
    with torch.set_grad_enabled(training):
        expected = plain(features)
        grad = torch.randn_like(expected) if training else None
        torch.testing.assert_close(layer(features), expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))
        group = {
            PLAIN: step_call(plain, features, list(parameters.values()), grad),
            OURS: step_call(layer, features, list(layer.parameters()), grad),
        }
        samples = time_rounds(group, effort)
    ratios = [theirs / ours for theirs, ours in zip(samples[PLAIN], samples[OURS], strict=True)]
    return statistics.median(ratios), statistics.median(samples[OURS])


def main() -> None:
    """Time all cases, and print a Markdown table of them."""
    parser = argparse.ArgumentParser(description="Time generated code for modes that nobody tuned against plain torch.")
    parser.add_argument("--only", metavar="MODE", choices=UNUSUAL, help="time one mode")
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, not a measurement")
    options = parser.parse_args()
    print("| mode | " + " | ".join(f"B = {batch}, {step}" for batch, step in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    every: list[float] = []
    for mode in [options.only] if options.only else UNUSUAL:
        found = [in_fresh_process(measure, Case(mode, *column), QUICK if options.quick else FULL) for column in COLUMNS]
        every += [ratio for ratio, _ in found]
        print(f"| {mode} | " + " | ".join(f"{ratio:.2f} ({duration(seconds)})" for ratio, seconds in found) + " |", flush=True)
    print(f"\nmedian {statistics.median(every):.2f}, least {min(every):.2f}")


if __name__ == "__main__":
    main()
