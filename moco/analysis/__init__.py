"""Reading runs: statistics over seeds, the answer in words, tables, charts, status. Nothing here trains or changes a run."""
