//! Planner and budgets with the time injected.
