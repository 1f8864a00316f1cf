"""A live panel for a run: change every setting while a hundred agents work, and see the effect.

`panel`: the widget. `engine`: the thread and event loop of a run, in paced virtual time or real time. `operation`: the
agents, limiters and provider that the knobs control. `knobs`: the settings; `knob_panel`: their sliders. `snapshot`:
the state of a run at one instant; `live_picture`: a snapshot as SVG. `advice`: the sentence under the picture.
"""
