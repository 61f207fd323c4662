"""Decisions of the head as plain classes: no socket, no thread, no clock; time comes in as an argument."""
