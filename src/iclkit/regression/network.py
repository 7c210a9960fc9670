"""The in-context regression network: after every prefix of a sequence of pairs, a prediction of the next y.

A prefix is a context of tokens and a query behind it; how pairs become tokens is said in `tokens.py`. With
causal attention all prefixes share one encoded sequence, and any number of queries are answered from it.

Shape letters: B episodes, N points, P prefixes, K queries after each prefix, d dimension of x, T tokens of the
context, W width, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclkit.errors import UserError
from iclkit.networks import (
    ACTIVATIONS,
    PLAIN,
    WEIGHTINGS,
    AttentionVariant,
    BlockConfig,
    Hooked,
    HookPoint,
    Layout,
    Mask,
    MergedAttention,
    Recurrent,
    Transformer,
)
from iclkit.regression.checks import check_pairs, check_queries
from iclkit.regression.registers import Register, register_points
from iclkit.regression.tokens import EMBEDDINGS, PairTokens

_CHOICES = {
    "backbone": ("transformer", "lstm", "gru"),
    "tokens": ("interleaved", "joined"),
    "attention": tuple(WEIGHTINGS),
    "positions": ("none", "learned"),
    "embedding": EMBEDDINGS,
    "activation": tuple(ACTIVATIONS),
}


class InContextRegressor(Hooked):
    """Predicts y_n from x_n and the pairs before n, for every n in one pass.

    Linear attention over joined tokens as they are (`embedding="identity"`, `mlp_ratio=0`, `norm=False`,
    `bias=False`, `heads=1`) is the network of the theory: f = E + W_PV E (Eᵀ W_KQ E) / n for the columns E =
    (x_i, y_i) of n pairs and (x_q, 0) of the query, and the prediction is the last coordinate of the query's
    column. Von Oswald et al. read its negative (`negated`). In one layer the sign is a matter of W_PV; several
    can descend only with the negative: what moves the query moves the pairs, whose residuals must shrink.

    Args:
        dim: Dimension of x (d).
        width: Width of the residual stream; the identity embedding has d + 1, whatever is given.
        layers: Number of blocks, or of recurrent layers.
        heads: Attention heads; must divide the width unless `head_width` is given.
        mlp_ratio: Hidden width of the perceptrons over the width; 0 for none.
        max_points: Longest context.
        backbone: "transformer", "lstm" or "gru"; for the last two, what concerns attention and blocks is not
            used.
        tokens: "interleaved" (x and y are tokens of their own) or "joined" (a pair is one).
        attention: "softmax", "linear", "kernel", "gaussian" or "hard"; see `networks/weighting.py`.
        norm: Whether there are LayerNorms.
        causal: Whether a pair sees only the pairs before it. If not, all pairs of a context see each other, so
            every prefix is a sequence of its own and takes its own pass, unless there is but one layer.
        tied: Whether all blocks have the same weights.
        positions: "none" or "learned". Without them a causal network still tells an early pair from a late one,
            but with interleaved tokens learns slowly which y belongs to which x.
        embedding: "linear", "identity" (a token is its d + 1 numbers; read at the last) or "features" (the same
            behind a perceptron that maps x).
        negated: Whether what is read at the last number is the negative of the prediction (von Oswald et al.).
        bias: Whether linear maps and norms have a bias.
        components: 0 for one output, the prediction; k for 3k, the logits, means and log standard deviations of
            a mixture of k Gaussians for y.
        head_width: Width of a head; None for an even share of the width.
        merged: Whether attention has the matrices W_KQ and W_PV (Zhang et al.) and not W_K, W_Q, W_V, W_O (von
            Oswald et al.). It has one head and starts balanced.
        query_sees_itself: Whether a joined query attends to itself, as in E above (Zhang et al.); not so in von
            Oswald et al. Linear attention counts the pairs alone either way.
        damping: A factor on what every layer adds to the residual stream, for layers that are iterated often.
        init_std: Standard deviation of all matrices at the start, biases being 0; None for torch's own. If
            merged: σ of the balanced start, 0.1 if None.
        activation: What hidden units compute: "gelu", or "arithmetic" (they multiply and divide; see
            `networks/activations.py`).
        start_token: Whether a token of its own goes before the first joined pair. Attention that looks for
            what is not there can rest on it.
        layout: The blocks one by one, where they differ; `layers`, `heads`, `mlp_ratio` and `tied` are then not
            used.
        registers: Names of rows of the residual stream, for a network whose rows have a meaning; they are hook
            points, `registers.NAME.BLOCK`.
        variant: How attention is changed (see `networks/variants.py`).

    Raises:
        UserError: Sizes or choices that cannot be built.
    """

    hook_root = "backbone."

    def __init__(
        self,
        dim: int = 8,
        width: int = 64,
        layers: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
        max_points: int = 40,
        backbone: str = "transformer",
        tokens: str = "interleaved",
        attention: str = "softmax",
        norm: bool = True,
        causal: bool = True,
        tied: bool = False,
        positions: str = "none",
        embedding: str = "linear",
        bias: bool = True,
        components: int = 0,
        head_width: int | None = None,
        merged: bool = False,
        query_sees_itself: bool = True,
        damping: float = 1.0,
        init_std: float | None = None,
        activation: str = "gelu",
        start_token: bool = False,
        layout: Layout | None = None,
        registers: tuple[Register, ...] = (),
        negated: bool = False,
        variant: AttentionVariant = PLAIN,
    ) -> None:
        super().__init__()
        _check(locals())
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.dim = dim
        self.max_points = max_points
        self.components = components
        self.negated = negated
        self.joined = tokens == "joined"
        # Whether outputs are bounded, as LayerNorms or gates make them; weights by hand may look otherwise.
        self.bounded = embedding == "linear" and layout is None and (norm or backbone != "transformer")
        self.registers = registers
        self.tokens = PairTokens(
            dim, width, max_points, self.joined, embedding, positions == "learned", bias, start_token
        )
        width = self.tokens.width
        self.own = "counted" if not self.joined else "uncounted" if query_sees_itself else "unseen"
        if backbone == "transformer":
            config = BlockConfig(
                width,
                heads,
                mlp_ratio,
                norm,
                bias,
                head_width,
                attention,
                self.own,
                merged,
                damping,
                activation=activation,
                variant=variant,
            )
            self.backbone = Transformer(config, layers, tied, layout)
        else:
            self.backbone = Recurrent(backbone, width, layers, bias)
        # One layer of attention never asks what its context has seen, but for the negatives of its values.
        self.causal = causal or (layers == 1 and not variant.negative)
        self.readout = nn.Linear(width, 3 * components or 1, bias=bias) if embedding == "linear" else None
        _initialise(self, init_std, -1.0 if negated else 1.0)

    def hook_points(self) -> dict[str, HookPoint]:
        """Every hook point by its name, registers among them: `registers.w.3` is w after block 3."""
        points = super().hook_points()
        return points | register_points(self.registers, points)

    def forward(self, x: Float[Tensor, "B N d"], y: Float[Tensor, "B N"]) -> Float[Tensor, "B N O"]:
        """The outputs after every prefix: those at n depend on x_n and the pairs before n.

        Args:
            x: Inputs, N ≥ 1.
            y: Targets; the last is not looked at.

        Raises:
            UserError: Tensors of another shape, type or device.
        """
        check_pairs(x, y, self.dim, next(self.parameters()), least=1)
        if self.causal and not self.joined:
            sequence = self.tokens.sequence(x, y)
            return self._read(self.backbone(sequence, rows=slice(None, None, 2))[0])
        points = x.shape[1]
        lengths = torch.arange(points, device=x.device)
        if not self.causal or isinstance(self.backbone, Recurrent):
            return self.queries(x[:, :-1], y[:, :-1], x[:, :, None], lengths)[:, :, 0]
        places = self.tokens.places(lengths)
        pairs = self.tokens.pairs(x[:, :-1], y[:, :-1])
        sequence = torch.cat([pairs, self.tokens.queries(x, places)], 1)
        stored = pairs.shape[1]
        seen = torch.arange(stored, device=x.device) < torch.arange(1, stored + 1, device=x.device)[:, None]
        before = torch.arange(stored, device=x.device) < places[:, None]
        mask = Mask.with_queries(seen, before, self.own, sequence.dtype)
        return self._read(self.backbone(sequence, mask, slice(stored, None))[0])

    def queries(
        self,
        x: Float[Tensor, "B N d"],
        y: Float[Tensor, "B N"],
        queries: Float[Tensor, "B P K d"],
        prefixes: Int[Tensor, "*B P"],
    ) -> Float[Tensor, "B P K O"]:
        """The outputs for K alternatives to the point after each of P prefixes; exact.

        Args:
            x: Inputs; N may be 0.
            y: Targets.
            queries: Inputs to predict at.
            prefixes: Lengths of the prefixes, in 0..N: P for all episodes, or [B, P].

        Raises:
            UserError: As `forward`.
        """
        check_pairs(x, y, self.dim, next(self.parameters()))
        check_queries(queries, prefixes, x)
        batch, lengths, count, _ = queries.shape
        context = self.tokens.pairs(x, y)
        places = self.tokens.places(prefixes)
        per_query = places.repeat_interleave(count, -1)
        tokens = self.tokens.queries(queries.flatten(1, 2), per_query)
        if self.causal:
            _, memories = self.backbone(context)
            hidden = self.backbone.query(tokens, memories, per_query)
        else:
            hidden = self._each_prefix(context, tokens.view(batch, lengths, count, -1), places)
        return self._read(hidden).view(batch, lengths, count, -1)

    def _each_prefix(
        self, context: Float[Tensor, "B T W"], queries: Float[Tensor, "B P K W"], places: Int[Tensor, "*B P"]
    ) -> Float[Tensor, "B Q W"]:
        """Without a causal mask: each prefix as a sequence of its own, whose context tokens see each other."""
        batch, lengths, count, width = queries.shape
        stored = context.shape[1]
        context = context[:, None].expand(-1, lengths, -1, -1)
        sequences = torch.cat([context, queries], 2).flatten(0, 1)
        places = places.expand(batch, lengths).reshape(-1, 1, 1)
        seen = torch.arange(stored, device=places.device) < places  # [B P, 1, T]
        mask = Mask.with_queries(
            seen.expand(-1, stored, -1), seen.expand(-1, count, -1), self.own, queries.dtype
        )
        hidden, _ = self.backbone(sequences, mask.for_heads(), slice(stored, None))
        return hidden.reshape(batch, lengths * count, width)

    def _read(self, hidden: Float[Tensor, "B Q W"]) -> Float[Tensor, "B Q O"]:
        if self.readout is not None:
            return self.readout(hidden)
        return -hidden[..., -1:] if self.negated else hidden[..., -1:]


def _initialise(network: nn.Module, std: float | None, sign: float) -> None:
    for module in network.modules():
        if isinstance(module, MergedAttention):
            module.start_balanced(0.1 if std is None else std, sign)
    merged = [p for m in network.modules() if isinstance(m, MergedAttention) for p in m.parameters()]
    for name, parameter in network.named_parameters():
        if std is None or any(parameter is other for other in merged):
            continue
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
        elif "bias" in name:
            nn.init.zeros_(parameter)


def _check(given: dict[str, Any]) -> None:
    """Refuse what cannot be built."""
    for name, accepted in _CHOICES.items():
        if given[name] not in accepted:
            raise UserError(f"{name} must be one of {', '.join(map(repr, accepted))}, given {given[name]!r}")
    for name in ("dim", "width", "layers", "heads", "max_points"):
        if given[name] < 1:
            raise UserError(f"{name} must be at least 1, given {given[name]}")
    for name in ("mlp_ratio", "components"):
        if given[name] < 0:
            raise UserError(f"{name} must not be negative, given {given[name]}")
    if not given["damping"] > 0:
        raise UserError(f"damping must be positive, given {given['damping']}")
    if given["init_std"] is not None and not given["init_std"] > 0:
        raise UserError(f"init_std must be positive or None, given {given['init_std']}")
    joined = given["tokens"] == "joined"
    if given["start_token"] and not (joined and given["causal"] and given["backbone"] == "transformer"):
        raise UserError(
            "start_token=True needs a causal transformer over joined tokens, given "
            f"backbone={given['backbone']!r}, tokens={given['tokens']!r}, causal={given['causal']}"
        )
    if not given["query_sees_itself"] and not joined:
        raise UserError("query_sees_itself=False needs tokens='joined', given 'interleaved'")
    if given["components"] and given["embedding"] != "linear":
        raise UserError(
            f"components needs embedding='linear', given {given['embedding']!r}, read at one coordinate"
        )
    if given["negated"] and given["embedding"] == "linear":
        raise UserError("negated=True needs embedding='identity' or 'features', given 'linear'; leave it out")
    if given["embedding"] == "features" and given["width"] < 2:
        raise UserError(f"embedding='features' needs a width of at least 2, given {given['width']}")
    if given["backbone"] != "transformer":
        if not given["causal"]:
            raise UserError(f"causal=False needs backbone='transformer', given {given['backbone']!r}")
        return
    if given["layout"] is not None and given["head_width"] is None:
        raise UserError("a layout needs head_width, for its blocks may differ in their heads")
    heads, width = given["heads"], given["dim"] + 1 if given["embedding"] == "identity" else given["width"]
    if given["merged"]:
        if heads != 1 or given["head_width"] not in (None, width):
            raise UserError(
                f"merged attention has one head of the full width, given {heads} heads; give heads=1"
            )
    elif given["head_width"] is None and width % heads:
        raise UserError(
            f"heads must divide the width, given {heads} heads and width {width}; or give head_width"
        )
    elif given["head_width"] is not None and given["head_width"] < 1:
        raise UserError(f"head_width must be at least 1 or None, given {given['head_width']}")
