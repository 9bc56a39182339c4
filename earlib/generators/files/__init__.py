"""Model files in other projects' layouts."""
