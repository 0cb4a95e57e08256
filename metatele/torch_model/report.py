"""What a teleport of a model did."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Teleported:
    """What a teleport did to a model, measured on its batch.

    Attributes:
        loss_before, loss_after: the loss.
        gradient_norm_before, gradient_norm_after: the norm of the loss's gradient.
        objective_before, objective_after: what the teleport climbed; the gradient norm for a rule.
        distance: Euclidean norm of the change of the parameters; 0 if no step improved the objective
            within the cap and the tolerance.
        residual: {layer: relative change of what the next layer sees} for groups that depend on the
            data; empty for exact ones.
        moments: what became of the optimizer's state: "transform", "reset", "keep", or "untouched" where
            none was given or nothing moved.
        left: the names of tensors in its state that were not transformed, because what they mean is not known.
    """

    loss_before: float
    loss_after: float
    gradient_norm_before: float
    gradient_norm_after: float
    objective_before: float
    objective_after: float
    distance: float
    residual: dict[str, float] = field(default_factory=dict)
    moments: str = "untouched"
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        pairs = {"loss": (self.loss_before, self.loss_after)}
        pairs["gradient norm"] = (self.gradient_norm_before, self.gradient_norm_after)
        if self.objective_before != self.gradient_norm_before:
            pairs["objective"] = (self.objective_before, self.objective_after)
        text = ", ".join(f"{name} {a:.4g} -> {b:.4g}" for name, (a, b) in pairs.items())
        if self.distance == 0:
            return f"not moved (no step improved the objective within cap and tolerance): {text}"
        left = f", but for {', '.join(self.left)}" if self.left else ""
        return f"moved by {self.distance:.3g}: {text}; optimizer state: {self.moments}{left}"
