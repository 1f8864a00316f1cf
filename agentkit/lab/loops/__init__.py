"""Event loops for a laboratory: virtual time, and loops that record or choose which task runs next.

`virtual`: a clock that jumps from timer to timer, so that a run is exact and instant (`simulate`).
`beside`: runs work next to the loop that is already running, as in a notebook cell, and handles Stop.
`choosing`: a loop that asks which ready task runs next. `recorder`: records the source lines that tasks run.
`task_state`: what a task is doing now, in words. `interleaving`: the steps of several tasks as a table.
`source`: the source lines and bytecode of your functions. `frames`: which stack frames run your code.
`internals`: the private fields of asyncio that the other files read.
"""
