"""How a parameter that stands by itself is filled at construction: the table of initialisations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Initialisation:
    """One way to fill a tensor.

    Attributes:
        torch: the tensor, over ``{sizes}`` and ``{number}``.
        number: the key of the number that it needs, or empty.
        fans: the fans that it needs.
        bound: for a uniform distribution, its bound over the fans; ``torch`` is then what a matrix ``(out, in)`` takes.
    """

    torch: str
    number: str = ""
    fans: tuple[str, ...] = ()
    bound: str = ""


INITIALISATIONS: Mapping[str, Initialisation] = {
    "xavier_uniform": Initialisation(
        "nn.init.xavier_uniform_(torch.empty({sizes}))",
        fans=("in", "out"),
        bound="math.sqrt(6 / ({fan_in:6} + {fan_out:7}))",
    ),
    "kaiming_uniform": Initialisation(
        "nn.init.kaiming_uniform_(torch.empty({sizes}))",
        fans=("in",),
        bound="math.sqrt(6 / {fan_in:8})",
    ),
    "normal": Initialisation("nn.init.normal_(torch.empty({sizes}), std={number})", number="std"),
    "zeros": Initialisation("torch.zeros({sizes})"),
    "ones": Initialisation("torch.ones({sizes})"),
    "constant": Initialisation("nn.init.constant_(torch.empty({sizes}), {number})", number="value"),
}
