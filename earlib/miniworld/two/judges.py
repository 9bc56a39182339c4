"""The judges of MiniWorld 2."""
