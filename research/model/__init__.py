"""The encoder-decoder: layers, stacks, presets of published models, loss, parameters and FLOPs."""

import flax

# Modules are plain trees: a parameter held by two modules is an error, not a silent copy.
flax.config.update("nnx_graph_mode", False)
flax.config.update("nnx_graph_updates", False)
