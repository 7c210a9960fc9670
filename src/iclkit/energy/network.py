"""The in-context energy network: a causal transformer that gives one scalar energy at every index."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclkit.energy.conditioning import condition
from iclkit.energy.landscape import EnergyLandscape
from iclkit.errors import UserError
from iclkit.networks import (
    PLAIN,
    AttentionVariant,
    BlockConfig,
    Hooked,
    Memory,
    PointEmbedding,
    Transformer,
)


@dataclass(frozen=True)
class EncodedContext:
    """A sequence of points, encoded once; candidates are scored against its prefixes."""

    memories: list[Memory]
    points: int


class EnergyTransformer(Hooked):
    """E(x_n | x_<n), the energy of a point under the distribution that the points before it suggest.

    Args:
        dim: Dimension of the points (d).
        width: Width of the residual stream.
        layers: Number of transformer blocks.
        heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden width of the perceptrons over the width.
        max_points: Longest context that the network is trained on. Without positions longer contexts run, but
            nothing is known of their quality; with learned positions they cannot.
        positions: "none" (exchangeable data need none) or "learned".
        features: Number of Fourier features of a point; 0 for the published linear embedding.
        wavelengths: Shortest and longest wavelength of the features, in the points' units.
        base_std: Standard deviation S of a Gaussian base energy |x|²/2S² + (d/2) log 2πS², to which the network
            adds its own. It makes exp(-E) integrable whatever the weights are (the network's part is bounded,
            for its last LayerNorm is), and an untrained network the density N(0, S² I). None for the published
            network, whose energy nothing confines.
        variant: How attention is changed (see `networks/variants.py`).

    Raises:
        UserError: Sizes that cannot be built.

    Source: Schaeffer, Khona and Koyejo (2024); the two-stream evaluation is exact (see
        `networks/transformer.py`).
    """

    hook_root = "transformer."

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        layers: int = 6,
        heads: int = 8,
        mlp_ratio: int = 4,
        max_points: int = 64,
        positions: str = "none",
        features: int = 0,
        wavelengths: tuple[float, float] = (1.0, 40.0),
        base_std: float | None = None,
        variant: AttentionVariant = PLAIN,
    ) -> None:
        super().__init__()
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if min(dim, width, layers, heads, mlp_ratio, max_points) < 1:
            raise UserError("dim, width, layers, heads, mlp_ratio and max_points must all be at least 1")
        if width % heads:
            raise UserError(f"heads must divide width, given {heads} heads and width {width}")
        if positions not in ("none", "learned"):
            raise UserError(f"positions must be 'none' or 'learned', given {positions!r}")
        if base_std is not None and not 1e-9 <= base_std <= 1e9:  # squares of others are no float32
            raise UserError(f"base_std must lie in 1e-9..1e9 or be None, given {base_std}")
        if features < 0:
            raise UserError(f"features must not be negative, given {features}")
        if not 1e-9 <= wavelengths[0] <= wavelengths[1] <= 1e9:
            raise UserError(
                "wavelengths must be the shortest and the longest, in 1e-9..1e9, "
                f"given {wavelengths[0]} and {wavelengths[1]}"
            )
        self.dim = dim
        self.max_points = max_points
        self.base_std = base_std
        self.variant = variant
        self.embedding = PointEmbedding(dim, width, base_std or 1.0, features, (wavelengths[0], wavelengths[1]))
        # max_points of context and the candidate that follows them.
        self.positions = (
            nn.Parameter(0.02 * torch.randn(max_points + 1, width)) if positions == "learned" else None
        )
        self.transformer = Transformer(BlockConfig(width, heads, mlp_ratio, variant=variant), layers)
        self.readout = nn.Linear(width, 1)
        if base_std is not None:
            # Start as the base density: no objective then begins far from a normalised energy.
            nn.init.zeros_(self.readout.weight)
            nn.init.zeros_(self.readout.bias)

    def forward(self, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N"]:
        """The same as `energies`."""
        return self.energies(x)

    def energies(self, x: Float[Tensor, "B N d"]) -> Float[Tensor, "B N"]:
        """Energy of every point given the points before it: E(x_n | x_<n)."""
        return self._encode(x)[0]

    def encode(self, x: Float[Tensor, "B N d"]) -> EncodedContext:
        """Encode a batch of sequences; N may be 0."""
        return self._encode(x)[1]

    def encode_and_score(self, x: Float[Tensor, "B N d"]) -> tuple[Float[Tensor, "B N"], EncodedContext]:
        """Both at the cost of one: the energies of the points, and the encoded sequence."""
        return self._encode(x)

    def candidate_energies(
        self, x: Float[Tensor, "B N d"], candidates: Float[Tensor, "B N K d"]
    ) -> Float[Tensor, "B N K"]:
        """E(c_nk | x_<n) for K alternatives to every point; exact, the context is encoded once."""
        prefixes = torch.arange(candidates.shape[1], device=x.device)
        return self.query(self.encode(x), candidates, prefixes)

    def query(
        self,
        context: EncodedContext,
        candidates: Float[Tensor, "B P K d"],
        prefixes: Tensor,
        twice: bool = False,
    ) -> Float[Tensor, "B P K"]:
        """Energies of candidates under prefixes of an encoded sequence.

        Args:
            context: What `encode` returned for the B sequences.
            candidates: Points to score, K for each of P prefixes.
            prefixes: Lengths of the prefixes, P integers in 0..N.
            twice: Whether the energies must be twice differentiable (a loss on their gradient needs that).
        """
        batch, lengths, count, _ = candidates.shape
        per_query = prefixes.repeat_interleave(count)
        tokens = self.embedding(candidates.flatten(1, 2))
        if self.positions is not None:
            self._check_length(int(prefixes.max()) + 1 if lengths else 0)
            tokens = tokens + self.positions[per_query]
        hidden = self.transformer.query(tokens, context.memories, per_query, twice)
        energy = self._read(hidden, candidates.flatten(1, 2))
        return energy.view(batch, lengths, count)

    def condition(
        self,
        context: Float[Tensor, "*B n d"],
        allow_longer: bool = False,
        scale: float | Tensor | None = None,
    ) -> EnergyLandscape:
        """The energy landscape of a context. The context is encoded once, with the weights of this moment.

        Args:
            context: [n, d] for one context, [B, n, d] for a batch; n may be 0. Converted to the network's
                dtype and device; no gradient flows to it.
            allow_longer: Take a context longer than `max_points`, with a warning.
            scale: How far the mass spreads (see `EnergyLandscape`): a number or a matrix [d, d]. By default
                `base_std`; for a network without one, a quarter of the half-width 15 of the box in which the
                published chains start.

        Raises:
            UserError: A context of the wrong shape, with a value that is not finite, or too long.
        """
        return condition(self, context, allow_longer, scale)

    def _encode(self, x: Float[Tensor, "B N d"]) -> tuple[Float[Tensor, "B N"], EncodedContext]:
        tokens = self.embedding(x)
        if self.positions is not None:
            self._check_length(x.shape[1])
            tokens = tokens + self.positions[: x.shape[1]]
        hidden, memories = self.transformer(tokens)
        return self._read(hidden, x), EncodedContext(memories, x.shape[1])

    def _check_length(self, points: int) -> None:
        if self.positions is not None and points > len(self.positions):
            raise UserError(
                f"{points} points are too many: learned positions reach {self.max_points} and one after them"
            )

    def _read(self, hidden: Float[Tensor, "B T W"], x: Float[Tensor, "B T d"]) -> Float[Tensor, "B T"]:
        energy = self.readout(hidden).squeeze(-1)
        if self.base_std is not None:
            constant = 0.5 * self.dim * math.log(2 * math.pi * self.base_std**2)
            energy = energy + x.square().sum(-1) / (2 * self.base_std**2) + constant
        return energy
