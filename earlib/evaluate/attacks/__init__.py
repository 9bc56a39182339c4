"""Attacks on erased models: can the concept be brought back, and is it the concept that comes back or the attack that
draws it?

base, goals                the interface: who is attacked, what for, what it may cost, what an attack gives
registry, battery          every attack by its name; each measured four times, cell by cell, resumable
trying                     options tried on known prompts, of which the surest is taken
wordings, draws, search    black box: other words, more guidance, many seeds, words found with the judge alone
soft, tokens               white box: learned vectors, or words found by gradients, in the place of the name
prefix, states             the first rows of a picture are given; directions and states inside the layers
relearn                    a few steps of learning, on pictures of it or on others
compress, rounding         numbers set to 0; fewer bits a number
"""

# A battery that a laptop can afford, one attack of each kind with its passes: other words, a learned word, the start of
# a picture, a few steps of learning, fewer bits. Cut: searches for words, which cost more than a learned one and bring
# back less, many seeds, and what shows where rather than whether (steering, patching, pruning).
LIGHT = {"wordings": 40, "soft-prompt": 240, "prefix": 72, "relearning": 240, "rounding": 48}
