"""Whether a failed solve was stiff: a look at the steps it would have taken next, at no cost to solves that do not fail."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.scalars import any_true, as_clock, transformed
from ..core.status import Status
from .attempt import RUNNING, Carry, Plan, attempt, settle

# So many attempts are made from where the solve ended.
_ATTEMPTS = 20
# Where stability holds the steps down, their length times the estimate is the radius of the stability region: 0.85 to 1.07
# of it on Robertson's, Van der Pol's and Prothero and Robinson's problems, with all methods, at tolerances from 1e-2 to
# 1e-9. Where accuracy does it is less: 0.66 at most on oscillators at 1e-2, below 0.25 at 1e-6.
_LIMIT = 0.75
# Steps that shrink by more than this over the attempts lead to a singularity.
_SHRUNK = 0.1


def stiff_advice(plan: Plan, carry: Carry) -> str:
    r"""What to say of a failed solve if its field is stiff where it ended, else nothing.

    Explicit steps of a stiff field are as long as stability lets them be: :math:`h \rho`, with :math:`\rho` the method's
    own estimate of the largest eigenvalue, is the radius of the stability region. A few more attempts from the end measure
    the product; of several samples the failed ones count. Their calls of the field are not in the solution's counts.
    """
    method = plan.method
    if not (plan.controller.adaptive and method.has_stiffness) or not plan.field.smooth or transformed():
        return ""
    failed = (carry.status == int(Status.MAX_STEPS)) | (carry.status == int(Status.STEP_UNDERFLOW))
    if not any_true(failed):
        return ""
    carry = carry._replace(
        y=carry.y.detach(), memory=tuple(x.detach() for x in carry.memory), cache=None if plan.host else carry.cache
    )
    with torch.no_grad():
        products = _limited(replace(plan, costs=(), events=None), carry) / method.stability_radius
    stiff = products[torch.as_tensor(failed, device=products.device).reshape(-1)].nan_to_num(0.0)
    if not stiff.numel() or not bool((stiff > _LIMIT).any()):
        return ""
    return (
        f" The field is stiff there: stability, not accuracy, limits the steps (step times stiffness estimate is "
        f"{stiff.max().item():.2g} of what {method.name} is stable for). Other tolerances and other explicit methods help "
        "little: raise max_steps if there is time, take fast parts out of the field (put them at their equilibrium, "
        "rescale), or use an implicit method, such as Rodas5P(); a field that is being trained can be kept "
        "from it with regularizers=[StiffnessEstimate()]."
    )


def _limited(plan: Plan, carry: Carry) -> Tensor:
    """Step times stiffness estimate for each lane: the median of some attempts where their steps keep their length, else 0."""
    lengths, products = [], []
    for _ in range(_ATTEMPTS):
        running = torch.full_like(carry.status, RUNNING) if isinstance(carry.status, Tensor) else RUNNING
        carry = carry._replace(status=running, events=None)
        trial = attempt(plan, carry)
        device = trial.step.y.device
        accept = torch.as_tensor(trial.accept, device=device).reshape(-1)
        length = as_clock(abs(trial.t_end - trial.t), device).reshape(-1)
        product = trial.step.stiffness.reshape(-1).to(torch.float64) * length
        lengths.append(torch.where(accept, length, torch.nan))
        products.append(torch.where(accept, product, torch.nan))
        carry = settle(plan, carry, trial)
        if plan.host and carry.t == plan.t1:
            break
    known = torch.stack(lengths)
    most, least = known.nan_to_num(0.0).amax(0), known.nan_to_num(torch.inf).amin(0)
    return torch.where(least > _SHRUNK * most, torch.stack(products).nanmedian(dim=0).values, 0.0)
