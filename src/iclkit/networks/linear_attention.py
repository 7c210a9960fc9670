"""Attention with merged matrices, the form in which the theory of linear attention is stated."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclkit.networks.attention import Attention
from iclkit.networks.config import BlockConfig


class MergedAttention(Attention):
    """Attention with W_KQ for keys and queries and W_PV for values and output; one head.

    With linear weighting it adds to a token e_q: W_PV Σ_k e_k (e_kᵀ W_KQ e_q) / n, n the tokens counted. That
    is f = E + W_PV E (Eᵀ W_KQ E) / n.

    Source: Zhang, Frei and Bartlett (2023), equation 3.3.
    """

    def _make_matrices(self, config: BlockConfig) -> None:
        self.key_query = nn.Linear(config.width, config.width, bias=False)
        self.value_out = nn.Linear(config.width, config.width, bias=False)

    @torch.no_grad()
    def start_balanced(self, scale: float, sign: float = 1.0) -> None:
        """W_PV = ±σ diag(0, 1) and W_KQ = σ diag(ΘΘᵀ, 0), ‖ΘΘᵀ‖ = 1 (Frobenius), Θ random; the last coordinate
        is y.

        Args:
            scale: σ.
            sign: That of W_PV: -1 where the prediction is the negative of the last coordinate. Training
                cannot turn it, for balanced matrices are both 0 in between.

        Source: Zhang, Frei and Bartlett (2023), assumption 3.3.
        """
        if self.key_query.weight.is_meta:  # shapes alone are wanted
            return
        theta = torch.randn_like(self.key_query.weight[:-1, :-1])
        square = theta @ theta.mT
        self.key_query.weight.zero_()[:-1, :-1] = scale * square / square.norm()
        self.value_out.weight.zero_()[-1, -1] = sign * scale

    def kq(self) -> Float[Tensor, "H W W"]:
        return self.key_query.weight[None]

    def pv(self) -> Float[Tensor, "H W W"]:
        return self.value_out.weight[None]

    def project(self, x: Float[Tensor, "B T W"], rows: slice | None = None) -> tuple[Tensor, Tensor, Tensor]:
        q = self.key_query(x if rows is None else x[:, rows])
        k, v = self._augment(x[:, None], self.value_out(x)[:, None])
        return self.q(q[:, None]), self.k(k), self.v(v)

    def _merge(self, x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return x.flatten(0, 1)
