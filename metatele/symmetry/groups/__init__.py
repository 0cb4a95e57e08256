"""The groups that come with metatele, one per file; a new file in this folder is found automatically."""

from metatele.support.modules import import_all
from metatele.symmetry.action import GroupAction

import_all(__name__, GroupAction)
