"""Encoder-decoder language models in JAX. Data flows one way and imports follow it:

config -> data -> model -> pretrained -> sharding -> loss, optimizer -> step -> checkpoint, decode, plan
       -> evaluate, report -> train -> sweep -> cluster, search -> scripts
"""

import flax

# Modules are plain trees: a parameter held by two modules is an error, never a silent copy.
flax.config.update("nnx_graph_mode", False)
flax.config.update("nnx_graph_updates", False)
