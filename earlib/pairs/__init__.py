"""ECGVF: prompt pairs written by several writers, drawn, and kept where a judge agrees."""
