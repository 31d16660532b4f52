"""Tools to measure, plan, diagnose and demonstrate."""
