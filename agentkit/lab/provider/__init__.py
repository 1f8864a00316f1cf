"""A built-in fake provider with realistic latency, rate limits and errors, for the real `openai` client.

`provider`: what you create. `app`: the endpoints; `server`: the same over loopback HTTP; `transport`: the same in
memory, in virtual time. `request` and `response`: what goes over the wire; `delivery`: streams and their pace.
`answers`: what the model says. `quota`, `latency`, `faults`, `errors`: how it limits, waits and fails.
`call_log`: what was asked of it.
"""
