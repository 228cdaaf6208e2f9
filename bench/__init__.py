"""How fast it is, and how it grows: ``make bench`` writes docs/benchmarks.md. Never part of the tests."""
