"""An operator of your own: a camera that loses every other column. `python examples/own_operator.py`."""

import torch
from torch import Tensor

from core.contract import SolverConfig
from core.evaluation.metrics import psnr
from core.models.load import load
from core.operators.base import LinearOperator
from core.solver import Solver


class EveryOtherColumn(LinearOperator):
    """A keeps the even columns. It is its own adjoint, and the prox falls back to conjugate gradients."""

    kind: str = "inpainting"  # what the small model takes it for

    def A_linear(self, x: Tensor, preceding: int = 0) -> Tensor:
        return x * (torch.arange(x.shape[-1]) % 2 == 0)

    def A_adjoint(self, y: Tensor, preceding: int = 0) -> Tensor:
        return self.A_linear(y, preceding)

    def lift(self, y: Tensor) -> Tensor:
        """What CG starts from: a lost column is the mean of its neighbours."""
        return y + (y.roll(1, -1) + y.roll(-1, -1)) / 2 * (torch.arange(y.shape[-1]) % 2 == 1)

    def reliability(self, frames: int, height: int, width: int) -> Tensor:
        return (torch.arange(width) % 2 == 0).float().expand(1, 1, height, width)


def main() -> tuple[float, float]:
    """PSNR in dB of the start and of the restored frames."""
    model, operator = load("tiny"), EveryOtherColumn()
    solver = Solver(model.codec, model.denoiser, model.num_steps)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    x = torch.stack([torch.sin(6 * columns + 3 * rows + frame / 4) * 0.7 for frame in range(9)])
    x = x[:, None].expand(-1, 3, -1, -1)
    y = operator.A(operator.measure(x, None, torch.Generator().manual_seed(0)))
    restored, _ = solver.restore(y, solver.new_state(operator, 48, 64), SolverConfig())
    return psnr(restored.x_init, x), psnr(restored.x, x)


if __name__ == "__main__":
    print("x_init {:.2f} dB, restored {:.2f} dB".format(*main()))
