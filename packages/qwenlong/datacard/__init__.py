"""Data cards: what a synthesis run made, in numbers, as pages, and as the head of a data set that is published."""
