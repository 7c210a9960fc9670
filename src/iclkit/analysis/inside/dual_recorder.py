"""Record the training of linear layers, to write them as attention over what they were trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclkit.analysis.inside.descent_response import Update, check_linear, response
from iclkit.analysis.inside.linear_dual import LinearDual
from iclkit.errors import UserError, unknown
from iclkit.networks.hooks import matching


@dataclass
class _Pass:
    """One pass of a batch through a layer and back.

    `number` counts passes, `examples` are the labels given for the batch, if any.
    """

    number: int
    inputs: Float[Tensor, "B *T I"]
    errors: Float[Tensor, "B *T O"]
    examples: Int[Tensor, " B"] | None


@dataclass
class _Record:
    """What is known of one layer since `attach`."""

    layer: nn.Linear
    group: dict[str, Any]
    weight: Tensor
    momentum: Tensor | None
    updates: list[Update] = field(default_factory=list)
    passes: list[_Pass] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    places: list[Int[Tensor, "3 M"]] = field(default_factory=list)  # updates, examples, tokens
    started: int = 0
    counted: int = 0
    last: tuple[Tensor, Tensor | None] | None = None


class DualRecorder:
    """Records the inputs and error signals of linear layers at every update of an optimiser.

        with DualRecorder(model, ["0", "2"]).attach(optimizer) as recorder:
            train(model, optimizer)
        recorder.dual("2").top(query)

    What it holds grows with the training: inputs + outputs numbers for each row that a layer sees. Its time is
    that of one more gradient of each layer's weights, by which every update is compared with what was recorded:
    gradients accumulated over several batches are recorded as they are, gradients scaled as a whole (clipping
    by the norm) with their factor, and what no factor explains is refused.

    Args:
        model: The network that is trained.
        layers: Names or glob patterns of linear layers, as `named_modules` has them (for a network with hook
            points: as these are named); None for all.

    Raises:
        UserError: A name that no linear layer has, or a model without any.

    Source: Irie, Csordás and Schmidhuber (2022), "The dual form of neural networks revisited".
    """

    def __init__(self, model: nn.Module, layers: str | Iterable[str] | None = None) -> None:
        found = linear_layers(model)
        if not found:
            raise UserError(f"{type(model).__name__} has no torch.nn.Linear layer; only these have duals")
        names = matching("linear layer", "*" if layers is None else layers, found)
        self.layers = {name: found[name] for name in names}
        self._records: dict[str, _Record] = {}
        self._handles: list[Any] = []
        self._labels: Int[Tensor, " B"] | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """Record from now on, from the weights as they are; what was recorded before is dropped.

        Args:
            optimizer: The `torch.optim.SGD` that trains the layers; momentum that it has already is kept apart.

        Returns:
            The recorder, which detaches at the end of a `with` block.

        Raises:
            UserError: An optimiser whose updates are not linear in the gradients, or that does not train a
                layer; a recorder that is attached already. Later, in `optimizer.step`: a closure, or a gradient
                that is not the sum of what passed the layer, up to a factor, or labels that are not as many as
                the examples.
        """
        if self._handles:
            raise UserError("the recorder is attached already; call detach() first")
        sgd = check_linear(optimizer)
        groups = {id(parameter): group for group in sgd.param_groups for parameter in group["params"]}
        records = {}
        for name, layer in self.layers.items():
            if id(layer.weight) not in groups:
                raise UserError(
                    f"the optimizer does not train the weight of layer {name!r}; give it, or name others"
                )
            before = sgd.state.get(layer.weight, {}).get("momentum_buffer")
            records[name] = _Record(
                layer,
                groups[id(layer.weight)],
                layer.weight.detach().clone(),
                None if before is None else before.clone(),
            )
        self._records = records
        self._handles = [
            record.layer.register_forward_hook(_listener(self, record), with_kwargs=True)
            for record in records.values()
        ]
        self._handles.append(sgd.register_step_pre_hook(self._before_step))
        return self

    def detach(self) -> None:
        """Stop recording; the duals are those of the weights as they are now."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for record in self._records.values():
            if record.last is None:
                record.last = _weights(record.layer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def label(self, examples: Int[Tensor, " B"] | None) -> None:
        """Say which examples the batches from now on hold; without labels they are counted as they come.

        Args:
            examples: A number for each entry of the inputs' first axis; None to count again.
        """
        self._labels = None if examples is None else examples.clone()

    def dual(self, layer: str) -> LinearDual:
        """The trained layer as attention over its training data.

        Args:
            layer: Its name.

        Raises:
            UserError: A layer that is not recorded, one that no update has reached, or one whose weights were
                changed by something else than the optimiser.
        """
        if layer not in self.layers:
            raise unknown("recorded layer", layer, self.layers)
        record = self._records.get(layer)
        if record is None or not record.updates:
            raise UserError(f"no update of layer {layer!r} was recorded; attach(optimizer) before training")
        weight, bias = record.last or _weights(record.layer)
        found = response(record.updates)
        updates, examples, tokens = torch.cat(record.places, 1)
        gradients = weight.new_tensor(found.gradients)
        values = gradients[updates][:, None] * torch.cat(record.errors)
        initial = found.weights * record.weight
        if record.momentum is not None:
            initial = initial + found.momentum * record.momentum
        dual = LinearDual(initial, torch.cat(record.keys), values, updates, examples, tokens, gradients, bias)
        if not torch.allclose(dual.weight, weight, rtol=0, atol=_loose(weight) * float(weight.abs().max())):
            raise UserError(
                f"the weight of layer {layer!r} is not what its {len(record.updates)} recorded updates make; "
                "something else changed it: load weights before attach, and let the optimizer alone change them"
            )
        return dual

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(argument is not None for argument in (*args[1:], *kwargs.values())):
            raise UserError("a recorded optimizer takes no closure; call backward() and then step()")
        taken = {name: (record, record.passes) for name, record in self._records.items()}
        for record, _ in taken.values():
            record.passes = []
        found = []  # before any record grows: a layer that is refused leaves none of them behind
        for name, (record, passes) in taken.items():
            gradient = record.layer.weight.grad
            if gradient is not None:  # else the optimiser leaves the weight alone, decay included
                inputs, errors, places = _rows(record, sorted(passes, key=lambda one: one.number))
                found.append((record, inputs, _factor(name, gradient, inputs, errors) * errors, places))
        for record, inputs, errors, places in found:
            state = optimizer.state.get(record.layer.weight, {})
            record.updates.append(Update.of(record.group, first=state.get("momentum_buffer") is None))
            record.keys.append(inputs)
            record.errors.append(errors)
            record.places.append(places)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer of a model by its name, without what the names of its hook points leave out."""
    root = getattr(model, "hook_root", "")
    return {
        path.removeprefix(root): module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def _weights(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return layer.weight.detach().clone(), None if layer.bias is None else layer.bias.detach().clone()


def _listener(recorder: DualRecorder, record: _Record) -> Any:
    """A forward hook that waits for the gradient of what the layer returned."""

    def listen(layer: nn.Linear, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        if not (output.requires_grad and layer.weight.requires_grad):
            return
        given = (inputs[0] if inputs else named["input"]).detach()
        given = given if given.ndim > 1 else given[None]
        number, labels = record.started, recorder._labels
        record.started += 1
        weight = layer.weight.detach()

        def keep(error: Tensor) -> None:
            # Copies: what a batch is kept in may be filled again.
            error = error.detach().reshape(*given.shape[:-1], -1)
            record.passes.append(
                _Pass(number, given.to(weight, copy=True), error.to(weight, copy=True), labels)
            )

        output.register_hook(keep)

    return listen


def _rows(record: _Record, passes: list[_Pass]) -> tuple[Tensor, Tensor, Int[Tensor, "3 M"]]:
    """Inputs and errors of one update as rows, and the update, example and token of each."""
    weight, update, seen = record.layer.weight, len(record.updates), {}
    inputs, errors, places = [weight.new_zeros(0, weight.shape[1])], [weight.new_zeros(0, len(weight))], []
    for one in passes:
        count = len(one.inputs)
        tokens = one.inputs[0, ..., 0].numel() if count else 0
        if one.examples is not None:
            if one.examples.shape != (count,):
                raise UserError(
                    f"a layer was given {count} examples and labels of shape {list(one.examples.shape)}; label "
                    "every example"
                )
            examples = one.examples.to(weight.device)
        else:
            # A graph that is gone through twice holds the same examples.
            first = seen.setdefault(one.number, record.counted)
            record.counted = max(record.counted, first + count)
            examples = torch.arange(first, first + count, device=weight.device)
        token = torch.arange(tokens, device=weight.device).repeat(count)
        inputs.append(one.inputs.reshape(-1, weight.shape[1]))
        errors.append(one.errors.reshape(-1, len(weight)))
        places.append(torch.stack([torch.full_like(token, update), examples.repeat_interleave(tokens), token]))
    empty = torch.zeros(3, 0, dtype=torch.long, device=weight.device)
    return torch.cat(inputs), torch.cat(errors), torch.cat([empty, *places], 1)


def _factor(name: str, gradient: Tensor, inputs: Float[Tensor, "M I"], errors: Float[Tensor, "M O"]) -> float:
    """By what the gradient was scaled since it passed the layer: 1, or what clipping by the norm left of it."""
    passed = errors.mT @ inputs
    # Rounding: of the gradient itself, and of sums in which rows cancel.
    room = _loose(gradient) * float(gradient.norm())
    room += 32 * torch.finfo(gradient.dtype).eps * float(errors.norm() * inputs.norm())
    if float((gradient - passed).norm()) <= room:
        return 1.0
    square = float(passed.square().sum())
    factor = float((gradient * passed).sum()) / square if square else 0.0
    if float((gradient - factor * passed).norm()) <= room:
        return factor
    raise UserError(
        f"the gradient of layer {name!r} is not the sum of what passed it; call it as a module, share "
        "it with no other, write penalties as weight_decay, clip by the norm, backward() only for step()"
    )


def _loose(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps ** 0.5
