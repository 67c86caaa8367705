"""Mirrors of what is on disk, for dashboards."""
