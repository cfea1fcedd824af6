"""The encoder-decoder: layers, stacks, presets of families, its loss, its parameters and what it costs."""

import flax

# Modules are plain trees: a parameter held by two modules is an error, never a silent copy.
flax.config.update("nnx_graph_mode", False)
flax.config.update("nnx_graph_updates", False)
