"""Tools that measure, plan, diagnose and demonstrate."""
