"""Devices and hosts: the mesh, the rules that place arrays on it, and the supported chips."""
