"""The file systems that are measured side by side, one module a family; `catalogue.py` names them all."""
