"""Measurement consistency in pixel space: Eq. 7 and Eq. 9 of the paper, in closed form or by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from core.operators.base import LinearOperator


def conjugate_gradient(Q: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, steps: int) -> Tensor:
    """At most `steps` CG updates on Q x = b from `x`; Q is symmetric positive definite on x's space."""
    r = b - Q(x)
    p, rr = r, r.square().sum()
    for _ in range(steps):
        Qp = Q(p)
        alpha = rr / (p * Qp).sum().clamp_min(1e-20)
        x, r = x + alpha * p, r - alpha * Qp
        rr, previous = r.square().sum(), rr
        p = r + rr / previous.clamp_min(1e-20) * p
    return x


def least_squares(
    op: LinearOperator, y: Tensor, y_past: Tensor | None, steps: int, x_past: Tensor | None = None
) -> Tensor:
    """The measurement-consistent start x_init (Eq. 9), [T, 3, H, W] in [-1, 1].

    Regularised by the operator's noise level: plain least squares diverges where A has small singular values.
    """
    x = op.least_squares(y, y_past, x_past)
    if x is None:
        lift, weight = op.lift(y), op.noise * op.norm**2
        x = lift + conjugate_gradient(
            lambda u: op.A_adjoint(op.A(u)) + weight * u, op.A_adjoint(y - op.A(lift)), lift * 0, steps
        )
    return x.clamp(-1, 1)


def prox_l2(op: LinearOperator, x: Tensor, y: Tensor, past: Tensor | None, gamma: float, steps: int) -> Tensor:
    """argmin_u gamma/2 |y - A u|^2 + 1/2 |u - x|^2 (Eq. 7), with A scaled to norm 1.

    `past` are the restored frames before the chunk that A mixes in, None at the start of a stream.
    """
    gamma = gamma / op.norm**2
    closed = op.prox(x, y, past, gamma)
    if closed is not None:
        return closed
    preceding = 0 if past is None else len(past)
    r = y - op.A(x, past)
    correction = conjugate_gradient(
        lambda u: gamma * op.A_adjoint(op.A_linear(u, preceding), preceding) + u,
        gamma * op.A_adjoint(r, preceding),
        x * 0,
        steps,
    )
    return x + correction
