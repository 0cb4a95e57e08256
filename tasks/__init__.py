"""The shipped task families, each written against the public API only, as a user would."""

from metatele.tasks.classification import Digits, GaussianMixture, Mnist
from metatele.tasks.regression import PaperRegression, TeacherStudent

__all__ = ["Digits", "GaussianMixture", "Mnist", "PaperRegression", "TeacherStudent"]
