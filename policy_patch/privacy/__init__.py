"""Removes from texts what must not leave this machine: tokens and keys, and the paths of its folders.

This room sends nothing.
"""
