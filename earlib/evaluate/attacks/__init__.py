"""Attacks on erased models: can the concept be brought back, and is it the concept that comes back or the attack that
draws it?

base                       the interface: who is attacked, what for, what it may cost, what an attack gives
registry, battery          every attack by its name; each measured four times, cell by cell, resumable
trying                     options tried on known prompts, of which the surest is taken
wordings, draws, search    black box: other words, more guidance, many seeds, words found with the judge alone
soft, tokens               white box: learned vectors, or words found by gradients, in the place of the name
prefix, states             the first rows of a picture are given; directions and states inside the layers
relearn                    a few steps of learning, on pictures of it or on others
compress, rounding         numbers set to 0; fewer bits a number
"""
