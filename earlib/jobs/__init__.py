"""Work that jobs do, of a Slurm cluster or of this machine's GPUs: what they ask for, and how they are sent and
awaited."""
