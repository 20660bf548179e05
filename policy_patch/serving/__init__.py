"""Patches at engines that other people run: a client, a gateway and a probe. No file that an engine loads is made here.

Names are loaded on first use. What engines load is written by `policy_patch.export`.
"""
