"""What things cost, against named rivals in the same run: `python -m benchmarks`. Never part of the tests, as time is
not a test."""
