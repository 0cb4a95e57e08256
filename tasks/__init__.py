"""The shipped task families, each written against the public API only, as a user would."""

import importlib
import pkgutil

from metatele import TaskFamily

from .autoencoder import Autoencoder
from .classification import Digits, GaussianMixture, Mnist
from .few_shot import FewShot, FewShotDigits, FewShotMnist
from .functions import Friedman, Sines
from .mixture import Mixture, Rescaled
from .regression import Outliers, PaperRegression, TeacherStudent
from .ridges import Borders, Ridges
from .shapes import Shapes

__all__ = [
    "Autoencoder",
    "Borders",
    "Digits",
    "FewShot",
    "FewShotDigits",
    "FewShotMnist",
    "Friedman",
    "GaussianMixture",
    "Mixture",
    "Mnist",
    "Outliers",
    "PaperRegression",
    "Rescaled",
    "Ridges",
    "Shapes",
    "Sines",
    "TeacherStudent",
]

for _found in pkgutil.iter_modules(__path__):  # also the families that are not listed above
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    for _name, _class in vars(_module).items():
        if isinstance(_class, type) and issubclass(_class, TaskFamily) and _class.__module__ == _module.__name__:
            globals()[_name] = _class
