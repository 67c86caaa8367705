"""The configuration: its typed schema, how it is composed and checked, and how its components are built."""
