"""A patch: the learned vectors, the folder that holds them with their configuration, and patches composed of others.

This room needs no model and no network.
"""
