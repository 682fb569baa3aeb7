"""The optimizer with which the spiral was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdaBelief(torch.optim.Optimizer):
    r"""Adam, but with the spread of the gradient around its mean where Adam has its square.

    .. math:: m_n = \beta_1 m_{n-1} + (1 - \beta_1) g_n, \qquad
              s_n = \beta_2 s_{n-1} + (1 - \beta_2) (g_n - m_n)^2 + \epsilon, \qquad
              \theta_n = \theta_{n-1} - \eta \, \frac{m_n / (1 - \beta_1^n)}{\sqrt{s_n / (1 - \beta_2^n)} + \epsilon}

    Args:
        params: what to optimize.
        lr: the rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`.

    References:
        Zhuang et al.: AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients. NeurIPS 2020.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the parameters once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), spread=torch.zeros_like(parameter))
        (first, second), eps = group["betas"], group["eps"]
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - first)
        rest = grad - state["mean"]
        state["spread"].mul_(second).addcmul_(rest, rest, value=1 - second).add_(eps)
        scale = (state["spread"] / (1 - second ** state["step"])).sqrt_().add_(eps)
        parameter.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - first ** state["step"]))
