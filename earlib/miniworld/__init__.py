"""MiniWorld: a procedural world of captioned pictures, and the mini models that are trained on it."""
