"""Prepares the environment that a lesson runs in: the kernel and the machine.

`notebook`: `setup()`, the first line of every lesson. `doctor`: what is missing on this machine, and how to fix it.
"""
