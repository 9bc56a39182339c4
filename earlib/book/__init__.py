"""The book: which notebooks run, how, and how the pages are built."""
