"""The shipped task families, each written against the public API only, as a user would."""

from .classification import Digits, GaussianMixture, Mnist
from .few_shot import FewShot, FewShotDigits, FewShotMnist
from .regression import PaperRegression, TeacherStudent

__all__ = [
    "Digits",
    "FewShot",
    "FewShotDigits",
    "FewShotMnist",
    "GaussianMixture",
    "Mnist",
    "PaperRegression",
    "TeacherStudent",
]
