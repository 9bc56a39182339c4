"""Next-scale (visual autoregressive) text-to-image models behind the `Generator` protocol."""
