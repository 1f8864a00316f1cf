"""Event loops for a laboratory: virtual time, and loops that record or choose what runs next.

`virtual`: time that jumps from timer to timer, so that a run is exact and instant (`simulate`).
`choosing`: a loop that asks which of the ready tasks runs next. `recorder`: the source lines a task runs.
`task_state`: what a task is doing now, in words. `interleaving`: the steps of several tasks as a table.
`source`, `lineparts`: the text of a line of code, and its parts.
"""
