"""MiniWorld 2: the second little world, with its language, its judges and the training of every model that lives in it.

It stands beside the first world until its models are trained and all tables measured again; then it takes its place.
`scenes.py` says what is in a picture and draws it, `art.py` and `objects.py` how things look, `captions.py` how they
are told, `make.py` makes every weight.
"""
