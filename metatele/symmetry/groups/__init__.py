"""The groups that come with metatele, one a file: put a file here that defines one, and it is found."""

from metatele.support.modules import import_all

import_all(__name__)
