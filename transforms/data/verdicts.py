"""Verdicts: what decides where a random defence is drawn several times."""

from typing import Literal

Verdict = Literal["mean", "majority", "worst-of-n"]
"""The mean of the repeats' probabilities, the class that most of them choose, or the one that suits the attacker best.
"""
