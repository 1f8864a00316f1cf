"""The notebook made ready, whatever the kernel.

`notebook`: `setup()`, the first line of a lesson. `doctor`: what is missing on this machine, and how to fix it.
"""
