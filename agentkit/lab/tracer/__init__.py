"""What the event loop did during a run, step by step.

`trace`: runs a coroutine function and records every step (`trace`), and blocks the loop (`block`). `loop`: the loop
that records the steps. `view`: a step as HTML.
"""
