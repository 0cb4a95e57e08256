"""The shipped task families, each written against the public API only, as a user would."""

import importlib
import pkgutil

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

for _module in pkgutil.iter_modules(__path__):  # also the modules that are not listed above
    importlib.import_module(f"{__name__}.{_module.name}")
