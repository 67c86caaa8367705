"""Linear evaluation of a finished run or of a sweep: python linear_eval.py run=<id or folder>; sweep=<name>."""

from moco.entry import linear_eval

if __name__ == "__main__":
    linear_eval()
