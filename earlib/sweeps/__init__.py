"""Tables of experiments: what is asked for, how it is measured, read and compared."""
