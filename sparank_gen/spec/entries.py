"""The entries under ``hyperparameters`` and ``params``, and the names that they may take."""

from __future__ import annotations

import keyword

import yaml

from sparank_gen.spec import errors
from sparank_gen.spec.model import Hyperparameter, ModuleSpec, TensorSpec
from sparank_gen.spec.reader import Reader, identifier, known_keys
from sparank_gen.spec.source import Text

# What every layer has: arguments and attributes of ours, and members of ``torch.nn.Module``.
OWN = frozenset(
    """
    self dim dims one_width n_modalities out_dim backend fusion_type features return_gates present least_modalities most_modalities
    extras has_gradients has_pair_form has_pair_gradients numbered batch_dims only_moves modalities batch
    """.split()
)
MEMBERS = frozenset(
    """
    T_destination add_module apply bfloat16 buffers
    call_super_init children compile cpu cuda double dump_patches eval extra_repr float forward get_buffer
    get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters parameters register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule
    share_memory state_dict to to_empty train training type xpu zero_grad
    """.split()
)
ATTRIBUTES = OWN | MEMBERS
# Python's own list depends on its version.
SOFT_KEYWORDS = frozenset({"_", "case", "match", "type"})
# What a constructor calls by its name.
CALLED = frozenset("abs cast container float int math max min nn range sum super torch uniform".split())
# What every dictionary of ``return_gates`` has.
ENTRIES = {"type": "the mode's name", "weights": "the fusion weights; give their layout as 'weights'"}


def hyperparameter(reader: Reader, name: Text, node: yaml.Node) -> Hyperparameter:
    known = {"type": "", "default": "", "minimum": "", "maximum": "", "help": ""}
    values = known_keys(reader, node, known, f"hyper-parameter {name.value!r}")
    if "default" not in values:
        raise errors.MissingKey(f"hyper-parameter {name.value!r} has no default", name.span(), "add 'default: …'")
    kind = reader.text(values["type"], "type") if "type" in values else None
    if kind is not None and kind.value not in ("int", "float"):
        raise errors.BadValue(f"{kind.value!r} is not a type of hyper-parameter", kind.span(), "write int or float")
    default = reader.number(values["default"], "default")
    type_name = kind.value if kind is not None else type(default).__name__
    minimum = reader.number(values["minimum"], "minimum") if "minimum" in values else 1 if type_name == "int" else None
    maximum = reader.number(values["maximum"], "maximum") if "maximum" in values else None
    if type_name == "int" and not isinstance(default, int):
        raise errors.BadValue(f"the default {default} is not an int", reader.span(values["default"]), "write a whole number")
    if maximum is not None and minimum is not None and maximum < minimum:
        raise errors.BadValue(
            f"the maximum {maximum} is below the minimum {minimum}", reader.span(values["maximum"]), "raise the maximum"
        )
    if minimum is not None and default < minimum:
        said = "" if "minimum" in values else ", which an int has where none is written"
        remedy = "raise the default" if "minimum" in values else f"raise it, or write 'minimum: {default}', or 'type: float'"
        raise errors.BadValue(f"the default {default} is below the minimum {minimum}{said}", reader.span(values["default"]), remedy)
    if maximum is not None and default > maximum:
        raise errors.BadValue(
            f"the default {default} is above the maximum {maximum}", reader.span(values["default"]), "lower the default"
        )
    for key in ("minimum", "maximum"):
        if type_name == "int" and key in values and not isinstance(reader.number(values[key], key), int):
            raise errors.BadValue(f"the {key} of an int is whole", reader.span(values[key]), "write a whole number")
    text = reader.text(values["help"], "help").value.strip() if "help" in values else ""
    _require_free(name)
    return Hyperparameter(identifier(name, "a hyper-parameter"), type_name, default, minimum, maximum, text)


def _require_free(name: Text) -> None:
    """Raise where a hyper-parameter would have the name of something else in a layer."""
    meanings = {
        "a member of every torch module": name.value in MEMBERS,
        "an argument or attribute of every layer": name.value in OWN,
        "what constructors of layers call by that name": name.value in CALLED,
        "like the private names of layers, which start with '_' or 'require_'": name.value.startswith(("_", "require_")),
    }
    meaning = next((meaning for meaning, is_so in meanings.items() if is_so), None)
    if meaning is not None:
        raise errors.ReusedName(f"{name.value!r} already has a meaning, in every spec: it is {meaning}", name.span(), "choose another name")


def mode_name(name: Text) -> Text:
    """The name of a mode: that of a file, and of a class but for its case."""
    if name.value in SOFT_KEYWORDS:
        raise errors.BadValue(f"{name.value!r} is a keyword of Python in places", name.span(), "choose another name")
    if name.value in ATTRIBUTES:
        raise errors.ReusedName(f"{name.value!r} is an attribute of every layer", name.span(), "choose another name")
    return identifier(name, "the mode's name")


def diagnostic(name: Text) -> Text:
    """The key of a diagnostic in the dictionary of ``return_gates``."""
    if name.value in ENTRIES:
        raise errors.ReusedName(f"{name.value!r} is {ENTRIES[name.value]}, in every mode", name.span(), "choose another name")
    return identifier(name, "a diagnostic")


def parameter(reader: Reader, path: Text, node: yaml.Node) -> ModuleSpec | TensorSpec:
    """An entry under ``params``: a torch module, or a tensor that stands by itself."""
    _check_path(path)
    keys = [key.value for key, _ in reader.mapping(node, f"parameter {path.value!r}")]
    if "tensor" in keys and "module" not in keys:
        return _tensor(reader, path, node)
    if "module" not in keys:
        raise errors.MissingKey(
            f"parameter {path.value!r} names no module", path.span(), "add 'module: Linear', say, or 'tensor: \"w[i]\"'"
        )
    return _module(reader, path, node)


def _check_path(path: Text) -> None:
    """Raise unless ``path`` is names joined by dots, and at most one whole number, which is last."""
    *outer, last = path.value.split(".")
    names = [*outer, last] if not outer or not last.isdecimal() else outer
    if not all(name.isidentifier() and name.isascii() for name in names):
        raise errors.BadValue(
            f"{path.value!r} is not an attribute path", path.span(), "write an attribute such as 'proj', 'head.query' or 'net.0'"
        )
    for name in names:
        if keyword.iskeyword(name) or name.startswith("_") or name in ATTRIBUTES:
            raise errors.BadValue(
                f"{name!r} cannot be an attribute of the layer", path.span(), "choose a name that a torch module does not use"
            )


def _module(reader: Reader, path: Text, node: yaml.Node) -> ModuleSpec:
    values: dict[str, yaml.Node] = {}
    tensors = []
    for key, value in reader.mapping(node, f"parameter {path.value!r}"):
        if key.value in ("module", "per", "arguments"):
            values[key.value] = value
        else:
            tensors.append((key, reader.text(value, f"the layout of {key.value!r}")))
    arguments = reader.mapping(values["arguments"], "arguments") if "arguments" in values else []
    return ModuleSpec(
        path=path,
        module=reader.text(values["module"], "module"),
        per=reader.text(values["per"], "per") if "per" in values else None,
        arguments=tuple((name, reader.text(value, "an argument")) for name, value in arguments),
        tensors=tuple(tensors),
    )


def _tensor(reader: Reader, path: Text, node: yaml.Node) -> TensorSpec:
    what = f"parameter {path.value!r}"
    values = known_keys(reader, node, dict.fromkeys(("tensor", "per", "init", "std", "value", "fan"), ""), what)
    if "init" not in values:
        raise errors.MissingKey(f"{what} has no initialisation", path.span(), "add 'init: zeros', say")
    numbers = [(key, value) for key, value in reader.mapping(node, what) if key.value in ("std", "value")]
    fan = reader.mapping(values["fan"], "fan") if "fan" in values else []
    return TensorSpec(
        path=path,
        tensor=reader.text(values["tensor"], "tensor"),
        per=reader.text(values["per"], "per") if "per" in values else None,
        init=reader.text(values["init"], "init"),
        numbers=tuple((key, reader.text(value, key.value)) for key, value in numbers),
        fan=tuple((side, reader.text(value, f"fan {side.value!r}")) for side, value in fan),
    )
