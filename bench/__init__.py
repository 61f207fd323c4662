"""Measurements that settle arguments: one command a question, see bench/README.md."""
