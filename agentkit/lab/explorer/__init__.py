"""Every order in which tasks can run, by search or by hand; and threads, run together until they lose an update.

`explore`: run a scenario in every order (`search` finds the orders). `play`: choose each step yourself, on the loop in
`play_loop`. `lost_update`: which read and write lost an update. `threads`: races of threads, by chance (`hammer`).
"""
