"""modelve: load a language model once, and ask it many times.

>>> import modelve
>>> m = modelve.load("tiny")
>>> m.complete("Today is")
"""

from ._modelve import *  # noqa: F403
from ._modelve import __version__ as __version__
