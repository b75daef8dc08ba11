"""A spec file as immutable data: what the author wrote, with places, before any meaning is given to it."""

from __future__ import annotations

from dataclasses import dataclass

from sparank_gen.spec.source import Span, Text


@dataclass(frozen=True)
class ModalityCount:
    """How many modalities a mode takes: at least ``minimum`` and, unless None, at most ``maximum``."""

    minimum: int
    maximum: int | None

    @property
    def exact(self) -> int | None:
        """The one number of modalities the mode takes, or None where it takes several."""
        return self.minimum if self.minimum == self.maximum else None

    def __str__(self) -> str:
        if self.exact is not None:
            return f"exactly {self.exact}"
        if self.maximum is None:
            return f"at least {self.minimum}"
        return f"{self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class Hyperparameter:
    """A constructor argument of a mode beside ``dim`` and ``n_modalities``."""

    name: Text
    type: str
    default: int | float
    minimum: int | float | None
    maximum: int | float | None
    help: str


@dataclass(frozen=True)
class ModuleSpec:
    """A torch module that holds parameters.

    Attributes:
        path: the attribute path in the layer, such as ``gate_net.0``; the prefix of its state-dict keys.
        module: the name of the class in ``torch.nn``.
        per: the axis along which there is one such module for each index (an ``nn.ModuleList``), or None.
        arguments: constructor arguments that the tensors' layouts do not determine.
        tensors: for each tensor of the module, its path inside the module and its layout string.
    """

    path: Text
    module: Text
    per: Text | None
    arguments: tuple[tuple[Text, Text], ...]
    tensors: tuple[tuple[Text, Text], ...]


@dataclass(frozen=True)
class TensorSpec:
    """A parameter that stands in the layer by itself.

    Attributes:
        path: the attribute path in the layer; the tensor's state-dict key.
        tensor: its layout string.
        per: the axis along which there is one such tensor for each index (an ``nn.ParameterList``), or None.
        init: the name of its initialisation.
        numbers: what else the initialisation is given: ``std`` or ``value``, each an expression.
        fan: the axes of each fan, by ``in`` and ``out``.
    """

    path: Text
    tensor: Text
    per: Text | None
    init: Text
    numbers: tuple[tuple[Text, Text], ...]
    fan: tuple[tuple[Text, Text], ...]


@dataclass(frozen=True)
class FusionSpec:
    """One fusion mode as its author wrote it; see the language page for the meaning of each key."""

    path: str
    place: Span
    mode: Text
    summary: Text
    description: str
    references: tuple[str, ...]
    modalities: ModalityCount
    axes: tuple[tuple[Text, Text], ...]
    hyperparameters: tuple[Hyperparameter, ...]
    params: tuple[ModuleSpec | TensorSpec, ...]
    features: Text | None
    math: Text | None
    out: Text | None
    weights: Text | None
    diagnostics: tuple[tuple[Text, Text], ...]
    properties: tuple[Text, ...]
