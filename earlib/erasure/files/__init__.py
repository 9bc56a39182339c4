"""Erasures in other projects' layouts."""
