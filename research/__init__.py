"""Kintsugi: encoder-decoder language models in JAX, from a corpus to a report.

What an experiment's file needs is imported by name, `from research import Experiment, SpanCorruption`. The names are
listed in `__init__.pyi`; each is loaded when it is first used, so reading an experiment does not wait for JAX.

Twelve rooms, from top to bottom; a module imports only from rooms above its own:

    config storage score data parallel model pretrained decode report train plan sweep
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
