"""The shipped task families, each written against the public API only, as a user would."""

from .classification import Digits, GaussianMixture, Mnist
from .regression import PaperRegression, TeacherStudent

__all__ = ["Digits", "GaussianMixture", "Mnist", "PaperRegression", "TeacherStudent"]
