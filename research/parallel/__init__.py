"""Devices and hosts: the mesh, rules that lay arrays on it, the chips that it may be made of."""
