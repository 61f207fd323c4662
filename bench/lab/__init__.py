"""The laboratory: network namespaces, processes with their CPU and memory, test data, tables and JSON."""
