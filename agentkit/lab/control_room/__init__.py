"""A live panel for a run: knobs to turn while a hundred agents work, and what each turn does.

`panel`: the widget. `engine`: runs the operation in slices of real time. `operation`: the agents and limits under the
knobs. `knobs`: what can be turned; `knob_panel` draws them. `snapshot`: the state shown; `live_picture` draws it.
`advice`: the sentence under the picture.
"""
