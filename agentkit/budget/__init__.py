"""Never more calls, tokens or money than allowed.

`budget`: the limit and its queue. `spending`: amounts, and what a call is granted.
"""

from __future__ import annotations

from agentkit.budget.budget import Budget
from agentkit.budget.spending import BudgetExceeded, BudgetStatistics, Claim, Spent, most_tokens

__all__ = [
    "Budget",
    "BudgetExceeded",
    "BudgetStatistics",
    "Claim",
    "Spent",
    "most_tokens",
]
