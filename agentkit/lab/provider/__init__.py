"""A built-in fake provider with realistic latency, rate limits and errors, for the real `openai` client.

`provider`: the object you create. `decisions`: what happens to a request, without HTTP. `app`: the endpoints;
`server`: the same over loopback HTTP; `transport`: the same in memory, in virtual time; `__main__`: the command.
`request`: what arrives on the wire; `response`: what leaves, and when. `answers`: what the model says.
`quota`, `latency`, `faults`, `errors`: how it limits, waits and fails. `call_log`: what it received.
"""
