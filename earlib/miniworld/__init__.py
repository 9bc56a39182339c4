"""MiniWorld: a procedural world of captioned pictures, its language, its judges, and the training of the mini models.

`scenes.py` says what is in a picture and draws it, `art.py` and `objects.py` how things look, `captions.py` how they
are told, `make.py` makes every weight.
"""
