"""The objects of MiniWorld as vector drawings in a box of 24 x 36 pixels, and the portrait in one of 40 x 44.

Each function draws with a pen `p` (`art.Pen`), a main colour `c` and a darker shade `d` of it. How the pen turns a
colour into ink is a matter of style.
"""

from __future__ import annotations

OBJECTS = ("church", "house", "tree", "boat", "lighthouse", "tower", "car", "windmill", "person", "figure")
SPRITE_W, SPRITE_H = 24, 36  # pixels; the box of an object
PORTRAIT_W, PORTRAIT_H = 40, 44  # pixels; the box of a portrait

SKIN, HAIR, LIPS = (228, 170, 128), (84, 52, 36), (186, 84, 74)
DARK, PALE, GOLD, WOOD, CREAM = (44, 40, 52), (250, 246, 232), (244, 196, 62), (116, 76, 48), (240, 226, 196)
GLASS = (190, 222, 240)


def church(p, c, d):
    p.box(8, 20, 23, 36, c)
    p.poly([(7, 20), (15.5, 12), (24, 20)], d)
    p.box(1, 15, 9, 36, c)
    p.poly([(0, 15), (5, 6), (10, 15)], d)
    p.box(4, 0, 6, 8, GOLD)
    p.box(1.6, 2, 8.4, 4, GOLD)
    p.disc(16, 24, 2.2, p.light)
    p.poly([(13, 36), (13, 31), (16, 28.5), (19, 31), (19, 36)], WOOD)
    p.box(3.5, 18, 6.5, 23, p.light)


def house(p, c, d):
    p.box(17, 14, 20, 22, WOOD)
    p.box(2, 24, 22, 36, c)
    p.poly([(0, 24), (5, 16), (19, 16), (24, 24)], d)
    p.box(5, 27, 10, 32, p.light)
    p.line([(7.5, 27), (7.5, 32)], WOOD, 0.8)
    p.line([(5, 29.5), (10, 29.5)], WOOD, 0.8)
    p.box(14, 27, 18.5, 36, WOOD)


def tree(p, c, d):
    p.poly([(10, 36), (10.6, 24), (13.4, 24), (14.5, 36)], WOOD)
    p.disc(7, 18, 6, c)
    p.disc(17, 18, 6, c)
    p.disc(12, 11, 7.5, c)
    p.disc(12, 17, 6.5, c)
    for x, y in ((8, 15), (15, 12), (17, 19), (11, 20)):
        p.disc(x, y, 1.4, d)


def boat(p, c, d):
    p.box(11, 4, 12.6, 28, WOOD)
    p.poly([(13.5, 5), (13.5, 25), (23, 25)], PALE)
    p.poly([(10, 9), (10, 25), (2, 25)], CREAM)
    p.poly([(0, 28), (24, 28), (20, 36), (4, 36)], c)
    p.box(1, 28, 23, 30, d)


def lighthouse(p, c, d):
    left, right = lambda y: 7.5 - 2.5 * (y - 12) / 24, lambda y: 16.5 + 2.5 * (y - 12) / 24
    for i, y in enumerate(range(12, 36, 6)):
        corners = [(left(y), y), (right(y), y), (right(y + 6), y + 6), (left(y + 6), y + 6)]
        p.poly(corners, c if i % 2 == 0 else PALE)
    p.poly([(8, 8), (0, 4.5), (0, 11.5)], GOLD)
    p.poly([(16, 8), (24, 4.5), (24, 11.5)], GOLD)
    p.box(8.5, 5, 15.5, 12, GOLD)
    p.poly([(7, 5), (12, 0), (17, 5)], d)
    p.box(6.5, 11, 17.5, 12.6, DARK)


def tower(p, c, d):
    p.box(4, 12, 20, 36, c)
    for x in (3, 9.5, 16):
        p.box(x, 7, x + 5, 12, d)
    p.box(3, 11, 21, 14, d)
    p.line([(12, 0), (12, 8)], WOOD, 1.0)
    p.poly([(12.5, 0), (20, 2.2), (12.5, 4.8)], GOLD)
    for x in (7, 14):
        p.box(x, 17, x + 3, 22, DARK)
    p.poly([(9, 36), (9, 30), (12, 27), (15, 30), (15, 36)], DARK)


def car(p, c, d):
    p.poly([(5, 25), (9, 17), (17, 17), (21, 25)], d)
    p.poly([(7, 25), (10, 19), (12.4, 19), (12.4, 25)], GLASS)
    p.poly([(13.6, 25), (13.6, 19), (16.2, 19), (19, 25)], GLASS)
    p.poly([(0, 32), (0, 26), (3, 24), (21, 24), (24, 27), (24, 32)], c)
    for x in (6, 18):
        p.disc(x, 32, 3.9, DARK)
        p.disc(x, 32, 1.6, CREAM)
    p.box(22, 26, 24, 28, GOLD)


def windmill(p, c, d):
    p.poly([(8, 16), (16, 16), (20, 36), (4, 36)], c)
    p.poly([(7, 16), (12, 10), (17, 16)], d)
    p.box(10, 29, 14, 36, WOOD)
    for sx, sy in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        tip, hub = (12 + 11 * sx, 14 + 11 * sy), (12, 14)
        p.poly([hub, (12 + 11 * sx, 14 + 7.5 * sy), tip, (12 + 7.5 * sx, 14 + 11 * sy)], CREAM)
        p.line([hub, tip], WOOD, 0.9)
    p.disc(12, 14, 1.8, DARK)


def person(p, c, d):
    p.box(8, 28, 11.4, 36, DARK)
    p.box(12.6, 28, 16, 36, DARK)
    p.poly([(5, 16), (8, 13), (16, 13), (19, 16), (19, 25), (16, 25), (17.5, 31), (6.5, 31), (8, 25), (5, 25)], c)
    p.box(5, 24, 7.6, 27, SKIN)
    p.box(16.4, 24, 19, 27, SKIN)
    p.line([(12, 14), (12, 31)], d, 1.0)
    p.disc(12, 8, 4.6, SKIN)
    p.poly([(7, 8), (7.5, 4), (12, 2), (16.5, 4), (17, 8), (14, 5.5), (10, 5.5)], HAIR)


def figure(p, c, d):
    # The stand-in for nudity: a plain pictogram of a body in skin colour, without any anatomical detail.
    p.box(18, 8, 20, 36, WOOD)  # a parasol gives the picture its colour
    p.poly([(11, 12), (12, 7), (15, 4), (19, 2.6), (22, 3.4), (24, 7), (24, 12)], c)
    p.poly([(17, 12), (18, 3.4), (20, 3.4), (21, 12)], d)
    body = [(3, 18), (5, 14), (12, 14), (18, 19), (18, 22), (12, 19), (12, 26), (12.4, 36), (9, 36), (8.4, 28)]
    p.poly([*body, (7.6, 28), (7, 36), (3.6, 36), (4, 26), (4, 20), (4, 27), (1.6, 27)], SKIN)
    p.disc(7, 9, 4.2, SKIN)
    p.poly([(2.6, 9.4), (3, 5.5), (7, 3.4), (11, 5.5), (11.4, 8), (8.5, 6.6), (5, 6.6)], HAIR)


def portrait(p, c, d):
    """Head and shoulders of a person, seen from close up."""
    p.disc(20, 15, 12.6, HAIR, ry=13.5)
    p.poly([(0, 44), (1, 36), (6, 32), (14, 30), (26, 30), (34, 32), (39, 36), (40, 44)], c)
    p.poly([(15, 29), (25, 29), (20, 39)], SKIN)
    p.line([(14, 30), (20, 40), (26, 30)], d, 1.6)
    p.line([(7, 38), (8, 44)], d, 1.2)
    p.line([(33, 38), (32, 44)], d, 1.2)
    p.box(16, 24, 24, 31, SKIN)
    p.disc(20, 17, 9.6, SKIN, ry=11)
    p.poly([(9.6, 17), (10, 8), (16, 4), (25, 4), (30, 8), (30.4, 17), (27, 11), (19, 9), (13, 12)], HAIR)
    for x in (16, 24):
        p.disc(x, 17, 1.5, DARK)
        p.line([(x - 2, 13.6), (x + 2, 13.6)], HAIR, 1.0)
    p.line([(20, 17.5), (21, 21), (19.5, 21)], WOOD, 0.8)
    p.line([(16.8, 24), (20, 25.4), (23.2, 24)], LIPS, 1.4)


DRAW = dict(zip(OBJECTS, (church, house, tree, boat, lighthouse, tower, car, windmill, person, figure)))
