"""Attacks on erased models: can the concept be brought back, and is it the concept that comes back or the attack that
draws it?

base                    the interface: who is attacked, what for, what it may cost, what an attack gives
registry                every attack by its name
battery                 each attack measured four times, cell by cell, resumable
wordings, draws         black box: other words, more guidance, many seeds
"""
