"""Measuring what an erasure did: judges, FID and KID, CLIP score, and the records they end in. Nothing here trains or
draws by itself."""
