"""The regression task of arXiv:2305.13404, section 6, and teacher-student regression, also with outliers."""

import itertools

import torch
from torch import Tensor, nn

from metatele import TaskError, TaskFamily

from .mlp import SCALABLE, check_activation, mlp
from .noise import chosen_to_train


class PaperRegression(TaskFamily):
    """L(W1, W2) = 1/2 ||Y - W2 sigma(W1 X)||_F^2 with W1, W2, X, Y uniform on [0, 1) in every entry.

    sigma is LeakyReLU(0.1); the columns of X are data points (here: rows of the inputs). Plain
    optimisation of the training loss, full batch. Source: arXiv:2305.13404, section 6.

    Args:
        size: rows and columns of all four matrices (20 in the paper).
    """

    def __init__(self, size: int = 20) -> None:
        if size < 1:
            raise TaskError(f"size must be at least 1, got {size}")
        self.size = size

    def network(self) -> nn.Module:
        n = self.size
        return nn.Sequential(nn.Linear(n, n, bias=False), nn.LeakyReLU(0.1), nn.Linear(n, n, bias=False))

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = torch.rand(2, self.size, self.size, generator=generator)
        return x, y

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (prediction - target).square().sum()

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (predictions - targets).square().sum((1, 2))

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        for p in network.parameters():
            p.data.uniform_(generator=generator)


class TeacherStudent(TaskFamily):
    """Regression on the outputs of a random MLP, by a network of the same shape.

    Inputs are standard normal, the teacher's weights are drawn like the student's (He
    initialisation), and its outputs are scaled to unit variance. With `spread` above 1 each hidden
    neuron of the student starts badly scaled: its incoming weights are multiplied, and its outgoing
    ones divided, by a factor log-uniform in [1 / spread, spread]. That leaves the function as it
    is, and makes it hard to train.

    Args:
        inputs, hidden, outputs: widths of teacher and student.
        depth: number of hidden layers.
        rows: data rows of one task.
        spread: largest factor of the bad scaling; 1 for none.
        parts: fractions of the rows that are inner, meta and test rows.
        batch_size: rows in a minibatch, or None for the full batch.
        activation: of teacher and student, by its name in `metatele.tasks.mlp`.
        noise: standard deviation of normal noise on the targets.
    """

    shuffle = False  # the rows are drawn in random order
    noise = 0.0

    def __init__(
        self,
        inputs: int = 10,
        hidden: int = 16,
        outputs: int = 4,
        depth: int = 1,
        rows: int = 64,
        spread: float = 1.0,
        parts: tuple[float, float, float] = (1.0, 0.0, 0.0),
        batch_size: int | None = None,
        activation: str = "relu",
        noise: float = 0.0,
    ) -> None:
        if not noise >= 0:
            raise TaskError(f"noise must be at least 0, got {noise}")
        if min(inputs, hidden, outputs, depth, rows) < 1 or not spread >= 1:
            raise TaskError(
                "inputs, hidden, outputs, depth, rows and spread must be at least 1, got "
                f"{(inputs, hidden, outputs, depth, rows, spread)}"
            )
        if spread > 1 and check_activation(activation) not in SCALABLE:
            raise TaskError(
                f"spread={spread:g} would change the function of a network with activation {activation!r}: it needs "
                f"one of {', '.join(SCALABLE)}, or spread=1"
            )
        self.widths = [inputs] + [hidden] * depth + [outputs]
        self.activation = check_activation(activation)
        self.rows, self.spread, self.parts, self.batch_size = rows, spread, parts, batch_size
        if noise:  # runs of versions that had none can be resumed
            self.noise = noise

    def network(self) -> nn.Module:
        return mlp(self.widths, self.activation)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        teacher = self.network()
        draw_he(teacher, generator)
        x = torch.randn(self.rows, self.widths[0], generator=generator)
        with torch.no_grad():
            y = teacher(x)
        y = y / y.std().clamp_min(1e-6)
        return x, y + self.noise * torch.randn(y.shape, generator=generator) if self.noise else y

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        draw_he(network, generator)
        layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
        for before, after in itertools.pairwise(layers):
            power = 2 * torch.rand(before.out_features, generator=generator) - 1
            factor = self.spread**power
            before.weight.data.mul_(factor.unsqueeze(1))
            before.bias.data.mul_(factor)
            after.weight.data.div_(factor)


class Outliers(TeacherStudent):
    """Teacher-student regression with wrong targets among the inner rows, under Huber's loss.

    Of the inner rows a share have normal errors of standard deviation `size` on all of their targets, whose own is 1.
    The other rows have none, so that unseen rows say how near the student is to its teacher.

    Args:
        share: fraction of the inner rows that are outliers.
        size: standard deviation of their errors.
        delta: where Huber's loss turns from a parabola into a line.
        inputs, hidden, outputs, depth, rows, spread, parts, batch_size, activation: see `TeacherStudent`.
    Source: Huber 1964, Robust estimation of a location parameter.
    """

    def __init__(
        self,
        share: float = 0.2,
        size: float = 10.0,
        delta: float = 1.0,
        inputs: int = 10,
        hidden: int = 16,
        outputs: int = 4,
        depth: int = 1,
        rows: int = 200,
        spread: float = 1.0,
        parts: tuple[float, float, float] = (0.5, 0.25, 0.25),
        batch_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(inputs, hidden, outputs, depth, rows, spread, parts, batch_size, activation)
        if not 0 <= share <= 1 or not size >= 0 or not delta > 0:
            raise TaskError(f"need share in [0, 1], size >= 0 and delta > 0, got {(share, size, delta)}")
        self.share, self.size, self.delta = share, size, delta

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = super().sample(generator)
        wrong = chosen_to_train(self, len(y), self.share, generator)
        y[wrong] += self.size * torch.randn(len(wrong), y.shape[1], generator=generator)
        return x, y

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.huber_loss(prediction, target, delta=self.delta)

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.huber_loss(predictions, targets, reduction="none", delta=self.delta).mean((1, 2))


def draw_he(network: nn.Module, generator: torch.Generator) -> None:
    """He initialisation of all linear layers, biases standard normal times 0.1."""
    for m in network.modules():
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu", generator=generator)
            m.bias.data.normal_(0, 0.1, generator=generator)
