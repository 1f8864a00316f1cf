"""What a run of the event loop did, step by step.

`trace`: run a coroutine and keep every step, with `block` to hold the loop up. `loop`: the loop that records them.
`view`: the steps as a page to look at.
"""
