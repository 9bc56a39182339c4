"""One style of figures, and the few panels that chapters share."""
