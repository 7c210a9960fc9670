"""A causal language model of Hugging Face as it is asked by `compare_fine_tuning`; needs the extra `hub`.

transformers lets a model attend by a function that is registered under a name. The one here is plain softmax
attention that notes queries and scores while a prompt is read; rotary positions are in them by then.

Shape letters: B episodes, N demonstrations, T tokens, H heads, D width of a head, O choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from iclkit.analysis.inside.prompted import Prompted, Prompts, Seen, Weights
from iclkit.errors import UserError

_ATTENTION = "iclkit_noting"
# Queries [H, T, D] and scores [H, T, T] of each layer, in the order in which they are passed; and which tokens
# only fill up the prompt.
_NOTES: ContextVar[tuple[list[tuple[Tensor, Tensor]], Tensor]] = ContextVar("_NOTES")


class PromptedCausalModel(Prompted):
    """A causal language model: the answer is the most likely of some tokens, behind the prompt.

    Keys and values are found by name: `k_proj` and `v_proj` (Llama, Mistral, Qwen, OPT, ...), or `c_attn`
    (GPT-2), whose columns of queries stay as they are.

    Args:
        model: An instance of transformers' `PreTrainedModel` with a language-modelling head; it is not changed.
        choices: The tokens that may be answers.

    Raises:
        UserError: A model in which there are no such matrices, or with attention that does not see everything
            before a token.
    """

    def __init__(self, model: Any, choices: Int[Tensor, " O"]) -> None:
        if model.training:
            raise UserError("the model is in training mode and drops units at random; call model.eval()")
        self.model = model
        windows = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if windows != {"full_attention"}:
            raise UserError(
                f"this model's layers are {', '.join(sorted(windows))}; give one with full_attention alone"
            )
        self.moved, self.share = {}, {}
        found = []
        for name, module in model.named_modules():
            if share := _key_value_share(module):
                found.append(name)
                for parameter, part in share.items():
                    self.moved[f"{name}.{parameter}"] = module.get_parameter(parameter).detach()
                    self.share[f"{name}.{parameter}"] = part
        if not found:
            raise UserError(
                f"{type(model).__name__} has neither modules k_proj and v_proj (as Llama) nor c_attn (GPT-2), "
                "the names of keys and values that are known"
            )
        self.layers = tuple(found)
        self.choices = choices.to(self.device)
        self._attentions = [model.get_submodule(name) for name in found]

    def run(self, weights: Weights, prompt: Int[Tensor, " T"]) -> Seen:
        """See `Prompted`; negative tokens in front fill up the prompt and are not seen."""
        attended: list[Tensor] = []

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            attended.append(output[0][0, -1])

        hooks = [module.register_forward_hook(keep) for module in self._attentions]
        try:
            filled = prompt < 0
            place = (~filled).cumsum(0) - 1
            given = {"input_ids": prompt.clamp_min(0)[None], "position_ids": place.clamp_min(0)[None]}
            with _noting(self.model, filled) as notes:
                said = functional_call(self.model, weights, kwargs={**given, "use_cache": False})
        finally:
            for hook in hooks:
                hook.remove()
        if len(notes) != len(self.layers):
            raise UserError(
                f"{type(self.model).__name__} attends by code of its own, which cannot be listened to; give a "
                "model that takes the attention functions of transformers, as Llama and GPT-2 do"
            )
        return Seen(
            said.logits[0, -1][self.choices],
            tuple(attended),
            tuple(scores[:, -1].masked_fill(filled, 0.0) for _, scores in notes),
            tuple(q.transpose(0, 1).flatten(1) / q.shape[-1] ** 0.5 for q, _ in notes),
        )

    def loss(self, output: Float[Tensor, "*B O"], target: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Cross-entropy in nats among the choices, of the one with number `target`."""
        return -F.log_softmax(output, -1).gather(-1, target[..., None])[..., 0]

    def right(self, output: Float[Tensor, "B O"], target: Int[Tensor, " B"]) -> Tensor:
        """Whether the most likely choice is the target."""
        return output.argmax(-1) == target

    def check(self, prompts: Prompts) -> None:
        """Refuse tokens that the model does not have, and prompts that it does not reach.

        Raises:
            UserError: Says which.
        """
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        config = self.model.config
        limits = [getattr(config, "max_position_embeddings", None)]
        if getattr(config, "layer_types", None) is None:  # a window of all layers; else there is none
            limits.append(getattr(config, "sliding_window", None))
        longest = min((limit for limit in limits if limit is not None), default=None)
        largest = max(int(t.max()) for t in (prompts.in_context, prompts.demonstrations, self.choices))
        if largest >= vocabulary:
            raise UserError(f"token {largest}, but this model has tokens 0 to {vocabulary - 1}")
        if longest is not None and prompts.in_context.shape[1] > longest:
            raise UserError(
                f"a prompt has {prompts.in_context.shape[1]} tokens, this model takes up to {longest}; give "
                "fewer demonstrations"
            )


def load_causal_model(path: str | Path) -> Any:
    """A causal language model from a local folder; nothing is downloaded, no code of the folder is run.

    Args:
        path: What `save_pretrained` wrote: config.json and safetensors.

    Raises:
        UserError: No such folder, the extra is missing, or what is in it cannot be read.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; give a folder that save_pretrained wrote")
    try:
        from transformers import AutoModelForCausalLM  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError("models of Hugging Face need transformers: pip install 'iclkit[hub]'") from None
    try:
        with _quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} is no causal language model that can be read: {reason}") from None
    return model.requires_grad_(False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, which would mix with what a command prints."""
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def untrained_causal_model(model: Any, seed: int = 0) -> Any:
    """A model of the same configuration with fresh weights, a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = type(model)(model.config)
    return fresh.to(next(model.parameters())).requires_grad_(False).eval()


def _key_value_share(module: nn.Module) -> dict[str, Tensor]:
    """Parameters of an attention module that make keys and values, and where; empty for other modules."""
    share = {}
    parts = dict(module.named_children())
    if "k_proj" in parts and "v_proj" in parts:
        for part in ("k_proj", "v_proj"):
            for name, weight in parts[part].named_parameters():
                share[f"{part}.{name}"] = torch.ones_like(weight[:1])
    elif "c_attn" in parts:
        width, columns = parts["c_attn"].get_parameter("weight").shape
        if columns != 3 * width:  # x W + b with heads that share keys and values, or W x + b
            return {}
        for name, weight in parts["c_attn"].named_parameters():
            # One matrix x W + b, whose first third of columns makes queries; one vector is one row.
            columns = torch.ones(weight.shape[-1], dtype=weight.dtype, device=weight.device)
            columns[: len(columns) // 3] = 0.0
            share[f"c_attn.{name}"] = columns
    return share


@contextmanager
def _noting(model: Any, filled: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Let a model attend by the function that notes what passes; its own attention is put back afterwards."""
    from transformers import AttentionInterface  # pyright: ignore[reportMissingImports]

    AttentionInterface.register(_ATTENTION, _attend)
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    before = [config._attn_implementation for config in configs]
    notes: list[tuple[Tensor, Tensor]] = []
    token = _NOTES.set((notes, filled))
    try:
        for config in configs:
            config._attn_implementation = _ATTENTION
        yield notes
    finally:
        _NOTES.reset(token)
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Causal softmax attention; [1, H, T, D] in, [1, T, H, D] out. Several heads may share keys and values."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    notes, filled = _NOTES.get()
    notes.append((query[0], scores[0]))
    place = torch.arange(query.shape[2], device=query.device)
    # Rows that see nothing, those of what fills up, must stay finite too: their values are multiplied by 0.
    hidden = (place > place[:, None]) | filled
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
    return (weights @ value).transpose(1, 2), weights
